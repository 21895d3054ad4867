//! What live workers have said, carried forward before retention removes its events (V9, S6).
//!
//! A conversation is a fold of a session's events. Before these go, those that the fold needs are
//! copied into rows of the worker, which retention does not reach; whoever reads a session then
//! reads these rows first and the log after them. Nothing is copied before it has to be, and
//! nothing twice.

use std::sync::Arc;

use async_trait::async_trait;
use runtime_core::{
    Classified, Clock, Digest, EffectOutcome, EventDraft, EventId, EventKind, Random, SessionId,
    StreamKey, Topic, TurnId, WireError, WorkerId,
};
use runtime_events::{CarryForward, EventHub, HubParts};
use runtime_store::{
    Commit, CommitError, Guard, Page, Position, Row, RowChange, RowKey, RowQuery, Store,
};
use runtime_turn::RecordedEffect;
use serde::{Deserialize, Serialize};

use crate::drive::corrupt;
use crate::intake::contended;
use crate::worker::{worker_key, worker_scope};
use crate::{RuntimeError, WorkerRecord};

const SPACE: &str = "carried";
/// The name, before the position, of what belongs to no turn; no turn has such an id.
const NO_TURN: &str = "-";
/// How many bytes are carried by one commit, if one event alone is not larger.
const BYTES_AT_ONCE: usize = 256 * 1024;
/// How often it is tried against changes of the same worker.
const ATTEMPTS_MAX: usize = 64;

/// Makes a hub before a store whose retention makes no live worker forget what was said (V9).
///
/// Whoever prunes a runtime's log without having the runtime open does it through such a hub.
#[must_use]
pub fn event_hub(
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    mut parts: HubParts,
) -> EventHub {
    if parts.carry_forward.is_none() {
        parts.carry_forward = Some(Arc::new(LiveConversations {
            store: Arc::clone(&store),
            clock: Arc::clone(&clock),
            random: Arc::clone(&random),
        }));
    }
    EventHub::with_parts(store, clock, random, parts)
}

/// How far a worker's conversation was carried.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Head {
    through: Position,
}

/// Events of one turn, or of none, in order.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Carried {
    events: Vec<CarriedEvent>,
}

#[derive(Debug, Serialize, Deserialize)]
struct CarriedEvent {
    position: Position,
    id: EventId,
    event: EventDraft,
}

fn head_key(worker: &WorkerId) -> RowKey {
    RowKey::new(SPACE, worker_scope(worker), "")
}

fn carried_key(worker: &WorkerId, turn: Option<&TurnId>, first: Position) -> RowKey {
    let turn = turn.map_or(NO_TURN, TurnId::as_str);
    RowKey::new(
        SPACE,
        worker_scope(worker),
        format!("{turn}/{:020}", first.0),
    )
}

/// Says whether the conversation of a session, or of an open turn, is a fold of such events.
fn is_said(kind: &EventKind) -> bool {
    kind.ends_turn()
        || matches!(
            kind,
            EventKind::InputAccepted
                | EventKind::TurnStarted
                | EventKind::EnvironmentSynced
                | EventKind::MessageCommitted
                | EventKind::ModelCallFailed
                | EventKind::ToolCallStarted
                | EventKind::ToolCallFinished
                | EventKind::WaitEnded
                | EventKind::InputsJoined
                | EventKind::ContextCompacted
                | EventKind::EffectStarted
                | EventKind::EffectFinished
                | EventKind::EffectAttemptFailed
                | EventKind::EffectInDoubt
                | EventKind::InDoubtRuled
                | EventKind::ConflictRuled
        )
}

/// Whose events are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Said<'a> {
    pub(crate) worker: &'a WorkerId,
    /// Of this turn only.
    pub(crate) turn: Option<&'a TurnId>,
}

impl Said<'_> {
    fn stream(&self) -> Option<StreamKey> {
        let session = SessionId::from(self.worker);
        match self.turn.cloned() {
            Some(turn) => Topic::Turn { session, turn }.stream_key(),
            None => Topic::Session { session }.stream_key(),
        }
    }

    /// Reads the events after a position in order: what was carried forward, then the log. Returns
    /// where it came to.
    pub(crate) async fn each(
        &self,
        store: &dyn Store,
        mut after: Position,
        mut with: impl FnMut(EventId, &EventDraft) -> Result<(), RuntimeError>,
    ) -> Result<Position, RuntimeError> {
        let stream = self.stream();
        let limit = store.capabilities().limits.page_entries_max;
        // Up to here nothing is missing: it was read, or was looked for among what was carried.
        let mut whole = after;
        loop {
            let page = store
                .events(stream.as_ref(), Page::after(after, limit))
                .await?;
            if page.pruned > whole {
                // What was carried is read after the log was seen pruned, so it is all there.
                whole = page.pruned;
                for carried in self.carried(store, after).await? {
                    with(carried.id, &carried.event)?;
                    after = carried.position;
                }
                continue;
            }
            for event in &page.events {
                with(event.id, &event.decode()?.draft)?;
            }
            after = page.next;
            if !page.has_more {
                return Ok(after);
            }
        }
    }

    /// Reads what was carried forward, after a position, in order.
    async fn carried(
        &self,
        store: &dyn Store,
        after: Position,
    ) -> Result<Vec<CarriedEvent>, RuntimeError> {
        let name = match self.turn {
            Some(turn) => format!("{turn}/"),
            None => String::new(),
        };
        let query = RowQuery::Prefix {
            space: Arc::from(SPACE),
            scope: Some(worker_scope(self.worker)),
            name: Arc::from(name),
        };
        let mut events = Vec::new();
        each_row(store, query, |row| {
            if !row.key.name.is_empty() {
                let carried: Carried = crate::view::decode(row)?;
                let later = carried.events.into_iter();
                events.extend(later.filter(|event| event.position > after));
            }
            Ok(())
        })
        .await?;
        // Rows are in the order of turn ids; turns follow each other, inputs come in between.
        events.sort_unstable_by_key(|event| event.position);
        Ok(events)
    }
}

async fn each_row(
    store: &dyn Store,
    query: RowQuery,
    mut with: impl FnMut(&Row) -> Result<(), RuntimeError>,
) -> Result<(), RuntimeError> {
    let limit = store.capabilities().limits.page_entries_max;
    let mut after = None;
    loop {
        let page = store.rows(query.clone(), Page::after(after, limit)).await?;
        for row in &page.rows {
            with(row)?;
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}

/// Carries forward what live workers have said.
#[derive(Debug)]
struct LiveConversations {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

#[async_trait]
impl CarryForward for LiveConversations {
    async fn carry_forward(&self, through: Position) -> Result<(), WireError> {
        let mut after = None;
        loop {
            let page = crate::view::list(&*self.store, after.as_ref(), WORKERS_AT_ONCE).await;
            let page = page.map_err(|error| error.to_wire())?;
            for worker in &page.workers {
                let carried = self.carry(worker.id(), through).await;
                carried.map_err(|error| error.to_wire())?;
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }
}

/// How many workers are looked at in one read.
const WORKERS_AT_ONCE: usize = 256;

/// Whether another commit came first.
enum Try {
    Done,
    Again,
}

impl LiveConversations {
    async fn carry(&self, worker: &WorkerId, through: Position) -> Result<(), RuntimeError> {
        for _ in 0..ATTEMPTS_MAX {
            let row = self.store.row(&worker_key(worker)).await?;
            let row = row.ok_or_else(|| corrupt("the row of a worker", "is gone"))?;
            let record: WorkerRecord = crate::view::decode(&row)?;
            let head = self.store.row(&head_key(worker)).await?;
            // A turn of a cancelled worker that has not ended is a part of its end.
            let live = !record.status.is_final() || record.unfinished > 0;
            let tried = match (live, head) {
                (true, head) => self.carry_live(&row, worker, head, through).await?,
                (false, Some(head)) => self.let_go(worker, &head).await?,
                (false, None) => return Ok(()),
            };
            if matches!(tried, Try::Done) {
                return Ok(());
            }
        }
        Err(contended(worker))
    }

    async fn carry_live(
        &self,
        row: &Row,
        worker: &WorkerId,
        head: Option<Row>,
        through: Position,
    ) -> Result<Try, RuntimeError> {
        let mut guard = match &head {
            Some(head) => Guard::Version(head.key.clone(), head.version),
            None => Guard::Absent(head_key(worker)),
        };
        let carried = head.as_ref().map(crate::view::decode::<Head>).transpose()?;
        let mut after = carried.map_or(Position(0), |head| head.through);
        let said = Said { worker, turn: None };
        let (stream, limit) = (said.stream(), self.limits().page_entries_max);
        let bytes_max = BYTES_AT_ONCE.min(self.limits().commit_bytes_max / 4);
        let mut batch = Batch::default();
        let mut has_more = after < through;
        while has_more {
            let page = Page::after(after, limit);
            let page = self.store.events(stream.as_ref(), page).await?;
            has_more = page.has_more;
            for stored in &page.events {
                has_more &= stored.position < through;
                if stored.position > through {
                    break;
                }
                let event = stored.decode()?.draft;
                if is_said(&event.kind) {
                    batch.push(CarriedEvent {
                        position: stored.position,
                        id: stored.id,
                        event,
                    });
                }
            }
            after = page.next;
            if batch.events.is_empty() || (has_more && batch.bytes < bytes_max) {
                continue;
            }
            for part in std::mem::take(&mut batch).parts(bytes_max) {
                let mut commit = self.new_commit().guard(guard.clone());
                for digest in part.attachments()? {
                    // One that is lost already must not stop what can be saved.
                    let there = self.store.has_attachment(&digest).await;
                    if there.map_err(|error| RuntimeError::from_part(&error))? {
                        commit.attachments.push(digest);
                    }
                }
                if matches!(guard, Guard::Absent(_)) {
                    // Erasing a worker removes its rows with the head among them; until there is
                    // one, the worker's own row tells of it.
                    commit = commit.guard(Guard::Version(row.key.clone(), row.version));
                }
                match self.store.commit(part.add_to(commit, worker)).await {
                    Ok(_) => {}
                    Err(CommitError::Rejected { .. }) => return Ok(Try::Again),
                    Err(error) => return Err(error.into()),
                }
                let version = match guard {
                    Guard::Version(_, version) => version + 1,
                    _ => 1,
                };
                guard = Guard::Version(head_key(worker), version);
            }
        }
        Ok(Try::Done)
    }

    /// Lets go of what was carried for a worker that says nothing any more.
    async fn let_go(&self, worker: &WorkerId, head: &Row) -> Result<Try, RuntimeError> {
        let mut keys = Vec::new();
        let query = RowQuery::scope(SPACE, worker_scope(worker));
        each_row(&*self.store, query, |row| {
            keys.push(row.key.clone());
            Ok(())
        })
        .await?;
        // The head comes first in the order of keys and goes last.
        keys.rotate_left(1);
        for keys in keys.chunks(ROWS_AT_ONCE) {
            let guard = Guard::Version(head.key.clone(), head.version);
            let mut commit = self.new_commit().guard(guard);
            commit
                .rows
                .extend(keys.iter().cloned().map(RowChange::Delete));
            match self.store.commit(commit).await {
                Ok(_) => {}
                Err(CommitError::Rejected { .. }) => return Ok(Try::Again),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Try::Done)
    }

    fn limits(&self) -> runtime_store::Limits {
        self.store.capabilities().limits
    }

    fn new_commit(&self) -> Commit {
        Commit::fresh(&*self.store, &*self.clock, &*self.random)
    }
}

/// How many rows are deleted by one commit.
const ROWS_AT_ONCE: usize = 64;

/// Events that are carried next, in order.
#[derive(Debug, Default)]
struct Batch {
    events: Vec<CarriedEvent>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, event: CarriedEvent) {
        self.bytes += event.event.to_bytes().len();
        self.events.push(event);
    }

    /// Cuts it into what fits a commit each.
    fn parts(self, bytes_max: usize) -> Vec<Self> {
        let mut parts = vec![Self::default()];
        for event in self.events {
            let bytes = event.event.to_bytes().len();
            let last = parts.last_mut().expect("there is one from the start");
            if last.bytes > 0 && last.bytes + bytes > bytes_max {
                let mut next = Self::default();
                next.push(event);
                parts.push(next);
            } else {
                last.push(event);
            }
        }
        parts
    }

    /// The attachments that its events name: they live as long as the rows.
    fn attachments(&self) -> Result<Vec<Digest>, RuntimeError> {
        let mut named = Vec::new();
        for carried in &self.events {
            let recorded = RecordedEffect::from_event(&carried.event);
            let recorded = recorded.map_err(|error| RuntimeError::from_part(&error))?;
            if let Some(EffectOutcome::Completed(output)) = recorded.map(|it| it.outcome) {
                named.extend(output.attachments());
            }
        }
        named.sort_unstable();
        named.dedup();
        Ok(named)
    }

    /// Adds the rows: one for each turn, and how far it has come.
    fn add_to(self, mut commit: Commit, worker: &WorkerId) -> Commit {
        let last = self.events.last().map(|event| event.position);
        let mut rows: Vec<(Option<TurnId>, Position, Carried)> = Vec::new();
        for event in self.events {
            let turn = event.event.turn.clone();
            match rows.iter_mut().find(|(of, ..)| *of == turn) {
                Some((.., carried)) => carried.events.push(event),
                None => rows.push((
                    turn,
                    event.position,
                    Carried {
                        events: vec![event],
                    },
                )),
            }
        }
        for (turn, first, carried) in rows {
            let body = serde_json::to_vec(&carried).expect("events are plain data");
            let key = carried_key(worker, turn.as_ref(), first);
            commit = commit.row(RowChange::put(key, body));
        }
        let head = Head {
            through: last.unwrap_or_default(),
        };
        let head = serde_json::to_vec(&head).expect("a position is plain data");
        commit.row(RowChange::put(head_key(worker), head))
    }
}
