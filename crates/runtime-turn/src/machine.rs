//! The machine: what comes next, and what was recorded.

use std::collections::BTreeMap;
use std::sync::Arc;

use runtime_core::{
    CallId, Continuation, Digest, EffectCommand, EffectEnvelope, EffectOutcome, EnvelopeError,
    ExecutionScope, LlmCall, Message, ReplayKey, Resolution, ToolDefinition,
};
use serde_json::Value;

use crate::progress::{Phase, Progress};
use crate::round::{CallState, Round, Slot};
use crate::{ContextMark, TurnEnd, TurnError, TurnStart};

/// What the driver needs to run an effect; it is not recorded. Exhaustive: a driver must know
/// every kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// Store the prompt and the tool catalogue as attachments.
    SyncEnvironment,
    /// Call the model.
    Model {
        /// The model, as its provider names it.
        model: String,
        /// The instructions in force.
        instructions: Arc<str>,
        /// The conversation, oldest first.
        messages: Vec<Arc<Message>>,
        /// The tools on offer.
        tools: Arc<[ToolDefinition]>,
    },
    /// Call a tool.
    Tool {
        /// What the tool is told as the id of the call.
        call: CallId,
        /// The public name of the tool.
        name: String,
        /// The arguments, after edits.
        arguments: Value,
        /// With what a parked call goes on; none for the call itself.
        resumption: Option<(Continuation, Resolution)>,
    },
    /// Answer that there is no such tool, without looking for one: the turn never offered it, so
    /// nobody decided whether a person must be asked.
    UnknownTool {
        /// The name that the model used.
        name: String,
    },
}

/// An effect to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// What is recorded of it.
    pub envelope: EffectEnvelope,
    /// What it takes to run it.
    pub work: Work,
}

/// What comes next. Exhaustive: a driver must know every kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Run these, side by side, and record each outcome.
    Effects(Vec<Planned>),
    /// Read these two attachments and give them to [`TurnMachine::environment`].
    Environment {
        /// The prompt.
        prompt: Digest,
        /// The catalogue.
        tools: Digest,
    },
    /// Wait for the first source of this envelope and record the outcome.
    Wait(EffectEnvelope),
    /// The turn is over; commit its terminal event.
    End(TurnEnd),
}

#[derive(Debug, Clone)]
struct Environment {
    instructions: Arc<str>,
    tools: Arc<[ToolDefinition]>,
    by_name: BTreeMap<String, usize>,
}

impl Environment {
    fn definition(&self, name: &str) -> Option<&ToolDefinition> {
        self.by_name.get(name).map(|&at| &self.tools[at])
    }
}

/// One turn.
///
/// [`next`](Self::next) is a pure function of what was recorded: asking twice gives the same.
#[derive(Debug, Clone)]
pub struct TurnMachine {
    history: Vec<Arc<Message>>,
    progress: Progress,
    environment: Option<Environment>,
}

impl TurnMachine {
    /// Makes the machine of a turn. `history` is the conversation before its input.
    ///
    /// # Errors
    /// [`TurnError`]: the history is not the one that the start record names, the record comes
    /// from a later version, or it names no usable model.
    pub fn new(start: TurnStart, history: Vec<Arc<Message>>) -> Result<Self, TurnError> {
        let found = ContextMark::of(history.iter().map(AsRef::as_ref));
        if found != start.history {
            return Err(TurnError::HistoryMismatch {
                expected: start.history,
                found,
            });
        }
        let machine = Self {
            history,
            progress: Progress::new(start)?,
            environment: None,
        };
        machine.check_envelopes()?;
        Ok(machine)
    }

    /// Returns the scope of the turn's effects.
    #[must_use]
    pub const fn scope(&self) -> &ExecutionScope {
        &self.progress.scope
    }

    /// Returns the messages of the turn so far, its input first.
    #[must_use]
    pub fn messages(&self) -> &[Arc<Message>] {
        &self.progress.messages
    }

    /// Returns the place in the conversation after these messages.
    #[must_use]
    pub const fn mark(&self) -> ContextMark {
        self.progress.mark
    }

    /// Returns what comes next.
    #[must_use]
    pub fn next(&self) -> Next {
        match (&self.progress.phase, &self.environment) {
            (Phase::Ended(end), _) => Next::End(end.clone()),
            (Phase::Sync, _) => Next::Effects(vec![Planned {
                envelope: self.sync_envelope().expect("checked when it was made"),
                work: Work::SyncEnvironment,
            }]),
            (Phase::Model, Some(environment)) => Next::Effects(vec![self.model_call(environment)]),
            (Phase::Calls(round), Some(environment)) => calls(round, environment),
            (Phase::Model | Phase::Calls(_), None) => {
                let (prompt, tools) = self.recorded_environment();
                Next::Environment { prompt, tools }
            }
        }
    }

    /// Takes the attachments that [`Next::Environment`] asked for.
    ///
    /// # Errors
    /// [`TurnError`]: they are not the recorded ones, cannot be read, or were not asked for.
    pub fn environment(&mut self, prompt: &[u8], tools: &[u8]) -> Result<(), TurnError> {
        let Next::Environment {
            prompt: prompt_digest,
            tools: tools_digest,
        } = self.next()
        else {
            return Err(TurnError::EnvironmentUnasked);
        };
        check_digest(prompt_digest, prompt)?;
        check_digest(tools_digest, tools)?;
        let undecodable = |reason: String| TurnError::EnvironmentUndecodable { reason };
        let instructions =
            std::str::from_utf8(prompt).map_err(|error| undecodable(error.to_string()))?;
        let tools: Vec<ToolDefinition> =
            serde_json::from_slice(tools).map_err(|error| undecodable(error.to_string()))?;
        let by_name = tools.iter().enumerate();
        self.environment = Some(Environment {
            instructions: instructions.into(),
            by_name: by_name.map(|(at, tool)| (tool.name.clone(), at)).collect(),
            tools: tools.into(),
        });
        Ok(())
    }

    /// Takes the recorded outcome of an effect that [`next`](Self::next) named.
    ///
    /// # Errors
    /// [`TurnError`]: no such effect is waited for, or the outcome is of another kind. The
    /// machine is as it was.
    pub fn record(&mut self, key: &ReplayKey, outcome: &EffectOutcome) -> Result<(), TurnError> {
        let unexpected = || TurnError::UnexpectedOutcome { key: key.clone() };
        let Phase::Calls(round) = &self.progress.phase else {
            return self.progress.take(key, &[], outcome);
        };
        let environment = self.environment.as_ref().ok_or_else(unexpected)?;
        if let Some(ordinal) = round.ordinal_of(key) {
            if !is_runnable(&round.slots[ordinal], environment) {
                return Err(unexpected());
            }
            return self.progress.take(key, &[], outcome);
        }
        let wait = match calls(round, environment) {
            Next::Wait(wait) if wait.key() == key => wait,
            _ => return Err(unexpected()),
        };
        self.progress.take(key, sources(wait.command()), outcome)
    }

    fn recorded_environment(&self) -> (Digest, Digest) {
        let recorded = self.progress.environment;
        recorded.expect("the phases after the first are entered with a recorded environment")
    }

    fn model_call(&self, environment: &Environment) -> Planned {
        let (prompt, tools) = self.recorded_environment();
        let envelope = self.model_envelope(prompt, tools, self.progress.mark);
        let own = &self.progress.messages;
        Planned {
            envelope: envelope.expect("checked when it was made"),
            work: Work::Model {
                model: self.progress.start.model.clone(),
                instructions: Arc::clone(&environment.instructions),
                messages: self.history.iter().chain(own).cloned().collect(),
                tools: Arc::clone(&environment.tools),
            },
        }
    }

    fn sync_envelope(&self) -> Result<EffectEnvelope, EnvelopeError> {
        let model = self.progress.start.model.clone();
        let command = EffectCommand::SyncExecutionEnvironment { model };
        let key = Progress::sync_key();
        let envelope = EffectEnvelope::new(self.progress.scope.clone(), key, command)?;
        Ok(envelope.retry_safe(true))
    }

    fn model_envelope(
        &self,
        prompt: Digest,
        tools: Digest,
        mark: ContextMark,
    ) -> Result<EffectEnvelope, EnvelopeError> {
        let command = EffectCommand::LlmCall(LlmCall {
            model: self.progress.start.model.clone(),
            context: mark.digest,
            messages: mark.messages,
            prompt,
            tools,
        });
        let key = self.progress.model_key();
        let envelope = EffectEnvelope::new(self.progress.scope.clone(), key, command)?;
        Ok(envelope.retry_safe(true))
    }

    /// Makes the largest envelopes of a turn once, so that making one later cannot fail.
    fn check_envelopes(&self) -> Result<(), TurnError> {
        self.sync_envelope()?;
        let mut last = self.clone();
        last.progress.iteration = u32::MAX;
        let mark = ContextMark {
            messages: u32::MAX,
            ..self.progress.mark
        };
        last.model_envelope(mark.digest, mark.digest, mark)?;
        Ok(())
    }
}

pub(crate) fn sources(command: &EffectCommand) -> &[runtime_core::WaitSource] {
    match command {
        EffectCommand::AwaitEvent { sources } => sources,
        _ => &[],
    }
}

fn check_digest(expected: Digest, bytes: &[u8]) -> Result<(), TurnError> {
    let found = Digest::of_bytes(bytes);
    if found == expected {
        Ok(())
    } else {
        Err(TurnError::EnvironmentMismatch { expected, found })
    }
}

fn is_runnable(slot: &Slot, environment: &Environment) -> bool {
    // A name that was not offered needs no person: its call fails as not found, on the record.
    let asks = environment
        .definition(&slot.call.name)
        .is_some_and(ToolDefinition::needs_approval);
    match slot.state {
        CallState::Open => slot.approved || !asks,
        CallState::Resumable { .. } => true,
        _ => false,
    }
}

/// What may run runs first; a person is asked for the rest in one wait.
fn calls(round: &Round, environment: &Environment) -> Next {
    let ordinals = 0..round.slots.len();
    let (runnable, rest): (Vec<_>, Vec<_>) =
        ordinals.partition(|&at| is_runnable(&round.slots[at], environment));
    if !runnable.is_empty() {
        let planned = runnable
            .into_iter()
            .map(|at| tool_call(round, at, environment));
        return Next::Effects(planned.collect());
    }
    let unanswered = |&at: &usize| !matches!(round.slots[at].state, CallState::Done(_));
    let waiting: Vec<usize> = rest.into_iter().filter(unanswered).collect();
    Next::Wait(
        round
            .wait(&waiting)
            .expect("an open round has a call without result, and its wait was checked"),
    )
}

fn tool_call(round: &Round, at: usize, environment: &Environment) -> Planned {
    let Slot { call, state, .. } = &round.slots[at];
    let resumption = match state {
        CallState::Resumable {
            continuation,
            resolution,
        } => Some((continuation.clone(), resolution.clone())),
        _ => None,
    };
    let harmless = matches!(&resumption, Some((continuation, _)) if continuation.retry_safe);
    let envelope = round.envelope(at).expect("checked when the round began");
    let name = call.name.clone();
    match environment.definition(&name) {
        None => Planned {
            envelope: envelope.retry_safe(true),
            work: Work::UnknownTool { name },
        },
        Some(definition) => Planned {
            envelope: envelope.retry_safe(definition.is_retry_safe() || harmless),
            work: Work::Tool {
                call: call.id.clone(),
                name,
                arguments: call.arguments.clone(),
                resumption,
            },
        },
    }
}
