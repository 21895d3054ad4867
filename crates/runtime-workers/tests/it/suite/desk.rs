//! A desk: an agent with a script and a few tools, and the processes that come and go at it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use runtime_agent::Agent;
use runtime_core::{
    ApprovalPolicy, EventKind, ModelRequest, OnTimeout, RetryPolicy, RuntimeEvent, SessionId,
    Timestamp, ToolDefinition, ToolHints, Topic, Trigger, TurnId, WorkerId,
};
use runtime_effects::{Failure, Functions, LeaseConfig, WorkflowContext};
use runtime_model::{Model, ModelError, ModelStream, ScriptStep, ScriptedModel};
use runtime_store::{Page, Position, Store};
use runtime_testkit::{SeededRandom, SimulatedClock};
use runtime_tools::{Pending, SubAgentTool, Tool, ToolContext, ToolError, ToolOutput};
use runtime_turn::{ApprovalDecision, TurnBudgets};
use runtime_workers::view::{self, PendingItem};
use runtime_workers::{Command, CreateWorker, Runtime, RuntimeConfig, RuntimeLimits, RuntimeParts};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

/// Where a store is kept; opening it again is what the next process does, and whoever had it open
/// before is dead.
#[async_trait]
pub(crate) trait Place: Send + Sync {
    async fn open(&self) -> Arc<dyn Store>;
}

/// The input of the golden turn: a read, then an append that needs approval, then a last word.
pub(crate) const GOLDEN: &str = "append a line";
/// The input of the crash matrix: two reads side by side, an append that needs approval, a
/// sub-agent that calls a tool, a last word.
pub(crate) const MATRIX: &str = "go the whole way";
/// An input that is answered at once.
pub(crate) const PLAIN: &str = "hello";
/// An input whose tool waits for the test.
pub(crate) const GATED: &str = "pass the gate";
/// An input whose tool answers from outside, or not within a minute.
pub(crate) const LATER: &str = "ask outside";

/// An input whose call asks for approval of its arguments, for ten minutes.
pub(crate) const WRITE: &str = "write a line";
/// An input whose tool starts a job outside.
pub(crate) const JOB: &str = "start a job";
/// An input whose tool starts a job outside without which the turn must not go on.
pub(crate) const VITAL: &str = "start a vital job";
/// An input whose tool reports a mail.
pub(crate) const MAIL: &str = "look for mail";
/// An input that is given to a sub-agent.
pub(crate) const DELEGATED: &str = "let somebody count";
/// An input that is given to a sub-agent which may spend next to nothing.
pub(crate) const POOR: &str = "give a little away";
/// An input for which the model calls a tool two hundred times, one after another.
pub(crate) const LONG: &str = "walk the long way";
/// The calls of that walk.
pub(crate) const STEPS: usize = 200;
/// An input that is answered by words, and by JSON once the model is told to.
pub(crate) const NUMBER: &str = "give a number";
/// An input whose tool says more than a model is shown.
pub(crate) const TALK: &str = "let it talk";
/// The task of the sub-agent.
pub(crate) const TASK: &str = "count the lines";

/// How many bytes the talking tool says.
pub(crate) const TALKED: usize = 300 * 1024;

type Act = dyn Fn(&Value, &ToolContext) -> ToolOutput + Send + Sync;

struct DeskTool {
    definition: ToolDefinition,
    gate: Option<Arc<Gate>>,
    act: Box<Act>,
    /// What it was told to stop.
    cancelled: Arc<Mutex<Vec<Value>>>,
}

impl std::fmt::Debug for DeskTool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.definition.name)
    }
}

#[async_trait]
impl Tool for DeskTool {
    fn definition(&self) -> &ToolDefinition {
        &self.definition
    }

    async fn call(&self, arguments: Value, context: ToolContext) -> Result<ToolOutput, ToolError> {
        if let Some(gate) = &self.gate {
            gate.entered.add_permits(1);
            gate.open.acquire().await.unwrap().forget();
        }
        Ok((self.act)(&arguments, &context))
    }

    async fn cancel(
        &self,
        _: Value,
        handle: Option<Value>,
        _: ToolContext,
    ) -> Result<(), ToolError> {
        self.cancelled
            .lock()
            .unwrap()
            .push(handle.unwrap_or_default());
        Ok(())
    }
}

/// Holds a tool call until the test lets it pass.
#[derive(Debug)]
pub(crate) struct Gate {
    entered: Semaphore,
    open: Semaphore,
}

impl Gate {
    /// Waits until a call is inside.
    pub(crate) async fn entered(&self) {
        self.entered.acquire().await.unwrap().forget();
    }

    /// Lets so many calls pass.
    pub(crate) fn pass(&self, calls: usize) {
        self.open.add_permits(calls);
    }
}

/// A model that counts its calls.
#[derive(Debug)]
struct Counted {
    model: ScriptedModel,
    calls: Arc<AtomicUsize>,
    last: Arc<Mutex<Option<ModelRequest>>>,
}

#[async_trait]
impl Model for Counted {
    fn provider(&self) -> &str {
        self.model.provider()
    }

    fn name(&self) -> &str {
        self.model.name()
    }

    async fn stream(&self, request: ModelRequest) -> Result<ModelStream<'_>, ModelError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        *self.last.lock().unwrap() = Some(request.clone());
        self.model.stream(request).await
    }
}

/// What outlives the processes.
pub(crate) struct Desk {
    pub(crate) clock: SimulatedClock,
    random: SeededRandom,
    calls: Arc<AtomicUsize>,
    last: Arc<Mutex<Option<ModelRequest>>>,
    /// How often the tool of the long walk ran.
    pub(crate) steps: Arc<AtomicUsize>,
    /// What the append tool has done: a line for each call that ran.
    ledger: Arc<Mutex<Vec<String>>>,
    /// Whether the append tool panics after it has appended.
    pub(crate) panics: Arc<Mutex<bool>>,
    pub(crate) gate: Arc<Gate>,
    /// The jobs outside that were told to stop.
    pub(crate) cancelled: Arc<Mutex<Vec<Value>>>,
    /// Whether queued inputs join a running turn.
    pub(crate) inputs_join: bool,
    /// Whether appending twice is declared harmless: the planted fault of R4.
    pub(crate) declared_retry_safe: bool,
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self {
            clock: SimulatedClock::new(Timestamp::from_millis(1_000_000)),
            random: SeededRandom::new(5),
            calls: Arc::default(),
            last: Arc::default(),
            steps: Arc::default(),
            ledger: Arc::default(),
            panics: Arc::default(),
            gate: Arc::new(Gate {
                entered: Semaphore::new(0),
                open: Semaphore::new(0),
            }),
            declared_retry_safe: false,
            cancelled: Arc::default(),
            inputs_join: false,
        }
    }

    pub(crate) fn model_calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// What the model was asked last.
    pub(crate) fn last_request(&self) -> ModelRequest {
        self.last.lock().unwrap().clone().unwrap()
    }

    pub(crate) fn ledger(&self) -> Vec<String> {
        self.ledger.lock().unwrap().clone()
    }

    pub(crate) fn agent(&self) -> Agent {
        let call = |name: &str| {
            vec![
                ScriptStep::call("1", name, json!({})),
                ScriptStep::text("done: {last_tool_result}"),
            ]
        };
        let golden = vec![
            ScriptStep::call("1", "look", json!({})),
            ScriptStep::call("2", "append", json!({})),
            ScriptStep::text("done: {last_tool_result}"),
        ];
        let mut long: Vec<ScriptStep> = (0..STEPS)
            .map(|step| ScriptStep::call("1", "step", json!({ "step": step })))
            .collect();
        long.push(ScriptStep::text("there"));
        let model = ScriptedModel::new("scripted", vec![ScriptStep::text("Hello, {input}!")])
            .when_input_contains(GOLDEN, golden)
            .when_input_contains(
                MATRIX,
                vec![
                    ScriptStep::call("1", "look", json!({})).tool_call("2", "peek", json!({})),
                    ScriptStep::call("3", "append", json!({})),
                    ScriptStep::call("4", "delegate", json!({ "task": TASK })),
                    ScriptStep::text("done: {last_tool_result}"),
                ],
            )
            .when_input_contains(GATED, call("gate"))
            .when_input_contains(LATER, call("later"))
            .when_input_contains(
                WRITE,
                vec![
                    ScriptStep::call("1", "write", json!({ "line": "x" })),
                    ScriptStep::text("done: {last_tool_result}"),
                ],
            )
            .when_input_contains(VITAL, call("vital"))
            .when_input_contains(TALK, call("talk"))
            .when_input_contains(
                POOR,
                vec![
                    ScriptStep::call("1", "delegate_poorly", json!({ "task": TASK })),
                    ScriptStep::text("done: {last_tool_result}"),
                ],
            )
            .when_input_contains(LONG, long)
            .when_input_contains(NUMBER, vec![ScriptStep::text("It is three.")])
            // What the model is told of an answer that is not what was asked for.
            .when_input_contains(
                "does not fit the JSON schema",
                vec![ScriptStep::text("```json\n{\"number\": 3}\n```")],
            )
            .when_input_contains(JOB, call("job"))
            .when_input_contains(MAIL, call("mail"))
            .when_input_contains(
                DELEGATED,
                vec![
                    ScriptStep::call("1", "delegate", json!({ "task": TASK })),
                    ScriptStep::text("done: {last_tool_result}"),
                ],
            )
            .when_input_contains(
                TASK,
                vec![
                    ScriptStep::call("1", "gate", json!({})),
                    ScriptStep::text("there are 3"),
                ],
            );
        let model = Counted {
            model,
            calls: Arc::clone(&self.calls),
            last: Arc::clone(&self.last),
        };
        let steps = Arc::clone(&self.steps);
        let poor = SubAgentTool::new("delegate_poorly", "Gives a task away.").tokens(10);
        Agent::builder("deployment-7", Arc::new(model))
            .instructions("be brief")
            // A call that is held by its gate is not given up, however fast the time goes by.
            .tool_policy(RetryPolicy {
                attempt_timeout: Duration::from_secs(100 * 24 * 3600),
                ..RetryPolicy::default()
            })
            .budgets(TurnBudgets {
                approval_expiry: Some(Duration::from_secs(600)),
                tokens_max: Some(100_000),
                ..TurnBudgets::default()
            })
            .inputs_join(self.inputs_join)
            .tool(Arc::new(
                SubAgentTool::new("delegate", "Gives a task away.").tokens(5_000),
            ))
            .tool(Arc::new(poor))
            .tool(tool("step", true, None, move |_| {
                steps.fetch_add(1, Ordering::SeqCst);
                ToolOutput::text("a step")
            }))
            .tool(tool("talk", true, None, |_| {
                ToolOutput::text("word ".repeat(TALKED / 5))
            }))
            .tool(self.write())
            .tool(self.job("job", OnTimeout::ErrorResult))
            .tool(self.job("vital", OnTimeout::FailTurn))
            .tool(tool("look", true, None, |_| ToolOutput::text("seen")))
            .tool(tool("peek", true, None, |_| ToolOutput::text("peeked")))
            .tool(self.append())
            .tool(tool("mail", true, None, |context| {
                let reported = context.report(Trigger {
                    source_type: "mailbox".to_owned(),
                    source_key: "desk".to_owned(),
                    occurrence: "mail 17".to_owned(),
                    payload: json!({ "from": "somebody" }),
                    idempotency_key: None,
                });
                reported.unwrap();
                ToolOutput::text("one mail")
            }))
            .tool(tool("gate", true, Some(&self.gate), |_| {
                ToolOutput::text("passed")
            }))
            .tool(tool("later", true, None, |_| {
                ToolOutput::Pending(Pending {
                    deadline: Some(Duration::from_secs(60)),
                    ..Pending::default()
                })
            }))
            .build()
    }

    fn write(&self) -> Arc<dyn Tool> {
        let ledger = Arc::clone(&self.ledger);
        let mut tool = DeskTool {
            definition: definition("write", false),
            gate: None,
            act: Box::new(move |arguments, _| {
                let line = arguments["line"].as_str().unwrap().to_owned();
                ledger.lock().unwrap().push(line.clone());
                ToolOutput::text(format!("wrote {line}"))
            }),
            cancelled: Arc::default(),
        };
        tool.definition.input_schema = json!({
            "type": "object",
            "properties": { "line": { "type": "string", "maxLength": 5 } },
            "required": ["line"],
        });
        Arc::new(tool)
    }

    fn job(&self, name: &str, on_timeout: OnTimeout) -> Arc<dyn Tool> {
        let act = move |_: &Value, context: &ToolContext| {
            ToolOutput::Pending(Pending {
                deadline: Some(Duration::from_secs(60)),
                on_timeout,
                handle: Some(json!(context.call)),
                question: Some("done?".to_owned()),
                ..Pending::default()
            })
        };
        Arc::new(DeskTool {
            definition: definition(name, true),
            gate: None,
            act: Box::new(act),
            cancelled: Arc::clone(&self.cancelled),
        })
    }

    fn append(&self) -> Arc<dyn Tool> {
        let (ledger, panics) = (Arc::clone(&self.ledger), Arc::clone(&self.panics));
        let append = move |_: &Value, context: &ToolContext| {
            ledger.lock().unwrap().push(context.call.to_string());
            let panics = *panics.lock().unwrap();
            assert!(!panics, "the pen breaks");
            ToolOutput::text("appended")
        };
        let mut tool = DeskTool {
            definition: definition("append", false),
            gate: None,
            act: Box::new(append),
            cancelled: Arc::default(),
        };
        tool.definition.approval = ApprovalPolicy::Always;
        tool.definition.hints.retry_safe = self.declared_retry_safe;
        Arc::new(tool)
    }

    /// What runs processes: `watch` waits for a signal, `hold` for the gate.
    fn functions(&self) -> Functions {
        async fn watch(context: WorkflowContext, name: String) -> Result<Value, Failure> {
            let given: Value = context.signal("go").await?;
            let told = json!({ "name": name, "given": given });
            context.emit("told", &told).await?;
            Ok(given)
        }
        async fn sort(_: WorkflowContext, given: Value) -> Result<Value, Failure> {
            Ok(given["trigger"]["payload"]["from"].clone())
        }
        let (gate, ledger) = (Arc::clone(&self.gate), Arc::clone(&self.ledger));
        let hold = move |context: WorkflowContext, retry_safe: bool| {
            let (gate, ledger) = (Arc::clone(&gate), Arc::clone(&ledger));
            async move {
                let held = context.step("hold", move || {
                    let (gate, ledger) = (Arc::clone(&gate), Arc::clone(&ledger));
                    async move {
                        ledger.lock().unwrap().push("hold".to_owned());
                        gate.entered.add_permits(1);
                        gate.open.acquire().await.unwrap().forget();
                        Ok::<_, Failure>(1)
                    }
                });
                let held = match retry_safe {
                    true => held.retry_safe(),
                    false => held,
                };
                Ok::<u32, Failure>(held.await?)
            }
        };
        Functions::default()
            .function("watch", watch)
            .function("hold", hold)
            .function("sort", sort)
    }

    pub(crate) fn config() -> RuntimeConfig {
        RuntimeConfig {
            park_after: Duration::ZERO,
            commit_pause: Duration::ZERO,
            // The lease of an instance that lives outlasts any jump of the clock; what its end
            // does is tested where it ends.
            lease: LeaseConfig {
                ttl: Duration::from_secs(100 * 24 * 3600),
                ..LeaseConfig::default()
            },
            ..RuntimeConfig::default()
        }
    }

    pub(crate) fn parts(&self, store: Arc<dyn Store>) -> RuntimeParts {
        self.parts_of(self.agent(), store)
    }

    pub(crate) fn parts_of(&self, agent: Agent, store: Arc<dyn Store>) -> RuntimeParts {
        let mut parts = RuntimeParts::new(store, Arc::new(agent));
        parts.clock = Arc::new(self.clock.clone());
        parts.random = Arc::new(self.random.clone());
        parts.config = Self::config();
        parts.functions = self.functions();
        parts.limits = Some(RuntimeLimits {
            input_bytes_max: 100,
            reason_bytes_max: 100,
            ..RuntimeLimits::default()
        });
        parts
    }

    /// A process that opens the store.
    pub(crate) async fn open(&self, place: &dyn Place) -> Runtime {
        Runtime::open(self.parts(place.open().await)).await.unwrap()
    }

    /// A process with the worker `desk`.
    pub(crate) async fn open_worker(&self, place: &dyn Place) -> Runtime {
        let runtime = self.open(place).await;
        runtime
            .create(CreateWorker::assistant(desk()))
            .await
            .unwrap();
        runtime
    }
}

pub(crate) fn desk() -> WorkerId {
    "desk".parse().unwrap()
}

fn definition(name: &str, harmless: bool) -> ToolDefinition {
    ToolDefinition {
        name: name.to_owned(),
        display_name: None,
        description: format!("{name}s something"),
        input_schema: json!({ "type": "object" }),
        output_schema: None,
        category: None,
        approval: ApprovalPolicy::ByDeclaration,
        hints: ToolHints {
            read_only: harmless,
            retry_safe: harmless,
            trusted: true,
        },
        deferrable: false,
    }
}

fn tool(
    name: &str,
    harmless: bool,
    gate: Option<&Arc<Gate>>,
    act: impl Fn(&ToolContext) -> ToolOutput + Send + Sync + 'static,
) -> Arc<dyn Tool> {
    Arc::new(DeskTool {
        definition: definition(name, harmless),
        gate: gate.cloned(),
        act: Box::new(move |_, context| act(context)),
        cancelled: Arc::default(),
    })
}

/// Reads every event; checks that positions are dense, and each turn's numbers too (V1).
pub(crate) async fn events(store: &dyn Store) -> Vec<RuntimeEvent> {
    let mut events: Vec<RuntimeEvent> = Vec::new();
    let mut after = Position(0);
    loop {
        let page = store.events(None, Page::after(after, 100)).await.unwrap();
        events.extend(page.events.iter().map(|event| event.decode().unwrap()));
        after = page.next;
        if !page.has_more {
            break;
        }
    }
    let mut turns = std::collections::HashMap::<TurnId, u64>::new();
    for (event, position) in events.iter().zip(1..) {
        assert_eq!(event.position, position);
        if let Some(turn) = &event.draft.turn {
            let seq = turns.entry(turn.clone()).or_default();
            *seq += 1;
            assert_eq!(event.seq, Some(*seq), "{event:?}");
        }
    }
    events
}

pub(crate) fn count(events: &[RuntimeEvent], kind: &EventKind) -> usize {
    events.iter().filter(|event| event.kind() == kind).count()
}

/// How each turn ended, in order; fails when one has two ends.
pub(crate) fn ends(events: &[RuntimeEvent]) -> Vec<(TurnId, EventKind)> {
    let mut ends: Vec<(TurnId, EventKind)> = Vec::new();
    for event in events.iter().filter(|event| event.kind().ends_turn()) {
        let turn = event.draft.turn.clone().unwrap();
        assert!(ends.iter().all(|(ended, _)| *ended != turn), "{event:?}");
        ends.push((turn, event.kind().clone()));
    }
    ends
}

/// How many turns ran at once at most: they run from their start or resumption until they park or
/// end.
pub(crate) fn running_most(events: &[RuntimeEvent]) -> usize {
    let mut running = std::collections::HashSet::new();
    let mut most = 0;
    for event in events {
        let Some(turn) = &event.draft.turn else {
            continue;
        };
        match event.kind() {
            EventKind::TurnStarted | EventKind::TurnResumed => running.insert(turn),
            kind if kind.ends_turn() || *kind == EventKind::TurnParked => running.remove(turn),
            _ => continue,
        };
        most = most.max(running.len());
    }
    most
}

pub(crate) async fn pending(store: &Arc<dyn Store>) -> Vec<PendingItem> {
    view::pending(Arc::clone(store)).await.unwrap()
}

/// Approves whatever waits for approval, by its token.
pub(crate) async fn approve_all(runtime: &Runtime) {
    for item in runtime.pending().await.unwrap() {
        if let Some(token) = item.token {
            let decision = ApprovalDecision::Approve;
            let command = Command::Decide {
                target: token,
                decision,
            };
            runtime.apply(command).await.unwrap();
        }
    }
}

pub(crate) fn session() -> Topic {
    Topic::Session {
        session: SessionId::from(&desk()),
    }
}
