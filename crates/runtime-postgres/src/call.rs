//! The one call that writes: a batch as arrays, a verdict per commit.

use std::collections::BTreeSet;

use runtime_core::{Digest, Timestamp};
use runtime_store::{
    Commit, CommitError, Committed, EventPlace, Found, Guard, Position, Removal, RowChange, Seq,
};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};
use uuid::Uuid;

use crate::batch::net;
use crate::error::Failure;

/// A commit with what it is compared by.
#[derive(Debug, Clone)]
pub(crate) struct Submitted {
    pub(crate) commit: Commit,
    pub(crate) content: Digest,
}

/// What the server said of one commit.
#[derive(Debug)]
pub(crate) enum Verdict {
    Made(Committed),
    /// It had happened; whether by this submission. Its result is to be read.
    Known {
        own: bool,
    },
    Refused(CommitError),
}

/// A number of ours in the server's type. No version, place or position comes near its end, and
/// a time that far away is as good as its end.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The way back; the end of the server's numbers is the end of ours.
pub(crate) fn unsigned(number: i64) -> u64 {
    match number {
        i64::MAX => u64::MAX,
        number => u64::try_from(number).unwrap_or(0),
    }
}

fn index(number: usize) -> i32 {
    i32::try_from(number).expect("a batch has fewer than two milliards of parts")
}

/// Declares the arrays once: their names, their types, and the order the procedure takes them in.
macro_rules! arrays {
    ($($name:ident: $item:ty,)+) => {
        /// The arguments of the procedure, in its order.
        #[derive(Debug, Default)]
        struct Arrays<'batch> {
            $($name: Vec<$item>,)+
        }

        impl Arrays<'_> {
            fn arguments(&self) -> Vec<&(dyn ToSql + Sync)> {
                vec![$(&self.$name),+]
            }
        }

        const ARRAYS: usize = [$(stringify!($name)),+].len();
    };
}

arrays! {
    commit_id: Uuid,
    commit_content: &'batch [u8],
    commit_time: i64,
    commit_made: Option<i64>,
    commit_scope: Option<&'batch str>,
    commit_epoch: Option<i64>,
    guard_commit: i32,
    guard_kind: i16,
    guard_space: &'batch str,
    guard_scope: &'batch str,
    guard_name: &'batch str,
    guard_value: i64,
    retire_commit: i32,
    retire_scope: &'batch str,
    remove_commit: i32,
    remove_space: &'batch str,
    remove_scope: &'batch str,
    remove_name: &'batch str,
    put_commit: i32,
    put_space: &'batch str,
    put_scope: &'batch str,
    put_name: &'batch str,
    put_puts: i64,
    put_body: &'batch [u8],
    put_event: Option<i32>,
    put_due: Option<i64>,
    event_commit: i32,
    event_id: Uuid,
    event_closes: bool,
    event_width: i16,
    event_body: &'batch [u8],
    place_commit: i32,
    place_event: i32,
    place_stream: &'batch str,
    place_own: bool,
    place_earlier: i32,
    place_closed: bool,
    attachment_commit: i32,
    attachment_digest: &'batch [u8],
    scope_commit: i32,
    scope_name: &'batch str,
}

/// The statement to prepare.
pub(crate) fn statement() -> String {
    // Before the arrays stand three numbers, after them what is removed.
    let arguments: Vec<String> = (1..=3 + ARRAYS + 2).map(|n| format!("${n}")).collect();
    format!(
        "CALL commit_batch({}, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
        arguments.join(", ")
    )
}

impl<'batch> Arrays<'batch> {
    fn of(batch: &'batch [Submitted]) -> Self {
        let mut arrays = Self::default();
        for submitted in batch {
            arrays.add(submitted);
        }
        arrays
    }

    fn add(&mut self, submitted: &'batch Submitted) {
        let commit = &submitted.commit;
        self.commit_id.push(commit.id.as_uuid());
        self.commit_content.push(submitted.content.as_bytes());
        self.commit_time.push(signed(commit.time.as_millis()));
        let made = commit.id.timestamp().map(Timestamp::as_millis).map(signed);
        self.commit_made.push(made);
        let owner = commit.owner.as_ref();
        self.commit_scope
            .push(owner.map(|(scope, _)| scope.as_str()));
        self.commit_epoch
            .push(owner.map(|(_, epoch)| signed(epoch.0)));
        let number = index(self.commit_id.len());
        for guard in &commit.guards {
            self.add_guard(number, guard);
        }
        let events_before = self.event_id.len();
        self.add_events(number, commit);
        self.add_rows(number, commit, events_before);
        self.add_attachments(number, commit);
    }

    /// What names an attachment besides the events: the scopes that get rows.
    fn add_attachments(&mut self, number: i32, commit: &'batch Commit) {
        for digest in &commit.attachments {
            self.attachment_commit.push(number);
            self.attachment_digest.push(digest.as_bytes());
        }
        if commit.attachments.is_empty() {
            return;
        }
        let scopes: BTreeSet<&str> = commit
            .rows
            .iter()
            .filter_map(|change| match change {
                RowChange::Put { key, .. } => Some(key.scope.as_str()),
                _ => None,
            })
            .collect();
        for scope in scopes {
            self.scope_commit.push(number);
            self.scope_name.push(scope);
        }
    }

    fn add_guard(&mut self, commit: i32, guard: &'batch Guard) {
        let (kind, key, value) = match guard {
            Guard::Absent(key) => (0, Some(key), -1),
            Guard::Version(key, version) => (1, Some(key), signed(*version)),
            Guard::Head(_, seq) => (2, None, signed(seq.0)),
            // The store has refused a guard of another kind.
            _ => return,
        };
        let name = match guard {
            Guard::Head(stream, _) => stream.as_str(),
            _ => key.map_or("", |key| &key.name),
        };
        self.guard_commit.push(commit);
        self.guard_kind.push(kind);
        self.guard_space.push(key.map_or("", |key| &key.space));
        self.guard_scope
            .push(key.map_or("", |key| key.scope.as_str()));
        self.guard_name.push(name);
        self.guard_value.push(value);
    }

    fn add_events(&mut self, number: i32, commit: &'batch Commit) {
        let events = &commit.events;
        for (at, event) in events.iter().enumerate() {
            self.event_commit.push(number);
            self.event_id.push(event.id.as_uuid());
            self.event_closes.push(event.closes);
            let width = i16::try_from(event.streams.len()).expect("an event has few streams");
            self.event_width.push(width);
            self.event_body.push(&event.body);
            for (ordinal, stream) in event.streams.iter().enumerate() {
                let before = || events[..at].iter();
                let has = |earlier: &&runtime_store::NewEvent| earlier.streams.contains(stream);
                let closes = |earlier: &runtime_store::NewEvent| {
                    earlier.closes && earlier.streams.first() == Some(stream)
                };
                self.place_commit.push(number);
                self.place_event.push(index(self.event_id.len()));
                self.place_stream.push(stream.as_str());
                self.place_own.push(ordinal == 0);
                self.place_earlier.push(index(before().filter(has).count()));
                self.place_closed.push(before().any(closes));
            }
        }
    }

    fn add_rows(&mut self, number: i32, commit: &'batch Commit, events_before: usize) {
        let net = net(&commit.rows);
        for scope in net.retired {
            self.retire_commit.push(number);
            self.retire_scope.push(scope.as_str());
        }
        for key in net.removed {
            self.remove_commit.push(number);
            self.remove_space.push(&key.space);
            self.remove_scope.push(key.scope.as_str());
            self.remove_name.push(&key.name);
        }
        for put in net.put {
            self.put_commit.push(number);
            self.put_space.push(&put.key.space);
            self.put_scope.push(put.key.scope.as_str());
            self.put_name.push(&put.key.name);
            self.put_puts.push(put.puts);
            self.put_body.push(put.body);
            let event = put.event.map(|event| index(events_before + event + 1));
            self.put_event.push(event);
            self.put_due
                .push(put.due.map(|due| signed(due.as_millis())));
        }
    }
}

/// Makes the batch. `submission` names this submission of it, the same when it is sent again.
/// Returns the verdicts and the server's time in milliseconds.
pub(crate) async fn commit_batch(
    client: &Client,
    statement: &Statement,
    runtime: i32,
    submission: i64,
    remembered: i64,
    batch: &[Submitted],
) -> Result<(Vec<Verdict>, u64), Failure> {
    let arrays = Arrays::of(batch);
    let mut arguments: Vec<&(dyn ToSql + Sync)> = vec![&runtime, &submission, &remembered];
    arguments.extend(arrays.arguments());
    let (through, erased) = removed(batch);
    arguments.push(&through);
    arguments.push(&erased);
    let row = client.query_one(statement, &arguments).await?;
    Answer::read(&row, batch)
}

/// What the batch removes: a commit that removes something is alone in it.
fn removed(batch: &[Submitted]) -> (i64, Vec<&str>) {
    let (mut through, mut erased) = (0, Vec::new());
    for removal in batch
        .iter()
        .flat_map(|submitted| &submitted.commit.removals)
    {
        match removal {
            Removal::Through(position) => through = through.max(signed(position.0)),
            Removal::Stream(stream) => erased.push(stream.as_str()),
            // The store has refused a removal of another kind.
            _ => {}
        }
    }
    (through, erased)
}

fn places(commit: &Commit) -> usize {
    commit.events.iter().map(|event| event.streams.len()).sum()
}

fn rejected(guard: Option<&Guard>, found: i64) -> Option<CommitError> {
    let guard = guard?.clone();
    let found = match (&guard, found) {
        (Guard::Head(..), head) => Found::Head(Seq(unsigned(head))),
        (_, -1) => Found::Absent,
        (_, version) => Found::Version(unsigned(version)),
    };
    Some(CommitError::Rejected { guard, found })
}

/// Where the parts of a commit begin among those of its batch.
#[derive(Debug, Default, Clone, Copy)]
struct Begin {
    guards: usize,
    places: usize,
    attachments: usize,
}

/// The arrays that come back.
struct Answer {
    verdicts: Vec<i16>,
    at: Vec<Option<i32>>,
    found: Vec<Option<i64>>,
    first: Vec<Option<i64>>,
    seqs: Vec<Option<i64>>,
    previous: Vec<Option<i64>>,
}

impl Answer {
    fn read(row: &Row, batch: &[Submitted]) -> Result<(Vec<Verdict>, u64), Failure> {
        let answer = Self {
            verdicts: row.try_get::<_, Option<_>>(0)?.unwrap_or_default(),
            at: row.try_get::<_, Option<_>>(1)?.unwrap_or_default(),
            found: row.try_get::<_, Option<_>>(2)?.unwrap_or_default(),
            first: row.try_get::<_, Option<_>>(3)?.unwrap_or_default(),
            seqs: row.try_get::<_, Option<_>>(4)?.unwrap_or_default(),
            previous: row.try_get::<_, Option<_>>(5)?.unwrap_or_default(),
        };
        let now: i64 = row.try_get(6)?;
        let mut begin = Begin::default();
        let verdicts = batch.iter().enumerate().map(|(number, submitted)| {
            let commit = &submitted.commit;
            let verdict = answer.verdict(number, commit, begin);
            begin.guards += commit.guards.len();
            begin.places += places(commit);
            begin.attachments += commit.attachments.len();
            verdict
        });
        Ok((verdicts.collect(), unsigned(now)))
    }

    fn verdict(&self, number: usize, commit: &Commit, begin: Begin) -> Verdict {
        let at = self.at.get(number).copied().flatten().unwrap_or(1);
        // The server counts from 1, over the whole batch.
        let place = |begin: usize| usize::try_from(at).unwrap_or(1).saturating_sub(begin + 1);
        let found = self.found.get(number).copied().flatten().unwrap_or(0);
        let id = commit.id;
        let refused = match self.verdicts.get(number) {
            Some(0) => return Verdict::Made(self.committed(number, commit, begin.places)),
            Some(1) => return Verdict::Known { own: true },
            Some(2) => return Verdict::Known { own: false },
            Some(3 | 8) => Some(CommitError::DifferentContent { id }),
            Some(4) => Some(CommitError::TooOld { id }),
            Some(5) => Some(CommitError::Fenced),
            Some(6) => rejected(commit.guards.get(place(begin.guards)), found),
            Some(7) => {
                let mut streams = commit.events.iter().flat_map(|event| &event.streams);
                streams.nth(place(begin.places)).map(|stream| {
                    let guard = Guard::Head(stream.clone(), Seq(unsigned(found)));
                    let found = Found::Closed;
                    CommitError::Rejected { guard, found }
                })
            }
            Some(9) => {
                let digest = commit.attachments.get(place(begin.attachments));
                digest.map(|&digest| CommitError::MissingAttachment { digest })
            }
            _ => None,
        };
        Verdict::Refused(refused.unwrap_or_else(|| CommitError::Indeterminate {
            id,
            reason: "the server's answer cannot be read".to_owned(),
            source: None,
        }))
    }

    fn committed(&self, number: usize, commit: &Commit, mut place: usize) -> Committed {
        let value = |values: &[Option<i64>], place: usize| {
            unsigned(values.get(place).copied().flatten().unwrap_or(0))
        };
        let first = value(&self.first, number);
        let places = commit.events.iter().map(|event| {
            let places = event.streams.iter().map(|stream| {
                place += 1;
                EventPlace {
                    stream: stream.clone(),
                    seq: Seq(value(&self.seqs, place - 1)),
                    previous: Position(value(&self.previous, place - 1)),
                }
            });
            places.collect()
        });
        Committed {
            places: places.collect(),
            positions: first..first + commit.events.len() as u64,
            repeated: false,
        }
    }
}
