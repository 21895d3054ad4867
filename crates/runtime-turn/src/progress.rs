//! What the record says of a turn, without the catalogue: the fold that the machine and the
//! transcript share, so that both see the same messages.

use std::collections::BTreeSet;
use std::sync::Arc;

use runtime_core::{
    CallId, Classified, Digest, ENCODING_VERSION, EffectKind, EffectOutcome, EffectOutput,
    ExecutionScope, LlmResponse, Message, ReplayKey, Usage, WaitSource, WireError,
};

use crate::guard::LoopGuard;
use crate::round::Round;
use crate::{ContextMark, TurnEnd, TurnError, TurnFailure, TurnStart};

const UNANSWERED: &str = "no result: the turn ended first; the call may or may not have run";

#[derive(Debug, Clone)]
pub(crate) enum Phase {
    /// The environment is to be recorded.
    Sync,
    /// The model is to be called.
    Model,
    /// The calls of its message have no results yet.
    Calls(Round),
    /// Nothing is to be done.
    Ended(TurnEnd),
}

#[derive(Debug, Clone)]
pub(crate) struct Progress {
    pub(crate) start: TurnStart,
    pub(crate) scope: ExecutionScope,
    /// The messages of the turn, its input first.
    pub(crate) messages: Vec<Arc<Message>>,
    /// The place after the last of them.
    pub(crate) mark: ContextMark,
    /// The digests of prompt and catalogue.
    pub(crate) environment: Option<(Digest, Digest)>,
    pub(crate) iteration: u32,
    pub(crate) phase: Phase,
    usage: Usage,
    guard: LoopGuard,
    used_calls: BTreeSet<CallId>,
}

impl Progress {
    pub(crate) fn new(start: TurnStart) -> Result<Self, TurnError> {
        let found = start.encoding_version;
        if found == 0 || found > ENCODING_VERSION {
            return Err(TurnError::EncodingVersion { found });
        }
        let input = Arc::new(start.input.clone());
        Ok(Self {
            scope: start.scope(),
            mark: start.history.after(&input),
            messages: vec![input],
            environment: None,
            iteration: 0,
            phase: Phase::Sync,
            usage: Usage::default(),
            guard: LoopGuard::default(),
            used_calls: BTreeSet::new(),
            start,
        })
    }

    pub(crate) fn sync_key() -> ReplayKey {
        ReplayKey::turn(0, EffectKind::SyncExecutionEnvironment, 0)
    }

    pub(crate) fn model_key(&self) -> ReplayKey {
        ReplayKey::turn(self.iteration, EffectKind::LlmCall, 0)
    }

    /// Takes an outcome; `sources` are those of its command, if it is a wait.
    pub(crate) fn take(
        &mut self,
        key: &ReplayKey,
        sources: &[WaitSource],
        outcome: &EffectOutcome,
    ) -> Result<(), TurnError> {
        let model_key = self.model_key();
        match &mut self.phase {
            Phase::Sync if *key == Self::sync_key() => self.take_sync(key, outcome),
            Phase::Model if *key == model_key => self.take_answer(key, outcome),
            Phase::Calls(round) => {
                match round.ordinal_of(key) {
                    Some(ordinal) => round.take_call(key, ordinal, outcome)?,
                    None if sources.is_empty() => {
                        return Err(TurnError::UnexpectedOutcome { key: key.clone() });
                    }
                    None => round.take_wait(key, sources, outcome)?,
                }
                self.close_round_if_done();
                Ok(())
            }
            _ => Err(TurnError::UnexpectedOutcome { key: key.clone() }),
        }
    }

    fn take_sync(&mut self, key: &ReplayKey, outcome: &EffectOutcome) -> Result<(), TurnError> {
        match outcome {
            EffectOutcome::Completed(EffectOutput::SyncExecutionEnvironment {
                prompt,
                tools,
                ..
            }) => {
                self.environment = Some((*prompt, *tools));
                self.enter_model();
            }
            EffectOutcome::Failed(error) => self.fail(error.clone()),
            EffectOutcome::Completed(_) => {
                return Err(TurnError::WrongOutcome { key: key.clone() });
            }
        }
        Ok(())
    }

    fn take_answer(&mut self, key: &ReplayKey, outcome: &EffectOutcome) -> Result<(), TurnError> {
        match outcome {
            EffectOutcome::Completed(EffectOutput::LlmCall(response)) => self.answered(response),
            EffectOutcome::Failed(error) => self.fail(error.clone()),
            EffectOutcome::Completed(_) => {
                return Err(TurnError::WrongOutcome { key: key.clone() });
            }
        }
        Ok(())
    }

    fn answered(&mut self, response: &LlmResponse) {
        let message = Arc::new(response.message.clone());
        self.usage = self.usage.plus(response.usage);
        self.push(Arc::clone(&message));
        let iteration = self.iteration;
        self.iteration += 1;
        let (scope, calls_max) = (&self.scope, self.start.budgets.calls_max);
        let round = Round::new(scope, iteration, &message, calls_max, &mut self.used_calls);
        if round.slots.is_empty() {
            self.phase = Phase::Ended(TurnEnd::Completed {
                reason: response.reason,
                iterations: self.iteration,
                usage: self.usage,
                message,
            });
            return;
        }
        let refused = self.refusal(&message);
        self.phase = Phase::Calls(round);
        match refused {
            Some(failure) => {
                self.close_round(&format!("not run: {failure}"));
                self.fail(failure.to_wire());
            }
            None => self.close_round_if_done(),
        }
    }

    /// Why the calls of a message must not run, if so.
    fn refusal(&mut self, message: &Message) -> Option<TurnFailure> {
        let budgets = self.start.budgets;
        let repeated = self
            .guard
            .observe(message.tool_calls(), budgets.identical_calls_max);
        if let Some((tool, times)) = repeated {
            return Some(TurnFailure::LoopDetected { tool, times });
        }
        let spent = self.usage.total();
        let max = budgets.tokens_max.filter(|&max| spent > max)?;
        Some(TurnFailure::TokensExhausted { max, spent })
    }

    fn close_round_if_done(&mut self) {
        if matches!(&self.phase, Phase::Calls(round) if round.is_done()) {
            self.close_round(UNANSWERED);
            self.enter_model();
        }
    }

    fn close_round(&mut self, missing: &str) {
        if let Phase::Calls(round) = &self.phase {
            let message = round.message(missing);
            self.push(Arc::new(message));
        }
    }

    fn enter_model(&mut self) {
        self.phase = Phase::Model;
        let max = self.start.budgets.iterations_max;
        if self.iteration >= max {
            self.fail(TurnFailure::IterationsExhausted { max }.to_wire());
        }
    }

    fn fail(&mut self, error: WireError) {
        self.phase = Phase::Ended(TurnEnd::Failed {
            error,
            iterations: self.iteration,
            usage: self.usage,
        });
    }

    fn push(&mut self, message: Arc<Message>) {
        self.mark = self.mark.after(&message);
        self.messages.push(message);
    }

    /// Returns the messages that the turn leaves in its session, and the place after them. A
    /// round that was cut off is closed: what ran in it stays told.
    pub(crate) fn into_messages(mut self) -> (Vec<Arc<Message>>, ContextMark) {
        self.close_round(UNANSWERED);
        (self.messages, self.mark)
    }
}
