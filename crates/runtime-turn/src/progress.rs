//! What the record says of a turn, without the catalogue: the fold that the machine and the
//! transcript share, so that both see the same messages.

use std::collections::BTreeSet;
use std::sync::Arc;

use runtime_core::{
    CallId, Classified, Digest, ENCODING_VERSION, EffectKind, EffectOutcome, EffectOutput,
    ErrorClass, ExecutionScope, FinishReason, JoinedMessage, LlmResponse, Message, ReplayKey,
    Reserve, Role, Spent, TurnId, WaitSource, WireError,
};
use serde_json::Value;

use crate::guard::LoopGuard;
use crate::output;
use crate::round::{AbandonedCall, Round};
use crate::{Compacted, ContextMark, TurnEnd, TurnError, TurnFailure, TurnStart};

const UNANSWERED: &str = "no result: the turn ended first; the call may or may not have run";

/// How often a model may correct an answer that does not fit its schema.
const REPAIRS_MAX: u32 = 1;

#[derive(Debug, Clone)]
pub(crate) enum Phase {
    /// The environment is to be recorded.
    Sync,
    /// The conversation is to be made shorter; with the failure that asked for it, if one did.
    Compact(Option<WireError>),
    /// The model is to be called.
    Model,
    /// The calls of its message have no results yet.
    Calls(Round),
    /// Queued inputs may join before the turn ends so.
    Checkpoint(TurnEnd),
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
    /// What stands for the beginning of the conversation, made in this turn.
    pub(crate) compacted: Option<Compacted>,
    /// Which of the turn's models is asked: the first, or a later one once those before failed.
    model: usize,
    /// How often the model was asked in this iteration without an answer.
    tries: u32,
    /// Whether the conversation was too long for a model in this iteration: compacting it again
    /// would give the same again.
    overflowed: bool,
    compactions: u32,
    /// The size of the conversation as the last model call told it; zero is not known.
    context_tokens: u64,
    repairs: u32,
    pub(crate) joined: Vec<TurnId>,
    abandoned: Vec<AbandonedCall>,
    spent: Spent,
    running_ms: u64,
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
        let mut progress = Self {
            scope: start.scope(),
            mark: start.history.after(&input),
            messages: vec![input],
            environment: None,
            iteration: 0,
            phase: Phase::Sync,
            compacted: None,
            model: 0,
            tries: 0,
            overflowed: false,
            compactions: 0,
            context_tokens: start.context_tokens,
            repairs: 0,
            joined: Vec::new(),
            abandoned: Vec::new(),
            spent: Spent::default(),
            running_ms: 0,
            guard: LoopGuard::default(),
            used_calls: BTreeSet::new(),
            start,
        };
        if let Some(model) = progress.start.unpriced() {
            let model = model.to_owned();
            progress.fail(TurnFailure::CostUnpriced { model }.to_wire());
        }
        Ok(progress)
    }

    pub(crate) fn sync_key() -> ReplayKey {
        ReplayKey::turn(0, EffectKind::SyncExecutionEnvironment, 0)
    }

    pub(crate) fn model_key(&self) -> ReplayKey {
        ReplayKey::turn(self.iteration, EffectKind::LlmCall, self.tries)
    }

    pub(crate) fn compact_key(&self) -> ReplayKey {
        ReplayKey::turn(self.iteration, EffectKind::DurableStep, self.compactions)
    }

    pub(crate) fn checkpoint_key(&self) -> ReplayKey {
        ReplayKey::turn(self.iteration, EffectKind::TurnCheckpoint, 0)
    }

    /// Returns the model that is asked next.
    pub(crate) fn model(&self) -> &str {
        match self.model.checked_sub(1) {
            None => &self.start.model,
            Some(at) => &self.start.fallbacks[at],
        }
    }

    /// Returns how many messages from the beginning of the session a summary stands for.
    pub(crate) fn covered(&self) -> u32 {
        let own = self.compacted.as_ref().map(|compacted| compacted.covered);
        let before = self.start.compacted.as_ref().map(|mark| mark.covered);
        own.or(before).unwrap_or(0)
    }

    /// Returns what is left of the budgets for each of so many calls.
    pub(crate) fn share(&self, calls: u64) -> Reserve {
        let budgets = &self.start.budgets;
        let mut spent = self.spent;
        if let Phase::Calls(round) = &self.phase {
            spent = spent.plus(round.spent).plus(round.reserved());
        }
        let left =
            |max: Option<u64>, spent: u64| max.map(|max| max.saturating_sub(spent) / calls.max(1));
        Reserve {
            tokens: left(budgets.tokens_max, spent.usage.total()),
            cost: left(budgets.cost_max, spent.cost),
        }
    }

    /// Takes an outcome; `sources` are those of its command, if it is a wait.
    pub(crate) fn take(
        &mut self,
        key: &ReplayKey,
        sources: &[WaitSource],
        outcome: &EffectOutcome,
    ) -> Result<(), TurnError> {
        let unexpected = || TurnError::UnexpectedOutcome { key: key.clone() };
        let expected = match &self.phase {
            Phase::Sync => Self::sync_key(),
            Phase::Compact(_) => self.compact_key(),
            Phase::Model => self.model_key(),
            Phase::Checkpoint(_) => self.checkpoint_key(),
            Phase::Calls(_) => return self.take_of_round(key, sources, outcome),
            Phase::Ended(_) => return Err(unexpected()),
        };
        if *key != expected {
            return Err(unexpected());
        }
        match &self.phase {
            Phase::Sync => self.take_sync(key, outcome),
            Phase::Compact(_) => self.take_compacted(key, outcome),
            Phase::Model => self.take_answer(key, outcome),
            _ => self.take_checkpoint(key, outcome),
        }
    }

    fn take_of_round(
        &mut self,
        key: &ReplayKey,
        sources: &[WaitSource],
        outcome: &EffectOutcome,
    ) -> Result<(), TurnError> {
        let Phase::Calls(round) = &mut self.phase else {
            return Ok(());
        };
        match round.ordinal_of(key) {
            Some(ordinal) => round.take_call(key, ordinal, outcome)?,
            None if sources.is_empty() => {
                return Err(TurnError::UnexpectedOutcome { key: key.clone() });
            }
            None => round.take_wait(key, sources, outcome)?,
        }
        if let Some(failure) = round.failure.take() {
            self.close_round(UNANSWERED);
            self.fail(failure.to_wire());
            return Ok(());
        }
        self.close_round_if_done();
        Ok(())
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

    fn take_compacted(
        &mut self,
        key: &ReplayKey,
        outcome: &EffectOutcome,
    ) -> Result<(), TurnError> {
        let wrong = || TurnError::WrongOutcome { key: key.clone() };
        match outcome {
            EffectOutcome::Completed(EffectOutput::DurableStep { value }) => {
                let compacted = Compacted::from_value(value).ok_or_else(wrong)?;
                let possible =
                    self.covered() < compacted.covered && compacted.covered < self.mark.messages;
                if !possible {
                    return Err(wrong());
                }
                self.spend(self.cost_of(compacted.usage, compacted.model.as_deref()));
                self.compacted = Some(compacted);
                self.compactions += 1;
                self.context_tokens = 0;
                if let Phase::Compact(Some(_)) = self.phase {
                    self.tries += 1;
                }
                self.phase = Phase::Model;
                self.fail_if_exhausted();
            }
            EffectOutcome::Completed(_) => return Err(wrong()),
            // Without it the model may still answer; where it has refused, it will not.
            EffectOutcome::Failed(_) => {
                self.compactions += 1;
                self.context_tokens = 0;
                match std::mem::replace(&mut self.phase, Phase::Model) {
                    Phase::Compact(Some(error)) => self.fail(error),
                    _ => self.enter_model(),
                }
            }
        }
        Ok(())
    }

    fn take_answer(&mut self, key: &ReplayKey, outcome: &EffectOutcome) -> Result<(), TurnError> {
        match outcome {
            EffectOutcome::Completed(EffectOutput::LlmCall(response)) => self.answered(response),
            EffectOutcome::Failed(error) => self.unanswered(error),
            EffectOutcome::Completed(_) => {
                return Err(TurnError::WrongOutcome { key: key.clone() });
            }
        }
        Ok(())
    }

    /// A model call failed for good: a shorter conversation may help, or another model.
    fn unanswered(&mut self, error: &WireError) {
        if is_overflow(error) && !self.overflowed && self.can_compact() {
            self.overflowed = true;
            self.phase = Phase::Compact(Some(error.clone()));
            return;
        }
        let others = self.start.fallbacks.len() - self.model;
        if others > 0 && error.class != ErrorClass::Cancelled {
            self.model += 1;
            self.tries += 1;
            return;
        }
        self.fail(error.clone());
    }

    fn answered(&mut self, response: &LlmResponse) {
        let message = Arc::new(response.message.clone());
        self.spend(self.cost_of(response.usage, None));
        self.running_ms = self.running_ms.saturating_add(response.running_ms);
        self.context_tokens = response.usage.total();
        self.push(Arc::clone(&message));
        let iteration = self.iteration;
        self.iteration += 1;
        self.tries = 0;
        self.overflowed = false;
        let expiry = self.start.budgets.approval_expiry;
        let approve_by = response
            .ended
            .zip(expiry)
            .map(|(ended, expiry)| ended.after(expiry));
        let (scope, calls_max) = (&self.scope, self.start.budgets.calls_max);
        let used = &mut self.used_calls;
        let round = Round::new(scope, iteration, &message, calls_max, approve_by, used);
        if round.slots.is_empty() {
            self.said(response.reason, message);
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

    /// The model asks for nothing more: the turn ends with this, unless the answer must be
    /// repaired or another input joins.
    fn said(&mut self, reason: FinishReason, message: Arc<Message>) {
        let mut output = None;
        if let Some(schema) = &self.start.output_schema {
            match output::read(schema, &message.plain_text()) {
                Ok(value) => output = Some(value),
                Err(mismatch) if self.repairs < REPAIRS_MAX => {
                    self.repairs += 1;
                    self.push(Arc::new(output::repair(&mismatch)));
                    return self.enter_model();
                }
                Err(reason) => {
                    return self.fail(TurnFailure::OutputMismatch { reason }.to_wire());
                }
            }
        }
        let end = TurnEnd::Completed {
            reason,
            iterations: self.iteration,
            usage: self.spent.usage,
            message,
            output,
            account: self.account(),
        };
        let joins = self.start.inputs_join && self.iteration < self.start.budgets.iterations_max;
        self.phase = if joins {
            Phase::Checkpoint(end)
        } else {
            Phase::Ended(end)
        };
    }

    fn take_checkpoint(
        &mut self,
        key: &ReplayKey,
        outcome: &EffectOutcome,
    ) -> Result<(), TurnError> {
        let joined: &[JoinedMessage] = match outcome {
            EffectOutcome::Completed(EffectOutput::TurnCheckpoint { joined }) => joined,
            EffectOutcome::Completed(_) => {
                return Err(TurnError::WrongOutcome { key: key.clone() });
            }
            // Nothing has joined: what is queued has turns of its own.
            EffectOutcome::Failed(_) => &[],
        };
        let is_new = |one: &&JoinedMessage| {
            let turn = one.turn.as_ref();
            turn.is_none_or(|turn| !self.joined.contains(turn))
        };
        let joined: Vec<&JoinedMessage> = joined.iter().filter(is_new).collect();
        if joined.is_empty() {
            if let Phase::Checkpoint(end) = std::mem::replace(&mut self.phase, Phase::Model) {
                self.phase = Phase::Ended(end);
            }
            return Ok(());
        }
        for one in joined {
            self.push(Arc::new(one.message.clone()));
            self.joined.extend(one.turn.clone());
        }
        self.repairs = 0;
        self.enter_model();
        Ok(())
    }

    /// Why the calls of a message must not run, if so.
    fn refusal(&mut self, message: &Message) -> Option<TurnFailure> {
        let max = self.start.budgets.identical_calls_max;
        let repeated = self.guard.observe(message.tool_calls(), max);
        if let Some((tool, times)) = repeated {
            return Some(TurnFailure::LoopDetected { tool, times });
        }
        self.exhausted()
    }

    /// The budget that is exhausted, if one is.
    fn exhausted(&self) -> Option<TurnFailure> {
        let budgets = &self.start.budgets;
        let spent = self.spent.usage.total();
        if let Some(max) = budgets.tokens_max.filter(|&max| spent > max) {
            return Some(TurnFailure::TokensExhausted { max, spent });
        }
        let spent = self.spent.cost;
        if let Some(max) = budgets.cost_max.filter(|&max| spent > max) {
            return Some(TurnFailure::CostExhausted { max, spent });
        }
        let max_ms = budgets.running_max.map(|max| max.as_millis());
        let max_ms = max_ms.map(|max| u64::try_from(max).unwrap_or(u64::MAX));
        let spent_ms = self.running_ms;
        max_ms
            .filter(|&max| spent_ms > max)
            .map(|max_ms| TurnFailure::RunningTimeExhausted { max_ms, spent_ms })
    }

    fn fail_if_exhausted(&mut self) {
        if let Some(failure) = self.exhausted() {
            self.fail(failure.to_wire());
        }
    }

    fn cost_of(&self, usage: runtime_core::Usage, model: Option<&str>) -> Spent {
        let price = self.start.prices.get(model.unwrap_or_else(|| self.model()));
        let cost = price.map_or(0, |price| price.cost(usage));
        Spent { usage, cost }
    }

    fn spend(&mut self, spent: Spent) {
        self.spent = self.spent.plus(spent);
    }

    fn close_round_if_done(&mut self) {
        if matches!(&self.phase, Phase::Calls(round) if round.is_done()) {
            let before = self.spent;
            self.close_round(UNANSWERED);
            self.enter_model();
            // What calls themselves spent counts like what the model did.
            if self.spent != before {
                self.fail_if_exhausted();
            }
        }
    }

    fn close_round(&mut self, missing: &str) {
        if let Phase::Calls(round) = &self.phase {
            let (message, spent) = (round.message(missing), round.spent);
            self.abandoned.extend(round.all_abandoned());
            self.spend(spent);
            self.push(Arc::new(message));
        }
    }

    fn enter_model(&mut self) {
        let max = self.start.budgets.iterations_max;
        if self.iteration >= max {
            return self.fail(TurnFailure::IterationsExhausted { max }.to_wire());
        }
        let policy = self.start.compaction.as_ref();
        let too_long = policy.is_some_and(|policy| self.context_tokens > policy.context_tokens_max);
        self.phase = match too_long && self.can_compact() {
            true => Phase::Compact(None),
            false => Phase::Model,
        };
    }

    /// Whether there is something before the messages that stay.
    fn can_compact(&self) -> bool {
        let policy = self.start.compaction.as_ref();
        policy.is_some_and(|policy| {
            let seen = self.mark.messages.saturating_sub(self.covered());
            // One more, so that a result need not be parted from its call.
            seen > policy.messages_kept.max(1).saturating_add(1)
        })
    }

    /// Calls whose work goes on outside although nobody will hear of it, if the turn ended now.
    pub(crate) fn all_abandoned(&self) -> Vec<AbandonedCall> {
        let mut abandoned = self.abandoned.clone();
        if let Phase::Calls(round) = &self.phase {
            abandoned.extend(round.all_abandoned());
        }
        abandoned
    }

    fn account(&self) -> crate::end::Account {
        crate::end::Account {
            cost: self.spent.cost,
            running_ms: self.running_ms,
            context_tokens: self.context_tokens,
            joined: self.joined.clone(),
            abandoned: self.abandoned.clone(),
        }
    }

    fn fail(&mut self, error: WireError) {
        self.phase = Phase::Ended(TurnEnd::Failed {
            error,
            iterations: self.iteration,
            usage: self.spent.usage,
            account: self.account(),
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

fn is_overflow(error: &WireError) -> bool {
    let reason = error
        .details
        .as_ref()
        .and_then(|details| details.get("reason"));
    reason.and_then(Value::as_str) == Some("context_overflow")
}

/// Says whether the messages kept may begin here: a result is not parted from its call.
pub(crate) fn may_begin(message: &Message) -> bool {
    message.role != Role::Tool
}
