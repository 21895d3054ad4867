//! The tool calls of one model message, and what the record says of each.

use std::collections::BTreeSet;

use runtime_core::{
    CallId, CallReport, CanonicalEncoder, ContentPart, Continuation, Digest, EffectCommand,
    EffectEnvelope, EffectKind, EffectOutcome, EffectOutput, EnvelopeError, ExecutionScope,
    Message, OnCancel, OnTimeout, PendingCall, QUESTION_BYTES_MAX, ReplayKey, Resolution, Role,
    Spent, Timestamp, ToolCall, ToolCallCommand, ToolCallOutput, ToolResult, WaitIdentity,
    WaitOutput, WaitSource,
};
use serde::Deserialize;
use serde_json::Value;

use crate::approval::{Ruling, ruling};
use crate::{TurnError, TurnFailure};

/// Edited arguments up to this size are told to the model in full.
const EDIT_NOTE_BYTES_MAX: usize = 1024;

/// What the record says of a call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum CallState {
    /// Nothing yet, or an approval.
    Open,
    /// The tool answers later, through its promise.
    Pending(PendingCall),
    /// The tool goes on itself once its wait has ended.
    Parked {
        deadline: Option<Timestamp>,
        continuation: Continuation,
    },
    /// The wait of a parked call has ended; the tool is to go on.
    Resumable {
        continuation: Continuation,
        resolution: Resolution,
    },
    /// It has its result.
    Done(ToolResult),
}

/// One call of the message.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    /// The call as the model knows it.
    id: CallId,
    /// What runs: the arguments after edits, and an id that is unique in the turn. It is the
    /// provider's, or, where a provider uses one again, derived from the place: otherwise the
    /// approval of the first call would silently approve the second.
    pub(crate) call: ToolCall,
    digest: Digest,
    edited: bool,
    pub(crate) approved: bool,
    /// How often the tool went on.
    resumed: u32,
    pub(crate) state: CallState,
}

impl Slot {
    fn new(id: CallId, call: ToolCall) -> Self {
        Self {
            id,
            digest: call.arguments_digest(),
            call,
            edited: false,
            approved: false,
            resumed: 0,
            state: CallState::Open,
        }
    }

    /// Says whether the next that happens to it is a call of its tool, once that is allowed.
    pub(crate) const fn is_callable(&self) -> bool {
        matches!(self.state, CallState::Open | CallState::Resumable { .. })
    }

    pub(crate) const fn is_edited(&self) -> bool {
        self.edited
    }

    fn approval(&self) -> WaitIdentity {
        WaitIdentity::approval(&self.call.id, &self.digest)
    }

    fn completion(&self) -> WaitIdentity {
        self.completion_after(self.resumed)
    }

    /// The promise of a call that went on so often: each ends once, so each wait has its own.
    fn completion_after(&self, resumed: u32) -> WaitIdentity {
        let call = match resumed {
            0 => self.call.id.clone(),
            times => derived(
                CanonicalEncoder::new("resumed-call-id")
                    .text(self.call.id.as_str())
                    .unsigned(times.into()),
            ),
        };
        WaitIdentity::ToolCompletion { call }
    }

    fn source(&self, identity: WaitIdentity, asks: Option<String>) -> WaitSource {
        WaitSource::Promise {
            identity,
            call: Some(self.call.id.clone()),
            tool: Some(self.call.name.clone()),
            asks,
        }
    }

    /// What the call waits for.
    fn promise(&self) -> WaitSource {
        let question = match &self.state {
            CallState::Pending(pending) => &pending.question,
            CallState::Parked { continuation, .. } => &continuation.question,
            _ => return self.source(self.approval(), None),
        };
        self.source(self.completion(), question.as_deref().map(shown))
    }

    fn edit(&mut self, arguments: Value) {
        self.call.arguments = arguments;
        self.digest = self.call.arguments_digest();
        self.edited = true;
    }

    fn refuse(&mut self, text: impl Into<String>) {
        self.state = CallState::Done(ToolResult::error(self.id.clone(), text));
    }

    fn finish(&mut self, mut result: ToolResult) {
        result.call = self.id.clone();
        if self.edited {
            let text = edit_note(&self.call.arguments);
            result.content.insert(0, ContentPart::Text { text });
        }
        self.state = CallState::Done(result);
    }

    fn rule(&mut self, resolution: &Resolution) {
        match ruling(resolution) {
            Ruling::Run => self.approved = true,
            Ruling::RunWith(arguments) => {
                self.edit(arguments);
                self.approved = true;
            }
            Ruling::Refuse(text) => self.refuse(text),
        }
    }

    /// Ends the wait of a pending or parked call.
    fn end_wait(&mut self, resolution: &Resolution) -> Spent {
        if let CallState::Parked { continuation, .. } = &self.state {
            self.state = CallState::Resumable {
                continuation: continuation.clone(),
                resolution: resolution.clone(),
            };
            return Spent::default();
        }
        self.complete(resolution)
    }

    fn complete(&mut self, resolution: &Resolution) -> Spent {
        let call = self.id.clone();
        let reports = matches!(&self.state, CallState::Pending(pending) if pending.reports);
        match resolution {
            Resolution::Ok { value } if reports => match CallReport::deserialize(value) {
                Ok(report) => {
                    self.finish(ToolResult {
                        is_error: report.is_error,
                        ..ToolResult::text(call, report.text)
                    });
                    return report.spent;
                }
                Err(_) => self.refuse("the completion of the tool was not understood"),
            },
            Resolution::Ok { value } => self.finish(ToolResult::text(call, value_text(value))),
            Resolution::Err { code, message, .. } => self.refuse(format!("{code}: {message}")),
            Resolution::Timeout => self.refuse(NOT_COMPLETED),
            Resolution::Cancelled => self.refuse("the tool was cancelled"),
            _ => self.refuse("the completion of the tool was not understood"),
        }
        Spent::default()
    }

    /// Takes that a time has come; says whether it meant anything, and whether the turn fails.
    fn expire(&mut self, now: Timestamp, approve_by: Option<Timestamp>) -> (bool, bool) {
        let past = |due: Option<Timestamp>| due.is_some_and(|due| due <= now);
        match &self.state {
            CallState::Open if !self.approved && past(approve_by) => {
                self.refuse("nobody approved this call in time");
                (true, false)
            }
            CallState::Pending(pending) if past(pending.deadline) => {
                let fails = pending.on_timeout == OnTimeout::FailTurn;
                self.refuse(NOT_COMPLETED);
                (true, fails)
            }
            CallState::Parked { deadline, .. } if past(*deadline) => {
                self.end_wait(&Resolution::Timeout);
                (true, false)
            }
            _ => (false, false),
        }
    }

    /// What the tool is told if nobody waits for it any more.
    fn abandoned(&self) -> Option<AbandonedCall> {
        match &self.state {
            CallState::Pending(pending) if pending.on_cancel == OnCancel::Signal => {
                Some(AbandonedCall {
                    call: self.call.id.clone(),
                    tool: self.call.name.clone(),
                    arguments: self.call.arguments.clone(),
                    handle: pending.handle.clone(),
                })
            }
            CallState::Parked { continuation, .. } => Some(AbandonedCall {
                call: self.call.id.clone(),
                tool: self.call.name.clone(),
                arguments: self.call.arguments.clone(),
                handle: Some(continuation.state.clone()),
            }),
            _ => None,
        }
    }

    /// When something happens to it by itself.
    fn due(&self, approve_by: Option<Timestamp>) -> Option<Timestamp> {
        match &self.state {
            CallState::Open => approve_by,
            CallState::Pending(pending) => pending.deadline,
            CallState::Parked { deadline, .. } => *deadline,
            _ => None,
        }
    }

    /// The arguments as the record of an effect names them: going on is another act than the
    /// call, and each end of a wait another than the next.
    fn effect_arguments(&self) -> Digest {
        let CallState::Resumable {
            continuation,
            resolution,
        } = &self.state
        else {
            return self.digest;
        };
        let resolution = serde_json::to_value(resolution).expect("a resolution is plain data");
        CanonicalEncoder::new("tool-resumption")
            .bytes(self.digest.as_bytes())
            .json(&continuation.state)
            .json(&resolution)
            .digest()
    }
}

/// The part of a question that a wait shows: an envelope is bounded, and a question may deceive.
fn shown(question: &str) -> String {
    let mut text: String = question
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    text.truncate(text.floor_char_boundary(QUESTION_BYTES_MAX));
    text
}

const NOT_COMPLETED: &str = "the tool was not completed in time";

fn edit_note(arguments: &Value) -> String {
    let text = arguments.to_string();
    if text.len() <= EDIT_NOTE_BYTES_MAX {
        format!("[a person edited the arguments; the call ran with {text}]")
    } else {
        "[a person edited the arguments before the call ran]".to_owned()
    }
}

fn value_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The calls of one message.
#[derive(Debug, Clone)]
pub(crate) struct Round {
    scope: ExecutionScope,
    iteration: u32,
    pub(crate) slots: Vec<Slot>,
    waits_ended: u32,
    /// When calls that nobody approved are refused.
    approve_by: Option<Timestamp>,
    /// Why the turn fails, if a call was not completed in time that must be.
    pub(crate) failure: Option<TurnFailure>,
    /// What ended calls say that they spent.
    pub(crate) spent: Spent,
    /// Calls whose work outside goes on although nobody waits for it any more.
    pub(crate) abandoned: Vec<AbandonedCall>,
}

/// A call whose work goes on outside although nobody waits for it any more, and whose tool wants
/// to be told (T5).
#[derive(Debug, Clone, PartialEq)]
pub struct AbandonedCall {
    /// What the tool was told as the id of the call.
    pub call: CallId,
    /// The public name of the tool.
    pub tool: String,
    /// The arguments that ran.
    pub arguments: Value,
    /// What the tool gave to be told again.
    pub handle: Option<Value>,
}

impl Round {
    /// Starts the round of a message, in which the first `calls_max` calls may run. `used` are
    /// the call ids of the turn so far.
    pub(crate) fn new(
        scope: &ExecutionScope,
        iteration: u32,
        message: &Message,
        calls_max: u32,
        approve_by: Option<Timestamp>,
        used: &mut BTreeSet<CallId>,
    ) -> Self {
        let mut round = Self {
            scope: scope.clone(),
            iteration,
            slots: Vec::new(),
            waits_ended: 0,
            approve_by,
            failure: None,
            spent: Spent::default(),
            abandoned: Vec::new(),
        };
        for (ordinal, call) in message.tool_calls().enumerate() {
            let runs = ToolCall {
                id: address(call, iteration, ordinal, used),
                ..call.clone()
            };
            round.slots.push(Slot::new(call.id.clone(), runs));
        }
        let calls_max = usize::try_from(calls_max).unwrap_or(usize::MAX);
        for slot in round.slots.iter_mut().skip(calls_max) {
            slot.refuse(format!("not run: a message may ask for {calls_max} calls"));
        }
        for ordinal in 0..round.slots.len() {
            round.refuse_unaddressable(ordinal);
        }
        round
    }

    /// Returns the envelope of a call; whether it may run twice is for the catalogue to say.
    pub(crate) fn envelope(&self, ordinal: usize) -> Result<EffectEnvelope, EnvelopeError> {
        let slot = &self.slots[ordinal];
        EffectEnvelope::new(
            self.scope.clone(),
            self.call_key(ordinal),
            EffectCommand::ToolCall(ToolCallCommand {
                call: slot.call.id.clone(),
                tool: slot.call.name.clone(),
                arguments: slot.effect_arguments(),
            }),
        )
    }

    /// Returns the wait of the calls given, as many of them as one envelope names.
    pub(crate) fn wait(&self, ordinals: &[usize]) -> Option<EffectEnvelope> {
        let first = *ordinals.first()?;
        let mut fitting = None;
        for count in 1..=ordinals.len() {
            let named = &ordinals[..count];
            let dues = named
                .iter()
                .filter_map(|&at| self.slots[at].due(self.approve_by));
            let until = dues.min().map(|due| WaitSource::Until { due });
            let promises = named.iter().map(|&at| self.slots[at].promise());
            let sources = until.into_iter().chain(promises).collect();
            match self.wait_envelope(first, self.waits_ended, sources) {
                Ok(envelope) => fitting = Some(envelope),
                Err(_) => break,
            }
        }
        fitting
    }

    /// What is set aside for calls that have not ended.
    pub(crate) fn reserved(&self) -> Spent {
        let pending = self.slots.iter().filter_map(|slot| match &slot.state {
            CallState::Pending(pending) => Some(pending.reserve),
            _ => None,
        });
        pending.fold(Spent::default(), |sum, reserve| {
            let mut reserved = Spent::default();
            reserved.usage.input_tokens = reserve.tokens.unwrap_or(0);
            reserved.cost = reserve.cost.unwrap_or(0);
            sum.plus(reserved)
        })
    }

    fn wait_envelope(
        &self,
        first: usize,
        waits_ended: u32,
        sources: Vec<WaitSource>,
    ) -> Result<EffectEnvelope, EnvelopeError> {
        let key = ReplayKey::turn(self.iteration, EffectKind::AwaitEvent, ordinal(first))
            .child(&format!("after{waits_ended}"))?;
        let command = EffectCommand::AwaitEvent { sources };
        let envelope = EffectEnvelope::new(self.scope.clone(), key, command)?;
        Ok(envelope.retry_safe(true))
    }

    /// Returns the call that a key addresses.
    pub(crate) fn ordinal_of(&self, key: &ReplayKey) -> Option<usize> {
        let last = key.as_str().rsplit('.').next()?;
        let ordinal = last.split('/').next()?.parse().ok()?;
        let named = ordinal < self.slots.len() && self.call_key(ordinal) == *key;
        named.then_some(ordinal)
    }

    /// Takes the outcome of a call.
    pub(crate) fn take_call(
        &mut self,
        key: &ReplayKey,
        ordinal: usize,
        outcome: &EffectOutcome,
    ) -> Result<(), TurnError> {
        let slot = &mut self.slots[ordinal];
        if !slot.is_callable() {
            return Err(TurnError::UnexpectedOutcome { key: key.clone() });
        }
        let went_on = matches!(slot.state, CallState::Resumable { .. });
        match outcome {
            EffectOutcome::Completed(EffectOutput::ToolCall(ToolCallOutput::Finished {
                result,
                spent,
            })) => {
                slot.finish(result.clone());
                self.spent = self.spent.plus(spent.unwrap_or_default());
            }
            EffectOutcome::Completed(EffectOutput::ToolCall(ToolCallOutput::Pending(pending))) => {
                slot.state = CallState::Pending(pending.clone());
            }
            EffectOutcome::Completed(EffectOutput::ToolCall(ToolCallOutput::Parked {
                deadline,
                continuation,
            })) => {
                slot.state = CallState::Parked {
                    deadline: *deadline,
                    continuation: continuation.clone(),
                };
            }
            EffectOutcome::Completed(_) => {
                return Err(TurnError::WrongOutcome { key: key.clone() });
            }
            EffectOutcome::Failed(error) => {
                slot.refuse(format!("{}: {}", error.code, error.message));
            }
        }
        slot.resumed += u32::from(went_on);
        Ok(())
    }

    /// Takes the outcome of a wait over these sources.
    pub(crate) fn take_wait(
        &mut self,
        key: &ReplayKey,
        sources: &[WaitSource],
        outcome: &EffectOutcome,
    ) -> Result<(), TurnError> {
        let wrong = || TurnError::WrongOutcome { key: key.clone() };
        match outcome {
            EffectOutcome::Completed(EffectOutput::AwaitEvent(WaitOutput::Resolved {
                source,
                resolution,
            })) => {
                let at = usize::try_from(*source).map_err(|_| wrong())?;
                let identity = match sources.get(at) {
                    Some(WaitSource::Promise { identity, .. }) => identity,
                    _ => return Err(wrong()),
                };
                self.resolve(identity, resolution).ok_or_else(wrong)?;
            }
            EffectOutcome::Completed(EffectOutput::AwaitEvent(WaitOutput::Elapsed {
                due, ..
            })) => self.expire(sources, *due).ok_or_else(wrong)?,
            EffectOutcome::Completed(_) => return Err(wrong()),
            EffectOutcome::Failed(error) => {
                let text = format!("{}: {}", error.code, error.message);
                self.fail_waiting(sources, &text).ok_or_else(wrong)?;
            }
        }
        self.waits_ended += 1;
        Ok(())
    }

    fn resolve(&mut self, identity: &WaitIdentity, resolution: &Resolution) -> Option<()> {
        let ordinal = self.waiting_on(identity)?;
        let slot = &mut self.slots[ordinal];
        let mut spent = Spent::default();
        match slot.state {
            CallState::Pending(_) | CallState::Parked { .. } => spent = slot.end_wait(resolution),
            _ => slot.rule(resolution),
        }
        self.spent = self.spent.plus(spent);
        self.refuse_unaddressable(ordinal);
        Some(())
    }

    fn expire(&mut self, sources: &[WaitSource], now: Timestamp) -> Option<()> {
        let mut any = false;
        for ordinal in self.named(sources)? {
            let slot = &mut self.slots[ordinal];
            let open = slot.abandoned();
            let (meant, fails) = slot.expire(now, self.approve_by);
            if matches!(slot.state, CallState::Done(_)) {
                self.abandoned.extend(open);
            }
            any |= meant;
            if fails {
                let tool = slot.call.name.clone();
                self.failure = Some(TurnFailure::CompletionTimedOut { tool });
            }
            self.refuse_unaddressable(ordinal);
        }
        any.then_some(())
    }

    fn fail_waiting(&mut self, sources: &[WaitSource], text: &str) -> Option<()> {
        for ordinal in self.named(sources)? {
            self.slots[ordinal].refuse(text);
        }
        Some(())
    }

    /// The calls whose promises a wait names; none if one of them does not wait.
    fn named(&self, sources: &[WaitSource]) -> Option<Vec<usize>> {
        let identities = sources.iter().filter_map(|source| match source {
            WaitSource::Promise { identity, .. } => Some(identity),
            _ => None,
        });
        identities
            .map(|identity| self.waiting_on(identity))
            .collect()
    }

    fn waiting_on(&self, identity: &WaitIdentity) -> Option<usize> {
        self.slots.iter().position(|slot| match slot.state {
            CallState::Open => !slot.approved && slot.approval() == *identity,
            CallState::Pending(_) | CallState::Parked { .. } => slot.completion() == *identity,
            CallState::Resumable { .. } | CallState::Done(_) => false,
        })
    }

    /// Calls that still wait, or were given up before: nobody will hear of their work.
    pub(crate) fn all_abandoned(&self) -> Vec<AbandonedCall> {
        let open = self.slots.iter().filter_map(Slot::abandoned);
        self.abandoned.iter().cloned().chain(open).collect()
    }

    /// Says whether somebody's answer would still be heard.
    pub(crate) fn awaits(&self, identity: &WaitIdentity) -> bool {
        self.waiting_on(identity).is_some()
    }

    /// Returns the call that waits for a promise.
    pub(crate) fn call_of(&self, identity: &WaitIdentity) -> Option<CallId> {
        let at = self.waiting_on(identity)?;
        Some(self.slots[at].call.id.clone())
    }

    /// Says whether every call has its result.
    pub(crate) fn is_done(&self) -> bool {
        let done = |slot: &Slot| matches!(slot.state, CallState::Done(_));
        self.slots.iter().all(done)
    }

    /// Returns the one message of all results, in the order of the calls. Calls without a result
    /// get one that says so: a provider takes no call without its result.
    pub(crate) fn message(&self, missing: &str) -> Message {
        let results = self.slots.iter().map(|slot| {
            ContentPart::ToolResult(match &slot.state {
                CallState::Done(result) => result.clone(),
                _ => ToolResult::error(slot.id.clone(), missing),
            })
        });
        Message {
            role: Role::Tool,
            content: results.collect(),
        }
    }

    /// The address of what runs next of a call: the call itself, then each time it goes on.
    fn call_key(&self, at: usize) -> ReplayKey {
        let key = ReplayKey::turn(self.iteration, EffectKind::ToolCall, ordinal(at));
        let slot = &self.slots[at];
        match slot.state {
            CallState::Resumable { .. } => key
                .child(&format!("resume{}", slot.resumed))
                .expect("a short suffix of a short key"),
            _ => key,
        }
    }

    /// A call that no envelope can name (a blank or endless name) is answered without an effect.
    fn refuse_unaddressable(&mut self, ordinal: usize) {
        if !self.slots[ordinal].is_callable() {
            return;
        }
        let addressable = self.envelope(ordinal).and(self.largest_wait(ordinal));
        if let Err(error) = addressable {
            self.slots[ordinal].refuse(format!("call cannot be made: {error}"));
        }
    }

    /// The largest wait of a single call: checked when its round begins, so that each later wait
    /// names at least one call.
    fn largest_wait(&self, ordinal: usize) -> Result<EffectEnvelope, EnvelopeError> {
        let due = Timestamp::from_millis(u64::MAX);
        let slot = &self.slots[ordinal];
        // Each of these characters takes two bytes of JSON.
        let asks = "\"".repeat(QUESTION_BYTES_MAX);
        let of = |resumed| slot.source(slot.completion_after(resumed), Some(asks.clone()));
        let wait =
            |source| self.wait_envelope(ordinal, u32::MAX, vec![WaitSource::Until { due }, source]);
        wait(of(0)).and(wait(of(u32::MAX)))
    }
}

fn ordinal(at: usize) -> u32 {
    u32::try_from(at).expect("a message has far fewer than 2^32 parts")
}

fn address(call: &ToolCall, iteration: u32, ordinal: usize, used: &mut BTreeSet<CallId>) -> CallId {
    if used.insert(call.id.clone()) {
        return call.id.clone();
    }
    derived(
        CanonicalEncoder::new("repeated-call-id")
            .text(call.id.as_str())
            .unsigned(iteration.into())
            .unsigned(ordinal as u64),
    )
}

fn derived(identity: CanonicalEncoder) -> CallId {
    CallId::new(identity.digest().to_string()).expect("64 hexadecimal digits")
}
