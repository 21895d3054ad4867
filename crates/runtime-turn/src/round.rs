//! The tool calls of one model message, and what the record says of each.

use std::collections::BTreeSet;

use runtime_core::{
    CallId, CanonicalEncoder, ContentPart, Continuation, Digest, EffectCommand, EffectEnvelope,
    EffectKind, EffectOutcome, EffectOutput, EnvelopeError, ExecutionScope, Message,
    QUESTION_BYTES_MAX, ReplayKey, Resolution, Role, Timestamp, ToolCall, ToolCallCommand,
    ToolCallOutput, ToolResult, WaitIdentity, WaitOutput, WaitSource,
};
use serde_json::Value;

use crate::TurnError;
use crate::approval::{Ruling, ruling};

/// Edited arguments up to this size are told to the model in full.
const EDIT_NOTE_BYTES_MAX: usize = 1024;

/// What the record says of a call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum CallState {
    /// Nothing yet, or an approval.
    Open,
    /// The tool answers later, through its promise; with a continuation it goes on itself.
    Pending {
        deadline: Option<Timestamp>,
        continuation: Option<Continuation>,
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
    pub(crate) state: CallState,
    /// How often the tool went on.
    resumed: u32,
}

impl Slot {
    fn new(id: CallId, call: ToolCall) -> Self {
        Self {
            id,
            digest: call.arguments_digest(),
            call,
            edited: false,
            approved: false,
            state: CallState::Open,
            resumed: 0,
        }
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
        match &self.state {
            CallState::Pending { continuation, .. } => {
                let question = continuation
                    .as_ref()
                    .and_then(|left| left.question.as_ref());
                self.source(self.completion(), question.map(|text| shown(text)))
            }
            _ => self.source(self.approval(), None),
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

    /// Ends the wait of a pending call.
    fn end_wait(&mut self, resolution: &Resolution) {
        let parked = match &mut self.state {
            CallState::Pending { continuation, .. } => continuation.take(),
            _ => None,
        };
        match parked {
            Some(continuation) => {
                self.state = CallState::Resumable {
                    continuation,
                    resolution: resolution.clone(),
                };
            }
            None => self.complete(resolution),
        }
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

    fn complete(&mut self, resolution: &Resolution) {
        let call = self.id.clone();
        match resolution {
            Resolution::Ok { value } => self.finish(ToolResult::text(call, value_text(value))),
            Resolution::Err { code, message, .. } => self.refuse(format!("{code}: {message}")),
            Resolution::Timeout => self.refuse("the tool was not completed in time"),
            Resolution::Cancelled => self.refuse("the tool was cancelled"),
            _ => self.refuse("the completion of the tool was not understood"),
        }
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
}

impl Round {
    /// Starts the round of a message, in which the first `calls_max` calls may run. `used` are
    /// the call ids of the turn so far.
    pub(crate) fn new(
        scope: &ExecutionScope,
        iteration: u32,
        message: &Message,
        calls_max: u32,
        used: &mut BTreeSet<CallId>,
    ) -> Self {
        let mut round = Self {
            scope: scope.clone(),
            iteration,
            slots: Vec::new(),
            waits_ended: 0,
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
        let mut sources: Vec<WaitSource> = self.earliest_deadline(ordinals).into_iter().collect();
        let mut fitting = None;
        for &at in ordinals {
            sources.push(self.slots[at].promise());
            match self.wait_envelope(first, self.waits_ended, sources.clone()) {
                Ok(envelope) => fitting = Some(envelope),
                Err(_) => break,
            }
        }
        fitting
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

    fn earliest_deadline(&self, ordinals: &[usize]) -> Option<WaitSource> {
        let deadlines = ordinals
            .iter()
            .filter_map(|&at| match self.slots[at].state {
                CallState::Pending { deadline, .. } => deadline,
                _ => None,
            });
        deadlines.min().map(|due| WaitSource::Until { due })
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
        match slot.state {
            CallState::Open => {}
            CallState::Resumable { .. } => slot.resumed += 1,
            _ => return Err(TurnError::UnexpectedOutcome { key: key.clone() }),
        }
        match outcome {
            EffectOutcome::Completed(EffectOutput::ToolCall(ToolCallOutput::Finished {
                result,
            })) => slot.finish(result.clone()),
            EffectOutcome::Completed(EffectOutput::ToolCall(ToolCallOutput::Pending {
                deadline,
            })) => {
                slot.state = CallState::Pending {
                    deadline: *deadline,
                    continuation: None,
                };
            }
            EffectOutcome::Completed(EffectOutput::ToolCall(ToolCallOutput::Parked {
                deadline,
                continuation,
            })) => {
                slot.state = CallState::Pending {
                    deadline: *deadline,
                    continuation: Some(continuation.clone()),
                };
            }
            EffectOutcome::Completed(_) => {
                return Err(TurnError::WrongOutcome { key: key.clone() });
            }
            EffectOutcome::Failed(error) => {
                slot.refuse(format!("{}: {}", error.code, error.message));
            }
        }
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
            })) => self.expire(*due).ok_or_else(wrong)?,
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
        match slot.state {
            CallState::Pending { .. } => slot.end_wait(resolution),
            _ => slot.rule(resolution),
        }
        self.refuse_unaddressable(ordinal);
        Some(())
    }

    fn expire(&mut self, now: Timestamp) -> Option<()> {
        let due = |slot: &&mut Slot| matches!(slot.state, CallState::Pending { deadline: Some(deadline), .. } if deadline <= now);
        let expired: Vec<_> = self.slots.iter_mut().filter(due).collect();
        let any = !expired.is_empty();
        for slot in expired {
            slot.end_wait(&Resolution::Timeout);
        }
        any.then_some(())
    }

    fn fail_waiting(&mut self, sources: &[WaitSource], text: &str) -> Option<()> {
        let identities = sources.iter().filter_map(|source| match source {
            WaitSource::Promise { identity, .. } => Some(identity),
            _ => None,
        });
        let waiting: Option<Vec<usize>> = identities
            .map(|identity| self.waiting_on(identity))
            .collect();
        for ordinal in waiting? {
            self.slots[ordinal].refuse(text);
        }
        Some(())
    }

    fn waiting_on(&self, identity: &WaitIdentity) -> Option<usize> {
        self.slots.iter().position(|slot| match slot.state {
            CallState::Open => !slot.approved && slot.approval() == *identity,
            CallState::Pending { .. } => slot.completion() == *identity,
            CallState::Resumable { .. } | CallState::Done(_) => false,
        })
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
        if self.slots[ordinal].state != CallState::Open {
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
