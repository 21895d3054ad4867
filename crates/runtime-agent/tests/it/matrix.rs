//! R4 on an engine that replays a history: the golden turn over the ordinal, serial controller,
//! cut off before and after each record, and before, inside and after each call of a model or
//! tool. What may happen then is what the table of the stores says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use async_trait::async_trait;
use runtime_agent::{Agent, TurnProjector, TurnRun, Unwatched, drive_turn};
use runtime_core::{
    ApprovalPolicy, CallId, CallReport, EffectOutput, ErrorClass, EventKind, FinishReason, Message,
    ModelRequest, Resolution, Role, Spent, ToolCallOutput, ToolDefinition, ToolHints, ToolResult,
    WaitIdentity, WaitSource, WireError,
};
use runtime_effects::Interrupt;
use runtime_model::{Model, ModelError, ModelStream, ScriptStep, ScriptedModel};
use runtime_store::MemoryStore;
use runtime_testkit::{EffectJournal, JournalController, Lifetime, Moment, SimulatedClock};
use runtime_tools::{
    Delegates, Delegation, SubAgentTool, Tool, ToolContext, ToolError, ToolOutput,
};
use runtime_turn::{ApprovalDecision, ContextMark, History, TurnEnd, TurnStart};
use serde_json::{Value, json};

const TABLE: &str = include_str!("../../../runtime-workers/tests/golden/crash-matrix.md");
const POINTS_MIN: usize = 60;
const NOTHING: &str = "—";
const TASK: &str = "count the lines";

/// Every record of the golden turn, as the table names the commits that make them. An engine has
/// no other commits: it keeps workers, inputs and parked turns in its own way.
const RECORDS: &[(&str, &str, usize)] = &[
    ("desk", "environment_synced", 1),
    ("desk", "message_committed", 4),
    ("desk", "tool_call_started", 1),
    ("desk", "tool_call_finished", 4),
    ("desk", "wait_ended", 2),
    ("child", "environment_synced", 1),
    ("child", "message_committed", 2),
    ("child", "tool_call_finished", 1),
];
const CALLS: &[&str] = &[
    "desk model 1",
    "look",
    "peek",
    "desk model 2",
    "append",
    "desk model 3",
    "delegate",
    "child model 1",
    "gate",
    "child model 2",
    "desk model 4",
];

/// Where the process dies.
#[derive(Debug, Clone)]
enum Cut {
    Record(&'static str, &'static str, usize, Moment),
    Call(&'static str, CallMoment),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CallMoment {
    Before,
    Inside,
    After,
}

/// The cells of a row of the table.
fn row(name: &str) -> Vec<&'static str> {
    let name = format!("| `{name}` |");
    let line = TABLE.lines().find(|line| line.starts_with(&name));
    let line = line.unwrap_or_else(|| panic!("the table has no row {name}"));
    line.trim_matches('|').split('|').map(str::trim).collect()
}

/// Each cut with what the table says of it.
fn points() -> Vec<(Cut, &'static str)> {
    let mut points = Vec::new();
    for (who, kind, count) in RECORDS {
        for number in 1..=*count {
            let cells = row(&format!("{who} {kind} {number}"));
            for (moment, column) in [(Moment::Before, 2), (Moment::After, 4)] {
                points.push((Cut::Record(who, kind, number, moment), cells[column]));
            }
        }
    }
    for call in CALLS {
        let cells = row(call);
        let moments = [CallMoment::Before, CallMoment::Inside, CallMoment::After];
        for (moment, ruled) in moments.into_iter().zip(&cells[1..]) {
            points.push((Cut::Call(call, moment), *ruled));
        }
    }
    points
}

fn kind(name: &str) -> EventKind {
    serde_json::from_value(json!(name)).unwrap()
}

/// What outlives the processes.
#[derive(Debug)]
struct World {
    desk: Arc<EffectJournal>,
    child: Arc<EffectJournal>,
    ledger: Arc<Mutex<Vec<CallId>>>,
    made: Arc<Mutex<BTreeMap<String, usize>>>,
    /// The task that was given away, once.
    given: Arc<Mutex<Option<Delegation>>>,
    /// Whether appending twice is declared harmless: the planted fault.
    planted: bool,
    attachments: MemoryStore,
}

impl Default for World {
    fn default() -> Self {
        Self {
            desk: Arc::default(),
            child: Arc::default(),
            ledger: Arc::default(),
            made: Arc::default(),
            given: Arc::default(),
            planted: false,
            attachments: MemoryStore::new("example".parse().unwrap()),
        }
    }
}

/// One life of the process.
#[derive(Debug)]
struct Life {
    desk: Arc<Lifetime>,
    child: Arc<Lifetime>,
    dies: Mutex<Option<(String, CallMoment)>>,
    made: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Life {
    fn new(world: &World, cut: Option<&Cut>) -> Arc<Self> {
        let mut life = Self {
            desk: Arc::default(),
            child: Arc::default(),
            dies: Mutex::default(),
            made: Arc::clone(&world.made),
        };
        match cut {
            None => {}
            Some(Cut::Record(who, name, number, moment)) => {
                let until = Arc::new(Lifetime::until(kind(name), *number, *moment));
                match *who {
                    "desk" => life.desk = until,
                    _ => life.child = until,
                }
            }
            Some(Cut::Call(call, moment)) => {
                life.dies = Mutex::new(Some(((*call).to_owned(), *moment)));
            }
        }
        Arc::new(life)
    }

    fn is_over(&self) -> bool {
        self.desk.is_over() || self.child.is_over()
    }

    fn dies_at(&self, call: &str, moment: CallMoment) -> bool {
        let mut dies = self.dies.lock().unwrap();
        let now = dies
            .as_ref()
            .is_some_and(|(at, when)| at == call && *when == moment);
        if now {
            *dies = None;
            self.desk.end();
            self.child.end();
        }
        now
    }

    /// Goes into a call; an error is that this process is dead.
    fn enter(&self, call: &str) -> Result<(), &'static str> {
        if self.is_over() || self.dies_at(call, CallMoment::Before) {
            return Err("the process is dead");
        }
        *self
            .made
            .lock()
            .unwrap()
            .entry(call.to_owned())
            .or_default() += 1;
        Ok(())
    }

    /// Comes back from a call; an error is that its response is lost.
    fn leave(&self, call: &str) -> Result<(), &'static str> {
        if self.dies_at(call, CallMoment::Inside) {
            return Err("the process dies");
        }
        self.dies_at(call, CallMoment::After);
        Ok(())
    }
}

#[derive(Debug)]
struct SeamModel {
    model: ScriptedModel,
    life: Arc<Life>,
}

#[async_trait]
impl Model for SeamModel {
    fn provider(&self) -> &str {
        self.model.provider()
    }

    fn name(&self) -> &str {
        self.model.name()
    }

    async fn stream(&self, request: ModelRequest) -> Result<ModelStream<'_>, ModelError> {
        let is_child = request.messages[0].plain_text().contains(TASK);
        let answers = request
            .messages
            .iter()
            .filter(|message| message.role == Role::Assistant);
        let who = if is_child { "child" } else { "desk" };
        let call = format!("{who} model {}", answers.count() + 1);
        let dead = |why: &'static str| ModelError {
            provider: "scripted".to_owned(),
            model: "scripted".to_owned(),
            code: "model_script_ended",
            class: ErrorClass::Unavailable,
            reason: FinishReason::ProviderError,
            message: why.to_owned(),
            provider_code: None,
            retry_after: None,
        };
        self.life.enter(&call).map_err(dead)?;
        let stream = self.model.stream(request).await;
        self.life.leave(&call).map_err(dead)?;
        stream
    }
}

type Act = dyn Fn(&ToolContext) -> ToolOutput + Send + Sync;

/// A tool of the desk, or one that stands before another.
struct SeamTool {
    definition: ToolDefinition,
    act: Result<Box<Act>, SubAgentTool>,
    life: Arc<Life>,
}

impl std::fmt::Debug for SeamTool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.definition.name)
    }
}

#[async_trait]
impl Tool for SeamTool {
    fn definition(&self) -> &ToolDefinition {
        &self.definition
    }

    async fn call(&self, arguments: Value, context: ToolContext) -> Result<ToolOutput, ToolError> {
        let lost = |why: &str| ToolError::Indeterminate {
            tool: self.definition.name.clone(),
            reason: why.to_owned(),
        };
        self.life.enter(&self.definition.name).map_err(lost)?;
        let output = match &self.act {
            Ok(act) => Ok(act(&context)),
            Err(tool) => tool.call(arguments, context).await,
        };
        self.life.leave(&self.definition.name).map_err(lost)?;
        output
    }
}

/// Starts the sub-agent once, however often it is asked.
#[derive(Debug)]
struct OneChild(Arc<Mutex<Option<Delegation>>>);

#[async_trait]
impl Delegates for OneChild {
    async fn start(&self, delegation: Delegation) -> Result<Value, WireError> {
        self.0.lock().unwrap().get_or_insert(delegation);
        Ok(json!("child"))
    }

    async fn cancel(&self, _: &Value) -> Result<(), WireError> {
        Ok(())
    }
}

fn definition(name: &str, harmless: bool, retry_safe: bool) -> ToolDefinition {
    ToolDefinition {
        name: name.to_owned(),
        display_name: None,
        description: format!("{name}s something"),
        input_schema: json!({ "type": "object" }),
        output_schema: None,
        category: None,
        approval: match harmless {
            true => ApprovalPolicy::Never,
            false => ApprovalPolicy::Always,
        },
        hints: ToolHints {
            read_only: harmless,
            retry_safe,
            trusted: true,
        },
        deferrable: false,
    }
}

impl World {
    fn agent(&self, life: &Arc<Life>) -> Agent {
        let desk = vec![
            ScriptStep::call("1", "look", json!({})).tool_call("2", "peek", json!({})),
            ScriptStep::call("3", "append", json!({})),
            ScriptStep::call("4", "delegate", json!({ "task": TASK })),
            ScriptStep::text("done: {last_tool_result}"),
        ];
        let child = vec![
            ScriptStep::call("1", "gate", json!({})),
            ScriptStep::text("there are 3"),
        ];
        let model = ScriptedModel::new("scripted", desk).when_input_contains(TASK, child);
        let life = || Arc::clone(life);
        let harmless = |name: &str, says: &'static str| SeamTool {
            definition: definition(name, true, true),
            act: Ok(Box::new(move |_| ToolOutput::text(says))),
            life: life(),
        };
        let ledger = Arc::clone(&self.ledger);
        let append = SeamTool {
            definition: definition("append", false, self.planted),
            act: Ok(Box::new(move |context: &ToolContext| {
                ledger.lock().unwrap().push(context.call.clone());
                ToolOutput::text("appended")
            })),
            life: life(),
        };
        let delegate = SubAgentTool::new("delegate", "Gives a task away.");
        let delegate = SeamTool {
            definition: delegate.definition().clone(),
            act: Err(delegate),
            life: life(),
        };
        let model = SeamModel {
            model,
            life: life(),
        };
        Agent::builder("1", Arc::new(model))
            .tool(Arc::new(harmless("look", "seen")))
            .tool(Arc::new(harmless("peek", "peeked")))
            .tool(Arc::new(harmless("gate", "passed")))
            .tool(Arc::new(append))
            .tool(Arc::new(delegate))
            .build()
    }

    /// Drives a turn of one of the two; returns what interrupted it, and what it asked for.
    async fn drive(
        &self,
        life: &Arc<Life>,
        is_child: bool,
    ) -> (Result<TurnEnd, Interrupt>, Vec<WaitSource>) {
        let (journal, lifetime, who, input) = match is_child {
            true => (&self.child, &life.child, "child", TASK),
            false => (&self.desk, &life.desk, "desk", "go the whole way"),
        };
        let controller = JournalController::ordinal(journal, Arc::new(TurnProjector))
            .with_intents()
            .living(lifetime);
        let agent = self.agent(life);
        let delegates: Arc<dyn Delegates> = Arc::new(OneChild(Arc::clone(&self.given)));
        let start = TurnStart::new(
            who.parse().unwrap(),
            "1".parse().unwrap(),
            "scripted",
            Message::text(Role::User, input),
            ContextMark::empty(),
        );
        let ended = drive_turn(TurnRun {
            start,
            history: History::default(),
            agent: &agent,
            controller: &controller,
            attachments: &self.attachments,
            live: &Unwatched,
            clock: &SimulatedClock::new(Default::default()),
            completions: None,
            delegates: Some(delegates),
            inputs: None,
        })
        .await;
        (ended, controller.asked())
    }

    /// Does what is left to do, as a process that knows nothing of those before it; none when it
    /// dies on the way.
    async fn live(
        &self,
        cut: Option<&Cut>,
        in_doubt: &mut Vec<String>,
    ) -> Result<Option<String>, String> {
        let life = Life::new(self, cut);
        for _ in 0..20 {
            let (ended, asked) = self.drive(&life, false).await;
            if life.is_over() {
                return Ok(None);
            }
            match ended {
                Ok(TurnEnd::Completed { message, .. }) => return Ok(Some(message.plain_text())),
                Err(Interrupt::InDoubt { .. }) => {
                    in_doubt.push("append in doubt".to_owned());
                    self.rule();
                }
                Err(Interrupt::Suspended { .. }) => {
                    for source in asked {
                        if let WaitSource::Promise { identity, .. } = source
                            && !self.answer(&life, identity).await?
                        {
                            return Ok(None);
                        }
                    }
                }
                other => return Err(format!("{other:?}")),
            }
        }
        Err("it never ends".to_owned())
    }

    /// What a truthful person says of the call that is in doubt.
    fn rule(&self) {
        let ended = self.ledger.lock().unwrap().first().map(|call| {
            EffectOutput::ToolCall(ToolCallOutput::Finished {
                result: ToolResult::text(call.clone(), "appended"),
                spent: None,
            })
        });
        assert!(self.desk.rule(&TurnProjector, ended));
    }

    /// Approves, or lets the sub-agent answer; false when the process dies on the way.
    async fn answer(&self, life: &Arc<Life>, identity: WaitIdentity) -> Result<bool, String> {
        let given = self.given.lock().unwrap().clone();
        let is_childs = given.is_some_and(|given| {
            matches!(&identity, WaitIdentity::ToolCompletion { call } if *call == given.call)
        });
        if !is_childs {
            let yes = ApprovalDecision::Approve.to_resolution();
            self.desk.resolve(identity, yes);
            return Ok(true);
        }
        let (ended, _) = self.drive(life, true).await;
        if life.is_over() {
            return Ok(false);
        }
        let Ok(TurnEnd::Completed { message, .. }) = ended else {
            return Err(format!("the child: {ended:?}"));
        };
        let report = CallReport {
            text: message.plain_text(),
            is_error: false,
            spent: Spent::default(),
        };
        let value = json!(report);
        self.desk.resolve(identity, Resolution::Ok { value });
        Ok(true)
    }

    /// What happened more than once, or is in doubt, in words.
    fn told(&self, in_doubt: &[String]) -> String {
        let made = self.made.lock().unwrap();
        let repeated = made.iter().filter(|(_, times)| **times != 1);
        let repeated = repeated.map(|(call, times)| format!("{call} ×{times}"));
        let told: Vec<String> = repeated.chain(in_doubt.iter().cloned()).collect();
        match told.is_empty() {
            true => NOTHING.to_owned(),
            false => told.join(", "),
        }
    }
}

async fn check(cut: &Cut, ruled: &str, planted: bool) -> Result<(), String> {
    let world = World {
        planted,
        ..World::default()
    };
    let mut in_doubt = Vec::new();
    let lived = world.live(Some(cut), &mut in_doubt).await;
    if lived
        .map_err(|error| format!("{cut:?}: {error}"))?
        .is_some()
    {
        return Err(format!("{cut:?}: the process did not die"));
    }
    let words = world.live(None, &mut in_doubt).await;
    let words = words.map_err(|error| format!("{cut:?}: {error}"))?;
    if words.as_deref() != Some("done: there are 3") {
        return Err(format!("{cut:?}: the last words are {words:?}"));
    }
    if world.ledger.lock().unwrap().len() != 1 {
        return Err(format!("{cut:?}: the ledger has {:?}", world.ledger));
    }
    match world.told(&in_doubt) {
        found if found == ruled => Ok(()),
        found => Err(format!("{cut:?}: ruled {ruled}, found {found}")),
    }
}

/// R4: every record and every call of the golden turn, each as the table rules.
#[tokio::test]
async fn every_record_and_call_on_an_ordinal_controller_r4() {
    let started = Instant::now();
    // The points of an undisturbed run are those that are named here.
    let world = World::default();
    let words = world.live(None, &mut Vec::new()).await.unwrap();
    assert_eq!(words.as_deref(), Some("done: there are 3"));
    for (who, name, count) in RECORDS {
        let journal = if *who == "desk" {
            &world.desk
        } else {
            &world.child
        };
        assert_eq!(journal.told(&kind(name)), *count, "{who} {name}");
    }
    let records: usize = RECORDS.iter().map(|(_, _, count)| count).sum();
    let intents = 1;
    assert_eq!(
        world.desk.records() + world.child.records() + intents,
        records,
        "the turn has drifted from its table"
    );
    let made: Vec<String> = world.made.lock().unwrap().keys().cloned().collect();
    let mut calls = CALLS.to_vec();
    calls.sort_unstable();
    assert_eq!(made, calls);

    let points = points();
    let mut failures = Vec::new();
    for (cut, ruled) in &points {
        failures.extend(check(cut, ruled, false).await.err());
    }
    println!(
        "R4-ordinal {} {} {:.1}",
        points.len(),
        failures.len(),
        started.elapsed().as_secs_f64()
    );
    assert_eq!(failures, [] as [String; 0]);
    assert!(points.len() >= POINTS_MIN);
    // A call that is wrongly declared harmless to repeat does happen twice: the table says so.
    let mut found = 0;
    for (cut, ruled) in &points {
        if matches!(cut, Cut::Call("append", _)) {
            found += usize::from(check(cut, ruled, true).await.is_err());
        }
    }
    assert!(found >= 2, "the planted fault was not found");
}
