//! Where the commits of a law come from.

use runtime_core::Random as _;
use runtime_core::{CommitId, EventId, ScopeId, StreamKey, Timestamp};
use runtime_store::{
    Commit, Committed, NewEvent, Page, Position, RowChange, RowKey, Store, StoredEvent,
};

use super::LawBroken;
use crate::SeededRandom;

const START_MILLIS: u64 = 1_700_000_000_000;

/// Makes commits and events with ids that are new and ascend in time.
#[derive(Debug, Clone)]
pub(super) struct Producer {
    random: SeededRandom,
}

impl Producer {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: SeededRandom::new(seed),
        }
    }

    /// Starts a commit whose id was made at that millisecond.
    pub(super) fn commit_at(&self, millis: u64) -> Commit {
        self.commit_of(Timestamp::from_millis(START_MILLIS + millis))
    }

    pub(super) fn commit_of(&self, time: Timestamp) -> Commit {
        Commit::new(CommitId::generate(time, self.random.ten()), time)
    }

    pub(super) fn commit(&self) -> Commit {
        self.commit_at(0)
    }

    pub(super) fn event(&self, streams: &[&str], body: &str) -> NewEvent {
        let time = Timestamp::from_millis(START_MILLIS);
        NewEvent {
            id: EventId::generate(time, self.random.ten()),
            streams: streams.iter().map(|key| stream(key)).collect(),
            closes: false,
            body: body.as_bytes().into(),
        }
    }

    pub(super) fn closing(&self, streams: &[&str], body: &str) -> NewEvent {
        NewEvent {
            closes: true,
            ..self.event(streams, body)
        }
    }
}

pub(super) fn stream(key: &str) -> StreamKey {
    StreamKey::new(key).expect("a law names its streams right")
}

pub(super) fn scope(id: &str) -> ScopeId {
    ScopeId::new(id).expect("a law names its scopes right")
}

/// A row of the scope `s` in the space `law`.
pub(super) fn key(name: &str) -> RowKey {
    RowKey::new("law", scope("s"), name)
}

pub(super) fn put(key: RowKey, body: &str) -> RowChange {
    RowChange::put(key, body.as_bytes())
}

/// The version of a row, zero when there is none.
pub(super) async fn version(store: &dyn Store, key: &RowKey) -> Result<u64, LawBroken> {
    Ok(store.row(key).await?.map_or(0, |row| row.version))
}

/// The last position of the log.
pub(super) async fn head(store: &dyn Store) -> Result<Position, LawBroken> {
    let page = store.events(None, Page::after(Position(0), 1)).await?;
    Ok(page.head)
}

/// Reads a stream, or the whole log, in pages of `limit`.
pub(super) async fn read_all(
    store: &dyn Store,
    stream: Option<&StreamKey>,
    limit: usize,
) -> Result<Vec<StoredEvent>, LawBroken> {
    let mut events = Vec::new();
    let mut after = Position(0);
    loop {
        let page = store.events(stream, Page::after(after, limit)).await?;
        super::ensure!(
            page.events.len() <= limit,
            "a page of {limit} has {} events",
            page.events.len()
        );
        super::ensure!(
            !page.has_more || page.next > after,
            "a page goes on at {} after {after}",
            page.next
        );
        events.extend(page.events);
        after = page.next;
        if !page.has_more {
            return Ok(events);
        }
    }
}

/// The result without the mark of a repetition.
pub(super) fn first_result(committed: Committed) -> Committed {
    Committed {
        repeated: false,
        ..committed
    }
}
