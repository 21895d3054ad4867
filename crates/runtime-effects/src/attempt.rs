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
    /// The lease of its instance was about to end.
    LeaseEnded,
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
    /// Record nothing: what follows is for the next owner to decide.
    LetGo,
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
        AttemptEnd::LeaseEnded => return AfterAttempt::LetGo,
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
            pause: pause(policy, attempt, &error),
            error,
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

/// The pause after that attempt: what the policy says, or as long as the other side asks for if
/// that is longer. The policy's longest pause bounds both: nobody parks a turn for years.
fn pause(policy: &RetryPolicy, attempt: u32, error: &WireError) -> Duration {
    let asked = error.retry_after().unwrap_or_default();
    backoff(policy, attempt).max(asked).min(policy.backoff_max)
}

/// The pause after that attempt: it doubles each time, up to its maximum.
pub(crate) fn backoff(policy: &RetryPolicy, attempt: u32) -> Duration {
    let doublings = attempt.saturating_sub(1).min(31);
    policy
        .backoff_initial
        .saturating_mul(1 << doublings)
        .min(policy.backoff_max)
}

#[cfg(test)]
mod tests {
    use runtime_core::RETRY_AFTER_MS;
    use serde_json::json;

    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        max_attempts: 3,
        backoff_initial: Duration::from_millis(100),
        backoff_max: Duration::from_millis(350),
        attempt_timeout: Duration::from_secs(1),
    };

    const CLASSES: [ErrorClass; 13] = [
        ErrorClass::Invalid,
        ErrorClass::NotFound,
        ErrorClass::Conflict,
        ErrorClass::Busy,
        ErrorClass::Unsupported,
        ErrorClass::Cancelled,
        ErrorClass::TimedOut,
        ErrorClass::Unavailable,
        ErrorClass::Indeterminate,
        ErrorClass::Gap,
        ErrorClass::Corrupt,
        ErrorClass::Fenced,
        ErrorClass::Terminal,
    ];

    fn failed(class: ErrorClass, applied: Applied) -> AttemptEnd {
        let error = WireError::new("test_failure", class, "the test wants it so");
        AttemptEnd::Returned(Err(ExecutorError { error, applied }))
    }

    /// C3, E6, E7: every class, whether it had an effect, whether it may run again.
    #[test]
    fn e6_each_class_has_its_consequence() {
        for class in CLASSES {
            for applied in [Applied::No, Applied::Unknown] {
                for retry_safe in [true, false] {
                    let after = after_attempt(failed(class, applied), 1, retry_safe, &POLICY);
                    let at = format!("{class} {applied:?} {retry_safe}: {after:?}");
                    let doubtful = applied == Applied::Unknown && !retry_safe;
                    let right = match class {
                        ErrorClass::Invalid
                        | ErrorClass::NotFound
                        | ErrorClass::Unsupported
                        | ErrorClass::Terminal => matches!(
                            after,
                            AfterAttempt::Record(EffectOutcome::Failed(ref error))
                                if error.class == class
                        ),
                        _ if doubtful => matches!(after, AfterAttempt::InDoubt(_)),
                        ErrorClass::Conflict
                        | ErrorClass::Gap
                        | ErrorClass::Corrupt
                        | ErrorClass::Fenced => matches!(after, AfterAttempt::Surrender(_)),
                        _ => matches!(after, AfterAttempt::Retry { .. }),
                    };
                    assert!(right, "{at}");
                }
            }
        }
    }

    #[test]
    fn e6_the_last_attempt_is_final_unless_it_is_in_doubt() {
        let last = after_attempt(failed(ErrorClass::Busy, Applied::No), 3, false, &POLICY);
        let AfterAttempt::Record(EffectOutcome::Failed(error)) = last else {
            panic!("{last:?}");
        };
        assert_eq!(error.code, "effect_attempts_exhausted");
        assert!(error.class.is_final());
        let lost = failed(ErrorClass::Busy, Applied::Unknown);
        assert!(matches!(
            after_attempt(lost, 3, false, &POLICY),
            AfterAttempt::InDoubt(_)
        ));
    }

    #[test]
    fn e7_what_ended_without_an_answer_is_in_doubt_unless_it_may_run_again() {
        let ends = || {
            [
                AttemptEnd::Panicked("text".to_owned()),
                AttemptEnd::TimedOut,
                AttemptEnd::Cancelled,
            ]
        };
        for end in ends() {
            let after = after_attempt(end, 1, false, &POLICY);
            assert!(matches!(after, AfterAttempt::InDoubt(_)), "{after:?}");
        }
        let [panicked, timed_out, cancelled] =
            ends().map(|end| after_attempt(end, 1, true, &POLICY));
        assert!(
            matches!(panicked, AfterAttempt::Retry { .. }),
            "{panicked:?}"
        );
        assert!(
            matches!(timed_out, AfterAttempt::Retry { .. }),
            "{timed_out:?}"
        );
        assert_eq!(cancelled, AfterAttempt::Cancelled);
    }

    #[test]
    fn e6_an_output_is_recorded() {
        let output = EffectOutput::DurableStep { value: json!(1) };
        let after = after_attempt(AttemptEnd::Returned(Ok(output.clone())), 9, false, &POLICY);
        assert_eq!(
            after,
            AfterAttempt::Record(EffectOutcome::Completed(output))
        );
    }

    #[test]
    fn e6_pauses_double_up_to_their_maximum() {
        let pauses = [1, 2, 3, 4, 99].map(|attempt| backoff(&POLICY, attempt).as_millis());
        assert_eq!(pauses, [100, 200, 350, 350, 350]);
    }

    #[test]
    fn e6_a_pause_is_as_long_as_the_other_side_asks_up_to_the_maximum() {
        let pause = |asked: Option<u64>| {
            let mut error = WireError::new("test_failure", ErrorClass::Busy, "too many");
            error.details = asked.map(|ms| json!({ RETRY_AFTER_MS: ms }));
            pause(&POLICY, 2, &error).as_millis()
        };
        assert_eq!(pause(None), 200);
        assert_eq!(pause(Some(50)), 200, "the policy waits longer");
        assert_eq!(pause(Some(300)), 300);
        assert_eq!(
            pause(Some(u64::MAX)),
            350,
            "no pause is longer than the policy's"
        );
    }
}
