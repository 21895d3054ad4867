//! Reading history: a page anywhere, whole streams.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::StreamExt as _;
use runtime::core::{EventDraft, Tier, Topic};
use runtime::events::{EventHub, StreamItem};
use runtime::fs_store::FsStore;
use runtime::store::{Page, Position, Store, SystemClock, SystemRandom};
use rusqlite::{Connection, params};
use tokio::task::JoinSet;

use harness::{Outcome, Plan, Table, repeat};

const PAGE: usize = 100;
const SHORT: u64 = 1_000;
/// Events that one task commits before the next, so that positions are those of the numbers.
const GROUP: u64 = 100;
const OURS: &str = "this store, stored bytes";
const DECODED: &str = "this runtime, decoded";
const SQLITE: &str = "rusqlite";
const FLOOR: &str = "floor: one read of as many bytes";

/// The same events in each of them; the first [`SHORT`] have a session of their own.
struct History {
    store: Arc<FsStore>,
    hub: EventHub,
    sqlite: Connection,
    raw: File,
    events: u64,
    event_bytes: usize,
    _directory: tempfile::TempDir,
}

pub(super) async fn tables(plan: Plan) -> Outcome<Vec<Table>> {
    let events = if plan.is_quick { 5_000 } else { 101_000 };
    let history = Rc::new(History::make(events).await?);
    Ok(vec![
        pages(&history),
        stream(&history, "short", SHORT),
        stream(&history, "long", events - SHORT),
    ])
}

impl History {
    async fn make(events: u64) -> Outcome<Self> {
        let directory = harness::scratch()?;
        let store = own::open(directory.path(), Tier::Crash)?;
        let sqlite = Connection::open(directory.path().join("sqlite"))?;
        sqlite.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA cache_size = -65536;
             CREATE TABLE events (position INTEGER PRIMARY KEY, stream TEXT, body BLOB);
             CREATE INDEX streams ON events (stream, position);",
        )?;
        let path = directory.path().join("raw");
        let mut raw = File::create(&path)?;
        let mut event_bytes = 0;
        sqlite.execute_batch("BEGIN")?;
        for first in (0..events).step_by(GROUP as usize) {
            let mut running = JoinSet::new();
            for number in first..events.min(first + GROUP) {
                let session = if number < SHORT { "short" } else { "long" };
                let draft = own::draft(session)?;
                let body = draft.to_bytes();
                raw.write_all(&body)?;
                event_bytes = body.len();
                sqlite
                    .prepare_cached("INSERT INTO events (stream, body) VALUES (?1, ?2)")?
                    .execute(params![format!("session/{session}"), body])?;
                let store = Arc::clone(&store);
                running.spawn(async move { own::tell(&*store, &draft).await });
            }
            while let Some(done) = running.join_next().await {
                done??;
            }
        }
        sqlite.execute_batch("COMMIT")?;
        let shared = Arc::clone(&store) as Arc<dyn Store>;
        Ok(Self {
            hub: EventHub::new(shared, Arc::new(SystemClock::new()), Arc::new(SystemRandom)),
            store,
            sqlite,
            raw: File::open(path)?,
            events,
            event_bytes,
            _directory: directory,
        })
    }

    /// Pages at places that go all over the log.
    fn starts(&self) -> impl FnMut() -> u64 + use<> {
        let last = self.events - PAGE as u64;
        let mut place = 0;
        move || {
            place = (place + 7_919) % last;
            place
        }
    }
}

fn pages(history: &Rc<History>) -> Table {
    let name = format!("a page of {PAGE} of {} events, anywhere", history.events);
    let [a, b, c, d] = std::array::from_fn(|_| Rc::clone(history));
    Table::new(name)
        .contender(FLOOR, move |plan, _| {
            let history = Rc::clone(&a);
            async move {
                let mut start = history.starts();
                let mut bytes = vec![0; PAGE * history.event_bytes];
                let act = async || {
                    let offset = start() * history.event_bytes as u64;
                    history.raw.read_at(&mut bytes, offset)?;
                    Ok(())
                };
                repeat(plan, 50, 1, act).await
            }
        })
        .contender(SQLITE, move |plan, _| {
            let history = Rc::clone(&b);
            async move {
                let mut start = history.starts();
                let mut statement = history.sqlite.prepare(
                    "SELECT position, stream, body FROM events WHERE position > ?1 LIMIT ?2",
                )?;
                let act = async || {
                    let rows = statement.query_map(params![start() as i64, PAGE as i64], row)?;
                    all(rows.collect::<Result<Vec<_>, _>>()?.len())
                };
                repeat(plan, 50, 1, act).await
            }
        })
        .contender(OURS, move |plan, _| {
            let history = Rc::clone(&c);
            async move {
                let mut start = history.starts();
                let act = async || {
                    let page = Page::after(Position(start()), PAGE);
                    all(history.store.events(None, page).await?.events.len())
                };
                repeat(plan, 50, 1, act).await
            }
        })
        .contender(DECODED, move |plan, _| {
            let history = Rc::clone(&d);
            async move {
                let mut start = history.starts();
                let act = async || {
                    let cursor = history.hub.cursor_after(Position(start()));
                    all(history
                        .hub
                        .read(Topic::Runtime, cursor, PAGE)
                        .await?
                        .events
                        .len())
                };
                repeat(plan, 10, 1, act).await
            }
        })
        .rate_target(OURS, 1e6 / 50.0)
        .rate_target(DECODED, 1e6 / 300.0)
}

fn row(row: &rusqlite::Row<'_>) -> rusqlite::Result<(i64, String, Vec<u8>)> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
}

fn all(found: usize) -> Outcome<()> {
    match found {
        PAGE => Ok(()),
        _ => Err("a page is not full".into()),
    }
}

fn stream(history: &Rc<History>, session: &'static str, events: u64) -> Table {
    let [a, b] = std::array::from_fn(|_| Rc::clone(history));
    Table::new(format!("a whole stream of {events} events, each decoded"))
        .contender(SQLITE, move |plan, _| {
            let history = Rc::clone(&a);
            async move {
                let mut statement = history.sqlite.prepare(
                    "SELECT position, stream, body FROM events WHERE stream = ?1 ORDER BY position",
                )?;
                let act = async || {
                    let mut found = 0;
                    for read in statement.query_map([format!("session/{session}")], row)? {
                        let event: EventDraft = serde_json::from_slice(&read?.2)?;
                        std::hint::black_box(event);
                        found += 1;
                    }
                    assert_eq!(found, events);
                    Ok(())
                };
                repeat(plan, 1, events as usize, act).await
            }
        })
        .contender(DECODED, move |plan, _| {
            let history = Rc::clone(&b);
            async move {
                let act = async || follow(&history.hub, session, events).await;
                repeat(plan, 1, events as usize, act).await
            }
        })
}

/// Subscribes from the start and takes so many events.
async fn follow(hub: &EventHub, session: &str, events: u64) -> Outcome<()> {
    let topic = Topic::Session {
        session: session.parse()?,
    };
    let mut stream = hub.subscribe(topic, hub.cursor_from_start());
    let mut found = 0;
    while found < events {
        if let StreamItem::Event(event) = stream.next().await.ok_or("the stream ended")?? {
            std::hint::black_box(event);
            found += 1;
        }
    }
    Ok(())
}
