//! What follows from an attempt: record, try again, or report in doubt. No I/O.

use std::time::Duration;

use runtime_core::{EffectOutcome, EffectOutput, ErrorClass, RetryPolicy, WireError};
use serde_json::json;

use crate::{Applied, ExecutorError};

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum AttemptEnd {
    /// It returned.
    Returned(Result<EffectOutput, ExecutorError>),
    /// It panicked with this text.
    Panicked(String),
    /// It took longer than its policy allows.
    TimedOut,
    /// Its scope was cancelled.
    Cancelled,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum AfterAttempt {
    /// Record this outcome.
    Record(EffectOutcome),
    /// Record that the attempt failed, then try again after a pause.
    Retry { error: WireError, pause: Duration },
    /// Record that the attempt failed, keep the effect open, and unwind with the error: such a
    /// class is never recorded as an outcome (C3).
    Surrender(WireError),
    /// Record that nobody knows whether it happened (E7).
    InDoubt(WireError),
    /// Nothing happened that must be remembered: unwind as cancelled.
    Cancelled,
}

/// Decides what follows from attempt number `attempt` (C3, E6, E7).
pub(crate) fn after_attempt(
    end: AttemptEnd,
    attempt: u32,
    retry_safe: bool,
    policy: &RetryPolicy,
) -> AfterAttempt {
    let ExecutorError { error, applied } = match end {
        AttemptEnd::Returned(Ok(output)) => {
            return AfterAttempt::Record(EffectOutcome::Completed(output));
        }
        AttemptEnd::Cancelled if retry_safe => return AfterAttempt::Cancelled,
        AttemptEnd::Returned(Err(error)) => error,
        AttemptEnd::Panicked(text) => unknown(
            "effect_panicked",
            ErrorClass::Indeterminate,
            format!("the executor panicked: {text}"),
        ),
        AttemptEnd::TimedOut => unknown(
            "effect_attempt_timed_out",
            ErrorClass::TimedOut,
            format!("no answer within {:?}", policy.attempt_timeout),
        ),
        AttemptEnd::Cancelled => unknown(
            "effect_attempt_cancelled",
            ErrorClass::Cancelled,
            "cancelled while it ran".to_owned(),
        ),
    };
    if error.class.is_final() {
        return AfterAttempt::Record(EffectOutcome::Failed(error));
    }
    if applied == Applied::Unknown && !retry_safe {
        return AfterAttempt::InDoubt(error);
    }
    match error.class {
        ErrorClass::Conflict | ErrorClass::Gap | ErrorClass::Corrupt | ErrorClass::Fenced => {
            AfterAttempt::Surrender(error)
        }
        _ if attempt >= policy.max_attempts => {
            AfterAttempt::Record(EffectOutcome::Failed(exhausted(&error, attempt)))
        }
        _ => AfterAttempt::Retry {
            error,
            pause: backoff(policy, attempt),
        },
    }
}

fn unknown(code: &str, class: ErrorClass, message: String) -> ExecutorError {
    ExecutorError {
        error: WireError::new(code, class, message),
        applied: Applied::Unknown,
    }
}

fn exhausted(last: &WireError, attempts: u32) -> WireError {
    let message = format!("all {attempts} attempts failed, the last one with: {last}");
    WireError {
        details: Some(json!({ "attempts": attempts, "last": last })),
        ..WireError::new("effect_attempts_exhausted", ErrorClass::Terminal, message)
    }
}

/// The pause after that attempt: it doubles each time, up to its maximum.
pub(crate) fn backoff(policy: &RetryPolicy, attempt: u32) -> Duration {
    let doublings = attempt.saturating_sub(1).min(31);
    policy
        .backoff_initial
        .saturating_mul(1 << doublings)
        .min(policy.backoff_max)
}
