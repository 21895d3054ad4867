//! Other ways to make something durable, each behind one writer thread that groups what waits, as
//! each of them is used best.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use redb::{ReadableDatabase as _, ReadableTable as _, TableDefinition};
use rusqlite::{Connection, params};
use tokio::sync::oneshot;

use harness::{Figures, Outcome, Plan, Progress, Written, observe};
use own::{EVENT_BYTES, ROW_BYTES};

const GROUP_MAX: usize = 1024;
/// What one record of the floor has: the body of an event and a small header.
const FLOOR_BYTES: usize = 320;
/// How much history the rewriting design has from the start: its cost is its history.
const REWRITE_EVENTS: u64 = 1_000;
const STEP_BYTES: usize = 200;

/// Who.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What any log must do, and nothing else: append what waits, sync once.
    Floor,
    Fjall,
    /// WAL with `synchronous = FULL`, tuned for one writer.
    Sqlite,
    /// The same; each commit is one row: the outcome of a step.
    SqliteSteps,
    Redb,
    /// Everything in one file that is written anew for each commit.
    Rewrite,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor: append and fdatasync",
            Self::Fjall => "fjall 3",
            Self::Sqlite | Self::SqliteSteps => "rusqlite, WAL, FULL, tuned",
            Self::Redb => "redb 4",
            Self::Rewrite => "whole-state rewriting (1,000 events)",
        }
    }

    /// How many commits share one transaction at most.
    const fn group_max(self) -> usize {
        match self {
            Self::Rewrite => 1,
            _ => GROUP_MAX,
        }
    }

    pub(crate) fn open(self, directory: &Path) -> Outcome<Box<dyn Engine>> {
        Ok(match self {
            Self::Floor => Box::new(Floor(File::create(directory.join("floor"))?)),
            Self::Fjall => Box::new(Fjall::open(directory)?),
            Self::Sqlite => Box::new(Sqlite::open(directory)?),
            Self::SqliteSteps => Box::new(SqliteSteps(Sqlite::open(directory)?)),
            Self::Redb => Box::new(Redb::open(directory)?),
            Self::Rewrite => Box::new(Rewrite::open(directory)),
        })
    }
}

/// One commit: the row of this writer goes from a version to the next, and an event is appended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Item {
    pub(crate) writer: u64,
    pub(crate) version: u64,
}

impl Item {
    fn key(self) -> String {
        format!("bench/turn/bench/{}/row", self.writer)
    }

    fn stream(self) -> String {
        format!("session/bench-{}", self.writer)
    }

    fn row(self) -> [u8; 8 + ROW_BYTES] {
        let mut row = [b'r'; 8 + ROW_BYTES];
        row[..8].copy_from_slice(&(self.version + 1).to_be_bytes());
        row
    }

    /// Whether the row is as the guard says.
    fn holds(self, found: Option<&[u8]>) -> bool {
        let version = found.and_then(|row| row.get(..8)?.try_into().ok());
        version.map_or(0, u64::from_be_bytes) == self.version
    }
}

const EVENT: [u8; EVENT_BYTES] = [b'e'; EVENT_BYTES];

/// What appends a group in one transaction and syncs it.
pub(crate) trait Engine: Send {
    fn commit(&mut self, group: &[Item]) -> Outcome<()>;
}

struct Floor(File);

impl Engine for Floor {
    fn commit(&mut self, group: &[Item]) -> Outcome<()> {
        self.0.write_all(&vec![7; FLOOR_BYTES * group.len()])?;
        self.0.sync_data()?;
        Ok(())
    }
}

struct Fjall {
    database: Database,
    rows: Keyspace,
    events: Keyspace,
    position: u64,
}

impl Fjall {
    fn open(directory: &Path) -> Outcome<Self> {
        let database = Database::builder(directory.join("fjall")).open()?;
        let rows = database.keyspace("rows", KeyspaceCreateOptions::default)?;
        let events = database.keyspace("events", KeyspaceCreateOptions::default)?;
        Ok(Self {
            database,
            rows,
            events,
            position: 0,
        })
    }
}

impl Engine for Fjall {
    fn commit(&mut self, group: &[Item]) -> Outcome<()> {
        let mut batch = self
            .database
            .batch()
            .durability(Some(PersistMode::SyncData));
        for item in group {
            let found = self.rows.get(item.key())?;
            assert!(item.holds(found.as_deref()), "the guard holds");
            self.position += 1;
            batch.insert(&self.rows, item.key(), item.row());
            let mut event = item.stream().into_bytes();
            event.extend(EVENT);
            batch.insert(&self.events, self.position.to_be_bytes(), event);
        }
        batch.commit()?;
        Ok(())
    }
}

struct Sqlite(Connection);

impl Sqlite {
    fn open(directory: &Path) -> Outcome<Self> {
        let connection = Connection::open(directory.join("sqlite"))?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             PRAGMA locking_mode = EXCLUSIVE; PRAGMA cache_size = -65536;
             PRAGMA wal_autocheckpoint = 16384; PRAGMA temp_store = MEMORY;",
        )?;
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS rows (key TEXT PRIMARY KEY, version INTEGER, body BLOB) WITHOUT ROWID;
             CREATE TABLE IF NOT EXISTS events (position INTEGER PRIMARY KEY, stream TEXT, body BLOB);
             CREATE TABLE IF NOT EXISTS steps (workflow TEXT, step INTEGER, outcome BLOB, PRIMARY KEY (workflow, step)) WITHOUT ROWID;",
        )?;
        connection.set_prepared_statement_cache_capacity(16);
        Ok(Self(connection))
    }
}

impl Engine for Sqlite {
    fn commit(&mut self, group: &[Item]) -> Outcome<()> {
        let transaction = self.0.transaction()?;
        for item in group {
            let changed = match item.version {
                0 => transaction
                    .prepare_cached("INSERT INTO rows VALUES (?1, 1, ?2)")?
                    .execute(params![item.key(), &item.row()[8..]])?,
                version => transaction
                    .prepare_cached(
                        "UPDATE rows SET version = ?2 + 1, body = ?3 WHERE key = ?1 AND version = ?2",
                    )?
                    .execute(params![item.key(), version as i64, &item.row()[8..]])?,
            };
            assert_eq!(changed, 1, "the guard holds");
            transaction
                .prepare_cached("INSERT INTO events (stream, body) VALUES (?1, ?2)")?
                .execute(params![item.stream(), &EVENT[..]])?;
        }
        transaction.commit()?;
        Ok(())
    }
}

struct SqliteSteps(Sqlite);

impl Engine for SqliteSteps {
    fn commit(&mut self, group: &[Item]) -> Outcome<()> {
        let transaction = self.0.0.transaction()?;
        for item in group {
            transaction
                .prepare_cached("INSERT INTO steps VALUES (?1, ?2, ?3)")?
                .execute(params![
                    item.stream(),
                    item.version as i64,
                    &[b'o'; STEP_BYTES][..]
                ])?;
        }
        transaction.commit()?;
        Ok(())
    }
}

const ROWS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("rows");
const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");

struct Redb {
    database: redb::Database,
    position: u64,
}

impl Redb {
    fn open(directory: &Path) -> Outcome<Self> {
        let database = redb::Database::create(directory.join("redb"))?;
        // Opening is done when it can be read.
        drop(database.begin_read()?);
        Ok(Self {
            database,
            position: 0,
        })
    }
}

impl Engine for Redb {
    fn commit(&mut self, group: &[Item]) -> Outcome<()> {
        let transaction = self.database.begin_write()?;
        {
            let mut rows = transaction.open_table(ROWS)?;
            let mut events = transaction.open_table(EVENTS)?;
            for item in group {
                let key = item.key();
                let holds = item.holds(rows.get(&*key)?.as_ref().map(|found| found.value()));
                assert!(holds, "the guard holds");
                self.position += 1;
                rows.insert(&*key, &item.row()[..])?;
                let mut event = item.stream().into_bytes();
                event.extend(EVENT);
                events.insert(self.position, &event[..])?;
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

struct Rewrite {
    directory: PathBuf,
    state: Vec<u8>,
}

impl Rewrite {
    fn open(directory: &Path) -> Self {
        let mut new = Self {
            directory: directory.to_owned(),
            state: Vec::new(),
        };
        (0..REWRITE_EVENTS).for_each(|writer| new.append(Item { writer, version: 0 }));
        new
    }

    fn append(&mut self, item: Item) {
        self.state.extend(item.key().into_bytes());
        self.state.extend(item.row());
        self.state.extend(item.stream().into_bytes());
        self.state.extend(EVENT);
    }
}

impl Engine for Rewrite {
    fn commit(&mut self, group: &[Item]) -> Outcome<()> {
        for item in group {
            self.append(*item);
            let temporary = self.directory.join("state.new");
            let mut file = File::create(&temporary)?;
            file.write_all(&self.state)?;
            file.sync_all()?;
            std::fs::rename(temporary, self.directory.join("state"))?;
            File::open(&self.directory)?.sync_all()?;
        }
        Ok(())
    }
}

type Handed = (Item, oneshot::Sender<()>);

fn serve(
    mut engine: Box<dyn Engine>,
    waiting: &Receiver<Handed>,
    group_max: usize,
    groups: &AtomicU64,
) -> Outcome<()> {
    let mut items = Vec::new();
    let mut replies = Vec::new();
    while let Ok(first) = waiting.recv() {
        for (item, reply) in std::iter::once(first)
            .chain(waiting.try_iter())
            .take(group_max)
        {
            items.push(item);
            replies.push(reply);
        }
        engine.commit(&items)?;
        groups.fetch_add(1, Ordering::Relaxed);
        items.clear();
        for reply in replies.drain(..) {
            // A writer that stopped does not wait any more.
            let _ = reply.send(());
        }
    }
    Ok(())
}

/// Runs an engine with that many writers, each waiting for one commit before the next. The syncs
/// that are told are its groups: what it does within one is not seen from here.
pub(crate) async fn run(
    plan: Plan,
    directory: &Path,
    writers: usize,
    kind: Kind,
) -> Outcome<Figures> {
    let engine = kind.open(directory)?;
    let (queue, waiting) = channel::<Handed>();
    let groups = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&groups);
    let thread = std::thread::spawn(move || serve(engine, &waiting, kind.group_max(), &counted));
    let progress = Arc::new(Progress::default());
    let tasks = (0..writers as u64).map(|writer| {
        let (queue, progress) = (queue.clone(), Arc::clone(&progress));
        tokio::spawn(async move {
            for version in 0.. {
                let (reply, answer) = oneshot::channel();
                queue.send((Item { writer, version }, reply))?;
                answer.await?;
                if !progress.count() {
                    break;
                }
            }
            Ok(())
        })
    });
    let tasks = tasks.collect();
    let figures = observe(plan, &progress, tasks, || {
        Some(Written {
            syncs: groups.load(Ordering::Relaxed),
            bytes: None,
        })
    })
    .await?;
    drop(queue);
    thread.join().map_err(|_| "the engine panicked")??;
    Ok(figures)
}

/// How many outcomes of steps are recorded; reads each.
pub(crate) fn steps_found(directory: &Path) -> Outcome<usize> {
    let sqlite = Sqlite::open(directory)?;
    let mut statement = sqlite
        .0
        .prepare("SELECT workflow, step, outcome FROM steps")?;
    let mut rows = statement.query([])?;
    let mut found = 0;
    while let Some(row) = rows.next()? {
        let outcome: Vec<u8> = row.get(2)?;
        found += usize::from(outcome.len() == STEP_BYTES);
    }
    Ok(found)
}
