//! The driver over the durable controller of `runtime-effects` and a real store: what a worker
//! does, without the worker.

use std::sync::Arc;
use std::time::Duration;

use runtime_agent::{Agent, TurnProjector, TurnRun, Unwatched, drive_turn};
use runtime_core::{
    Clock, CommitId, EventDraft, EventKind, ExecutionScope, Random, Resolution, RuntimeEvent,
    Timestamp,
};
use runtime_effects::{
    EffectHost, EffectLimits, Interrupt, PendingKind, ResolveAnswer, ScopeOpening, StoreEffectHost,
};
use runtime_model::ScriptStep;
use runtime_store::{
    Commit, Epoch, Guard, MemoryStore, NewEvent, Page, Position, RowChange, RowKey, Store,
};
use runtime_testkit::{SeededRandom, SimulatedClock};
use runtime_tools::{Pending, ToolOutput};
use runtime_turn::{ApprovalDecision, Conversation, TurnEnd, TurnStart};
use serde_json::{Value, json};

use crate::desk::{Counted, Desk, script, start, words};

/// A store that outlives the processes, which come and go.
pub(crate) struct World {
    store: Arc<MemoryStore>,
    pub(crate) clock: SimulatedClock,
    random: SeededRandom,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            store: Arc::new(MemoryStore::new("durable".parse().unwrap())),
            clock: SimulatedClock::new(Timestamp::from_millis(1_000_000)),
            random: SeededRandom::new(3),
        }
    }

    /// A host, as a fresh process has it.
    pub(crate) fn host(&self) -> StoreEffectHost {
        let limits = EffectLimits {
            park_after: Duration::ZERO,
            ..EffectLimits::default()
        };
        StoreEffectHost::new(
            Arc::clone(&self.store) as _,
            Arc::new(self.clock.clone()),
            Arc::new(SeededRandom::new(7)),
            limits,
        )
    }

    async fn commit(&self, commit: impl FnOnce(Commit) -> Commit) {
        let id = CommitId::generate(self.clock.now(), self.random.ten());
        let empty = Commit::new(id, self.clock.now());
        self.store.commit(commit(empty)).await.unwrap();
    }

    async fn tell(&self, event: &EventDraft) {
        let id = runtime_core::EventId::generate(self.clock.now(), self.random.ten());
        self.commit(|commit| commit.event(NewEvent::from_draft(id, event)))
            .await;
    }

    /// Puts the next epoch of the scope, as the commit that resumes a turn does.
    async fn next_epoch(&self, scope: &ExecutionScope) -> Epoch {
        let key = RowKey::epoch(scope.scope_id());
        let row = self.store.row(&key).await.unwrap();
        let guard = match &row {
            None => Guard::Absent(key.clone()),
            Some(row) => Guard::Version(key.clone(), row.version),
        };
        let put = RowChange::put(key.clone(), Vec::new());
        self.commit(|commit| commit.guard(guard).row(put)).await;
        Epoch(self.store.row(&key).await.unwrap().unwrap().version)
    }

    /// Answers the one wait that asks this.
    pub(crate) async fn answer(&self, question: &str, value: Value) -> String {
        let host = self.host();
        let page = host.pending(Page::after(None, 16)).await.unwrap();
        let [effect] = &page.items[..] else {
            panic!("one wait expected, found {:?}", page.items);
        };
        let promise = &effect.promises[0];
        assert_eq!(promise.asks.as_deref(), Some(question));
        let promises = host.await_events().await.unwrap();
        let resolution = Resolution::Ok { value };
        let id = CommitId::generate(self.clock.now(), self.random.ten());
        let answered = promises
            .resolve_identity(&effect.scope, &promise.identity, resolution, Some(id))
            .await;
        assert_eq!(answered.unwrap(), ResolveAnswer::Accepted);
        promise.asks.clone().unwrap()
    }

    pub(crate) async fn conversation(&self) -> Conversation {
        let page = Page::after(Position(0), 256);
        let page = self.store.events(None, page).await.unwrap();
        let mut conversation = Conversation::new();
        for event in &page.events {
            let event: RuntimeEvent = event.decode().unwrap();
            conversation.apply(&event.draft).unwrap();
        }
        conversation
    }

    pub(crate) async fn begin(&self, turn: &str) -> TurnStart {
        let start = TurnStart {
            turn: turn.parse().unwrap(),
            history: self.conversation().await.mark(),
            ..start()
        };
        let started = EventDraft::new(EventKind::TurnStarted)
            .in_scope(&start.scope())
            .with_payload(serde_json::to_value(&start).unwrap());
        self.tell(&started).await;
        start
    }

    /// Drives the open turn in a process of its own; commits its end.
    pub(crate) async fn drive(
        &self,
        agent: &Agent,
        host: &StoreEffectHost,
    ) -> Result<TurnEnd, Interrupt> {
        let conversation = self.conversation().await;
        let start = conversation.open_turn().unwrap().clone();
        let scope = start.scope();
        let epoch = self.next_epoch(&scope).await;
        let opening = ScopeOpening::new(scope.clone(), epoch, Arc::new(TurnProjector));
        let controller = host.scoped(opening).unwrap();
        let end = drive_turn(TurnRun {
            start,
            history: conversation.to_history(),
            agent,
            controller: &*controller,
            attachments: &*self.store,
            live: &Unwatched,
            clock: &self.clock,
            completions: None,
            delegates: None,
            inputs: None,
        })
        .await?;
        self.tell(&end.to_event(&scope)).await;
        Ok(end)
    }
}

/// T3, T4: parked for an approval, answered by token in another process, finished in a third;
/// the next turn starts from the same conversation.
#[tokio::test]
async fn t3_a_turn_parks_is_approved_by_token_and_goes_on() {
    let world = World::new();
    let desk = Desk::new(script());
    let agent = desk.builder().build();
    let start = world.begin("1").await;
    let parked = world.drive(&agent, &world.host()).await;
    assert!(matches!(parked, Err(Interrupt::Suspended { .. })));
    assert_eq!((desk.read.calls(), desk.write.calls()), (2, 0));

    let host = world.host();
    let promises = host.await_events().await.unwrap();
    let pending = host.pending(Page::after(None, 10)).await.unwrap().items;
    assert_eq!(pending.len(), 1);
    assert_eq!(pending[0].kind, PendingKind::Approval);
    assert_eq!(pending[0].tool.as_deref(), Some("write"));
    let identity = &pending[0].promises[0].identity;
    let rights = runtime_effects::TokenRights::RESOLVE;
    let token = promises
        .mint(&start.scope(), identity, rights, None)
        .await
        .unwrap();
    let approve = ApprovalDecision::Approve.to_resolution();
    let answer = promises.resolve(token.expose(), approve, None).await;
    assert_eq!(answer.unwrap(), ResolveAnswer::Accepted);

    let end = world.drive(&agent, &world.host()).await;
    assert_eq!(words(end), "done: wrote \"x\"");
    assert_eq!((desk.read.calls(), desk.write.calls()), (2, 1));
    assert_eq!(desk.model.requests().len(), 2);

    let conversation = world.conversation().await;
    assert_eq!(conversation.history().len(), 4);
    let next = world.begin("2").await;
    assert_eq!(next.history, conversation.mark());
    let parked = world.drive(&agent, &world.host()).await;
    assert!(matches!(parked, Err(Interrupt::Suspended { .. })));
    assert_eq!(desk.model.requests()[2].messages.len(), 5);
}

/// The time at which a suspended turn goes on by itself.
pub(crate) fn suspended(driven: Result<TurnEnd, Interrupt>) -> Option<Timestamp> {
    match driven {
        Err(Interrupt::Suspended { due, .. }) => due,
        other => panic!("it should wait, but {other:?}"),
    }
}

/// T5: a call that is completed from outside and is not in time ends as an error the model reads;
/// the deadline counts from the call, however often the turn was driven.
#[tokio::test]
async fn t5_the_deadline_of_a_pending_call_counts_from_the_call() {
    let world = World::new();
    let mut desk = Desk::new(vec![
        ScriptStep::call("c", "work", json!({})),
        ScriptStep::text("so {last_tool_result}"),
    ]);
    let deadline = Some(Duration::from_secs(60));
    desk.read = Counted::new("work", true, move |_| {
        Ok(ToolOutput::Pending(Pending {
            deadline,
            ..Pending::default()
        }))
    });
    let agent = desk.builder().build();
    world.begin("1").await;
    for seconds in [0, 30, 29] {
        world.clock.advance(Duration::from_secs(seconds));
        match world.drive(&agent, &world.host()).await {
            Err(Interrupt::Suspended { due, .. }) => {
                assert_eq!(due, Some(Timestamp::from_millis(1_060_000)));
            }
            other => panic!("it should wait, but {other:?}"),
        }
    }
    world.clock.advance(Duration::from_secs(1));
    let end = world.drive(&agent, &world.host()).await;
    assert_eq!(words(end), "so the tool was not completed in time");
    assert_eq!(desk.read.calls(), 1);
}
