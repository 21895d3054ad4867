//! Appending events (V1, V5, V8).

use std::sync::Arc;

use runtime_core::{
    CommitId, EventDraft, EventId, EventKind, RuntimeEvent, ScopeId, StreamKey, Timestamp,
};
use runtime_store::{
    Commit, CommitError, Committed, Epoch, Found, Guard, NewEvent, Page, Position, ReadError, Seq,
    Store, StoredEvent,
};
use tokio::sync::Semaphore;

use crate::hub::Shared;
use crate::{AppendError, EventHub};

/// An event with the id that its producer gave it.
#[derive(Debug, Clone, PartialEq)]
pub struct LogEvent {
    /// Its id: appending the same id and content again changes nothing.
    pub id: EventId,
    /// What it says.
    pub draft: EventDraft,
}

/// Events that are appended together or not at all.
#[derive(Debug, Clone, Default)]
pub struct EventBatch {
    events: Vec<LogEvent>,
    expected: Vec<(StreamKey, Seq)>,
    owner: Option<(ScopeId, Epoch)>,
}

impl EventBatch {
    /// Starts a batch.
    #[must_use]
    pub fn new(events: impl IntoIterator<Item = LogEvent>) -> Self {
        Self {
            events: events.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Appends only if the stream ends at `head`; zero for a stream without events.
    #[must_use]
    pub fn expecting(mut self, stream: StreamKey, head: Seq) -> Self {
        self.expected.push((stream, head));
        self
    }

    /// Appends only while the scope's epoch is this one.
    #[must_use]
    pub fn owned_by(mut self, scope: ScopeId, epoch: Epoch) -> Self {
        self.owner = Some((scope, epoch));
        self
    }

    /// Returns how many events it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Says whether it has no events.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

/// What an append did.
#[derive(Debug, Clone, PartialEq)]
pub struct Appended {
    /// The events in their places, as they are stored.
    pub events: Vec<Arc<RuntimeEvent>>,
    /// The batch was there before; nothing was done now.
    pub repeated: bool,
}

/// The authoritative record of what happened: appended to here, read through the hub.
///
/// Clones share one bound of appends under way: a producer that is faster than the log waits.
#[derive(Debug, Clone)]
pub struct EventLog {
    shared: Arc<Shared>,
    store: Arc<dyn Store>,
    permits: Arc<Semaphore>,
}

impl EventHub {
    /// Returns the log behind the hub. What it appends is published.
    #[must_use]
    pub fn log(&self) -> EventLog {
        EventLog {
            shared: Arc::clone(&self.shared),
            store: self.store(),
            permits: Arc::clone(&self.shared.append_permits),
        }
    }
}

impl EventLog {
    /// Gives an event a new id.
    #[must_use]
    pub fn event(&self, draft: EventDraft) -> LogEvent {
        let id = EventId::generate(self.shared.clock.now(), self.shared.random.ten());
        LogEvent { id, draft }
    }

    /// Appends a batch: all of it, in order, or nothing. It waits while as many appends are
    /// under way as are allowed.
    ///
    /// A batch is known by the id of its first event: appending it again, whatever it expected,
    /// gives the stored events.
    ///
    /// # Errors
    /// [`AppendError`]. After class Indeterminate append the same batch again once the store is
    /// usable; after any other error it has not happened.
    ///
    /// # Cancel safety
    /// Dropping the future does not withdraw the batch.
    pub async fn append(&self, batch: EventBatch) -> Result<Appended, AppendError> {
        let commit = self.commit_of(&batch)?;
        let time = commit.time;
        let events = commit.events.clone();
        let permit = self.permits.acquire().await;
        let permit = permit.expect("the semaphore of appends is never closed");
        let committed = self.store.commit(commit).await.map_err(refusal)?;
        drop(permit);
        let stored = if committed.repeated {
            self.read_back(&committed).await?
        } else {
            placed(&committed, events, time)
        };
        let decode = |stored: StoredEvent| stored.decode().map(Arc::new).map_err(ReadError::from);
        let events: Result<_, _> = stored.into_iter().map(decode).collect();
        Ok(Appended {
            events: events.map_err(AppendError::ReadBack)?,
            repeated: committed.repeated,
        })
    }

    fn commit_of(&self, batch: &EventBatch) -> Result<Commit, AppendError> {
        let Some(first) = batch.events.first() else {
            return Err(invalid("the batch has no events; give at least one"));
        };
        let ephemeral = |event: &LogEvent| event.draft.kind == EventKind::ModelDelta;
        if batch.events.iter().any(ephemeral) {
            return Err(invalid("a delta is never stored; publish it instead"));
        }
        let id = CommitId::from_uuid(first.id.as_uuid());
        let mut commit = Commit::new(id, self.shared.clock.now());
        commit.owner.clone_from(&batch.owner);
        let heads = batch.expected.iter().cloned();
        commit.guards = heads.map(|(key, seq)| Guard::Head(key, seq)).collect();
        let events = batch.events.iter();
        commit.events = events
            .map(|event| NewEvent::from_draft(event.id, &event.draft))
            .collect();
        Ok(commit)
    }

    /// Reads the events of an earlier commit: their time is that of the commit, not of now.
    async fn read_back(&self, committed: &Committed) -> Result<Vec<StoredEvent>, AppendError> {
        let mut stored = Vec::with_capacity(committed.places.len());
        let mut after = Position(committed.positions.start - 1);
        while Some(after) < committed.last_position() {
            let page = Page::after(after, committed.places.len() - stored.len());
            let page = self.store.events(None, page).await;
            let page = page.map_err(AppendError::ReadBack)?;
            if page.events.is_empty() {
                break;
            }
            after = page.next;
            stored.extend(page.events);
        }
        Ok(stored)
    }
}

pub(crate) fn placed(
    committed: &Committed,
    events: Vec<NewEvent>,
    time: Timestamp,
) -> Vec<StoredEvent> {
    let placed = committed.positions.clone().zip(&committed.places);
    let stored = placed
        .zip(events)
        .map(|((position, places), event)| StoredEvent {
            position: Position(position),
            id: event.id,
            time,
            places: places.clone(),
            closes: event.closes,
            erased: false,
            body: event.body,
        });
    stored.collect()
}

fn invalid(reason: &str) -> AppendError {
    AppendError::InvalidBatch {
        reason: reason.to_owned(),
    }
}

fn refusal(error: CommitError) -> AppendError {
    match error {
        CommitError::Rejected {
            found: Found::Closed,
            ..
        } => AppendError::TurnAlreadyEnded,
        CommitError::Rejected {
            guard: Guard::Head(_, expected),
            found: Found::Head(found),
        } => AppendError::UnexpectedHead { expected, found },
        CommitError::DifferentContent { .. } => AppendError::EventIdTaken,
        error => AppendError::Commit(error),
    }
}
