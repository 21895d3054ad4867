//! The machine: what comes next, and what was recorded.

use std::collections::BTreeMap;
use std::sync::Arc;

use runtime_core::{
    ApprovalNeed, CallId, Continuation, Digest, EffectCommand, EffectEnvelope, EffectOutcome,
    EnvelopeError, ExecutionScope, LlmCall, Message, ReplayKey, Reserve, Resolution,
    ToolDefinition, TurnId,
};
use serde_json::Value;

use crate::progress::{Phase, Progress, may_begin};
use crate::round::{CallState, Round, Slot};
use crate::{Compacted, ContextMark, TurnEnd, TurnError, TurnStart};

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
        /// The JSON schema that the last answer must fit.
        output_schema: Option<Arc<Value>>,
    },
    /// Make a summary that stands for the beginning of the conversation ([`Compacted`]).
    Compact {
        /// The model that the turn asks now, as its provider names it.
        model: String,
        /// What the summary stands for, oldest first; an earlier summary comes first.
        messages: Vec<Arc<Message>>,
        /// How many messages of the session that are.
        covered: u32,
    },
    /// Look for queued inputs and injected messages that join the turn.
    Checkpoint {
        /// The turns of the inputs that have joined before.
        joined: Vec<TurnId>,
    },
    /// Call a tool.
    Tool {
        /// What the tool is told as the id of the call.
        call: CallId,
        /// The public name of the tool.
        name: String,
        /// The arguments, after edits.
        arguments: Value,
        /// A person edited the arguments: they are checked against the schema in `definition`
        /// before the call.
        edited: bool,
        /// The tool as the turn recorded it.
        definition: Arc<ToolDefinition>,
        /// With what a parked call goes on; none for the call itself.
        resumption: Option<(Continuation, Resolution)>,
        /// What the call may spend of the turn's budgets.
        budget: Reserve,
    },
    /// Answer that a rule of the host forbids the call.
    DeniedTool {
        /// The tool.
        name: String,
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
    by_name: BTreeMap<String, Arc<ToolDefinition>>,
}

impl Environment {
    fn definition(&self, name: &str) -> Option<&Arc<ToolDefinition>> {
        self.by_name.get(name)
    }
}

/// The conversation that a turn starts after.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// All its messages, oldest first.
    pub messages: Vec<Arc<Message>>,
    /// The summary that stands for the beginning of it, if one does.
    pub compacted: Option<Compacted>,
}

impl From<Vec<Arc<Message>>> for History {
    fn from(messages: Vec<Arc<Message>>) -> Self {
        Self {
            messages,
            compacted: None,
        }
    }
}

/// What the model is shown, by its digest: kept up to date message by message, so that naming it
/// costs the same however long it is.
#[derive(Debug, Clone, Copy)]
struct View {
    covered: u32,
    /// How many messages of the session the mark has taken in.
    taken: usize,
    mark: ContextMark,
}

/// One turn.
///
/// [`next`](Self::next) is a pure function of what was recorded: asking twice gives the same.
#[derive(Debug, Clone)]
pub struct TurnMachine {
    history: History,
    view: Option<View>,
    progress: Progress,
    environment: Option<Environment>,
}

impl TurnMachine {
    /// Makes the machine of a turn. `history` is the conversation before its input.
    ///
    /// # Errors
    /// [`TurnError`]: the history is not the one that the start record names, the record comes
    /// from a later version, or it names no usable model.
    pub fn new(start: TurnStart, history: impl Into<History>) -> Result<Self, TurnError> {
        let history = history.into();
        let found = ContextMark::of(history.messages.iter().map(AsRef::as_ref));
        if found != start.history {
            return Err(TurnError::HistoryMismatch {
                expected: start.history,
                found,
            });
        }
        let summary = history.compacted.as_ref().map(Compacted::mark);
        if summary != start.compacted {
            return Err(TurnError::SummaryMismatch {
                expected: start.compacted,
                found: summary,
            });
        }
        let mut machine = Self {
            history,
            view: None,
            progress: Progress::new(start)?,
            environment: None,
        };
        machine.check_envelopes()?;
        machine.look();
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
            (Phase::Calls(round), Some(environment)) => self.calls(round, environment),
            (Phase::Compact(_), _) => Next::Effects(vec![self.compaction()]),
            (Phase::Checkpoint(_), _) => Next::Effects(vec![self.checkpoint()]),
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
        let by_name = tools
            .iter()
            .map(|tool| (tool.name.clone(), Arc::new(tool.clone())));
        self.environment = Some(Environment {
            instructions: instructions.into(),
            by_name: by_name.collect(),
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
        self.take(key, outcome)?;
        self.look();
        Ok(())
    }

    fn take(&mut self, key: &ReplayKey, outcome: &EffectOutcome) -> Result<(), TurnError> {
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
        let wait = match self.calls(round, environment) {
            Next::Wait(wait) if wait.key() == key => wait,
            _ => return Err(unexpected()),
        };
        self.progress.take(key, sources(wait.command()), outcome)
    }

    fn recorded_environment(&self) -> (Digest, Digest) {
        let recorded = self.progress.environment;
        recorded.expect("the phases after the first are entered with a recorded environment")
    }

    /// All messages of the session so far, from one place on.
    fn messages_from(&self, at: usize) -> impl Iterator<Item = &Arc<Message>> {
        let all = self.history.messages.iter().chain(&self.progress.messages);
        all.skip(at)
    }

    fn summary(&self) -> Option<&Compacted> {
        let own = self.progress.compacted.as_ref();
        own.or(self.history.compacted.as_ref())
    }

    /// What the model is shown: everything, or a summary and what came after it.
    fn shown(&self) -> impl Iterator<Item = &Arc<Message>> {
        let summary = self.summary();
        let covered = summary.map_or(0, |compacted| compacted.covered as usize);
        let summary = summary.map(|compacted| &compacted.summary);
        summary.into_iter().chain(self.messages_from(covered))
    }

    /// Brings the digest of what the model is shown up to date.
    fn look(&mut self) {
        let Some(compacted) = self.summary() else {
            return;
        };
        let known = self.view.filter(|view| view.covered == compacted.covered);
        let mut view = known.unwrap_or_else(|| View {
            covered: compacted.covered,
            taken: compacted.covered as usize,
            mark: ContextMark::of([compacted.summary.as_ref()]),
        });
        for message in self.messages_from(view.taken) {
            view.mark = view.mark.after(message);
            view.taken += 1;
        }
        self.view = Some(view);
    }

    fn shown_mark(&self) -> ContextMark {
        self.view.map_or(self.progress.mark, |view| view.mark)
    }

    fn model_call(&self, environment: &Environment) -> Planned {
        let (prompt, tools) = self.recorded_environment();
        let envelope = self.model_envelope(prompt, tools, self.shown_mark());
        Planned {
            envelope: envelope.expect("checked when it was made"),
            work: Work::Model {
                model: self.progress.model().to_owned(),
                instructions: Arc::clone(&environment.instructions),
                messages: self.shown().cloned().collect(),
                tools: Arc::clone(&environment.tools),
                output_schema: self.progress.start.output_schema.clone().map(Arc::new),
            },
        }
    }

    /// The beginning of the conversation up to the messages that stay; a result is not parted
    /// from its call.
    fn compaction(&self) -> Planned {
        let start = &self.progress.start;
        let kept = start
            .compaction
            .map_or(1, |policy| policy.messages_kept.max(1));
        let total = self.history.messages.len() + self.progress.messages.len();
        let mut covered = total.saturating_sub(kept as usize);
        while covered > 1
            && !self
                .messages_from(covered)
                .next()
                .is_some_and(|m| may_begin(m))
        {
            covered -= 1;
        }
        let stays = total - covered;
        let mut messages: Vec<_> = self.shown().cloned().collect();
        messages.truncate(messages.len().saturating_sub(stays));
        Planned {
            envelope: self.compact_envelope().expect("checked when it was made"),
            work: Work::Compact {
                model: self.progress.model().to_owned(),
                messages,
                covered: u32::try_from(covered).unwrap_or(u32::MAX),
            },
        }
    }

    fn compact_envelope(&self) -> Result<EffectEnvelope, EnvelopeError> {
        let command = EffectCommand::DurableStep {
            name: Compacted::STEP.to_owned(),
            input: Some(self.shown_mark().digest),
        };
        let key = self.progress.compact_key();
        let envelope = EffectEnvelope::new(self.progress.scope.clone(), key, command)?;
        Ok(envelope.retry_safe(true))
    }

    fn checkpoint(&self) -> Planned {
        let envelope = self.checkpoint_envelope();
        Planned {
            envelope: envelope.expect("checked when it was made"),
            work: Work::Checkpoint {
                joined: self.progress.joined.clone(),
            },
        }
    }

    fn checkpoint_envelope(&self) -> Result<EffectEnvelope, EnvelopeError> {
        let (scope, key) = (self.progress.scope.clone(), self.progress.checkpoint_key());
        let envelope = EffectEnvelope::new(scope, key, EffectCommand::TurnCheckpoint)?;
        Ok(envelope.retry_safe(true))
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
            model: self.progress.model().to_owned(),
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
        last.compact_envelope()?;
        last.checkpoint_envelope()?;
        last.model_envelope(mark.digest, mark.digest, mark)?;
        for model in &self.progress.start.fallbacks {
            last.progress.start.model.clone_from(model);
            last.model_envelope(mark.digest, mark.digest, mark)?;
        }
        Ok(())
    }

    /// What may run runs first; a person is asked for the rest in one wait.
    fn calls(&self, round: &Round, environment: &Environment) -> Next {
        let ordinals = 0..round.slots.len();
        let (runnable, rest): (Vec<_>, Vec<_>) =
            ordinals.partition(|&at| is_runnable(&round.slots[at], environment));
        if !runnable.is_empty() {
            let budget = self.progress.share(runnable.len() as u64);
            let planned = runnable
                .into_iter()
                .map(|at| tool_call(round, at, environment, budget));
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
    match slot.state {
        CallState::Open => slot.approved || need(slot, environment) != ApprovalNeed::Ask,
        CallState::Resumable { .. } => true,
        _ => false,
    }
}

/// A name that was not offered needs no person: its call fails as not found, on the record.
fn need(slot: &Slot, environment: &Environment) -> ApprovalNeed {
    environment
        .definition(&slot.call.name)
        .map_or(ApprovalNeed::Run, |tool| {
            tool.approval_of(&slot.call.arguments)
        })
}

fn tool_call(round: &Round, at: usize, environment: &Environment, budget: Reserve) -> Planned {
    let slot = &round.slots[at];
    let call = &slot.call;
    let envelope = round.envelope(at).expect("checked when the round began");
    let name = call.name.clone();
    let Some(definition) = environment.definition(&name) else {
        return Planned {
            envelope: envelope.retry_safe(true),
            work: Work::UnknownTool { name },
        };
    };
    // What a rule forbids no person allows: not as it is, and not by an edit.
    if slot.state == CallState::Open && need(slot, environment) == ApprovalNeed::Deny {
        return Planned {
            envelope: envelope.retry_safe(true),
            work: Work::DeniedTool { name },
        };
    }
    let resumption = match &slot.state {
        CallState::Resumable {
            continuation,
            resolution,
        } => Some((continuation.clone(), resolution.clone())),
        _ => None,
    };
    let harmless = matches!(&resumption, Some((continuation, _)) if continuation.retry_safe);
    Planned {
        envelope: envelope.retry_safe(harmless || definition.is_retry_safe()),
        work: Work::Tool {
            call: call.id.clone(),
            name,
            arguments: call.arguments.clone(),
            edited: slot.is_edited(),
            definition: Arc::clone(definition),
            resumption,
            budget,
        },
    }
}
