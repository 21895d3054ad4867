//! Driving turns: start, resume, park. One turn of a session at a time (W6). How a turn ends is in
//! `ending.rs`.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::select;
use runtime_agent::{InputQueue, TurnProjector, TurnRun, drive_turn};
use runtime_core::{
    Classified, ErrorClass, EventDraft, EventKind, JoinedMessage, Message, Timestamp, TurnId,
    WireError, WorkerId,
};
use runtime_effects::{
    EffectHost, Interrupt, Lease, PendingEffect, PendingKind, ScopeOpening, crashes,
    forgets_conflict, with_crashes,
};
use runtime_store::{Epoch, Guard, Page, Row, RowChange, RowKey, RowQuery};
use runtime_turn::{ContextMark, TurnStart};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::{SemaphorePermit, watch};

use crate::instance::Instance;
use crate::peers::FIRST;
use crate::places::Place;
use crate::session::{Hold, Wake};
use crate::stoppable::Stoppable;
use crate::turn::{ParkReason, TURN_SPACE, TurnRecord, TurnStatus};
use crate::worker::{worker_key, worker_scope};
use crate::{RuntimeError, WorkerRecord, WorkerStatus};

/// What a look at a session led to.
pub(crate) enum Step {
    /// Something was done; look again.
    Again,
    /// There is nothing to do until somebody wakes the session.
    Rest,
    /// There is something, once another turn of this instance has made room.
    Wait,
    /// There is something, once any turn of the runtime has given its place back.
    Full,
}

/// What a session has been given to drive its turn with.
#[derive(Default)]
struct Room<'a> {
    permit: Option<SemaphorePermit<'a>>,
    /// It is the first of those that wait for a place.
    head_of_line: Option<SemaphorePermit<'a>>,
}

/// How long the first that waits for a place relies on being told.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A turn that this instance has opened.
pub(crate) struct OpenTurn {
    pub(crate) record: TurnRecord,
    pub(crate) hold: Hold,
    /// How often processes died in it since it last got further.
    crashes: u32,
    start: TurnStart,
}

impl Instance {
    /// Lets a session go on: starts a task for it unless one runs.
    pub(crate) fn wake(self: &Arc<Self>, worker: &WorkerId, wake: Wake) {
        if self.is_closing() || !self.sessions.wake(worker, wake) {
            return;
        }
        let instance = Arc::clone(self);
        let worker = worker.clone();
        self.spawn(async move {
            let driven = AssertUnwindSafe(instance.drive_session(&worker)).catch_unwind();
            if driven.await.is_err() {
                let message = "the driver of a session panicked; its turn is as recorded";
                let error = WireError::new("task_panicked", ErrorClass::Terminal, message);
                instance.report_failure(Some(&worker), error);
            }
        });
    }

    /// Wakes every worker whose first unfinished turn can go on. A turn that only waits costs a
    /// look at its rows, not a task and no write, so that 100,000 of them are cheap (E9).
    pub(crate) async fn wake_unfinished(self: &Arc<Self>, wake: Wake) -> Result<(), RuntimeError> {
        let query = RowQuery::space(TURN_SPACE);
        let mut after = None;
        let mut last: Option<WorkerId> = None;
        loop {
            let page = Page::after(after, self.store.capabilities().limits.page_entries_max);
            let page = self.store.rows(query.clone(), page).await?;
            for row in &page.rows {
                let turn: TurnRecord = crate::view::decode(row)?;
                let is_first = last.as_ref() != Some(&turn.worker);
                if is_first && self.goes_on(&turn, row, wake).await? {
                    self.wake(&turn.worker, wake);
                }
                last = Some(turn.worker);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Says whether there is something to do for a turn that is the first of its worker's.
    async fn goes_on(
        &self,
        turn: &TurnRecord,
        row: &Row,
        wake: Wake,
    ) -> Result<bool, RuntimeError> {
        let (worker, _) = self.worker(&turn.worker).await?;
        match worker.status {
            WorkerStatus::Running => self.is_wait_over(turn, row, wake).await,
            WorkerStatus::Stopped => Ok(turn.place.is_some()),
            // Its turn ends, whatever it waits for.
            WorkerStatus::Cancelled | WorkerStatus::Deleted => Ok(true),
        }
    }

    /// Says whether driving a turn would take it further. It must be exact: a turn that is driven
    /// in vain costs two events each time.
    async fn is_wait_over(
        &self,
        turn: &TurnRecord,
        row: &Row,
        wake: Wake,
    ) -> Result<bool, RuntimeError> {
        let TurnStatus::Parked { reason, .. } = &turn.status else {
            return Ok(true);
        };
        let key = match reason {
            ParkReason::Waiting { key } => key.as_str(),
            // Whatever else it waits for, it comes to these first.
            ParkReason::InDoubt { key } => {
                return self.is_ruled(turn, PendingKind::InDoubt, key).await;
            }
            ParkReason::Conflict { error } if wake == Wake::News => {
                let key = conflict_key(error);
                return self.is_ruled(turn, PendingKind::Conflict, key).await;
            }
            _ => return Ok(wake == Wake::Insist),
        };
        let is_due = row.due.is_some_and(|due| due <= self.clock.now());
        if is_due {
            return Ok(true);
        }
        let scope = turn.scope().scope_id();
        let mut waits = false;
        let mut after = None;
        loop {
            let limit = self.store.capabilities().limits.page_entries_max;
            let page = Page::after(after, limit);
            let page = self.host.pending_of(&scope, page).await?;
            for effect in &page.items {
                waits |= effect.key.as_str() == key;
                for promise in &effect.promises {
                    let identity = &promise.identity;
                    if self.promises.is_settled(&effect.scope, identity).await? {
                        return Ok(true);
                    }
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                // A pause between attempts is in no list: it has a time. What has neither is over.
                None => return Ok(!waits && row.due.is_none()),
            }
        }
    }

    /// Says whether a conflict, or a doubt, was ruled on: then its note is gone.
    async fn is_ruled(
        &self,
        turn: &TurnRecord,
        kind: PendingKind,
        key: &str,
    ) -> Result<bool, RuntimeError> {
        let scope = turn.scope().scope_id();
        let mut after = None;
        loop {
            let limit = self.store.capabilities().limits.page_entries_max;
            let page = Page::after(after, limit);
            let page = self.host.pending_of(&scope, page).await?;
            let noted = |effect: &PendingEffect| effect.kind == kind && effect.key.as_str() == key;
            if page.items.iter().any(noted) {
                return Ok(false);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(true),
            }
        }
    }

    async fn drive_session(self: &Arc<Self>, worker: &WorkerId) {
        let mut driving = self.sessions.driving(worker.clone());
        loop {
            let woken = driving.take_wake();
            let step = match self.step(worker, woken).await {
                Ok(step) => step,
                Err(error) => {
                    self.failed(worker, &error);
                    Step::Rest
                }
            };
            let over = matches!(step, Step::Rest) || self.sessions.is_draining();
            if over && driving.rest() {
                return;
            }
        }
    }

    /// The turn stays as it is recorded. What may pass is tried again later, a few times; then,
    /// and else at once, whoever waits for the turn hears of it, and so does `close`.
    fn failed(&self, worker: &WorkerId, error: &RuntimeError) {
        let class = error.class();
        // Another instance drives it now; or this one is closing.
        if class == ErrorClass::Fenced || self.is_closing() {
            tracing::debug!(worker = worker.as_str(), %error, "not driven any more");
            return;
        }
        if may_pass(class) {
            let now = self.clock.monotonic();
            if let Some(pause) = self.sessions.retry_later(worker, now, &self.config) {
                tracing::warn!(worker = worker.as_str(), ?pause, %error, "driven again later");
                return;
            }
        }
        self.report_failure(Some(worker), error.to_wire());
    }

    /// Looks at the first unfinished turn of a session and takes it as far as it goes.
    async fn step(&self, worker: &WorkerId, woken: Option<Wake>) -> Result<Step, RuntimeError> {
        let mut room = Room::default();
        loop {
            // Before the look: what is given back after it is heard of.
            let given_back = self.places.watch();
            let step = self.step_with(worker, woken, &mut room).await?;
            if !matches!(step, Step::Wait | Step::Full) {
                return Ok(step);
            }
            // What was read before may have changed when there is room.
            let waited = async {
                if matches!(step, Step::Wait) {
                    room.permit = self.permits.acquire().await.ok();
                    return;
                }
                // Not while waiting: whoever has a place already needs a permit.
                room.permit = None;
                if room.head_of_line.is_none() {
                    room.head_of_line = self.places.head.acquire().await.ok();
                } else {
                    self.place_is_given_back(given_back).await;
                }
            };
            if self.sessions.until_draining(waited).await.is_none() {
                return Ok(Step::Rest);
            }
        }
    }

    /// Waits until a place may be free; not for ever, since a hint can be lost.
    async fn place_is_given_back(&self, mut given_back: watch::Receiver<()>) {
        let hinted = std::pin::pin!(given_back.changed());
        let _ = select(hinted, self.clock.sleep(LOOK_AGAIN)).await;
    }

    async fn step_with<'a>(
        &'a self,
        worker: &WorkerId,
        woken: Option<Wake>,
        room: &mut Room<'a>,
    ) -> Result<Step, RuntimeError> {
        let Some((record, row)) = self.first_unfinished(worker).await? else {
            return Ok(Step::Rest);
        };
        let (state, version) = {
            let (state, row) = self.worker(worker).await?;
            (state, row.version)
        };
        match state.status {
            WorkerStatus::Running => {}
            WorkerStatus::Stopped => return self.rest_stopped(record, &row).await,
            WorkerStatus::Cancelled | WorkerStatus::Deleted
                if self.is_driven_elsewhere(&record).await? =>
            {
                return Ok(Step::Rest);
            }
            WorkerStatus::Cancelled | WorkerStatus::Deleted => {
                let reason = match state.status {
                    WorkerStatus::Deleted => "worker_deleted",
                    _ => "worker_cancelled",
                };
                return self
                    .end_cancelled(&state, record, &row, reason.to_owned())
                    .await;
            }
        }
        if let Some(reason) = self.asked_to_end(&record).await? {
            if self.is_driven_elsewhere(&record).await? {
                return Ok(Step::Rest);
            }
            return self.end_cancelled(&state, record, &row, reason).await;
        }
        if matches!(record.status, TurnStatus::Parked { .. })
            && !self
                .is_wait_over(&record, &row, woken.unwrap_or(Wake::News))
                .await?
        {
            return Ok(Step::Rest);
        }
        let place = match record.place {
            Some(_) => Place::Needless,
            // In order: who comes later does not go before who waits.
            None if room.head_of_line.is_none() && !self.places.is_empty() => {
                return Ok(Step::Full);
            }
            None => match self.free_place().await? {
                Some(place) => place,
                None => return Ok(Step::Full),
            },
        };
        if room.permit.is_none() {
            let Ok(granted) = self.permits.try_acquire() else {
                return Ok(Step::Wait);
            };
            room.permit = Some(granted);
        }
        let open = match &record.status {
            TurnStatus::Queued => {
                let opened = self.start_turn((&state, version), record, &row, place);
                opened.await?
            }
            TurnStatus::Running => match self.sessions.take_hold(&record) {
                Some(hold) => {
                    let start = self.start_of(&record).await?;
                    Some(OpenTurn {
                        record,
                        hold,
                        crashes: 0,
                        start,
                    })
                }
                None if self.is_driven_elsewhere(&record).await? => return Ok(Step::Rest),
                None => match self.skip(&state, &record, &row, place).await? {
                    Some(step) => return Ok(step),
                    None => self.resume_turn(record, &row, place).await?,
                },
            },
            TurnStatus::Parked { .. } => match self.skip(&state, &record, &row, place).await? {
                Some(step) => return Ok(step),
                None => self.resume_turn(record, &row, place).await?,
            },
        };
        // It has its place, or looks again: the next in line may look.
        room.head_of_line = None;
        match open {
            Some(open) => {
                let step = self.run(&state, open).await?;
                self.sessions.forget_failures(worker);
                Ok(step)
            }
            // Another commit came first.
            None => Ok(Step::Again),
        }
    }

    /// Lets the turn of a stopped worker rest: it has no place while it does.
    async fn rest_stopped(&self, mut turn: TurnRecord, row: &Row) -> Result<Step, RuntimeError> {
        if turn.place.is_none() || self.is_driven_elsewhere(&turn).await? {
            return Ok(Step::Rest);
        }
        let opened = self.epoch_of(&turn).await?;
        let holder = Lease::holder(&opened);
        turn.let_go = true;
        let commit = turn
            .gives_place_back(self.new_commit(None))
            .guard(Guard::Version(turn.key(), row.version))
            .guard(Guard::Version(opened.key, opened.version))
            .row(RowChange::put(turn.key(), turn.to_body()));
        let commit = Lease::lets_go(commit, holder.as_ref(), &turn.scope().scope_id());
        if self.contend(commit).await?.is_none() {
            return Ok(Step::Again);
        }
        // Opened and not driven yet, it would go on without a place.
        self.sessions.release(&turn.worker);
        self.sessions.drives_no_more(&turn.worker);
        self.places.look_again();
        Ok(Step::Rest)
    }

    pub(crate) async fn first_unfinished(
        &self,
        worker: &WorkerId,
    ) -> Result<Option<(TurnRecord, Row)>, RuntimeError> {
        let query = RowQuery::scope(TURN_SPACE, worker_scope(worker));
        let page = self.store.rows(query, Page::after(None, 1)).await?;
        let Some(row) = page.rows.into_iter().next() else {
            return Ok(None);
        };
        Ok(Some((crate::view::decode(&row)?, row)))
    }

    /// What a turn starts from: the conversation so far, named by its digest.
    pub(crate) async fn turn_start(
        &self,
        state: &WorkerRecord,
        context: ContextMark,
        turn: &TurnRecord,
        input: Message,
    ) -> Result<TurnStart, RuntimeError> {
        let agent = self.agent(state).await?;
        let (session, turn) = (state.session(), turn.turn.clone());
        let start = TurnStart::new(session, turn, agent.model.name(), input, context);
        let mut start = start.with_budgets(self.config.turn_budgets);
        start.compacted = state.compacted;
        start.context_tokens = state.context_tokens;
        let mut start = agent.starting(start);
        if let Some(parent) = &state.request.parent {
            start.budgets = parent.limit(start.budgets, state);
        }
        Ok(start)
    }

    /// Starts a queued turn. What it starts from is read from the log, not from the worker's
    /// record: a System input may have come between two turns. The worker's version guards it.
    async fn start_turn(
        &self,
        (state, version): (&WorkerRecord, u64),
        mut record: TurnRecord,
        row: &Row,
        place: Place,
    ) -> Result<Option<OpenTurn>, RuntimeError> {
        let input = event_payload(row, "/message")?;
        record.status = TurnStatus::Running;
        self.sessions.release(&record.worker);
        let context = self.history(&record.worker).await?.conversation.mark();
        if context.messages < state.context.messages {
            // Events were removed past the runtime: better no turn than one that has forgotten.
            let worker = record.worker.clone();
            return Err(RuntimeError::ConversationPruned { worker });
        }
        let start = self.turn_start(state, context, &record, input).await?;
        let commit = self
            .new_commit(None)
            .guard(Guard::Version(record.key(), row.version))
            .guard(Guard::Version(worker_key(&record.worker), version));
        let commit = place.taken_by(commit, &mut record);
        let (commit, instance) = self.with_start(commit, &record, &start)?;
        let committed = self.contend(commit).await?;
        let epoch = FIRST;
        Ok(committed.map(|_| OpenTurn {
            record,
            hold: Hold { epoch, instance },
            crashes: 0,
            start,
        }))
    }

    /// Takes a turn over: bumps its epoch, so that whoever drove it before is fenced (E5).
    pub(crate) async fn resume_turn(
        &self,
        mut record: TurnRecord,
        row: &Row,
        place: Place,
    ) -> Result<Option<OpenTurn>, RuntimeError> {
        self.sessions.release(&record.worker);
        let start = self.start_of(&record).await?;
        let scope = record.scope();
        let opened = self.epoch_of(&record).await?;
        let epoch = Epoch(opened.version).next();
        let counted = crashes(&*self.store, &scope).await?;
        // Whoever drove it died in it, unless it was this instance, or it closed in order.
        let died = record.status == TurnStatus::Running
            && !record.let_go
            && !self.sessions.has_driven(&record);
        let crashes = if died { counted + 1 } else { 0 };
        record.let_go = false;
        let was = std::mem::replace(&mut record.status, TurnStatus::Running);
        let event = EventDraft::new(EventKind::TurnResumed)
            .in_scope(&scope)
            .with_payload(json!({ "epoch": epoch, "was": was, "crashes": crashes }));
        let mut commit = place
            .taken_by(self.new_commit(None), &mut record)
            .guard(Guard::Version(record.key(), row.version))
            .guard(Guard::Version(opened.key.clone(), opened.version))
            .row(RowChange::put(record.key(), record.to_body()))
            .event(self.new_event(&event));
        if crashes != counted {
            commit = with_crashes(commit, &scope, crashes);
        }
        if let Some(effect) = was.conflict() {
            // This version may ask for what is recorded; if not, it is noted anew (E4).
            commit = forgets_conflict(commit, &scope.scope_id(), &effect);
        }
        let (commit, instance) = self.opens(commit, &scope, Lease::holder(&opened).as_ref())?;
        let committed = self.contend(commit).await?;
        Ok(committed.map(|_| OpenTurn {
            record,
            hold: Hold { epoch, instance },
            crashes,
            start,
        }))
    }

    /// Says whether another instance that lives drives a turn.
    async fn is_driven_elsewhere(&self, record: &TurnRecord) -> Result<bool, RuntimeError> {
        if self.keeper.is_none() || record.status != TurnStatus::Running || record.let_go {
            return Ok(false);
        }
        let opened = self.epoch_of(record).await?;
        self.is_held_elsewhere(&opened).await
    }

    async fn run(&self, state: &WorkerRecord, open: OpenTurn) -> Result<Step, RuntimeError> {
        let agent = self.agent(state).await?;
        let history = self.history(&open.record.worker).await?;
        // Not held while the turn is driven: the next look would have to copy it.
        let history = history.conversation.to_history();
        let Hold { epoch, instance } = open.hold.clone();
        let opening = ScopeOpening::new(open.record.scope(), epoch, Arc::new(TurnProjector))
            .held_by(instance)
            .after_crashes(open.crashes);
        self.sessions.drives(&open.record, open.hold.clone());
        let controller = self.host.scoped(opening).map_err(|error| error.to_wire())?;
        let controller = Stoppable::new(controller, &self.sessions, &open.record.worker);
        let live = self.live_sink();
        let queue = QueuedInputs {
            instance: self,
            worker: &open.record.worker,
        };
        let driven = self
            .until_closed(drive_turn(TurnRun {
                start: open.start.clone(),
                history,
                agent: &agent,
                controller: &controller,
                attachments: &*self.store,
                live: &live,
                clock: &*self.clock,
                completions: Some(Arc::clone(&self.completions) as _),
                delegates: self.delegates().cloned(),
                inputs: Some(&queue),
            }))
            .await;
        drop(controller);
        match driven {
            // Closing: the turn stays open and goes on in the next instance.
            None => Ok(Step::Rest),
            Some(Ok(end)) => self.end(state, open, &end).await,
            Some(Err(interrupt)) => self.interrupted(open, interrupt).await,
        }
    }

    async fn interrupted(
        &self,
        open: OpenTurn,
        interrupt: Interrupt,
    ) -> Result<Step, RuntimeError> {
        match interrupt {
            // Another instance drives it now.
            Interrupt::Fenced => {
                self.sessions.drives_no_more(&open.record.worker);
                Ok(Step::Rest)
            }
            // The worker was cancelled: the next look ends the turn.
            Interrupt::Cancelled => Ok(Step::Again),
            Interrupt::Suspended { key, due } => {
                let reason = ParkReason::Waiting {
                    key: key.to_string(),
                };
                self.park(open, reason, due).await
            }
            Interrupt::InDoubt { key } => {
                self.park(
                    open,
                    ParkReason::InDoubt {
                        key: key.to_string(),
                    },
                    None,
                )
                .await
            }
            Interrupt::Conflict(_) => {
                let error = interrupt.to_wire();
                self.park(open, ParkReason::Conflict { error }, None).await
            }
            // What may pass leaves the turn running, to be driven again; the rest waits for a
            // repair, where it is seen.
            other => {
                let error = other.to_wire();
                if may_pass(error.class) {
                    return Err(error.into());
                }
                if error.code == CRASH_LOOP {
                    return self.park(open, ParkReason::CrashLoop { error }, None).await;
                }
                self.report_failure(Some(&open.record.worker), error.clone());
                self.park(open, ParkReason::Stalled { error }, None).await
            }
        }
    }

    /// Parks a turn: from here on it is rows, not a task (E9).
    async fn park(
        &self,
        open: OpenTurn,
        reason: ParkReason,
        due: Option<Timestamp>,
    ) -> Result<Step, RuntimeError> {
        let OpenTurn {
            mut record, hold, ..
        } = open;
        let scope = record.scope().scope_id();
        let event = EventDraft::new(EventKind::TurnParked)
            .in_scope(&record.scope())
            .with_payload(json!({ "park": reason, "due": due }));
        record.status = TurnStatus::Parked {
            reason,
            since: self.clock.now(),
        };
        let commit = record
            .gives_place_back(self.new_commit(None))
            .owned_by(scope.clone(), hold.epoch)
            .row(RowChange::Put {
                key: record.key(),
                body: record.to_body().into(),
                event: None,
                due,
            })
            .event(self.new_event(&event));
        let commit = Lease::lets_go(commit, hold.instance.as_ref(), &scope);
        self.commit(commit).await?;
        self.places.look_again();
        self.sessions.drives_no_more(&record.worker);
        // What was resolved or ruled while the turn was being parked is found by one more look;
        // what comes after the commit wakes.
        Ok(Step::Again)
    }

    pub(crate) async fn start_of(&self, record: &TurnRecord) -> Result<TurnStart, RuntimeError> {
        match self.store.row(&record.start_key()).await? {
            Some(row) => event_payload(&row, ""),
            None => Err(corrupt(&row_name(&record.start_key()), "is missing")),
        }
    }

    pub(crate) async fn epoch_of(&self, record: &TurnRecord) -> Result<Row, RuntimeError> {
        let key = RowKey::epoch(record.scope().scope_id());
        let row = self.store.row(&key).await?;
        row.ok_or_else(|| corrupt(&row_name(&key), "is missing"))
    }
}

/// The code of an effect in which processes keep dying.
const CRASH_LOOP: &str = "crash_loop";

/// The inputs of a worker that wait behind its running turn.
#[derive(Debug)]
struct QueuedInputs<'a> {
    instance: &'a Instance,
    worker: &'a WorkerId,
}

#[async_trait]
impl InputQueue for QueuedInputs<'_> {
    async fn joining(&self, joined: &[TurnId]) -> Result<Vec<JoinedMessage>, WireError> {
        let query = RowQuery::scope(TURN_SPACE, worker_scope(self.worker));
        // The running turn and what has joined it come first.
        let page = Page::after(None, joined.len() + 1 + JOINED_MAX);
        let store = &self.instance.store;
        let page = store.rows(query, page).await;
        let page = page.map_err(|error| error.to_wire())?;
        let mut joining = Vec::new();
        let mut bytes = 0;
        for row in &page.rows {
            let turn: TurnRecord = crate::view::decode(row).map_err(|error| error.to_wire())?;
            if turn.status != TurnStatus::Queued || joined.contains(&turn.turn) {
                continue;
            }
            let message: Message =
                event_payload(row, "/message").map_err(|error| error.to_wire())?;
            bytes += message.plain_text().len();
            if bytes > JOINED_BYTES_MAX {
                break;
            }
            joining.push(JoinedMessage {
                message,
                turn: Some(turn.turn),
            });
        }
        Ok(joining)
    }
}

/// How many inputs join a turn at one checkpoint; the rest waits for the next.
const JOINED_MAX: usize = 32;

/// How many bytes of text join at one checkpoint: they are recorded in one outcome.
const JOINED_BYTES_MAX: usize = 512 * 1024;

/// The effect that conflicts, as the reason of a parked turn names it.
fn conflict_key(error: &WireError) -> &str {
    let key = error
        .details
        .as_ref()
        .and_then(|details| details["key"].as_str());
    key.unwrap_or_default()
}

/// Whether trying again later may help. Of a commit of unknown fate, the record then tells.
const fn may_pass(class: ErrorClass) -> bool {
    class.is_retryable() || matches!(class, ErrorClass::Indeterminate)
}

/// Reads the payload, or what a JSON pointer finds in it, of the event that a row was put with.
pub(crate) fn event_payload<T: DeserializeOwned>(
    row: &Row,
    pointer: &str,
) -> Result<T, RuntimeError> {
    let place = || row_name(&row.key);
    let event = row
        .event
        .as_ref()
        .ok_or_else(|| corrupt(&place(), "has no event"))?;
    let draft = event.decode()?.draft;
    let value = draft.payload.pointer(pointer);
    let value = value.ok_or_else(|| corrupt(&place(), "lacks a member"))?;
    T::deserialize(value).map_err(|error| corrupt(&place(), &error.to_string()))
}

fn row_name(key: &RowKey) -> String {
    format!("row {}/{}/{}", key.space, key.scope, key.name)
}

pub(crate) fn corrupt(place: &str, what: &str) -> RuntimeError {
    let message = format!("{place} {what}");
    RuntimeError::Part(WireError::new(
        "row_undecodable",
        ErrorClass::Corrupt,
        message,
    ))
}
