//! The loop: machine → controller → machine.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use runtime_core::{
    Classified, Clock, EffectEnvelope, EffectKind, EffectOutcome, EffectOutput, ExecutionScope,
    JoinedMessage, ModelRequest, ReplayKey, TurnId, WireError,
};
use runtime_effects::{Applied, EffectController, ExecutorError, Interrupt, LocalExecutor};
use runtime_store::AttachmentStore;
use runtime_tools::{CompletionKeys, Delegates};
use runtime_turn::{History, Next, Planned, TurnEnd, TurnError, TurnMachine, TurnStart, Work};
use tracing::Instrument;

use crate::environment::{self, LiveTools};
use crate::model_call::{self, Stopwatch, Watched};
use crate::tool_call::{self, Bench, Call};
use crate::{Agent, CompactionRequest, LiveSink};

/// Says which queued inputs and injected messages join a running turn (E3).
#[async_trait]
pub trait InputQueue: fmt::Debug + Send + Sync {
    /// Returns what joins now besides the inputs whose turns have `joined` before. It may be asked again, after a crash, before the answer was
    /// recorded: it takes nothing away. Who commits the end of the turn removes what joined.
    ///
    /// # Errors
    /// The error of whatever keeps the queue, with its class.
    async fn joining(&self, joined: &[TurnId]) -> Result<Vec<JoinedMessage>, WireError>;
}

/// A turn to drive, and what to drive it with.
pub struct TurnRun<'run> {
    /// The record that started the turn.
    pub start: TurnStart,
    /// The conversation before its input.
    pub history: History,
    /// Instructions, model and tools.
    pub agent: &'run Agent,
    /// The controller of the turn's scope.
    pub controller: &'run dyn EffectController,
    /// Where prompts, catalogues and large outputs are kept.
    pub attachments: &'run dyn AttachmentStore,
    /// Who watches.
    pub live: &'run dyn LiveSink,
    /// The time.
    pub clock: &'run dyn Clock,
    /// Who makes the keys by which calls are completed from outside; none where nobody can.
    pub completions: Option<Arc<dyn CompletionKeys>>,
    /// Who starts sub-agents; none where nobody can.
    pub delegates: Option<Arc<dyn Delegates>>,
    /// Who knows which inputs join the turn; none where none do.
    pub inputs: Option<&'run dyn InputQueue>,
}

impl fmt::Debug for TurnRun<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TurnRun")
            .field("turn", &self.start.turn)
            .field("agent", &self.agent.version)
            .finish_non_exhaustive()
    }
}

/// Drives a turn until it ends or must wait. What was recorded is replayed, not run; so driving
/// it again in another process goes on where the record ends (T4).
///
/// The end is returned, not committed: the caller commits [`TurnEnd::to_event`] with whatever
/// else ends with the turn.
///
/// # Errors
/// [`Interrupt`]: the turn is not over. `Suspended` waits for a wake; `Terminal` carries an error
/// of the record, of an attachment, or of the journal, with its class.
///
/// # Cancel safety
/// Dropping the future ends the running attempts; driving the turn again goes on from the record.
pub async fn drive_turn(run: TurnRun<'_>) -> Result<TurnEnd, Interrupt> {
    let span = tracing::info_span!(
        "invoke_agent",
        otel.name = "invoke_agent",
        gen_ai.operation.name = "invoke_agent",
        gen_ai.provider.name = run.agent.model.provider(),
        gen_ai.request.model = run.start.model,
        gen_ai.conversation.id = run.start.session.as_str(),
        gen_ai.agent.version = run.agent.version,
        turn = run.start.turn.as_str(),
    );
    // Boxed: the future of a whole turn is large, and a caller holds thousands of them.
    Box::pin(drive(run)).instrument(span).await
}

async fn drive(run: TurnRun<'_>) -> Result<TurnEnd, Interrupt> {
    let mut machine = TurnMachine::new(run.start, run.history).map_err(unwind)?;
    let scope = machine.scope().clone();
    let tools = LiveTools::new(run.agent);
    let stopwatch = Stopwatch::start(run.clock);
    let desk = Desk {
        agent: run.agent,
        controller: run.controller,
        attachments: run.attachments,
        live: run.live,
        clock: run.clock,
        scope: &scope,
        tools: &tools,
        completions: run.completions.as_ref(),
        delegates: run.delegates.as_ref(),
        inputs: run.inputs,
        stopwatch: &stopwatch,
    };
    loop {
        match machine.next() {
            Next::Effects(planned) => desk.effects(&mut machine, planned).await?,
            Next::Environment { prompt, tools } => {
                let prompt = environment::load(desk.attachments, &prompt).await?;
                let tools = environment::load(desk.attachments, &tools).await?;
                machine.environment(&prompt, &tools).map_err(unwind)?;
            }
            Next::Wait(envelope) => {
                let key = envelope.key().clone();
                let since = desk.clock.monotonic();
                let outcome = desk.controller.wait_any(envelope).await?;
                desk.stopwatch.leave_out(since, desk.clock);
                machine.record(&key, &outcome).map_err(unwind)?;
            }
            Next::End(end) => return Ok(end),
        }
    }
}

/// What every effect of a run borrows.
#[derive(Clone, Copy)]
struct Desk<'run> {
    agent: &'run Agent,
    controller: &'run dyn EffectController,
    attachments: &'run dyn AttachmentStore,
    live: &'run dyn LiveSink,
    clock: &'run dyn Clock,
    scope: &'run ExecutionScope,
    tools: &'run LiveTools<'run>,
    completions: Option<&'run Arc<dyn CompletionKeys>>,
    delegates: Option<&'run Arc<dyn Delegates>>,
    inputs: Option<&'run dyn InputQueue>,
    stopwatch: &'run Stopwatch,
}

impl<'run> Desk<'run> {
    async fn effects(
        &self,
        machine: &mut TurnMachine,
        planned: Vec<Planned>,
    ) -> Result<(), Interrupt> {
        let keys: Vec<_> = planned
            .iter()
            .map(|planned| planned.envelope.key().clone())
            .collect();
        let mut items: Vec<_> = planned
            .into_iter()
            .map(|planned| self.item(planned))
            .collect();
        let outcomes = match items.pop() {
            Some((envelope, executor)) if items.is_empty() => {
                vec![self.controller.execute_effect(envelope, executor).await]
            }
            Some(last) => {
                items.push(last);
                self.controller.execute_batch(items).await
            }
            None => Vec::new(),
        };
        for (key, outcome) in keys.iter().zip(all(outcomes)?) {
            machine.record(key, &outcome).map_err(unwind)?;
        }
        Ok(())
    }

    fn item(&self, planned: Planned) -> (EffectEnvelope, LocalExecutor<'run>) {
        let Planned { envelope, work } = planned;
        match work {
            Work::SyncEnvironment => (
                envelope.with_policy(self.agent.environment_policy),
                self.sync_executor(),
            ),
            Work::Model {
                model,
                instructions,
                messages,
                tools,
                output_schema,
            } => {
                let request = ModelRequest {
                    model,
                    instructions,
                    messages,
                    tools,
                    idempotency_key: envelope.idempotency_key(),
                    output_schema,
                };
                let executor = self.model_executor(envelope.key().clone(), request);
                (envelope.with_policy(self.agent.model_policy), executor)
            }
            Work::Compact {
                model,
                messages,
                covered,
            } => {
                let request = CompactionRequest {
                    model,
                    messages,
                    covered,
                    idempotency_key: envelope.idempotency_key(),
                };
                let executor = self.compaction_executor(request);
                (envelope.with_policy(self.agent.model_policy), executor)
            }
            Work::Checkpoint { joined } => (
                envelope.with_policy(self.agent.environment_policy),
                self.checkpoint_executor(joined),
            ),
            Work::Tool {
                call,
                name,
                arguments,
                edited,
                definition,
                resumption,
                budget,
            } => {
                let call = Call {
                    id: call,
                    name,
                    arguments,
                    edited,
                    definition,
                    resumption,
                    budget,
                };
                let executor = self.tool_executor(call);
                (envelope.with_policy(self.agent.tool_policy), executor)
            }
            Work::UnknownTool { name } => (envelope, refusal(tool_call::unknown(name))),
            Work::DeniedTool { name } => (envelope, refusal(tool_call::denied(name))),
        }
    }

    fn sync_executor(&self) -> LocalExecutor<'run> {
        let (agent, attachments) = (self.agent, self.attachments);
        LocalExecutor::new(EffectKind::SyncExecutionEnvironment, move |_| {
            environment::sync(agent, attachments)
        })
    }

    fn model_executor(&self, call: ReplayKey, request: ModelRequest) -> LocalExecutor<'run> {
        let watched = Watched {
            scope: self.scope,
            live: self.live,
            clock: self.clock,
            stopwatch: self.stopwatch,
            content: self.agent.content_capture,
        };
        let model = self.agent.model_named(&request.model);
        LocalExecutor::new(EffectKind::LlmCall, move |context| {
            model_call::attempt(model, watched, call.clone(), request.clone(), context)
        })
    }

    fn compaction_executor(&self, request: CompactionRequest) -> LocalExecutor<'run> {
        let agent = self.agent;
        LocalExecutor::new(EffectKind::DurableStep, move |_| {
            crate::compaction::attempt(agent, request.clone())
        })
    }

    fn checkpoint_executor(&self, joined: Vec<TurnId>) -> LocalExecutor<'run> {
        let inputs = self.inputs;
        LocalExecutor::new(EffectKind::TurnCheckpoint, move |_| {
            let joined = joined.clone();
            async move {
                let joining = match inputs {
                    Some(inputs) => inputs.joining(&joined).await,
                    None => Ok(Vec::new()),
                };
                joining
                    .map(|joined| EffectOutput::TurnCheckpoint { joined })
                    .map_err(|error| ExecutorError {
                        error,
                        applied: Applied::No,
                    })
            }
        })
    }

    fn tool_executor(&self, call: Call) -> LocalExecutor<'run> {
        let bench = Bench {
            scope: self.scope,
            tools: self.tools,
            attachments: self.attachments,
            clock: self.clock,
            limits: self.agent.output_limits,
            completions: self.completions,
            delegates: self.delegates,
            content: self.agent.content_capture,
        };
        LocalExecutor::new(EffectKind::ToolCall, move |context| {
            tool_call::attempt(bench, call.clone(), context)
        })
    }
}

/// A call that is answered without looking for its tool.
fn refusal<'run>(error: ExecutorError) -> LocalExecutor<'run> {
    let fail = move |_| std::future::ready(Err(error.clone()));
    LocalExecutor::new(EffectKind::ToolCall, fail)
}

/// All outcomes of a batch, or its gravest interrupt: a turn whose owner was replaced must not
/// go on to park, and one that must park must not merely wait.
fn all(results: Vec<Result<EffectOutcome, Interrupt>>) -> Result<Vec<EffectOutcome>, Interrupt> {
    let mut outcomes = Vec::with_capacity(results.len());
    let mut gravest: Option<Interrupt> = None;
    for result in results {
        match result {
            Ok(outcome) => outcomes.push(outcome),
            Err(interrupt) => {
                let graver = gravest.as_ref().map(gravity) < Some(gravity(&interrupt));
                if graver {
                    gravest = Some(interrupt);
                }
            }
        }
    }
    gravest.map_or(Ok(outcomes), Err)
}

const fn gravity(interrupt: &Interrupt) -> u8 {
    match interrupt {
        Interrupt::Fenced => 6,
        Interrupt::Terminal(_) => 5,
        Interrupt::Cancelled => 4,
        Interrupt::Conflict(_) => 3,
        Interrupt::InDoubt { .. } => 2,
        Interrupt::Suspended { .. } => 1,
        _ => 0,
    }
}

fn unwind(error: TurnError) -> Interrupt {
    Interrupt::Terminal(error.to_wire())
}
