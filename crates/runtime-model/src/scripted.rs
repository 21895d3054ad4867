//! The model that answers from a script.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use runtime_core::{Clock, ErrorClass, FinishReason, ModelEvent, ModelRequest};

use crate::script::{self, Attempt};
use crate::{Model, ModelError, ModelStream, ScriptStep};

/// How many failing calls have their attempts counted at once; the first key in order is
/// forgotten beyond that.
const COUNTED_CALLS_MAX: usize = 1024;

/// How many pieces of an answer wait for the pace.
const PACED_EVENTS: usize = 256;

/// A model that answers from a script, deterministic and without a service.
///
/// # Law
/// - Which answer comes is a function of the request alone: step `k` answers when `k` messages of
///   the model follow the last user message. A process that starts again goes on where the
///   conversation is. (Only the attempts of [`ScriptStep::failing_first`] are counted in memory.)
/// - A call's id is made from the idempotency key, so it is the same on every attempt and another
///   in every turn.
/// - Text comes in pieces of a few characters.
/// - With a call log, each attempt appends its line before anything is answered: what is in
///   the log was asked, also when the process was killed right after.
#[derive(Debug)]
pub struct ScriptedModel {
    name: String,
    steps: Vec<ScriptStep>,
    for_inputs: Vec<(String, Vec<ScriptStep>)>,
    piece_chars: usize,
    pace: Option<(Arc<dyn Clock>, Duration)>,
    call_log: Option<PathBuf>,
    attempts: Mutex<BTreeMap<String, u32>>,
}

impl ScriptedModel {
    /// Makes a model that gives these answers, one after the other, to each input.
    #[must_use]
    pub fn new(name: impl Into<String>, steps: Vec<ScriptStep>) -> Self {
        Self {
            name: name.into(),
            steps,
            for_inputs: Vec::new(),
            piece_chars: 4,
            pace: None,
            call_log: None,
            attempts: Mutex::default(),
        }
    }

    /// Gives other answers to inputs that contain this text; the first that fits counts.
    #[must_use]
    pub fn when_input_contains(mut self, text: impl Into<String>, steps: Vec<ScriptStep>) -> Self {
        self.for_inputs.push((text.into(), steps));
        self
    }

    /// Sets how many characters a piece has at most, otherwise 4; at least 1.
    #[must_use]
    pub fn with_piece_chars(mut self, piece_chars: usize) -> Self {
        self.piece_chars = piece_chars.max(1);
        self
    }

    /// Waits before each piece, so that a person can watch; before the first 256 of an answer
    /// only, so that a long one does not take for ever.
    #[must_use]
    pub fn with_pace(mut self, clock: Arc<dyn Clock>, pause: Duration) -> Self {
        self.pace = Some((clock, pause));
        self
    }

    /// Appends a line with the idempotency key to this file for each attempt, so that a test can
    /// see that a recorded call is not made again.
    ///
    /// The line has been handed to the operating system before the answer begins: it survives the
    /// kill of the process, not the loss of power.
    #[must_use]
    pub fn with_call_log(mut self, path: impl Into<PathBuf>) -> Self {
        self.call_log = Some(path.into());
        self
    }

    fn steps_for(&self, request: &ModelRequest) -> &[ScriptStep] {
        let input = script::last_input(&request.messages);
        self.for_inputs
            .iter()
            .find(|(text, _)| input.contains(text))
            .map_or(&self.steps, |(_, steps)| steps)
    }

    fn step(&self, request: &ModelRequest) -> Result<&ScriptStep, ModelError> {
        let steps = self.steps_for(request);
        let index = script::step_index(&request.messages);
        steps.get(index).ok_or_else(|| {
            let message = format!(
                "the script ends after {} answers; answer {} was asked for",
                steps.len(),
                index + 1
            );
            self.error("model_script_ended", ErrorClass::Invalid, message)
        })
    }

    fn log_call(&self, idempotency_key: &str) -> Result<(), ModelError> {
        let Some(path) = &self.call_log else {
            return Ok(());
        };
        let line: String = idempotency_key
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .chain(['\n'])
            .collect();
        // One write in append mode: lines of two processes do not run into each other.
        let append = || -> io::Result<()> {
            let mut file = OpenOptions::new().append(true).create(true).open(path)?;
            file.write_all(line.as_bytes())
        };
        append().map_err(|error| {
            let message = format!("cannot append to the call log {}: {error}", path.display());
            self.error("model_call_log_failed", ErrorClass::Unavailable, message)
        })
    }

    fn count_attempt(&self, idempotency_key: &str) -> u32 {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        let attempt = attempts.entry(idempotency_key.to_owned()).or_default();
        *attempt = attempt.saturating_add(1);
        let attempt = *attempt;
        if attempts.len() > COUNTED_CALLS_MAX {
            attempts.pop_first();
        }
        attempt
    }

    fn attempt(&self, step: &ScriptStep, idempotency_key: &str) -> Attempt {
        let attempt = if step.counts_attempts() {
            self.count_attempt(idempotency_key)
        } else {
            1
        };
        step.attempt(attempt)
    }

    fn error(&self, code: &'static str, class: ErrorClass, message: String) -> ModelError {
        ModelError {
            provider: self.provider().to_owned(),
            model: self.name.clone(),
            code,
            class,
            reason: FinishReason::ProviderError,
            message,
            provider_code: None,
            retry_after: None,
        }
    }

    fn paced(&self, events: Vec<Result<ModelEvent, ModelError>>) -> ModelStream<'_> {
        let Some((clock, pause)) = &self.pace else {
            return Box::pin(stream::iter(events));
        };
        let events = events.into_iter().enumerate();
        Box::pin(stream::unfold(events, move |mut events| async move {
            let (at, event) = events.next()?;
            if at < PACED_EVENTS && matches!(event, Ok(ModelEvent::TextDelta { .. })) {
                clock.sleep(*pause).await;
            }
            Some((event, events))
        }))
    }
}

#[async_trait]
impl Model for ScriptedModel {
    fn provider(&self) -> &str {
        "scripted"
    }

    fn name(&self) -> &str {
        &self.name
    }

    async fn stream(&self, request: ModelRequest) -> Result<ModelStream<'_>, ModelError> {
        self.log_call(&request.idempotency_key)?;
        let step = self.step(&request)?;
        let attempt = self.attempt(step, &request.idempotency_key);
        if let Attempt::Fail(error) = attempt {
            return Err(error);
        }
        let events = step.events(&request, self.piece_chars).map_err(|error| {
            let message = format!("a call of the script cannot have that id suffix: {error}");
            self.error("model_script_invalid", ErrorClass::Invalid, message)
        })?;
        let mut events: Vec<_> = events.into_iter().map(Ok).collect();
        if let Attempt::Break(error) = attempt {
            events.pop();
            events.push(Err(error));
        }
        Ok(self.paced(events))
    }
}
