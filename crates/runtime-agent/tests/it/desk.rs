//! An agent with two tools, and everything that a run of it takes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once};

use async_trait::async_trait;
use runtime_agent::{Agent, AgentBuilder, LiveSink, TurnProjector, TurnRun, Unwatched, drive_turn};
use runtime_core::{
    ApprovalPolicy, Message, ModelRequest, Resolution, Role, RuntimeId, Timestamp, ToolDefinition,
    ToolHints, WaitIdentity, WaitSource,
};
use runtime_effects::{Addressing, Interrupt};
use runtime_model::{Model, ModelError, ModelStream, ScriptStep, ScriptedModel};
use runtime_store::MemoryStore;
use runtime_testkit::{EffectJournal, JournalController, SimulatedClock};
use runtime_tools::{Tool, ToolContext, ToolError, ToolOutput};
use runtime_turn::{ApprovalDecision, ContextMark, History, TurnEnd, TurnStart};
use serde_json::{Value, json};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};

/// Set while every test runs once more, on an ordinal, serial controller.
pub(crate) const ORDINAL: &str = "RUNTIME_TEST_ORDINAL";

pub(crate) type Answer = Result<ToolOutput, ToolError>;

/// A tool that answers what its test says, and counts its calls.
pub(crate) struct Counted {
    definition: ToolDefinition,
    answer: Box<dyn Fn(&Value) -> Answer + Send + Sync>,
    calls: AtomicUsize,
}

impl std::fmt::Debug for Counted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.definition.name)
    }
}

impl Counted {
    pub(crate) fn new(
        name: &str,
        read_only: bool,
        answer: impl Fn(&Value) -> Answer + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            definition: ToolDefinition {
                name: name.to_owned(),
                display_name: None,
                description: format!("{name}s something"),
                input_schema: json!({ "type": "object" }),
                output_schema: None,
                category: None,
                approval: ApprovalPolicy::ByDeclaration,
                hints: ToolHints {
                    read_only,
                    retry_safe: false,
                    trusted: true,
                },
                deferrable: false,
            },
            answer: Box::new(answer),
            calls: AtomicUsize::new(0),
        })
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Tool for Counted {
    fn definition(&self) -> &ToolDefinition {
        &self.definition
    }

    async fn call(&self, arguments: Value, context: ToolContext) -> Answer {
        assert_eq!(context.idempotency_key.len(), 64);
        self.calls.fetch_add(1, Ordering::Relaxed);
        (self.answer)(&arguments)
    }
}

/// A model that keeps what it was asked.
#[derive(Debug)]
pub(crate) struct Recording {
    model: ScriptedModel,
    requests: Mutex<Vec<ModelRequest>>,
}

impl Recording {
    pub(crate) fn new(steps: Vec<ScriptStep>) -> Arc<Self> {
        Self::named("scripted", steps)
    }

    pub(crate) fn named(name: &str, steps: Vec<ScriptStep>) -> Arc<Self> {
        Arc::new(Self {
            model: ScriptedModel::new(name, steps),
            requests: Mutex::default(),
        })
    }

    pub(crate) fn requests(&self) -> Vec<ModelRequest> {
        self.requests.lock().unwrap().clone()
    }
}

#[async_trait]
impl Model for Recording {
    fn provider(&self) -> &str {
        self.model.provider()
    }

    fn name(&self) -> &str {
        self.model.name()
    }

    async fn stream(&self, request: ModelRequest) -> Result<ModelStream<'_>, ModelError> {
        self.requests.lock().unwrap().push(request.clone());
        self.model.stream(request).await
    }
}

/// Two reads in parallel, a write that must be approved, a last word.
pub(crate) fn script() -> Vec<ScriptStep> {
    vec![
        ScriptStep::text("let me see")
            .tool_call("one", "read", json!({ "path": "a" }))
            .tool_call("two", "read", json!({ "path": "b" }))
            .tool_call("three", "write", json!({ "line": "x" })),
        ScriptStep::text("done: {last_tool_result}"),
    ]
}

pub(crate) fn read() -> Arc<Counted> {
    Counted::new("read", true, |arguments| {
        let path = arguments["path"].as_str().unwrap_or("nothing");
        Ok(ToolOutput::text(format!("content of {path}")))
    })
}

pub(crate) fn write() -> Arc<Counted> {
    Counted::new("write", false, |arguments| {
        Ok(ToolOutput::text(format!("wrote {}", arguments["line"])))
    })
}

/// What outlives a crash, and what comes with a process.
pub(crate) struct Desk {
    pub(crate) journal: Arc<EffectJournal>,
    pub(crate) addressing: Addressing,
    pub(crate) store: MemoryStore,
    pub(crate) model: Arc<Recording>,
    pub(crate) read: Arc<Counted>,
    pub(crate) write: Arc<Counted>,
    clock: SimulatedClock,
}

/// Is asked at each span, and wants none. While there is such a one, no span is ever taken for one
/// that nobody wants: a test beside this one may listen in its own thread.
struct Asked;

impl Subscriber for Asked {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        false
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

static ASKED: Once = Once::new();

impl Desk {
    pub(crate) fn new(steps: Vec<ScriptStep>) -> Self {
        ASKED.call_once(|| {
            // There is no other in this process.
            let _ = tracing::subscriber::set_global_default(Asked);
        });
        Self {
            journal: Arc::default(),
            addressing: match std::env::var_os(ORDINAL) {
                Some(_) => Addressing::Ordinal,
                None => Addressing::Keyed,
            },
            store: MemoryStore::new(RuntimeId::new("example").unwrap()),
            model: Recording::new(steps),
            read: read(),
            write: write(),
            clock: SimulatedClock::new(Timestamp::from_millis(1_000)),
        }
    }

    pub(crate) fn builder(&self) -> AgentBuilder {
        let model: Arc<dyn Model> = Arc::clone(&self.model) as _;
        Agent::builder("1", model)
            .instructions("be brief")
            .tool(Arc::clone(&self.read) as _)
            .tool(Arc::clone(&self.write) as _)
    }

    pub(crate) fn controller(&self) -> JournalController {
        JournalController::new(&self.journal, Arc::new(TurnProjector), self.addressing)
    }

    pub(crate) async fn drive(&self) -> Result<TurnEnd, Interrupt> {
        self.drive_with(&self.builder().build(), &self.controller())
            .await
    }

    pub(crate) async fn drive_with(
        &self,
        agent: &Agent,
        controller: &JournalController,
    ) -> Result<TurnEnd, Interrupt> {
        self.drive_watched(agent, controller, &Unwatched).await
    }

    pub(crate) async fn drive_watched(
        &self,
        agent: &Agent,
        controller: &JournalController,
        live: &dyn LiveSink,
    ) -> Result<TurnEnd, Interrupt> {
        let run = self.run(agent, controller, start());
        drive_turn(TurnRun { live, ..run }).await
    }

    /// A run that nobody watches.
    pub(crate) fn run<'a>(
        &'a self,
        agent: &'a Agent,
        controller: &'a JournalController,
        start: TurnStart,
    ) -> TurnRun<'a> {
        TurnRun {
            start,
            history: History::default(),
            agent,
            controller,
            attachments: &self.store,
            live: &Unwatched,
            clock: &self.clock,
            completions: None,
            delegates: None,
            inputs: None,
        }
    }

    /// Drives until a person is asked; returns the promises.
    pub(crate) async fn until_asked(&self) -> Vec<WaitIdentity> {
        let controller = self.controller();
        let suspended = self.drive_with(&self.builder().build(), &controller).await;
        assert!(
            matches!(suspended, Err(Interrupt::Suspended { .. })),
            "{suspended:?}"
        );
        let sources = controller.asked();
        let promises = sources.iter().filter_map(|source| match source {
            WaitSource::Promise { identity, .. } => Some(identity.clone()),
            _ => None,
        });
        promises.collect()
    }

    /// Lets every call that is asked for run.
    pub(crate) async fn approve_all(&self) {
        for identity in self.until_asked().await {
            self.resolve(identity, ApprovalDecision::Approve.to_resolution());
        }
    }

    pub(crate) fn resolve(&self, identity: WaitIdentity, resolution: Resolution) {
        self.journal.resolve(identity, resolution);
    }
}

pub(crate) fn start() -> TurnStart {
    TurnStart::new(
        "desk".parse().unwrap(),
        "1".parse().unwrap(),
        "scripted",
        Message::text(Role::User, "go"),
        ContextMark::empty(),
    )
}

/// The last words of a turn that completed.
pub(crate) fn words(end: Result<TurnEnd, Interrupt>) -> String {
    match end.unwrap() {
        TurnEnd::Completed { message, .. } => message.plain_text(),
        other => panic!("it should complete, but {other:?}"),
    }
}
