//! Retention takes old events away; whoever lives forgets nothing by it (V9).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use runtime_core::{
    Classified, Clock as _, CommitId, ErrorClass, EventKind, ModelRequest, Random as _, StreamKey,
    Topic,
};
use runtime_events::{RetentionPolicy, StreamItem};
use runtime_model::{Model, ModelError, ModelStream};
use runtime_store::{Commit, Page, Position, Removal, RowQuery, Store};
use runtime_testkit::SeededRandom;
use runtime_workers::{Runtime, Transcript, WorkerStatus};

use super::{Desk, GATED, GOLDEN, MATRIX, PLAIN, Place, approve_all, desk, session};

/// Nothing is kept but what must be.
const NOTHING: RetentionPolicy = RetentionPolicy {
    age_max: None,
    events_max: Some(0),
    bytes_max: None,
    wait_for_consumers: true,
};

/// A model that notes what it is shown.
#[derive(Debug)]
struct Listening {
    model: Arc<dyn Model>,
    heard: Arc<Mutex<Vec<Vec<String>>>>,
}

#[async_trait]
impl Model for Listening {
    fn provider(&self) -> &str {
        self.model.provider()
    }

    fn name(&self) -> &str {
        self.model.name()
    }

    async fn stream(&self, request: ModelRequest) -> Result<ModelStream<'_>, ModelError> {
        let said = request.messages.iter().map(|message| {
            let text = serde_json::to_value(&message.content).unwrap();
            format!("{:?} {text}", message.role)
        });
        self.heard.lock().unwrap().push(said.collect());
        self.model.stream(request).await
    }
}

/// A desk whose model notes what it is shown.
struct Watched {
    desk: Desk,
    heard: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Watched {
    fn new() -> Self {
        Self {
            desk: Desk::new(),
            heard: Arc::default(),
        }
    }

    async fn open(&self, place: &dyn Place) -> Runtime {
        self.open_keeping(place, None).await
    }

    async fn open_keeping(&self, place: &dyn Place, keeps: Option<RetentionPolicy>) -> Runtime {
        let mut agent = self.desk.agent();
        agent.model = Arc::new(Listening {
            model: agent.model,
            heard: Arc::clone(&self.heard),
        });
        let mut parts = self.desk.parts_of(agent, place.open().await);
        parts.config.retention = keeps;
        Runtime::open(parts).await.unwrap()
    }

    /// What the model was shown last.
    fn shown(&self) -> Vec<String> {
        self.heard.lock().unwrap().last().unwrap().clone()
    }
}

async fn transcript(runtime: &Runtime) -> Transcript {
    runtime.transcript(&desk(), 1, 1000).await.unwrap()
}

/// The positions that are served.
async fn served(store: &dyn Store) -> Vec<u64> {
    let mut served = Vec::new();
    let mut after = Position(0);
    loop {
        let page = store.events(None, Page::after(after, 100)).await.unwrap();
        served.extend(page.events.iter().map(|event| event.position.0));
        after = page.next;
        if !page.has_more {
            return served;
        }
    }
}

/// How many rows keep what was said.
async fn carried(store: &dyn Store) -> usize {
    let page = Page::after(None, 1000);
    let rows = store.rows(RowQuery::space("carried"), page).await.unwrap();
    rows.rows.len()
}

/// Sends an input and sees its turn through, approvals and sub-agents included.
async fn through(runtime: &Runtime, input: &str) {
    runtime.send(&desk(), input).await.unwrap();
    for _ in 0..4 {
        runtime.settled().await;
        approve_all(runtime).await;
    }
    runtime.settled().await;
}

/// The model sees the whole conversation after all of its events are gone, in the process that
/// removed them and in later ones, and so does whoever reads the transcript.
pub(crate) async fn v9_a_live_worker_remembers_what_retention_removed(place: &dyn Place) {
    let world = Watched::new();
    let runtime = world.open(place).await;
    runtime.worker("desk").await.unwrap();
    world.desk.gate.pass(1);
    through(&runtime, MATRIX).await;
    let note = "n-1".parse().unwrap();
    let noted = runtime.submit_system(&desk(), note, "a note").await;
    noted.unwrap();
    let first = runtime.send(&desk(), PLAIN).await.unwrap();
    runtime.settled().await;
    let mut conversation = world.shown();
    assert!(conversation.len() > 8, "{conversation:?}");
    conversation.push(format!(
        "Assistant {}",
        serde_json::json!([{ "type": "text", "text": "Hello, hello!" }])
    ));
    let said = transcript(&runtime).await;

    let retained = runtime.retain(&NOTHING).await.unwrap();
    assert!(retained.events > 20, "{retained:?}");
    assert_eq!(served(runtime.store()).await, Vec::<u64>::new());
    assert_eq!(transcript(&runtime).await, said);
    let answer = runtime.answer(&desk(), &first.turn).await.unwrap();
    assert_eq!(answer, "Hello, hello!");
    let mut goes_on = async |runtime: &Runtime, place: &str| {
        runtime.ask(&desk(), PLAIN).await.unwrap();
        let shown = world.shown();
        assert_eq!(shown[..conversation.len()], conversation, "{place}");
        assert_eq!(shown.len(), conversation.len() + 1, "{place}");
        conversation = shown;
        conversation.push(format!(
            "Assistant {}",
            serde_json::json!([{ "type": "text", "text": "Hello, hello!" }])
        ));
    };
    goes_on(&runtime, "in the same process").await;
    runtime.close().await.unwrap();
    let runtime = world.open(place).await;
    goes_on(&runtime, "in the next process").await;
    // Again, with what has come since, and once more, with nothing that was said in between.
    runtime.retain(&NOTHING).await.unwrap();
    let rows = carried(runtime.store()).await;
    runtime.worker("other").await.unwrap();
    runtime.retain(&NOTHING).await.unwrap();
    assert_eq!(carried(runtime.store()).await, rows);
    runtime.close().await.unwrap();
    let runtime = world.open(place).await;
    let now = transcript(&runtime).await;
    assert_eq!(now.items[..said.items.len()], said.items);
    goes_on(&runtime, "after three times").await;
    runtime.close().await.unwrap();
}

/// A turn that is parked when its events go goes on as if nothing had happened (S6).
pub(crate) async fn v9_a_parked_turn_goes_on_after_its_events_are_gone(place: &dyn Place) {
    let world = Watched::new();
    let runtime = world.open(place).await;
    let worker = runtime.worker("desk").await.unwrap();
    worker.ask(PLAIN).await.unwrap();
    let turn = runtime.send(&desk(), GOLDEN).await.unwrap().turn;
    let queued = runtime.send(&desk(), PLAIN).await.unwrap().turn;
    runtime.settled().await;
    let asked = runtime.pending().await.unwrap();
    assert_eq!(asked.len(), 1);
    runtime.retain(&NOTHING).await.unwrap();
    assert_eq!(served(runtime.store()).await, Vec::<u64>::new());
    let still = runtime.pending().await.unwrap();
    assert_eq!(still, asked);
    assert!(still[0].arguments.is_some() && still[0].definition.is_some());
    runtime.close().await.unwrap();

    let runtime = world.open(place).await;
    let before = world.desk.model_calls();
    approve_all(&runtime).await;
    let answer = runtime.answer(&desk(), &turn).await.unwrap();
    assert_eq!(answer, "done: appended");
    assert_eq!(world.desk.ledger().len(), 1, "the call ran once");
    let hello = runtime.answer(&desk(), &queued).await.unwrap();
    assert_eq!(hello, "Hello, hello!");
    // The last word of the one, and the answer of the other.
    let paid = world.desk.model_calls() - before;
    assert_eq!(paid, 2, "no call is paid twice");
    // Hello, its answer, the golden turn with its two rounds and its answer, hello again.
    assert_eq!(world.shown().len(), 2 + 6 + 1);
    runtime.close().await.unwrap();
}

/// What a worker said that says nothing any more may go: its transcript tells so, and nothing of
/// it is kept after it was erased.
pub(crate) async fn v9_what_a_final_worker_said_goes_and_is_told(place: &dyn Place) {
    let world = Watched::new();
    let runtime = world.open(place).await;
    let worker = runtime.worker("desk").await.unwrap();
    let turn = worker.send(PLAIN).await.unwrap().turn;
    runtime.settled().await;
    runtime.retain(&NOTHING).await.unwrap();
    assert!(carried(runtime.store()).await > 0);
    worker.ask(PLAIN).await.unwrap();
    let status = worker.cancel(None).await.unwrap().status;
    assert_eq!(status, WorkerStatus::Cancelled);
    runtime.settled().await;
    runtime
        .worker("other")
        .await
        .unwrap()
        .ask(PLAIN)
        .await
        .unwrap();
    let mut reading = runtime.subscribe(session(), None);
    runtime.retain(&NOTHING).await.unwrap();
    let told = worker.transcript(1, 9).await.unwrap_err();
    assert_eq!(
        (told.code(), told.class(), told.details()),
        (
            "transcript_pruned",
            ErrorClass::Gap,
            Some(serde_json::json!({ "oldest": 5 }))
        )
    );
    assert_eq!(worker.transcript(5, 9).await.unwrap().items, []);
    let gone = runtime.answer(&desk(), &turn).await.unwrap_err();
    assert_eq!(gone.code(), "turn_pruned");
    let gap = reading.next().await.unwrap().unwrap();
    assert!(matches!(gap, StreamItem::Gap { .. }), "{gap:?}");
    // Only the other worker's conversation is still kept.
    let page = Page::after(None, 1000);
    let rows = runtime.store().rows(RowQuery::space("carried"), page).await;
    for row in rows.unwrap().rows {
        assert_eq!(row.key.scope.as_str(), "worker/other");
    }
    worker.delete(None).await.unwrap();
    assert!(runtime.purge(&desk()).await.unwrap());
    drop(reading);
    runtime.close().await.unwrap();
}

/// Retention happens by itself, and waits for a durable consumer that is behind.
pub(crate) async fn v9_retention_happens_by_itself_and_waits_for_consumers(place: &dyn Place) {
    let world = Watched::new();
    let runtime = world.open_keeping(place, Some(NOTHING)).await;
    let worker = runtime.worker("desk").await.unwrap();
    let events = runtime.events();
    let consumer = events.consumer("billing").unwrap();
    let start = events.cursor_from_start();
    assert!(consumer.acknowledge(start).await.unwrap());
    worker.ask(PLAIN).await.unwrap();
    let before = served(runtime.store()).await;
    let pass = async |minutes: u64| {
        for _ in 0..minutes * 2 {
            world.desk.clock.advance(Duration::from_secs(30));
            for _ in 0..64 {
                tokio::task::yield_now().await;
            }
        }
    };
    pass(5).await;
    assert_eq!(served(runtime.store()).await[..before.len()], before);
    let mut stream = consumer.subscribe(Topic::Runtime).await.unwrap();
    for _ in &before {
        assert!(matches!(
            stream.next().await.unwrap().unwrap(),
            StreamItem::Event(_)
        ));
    }
    assert!(consumer.acknowledge(stream.cursor()).await.unwrap());
    drop(stream);
    // However long a pass takes: there is one each minute.
    let mut passes = 0;
    while served(runtime.store()).await.contains(&before[0]) {
        pass(1).await;
        passes += 1;
        assert!(passes < 10_000, "nothing goes by itself");
    }
    let answer = worker.ask(PLAIN).await.unwrap();
    assert_eq!((answer.as_str(), world.shown().len()), ("Hello, hello!", 3));
    runtime.close().await.unwrap();
}

/// Events that somebody removed past the runtime are missed: a turn is refused rather than begun
/// by one who has forgotten.
pub(crate) async fn v9_a_worker_whose_past_was_cut_off_says_so(place: &dyn Place) {
    let world = Watched::new();
    let runtime = world.open(place).await;
    let worker = runtime.worker("desk").await.unwrap();
    worker.ask(PLAIN).await.unwrap();
    runtime.close().await.unwrap();
    let store = place.open().await;
    let random = SeededRandom::new(77);
    let now = world.desk.clock.now();
    let commit = Commit::new(CommitId::generate(now, random.ten()), now);
    let all = Removal::Through(Position(u64::MAX >> 1));
    store.commit(commit.remove(all)).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let runtime = world.open(place).await;
    let refused = runtime.ask(&desk(), PLAIN).await.unwrap_err();
    assert_eq!(refused.code(), "part_failed");
    let wire = refused.to_wire();
    assert_eq!(
        (wire.code.as_str(), wire.class),
        ("conversation_pruned", ErrorClass::Gap)
    );
    assert_eq!(world.heard.lock().unwrap().len(), 1, "no model was asked");
    runtime.close().await.unwrap();
}

/// V2, V4: a model call's end is told under its provider, and under no other's.
pub(crate) async fn v2_a_provider_is_a_topic_of_its_own(place: &dyn Place) {
    let world = Watched::new();
    let runtime = world.open(place).await;
    let worker = runtime.worker("desk").await.unwrap();
    worker.ask(PLAIN).await.unwrap();
    worker.ask(PLAIN).await.unwrap();
    let of = |name: &str| Topic::Provider {
        provider: StreamKey::new(format!("provider/{name}")).unwrap(),
    };
    let start = runtime.cursor_from_start();
    let told = runtime.read(of("scripted"), start, 9).await.unwrap();
    let kinds: Vec<_> = told.events.iter().map(|event| event.kind()).collect();
    assert_eq!(kinds, [&EventKind::MessageCommitted; 2]);
    let unknown = runtime.read(of("other"), start, 9).await.unwrap_err();
    assert_eq!(unknown.to_wire().code, "topic_unknown");
    runtime.close().await.unwrap();
}

/// V8: who stops to watch stops nothing; only a command of its own cancels.
pub(crate) async fn v8_a_reader_that_leaves_cancels_nothing(place: &dyn Place) {
    let world = Watched::new();
    let runtime = world.open(place).await;
    let worker = runtime.worker("desk").await.unwrap();
    let mut watching = worker.stream(GATED).await.unwrap();
    world.desk.gate.entered().await;
    let first = watching.next().await.unwrap().unwrap();
    let StreamItem::Event(first) = first else {
        panic!("expected an event, found {first:?}");
    };
    drop(watching);
    world.desk.gate.pass(1);
    let turn = first.draft.turn.clone().unwrap();
    let answer = runtime.answer(&desk(), &turn).await.unwrap();
    assert_eq!(answer, "done: passed");
    runtime.close().await.unwrap();
}
