//! How steps and workflows fail.

use std::any::Any;
use std::error::Error;
use std::fmt;

use runtime_core::{ErrorClass, ProcessOutcome, WireError};

use crate::{Applied, ExecutorError};

/// How a step or a workflow failed. Every error becomes one by `?`; it is then final.
///
/// Of a step, the class decides what follows (C3, E6): what is final is recorded and answered on
/// every replay; what [`retry`](Self::retry) made is tried again, as the step's policy allows;
/// after [`unknown`](Self::unknown) nobody knows whether it happened, so that a step that is not
/// retry-safe is in doubt.
///
/// It is no [`Error`] itself, so that every error can become one; [`error`](Self::error) is.
#[derive(Clone, PartialEq)]
pub struct Failure {
    /// What went wrong.
    pub error: WireError,
    pub(crate) applied: Applied,
}

impl Failure {
    /// It failed for good, with a code of your own.
    #[must_use]
    pub fn new(code: &str, message: impl fmt::Display) -> Self {
        Self::of(code, ErrorClass::Terminal, message, Applied::Unknown)
    }

    /// It did not happen, and trying again may help.
    #[must_use]
    pub fn retry(message: impl fmt::Display) -> Self {
        Self::of(
            "step_unavailable",
            ErrorClass::Unavailable,
            message,
            Applied::No,
        )
    }

    /// Whether it happened is unknown.
    #[must_use]
    pub fn unknown(message: impl fmt::Display) -> Self {
        Self::of(
            "step_unknown",
            ErrorClass::Indeterminate,
            message,
            Applied::Unknown,
        )
    }

    fn of(code: &str, class: ErrorClass, message: impl fmt::Display, applied: Applied) -> Self {
        Self {
            error: WireError::new(code, class, message),
            applied,
        }
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let known: &dyn Any = &error;
        match known.downcast_ref::<WireError>() {
            // What was recorded below keeps its code and class.
            Some(wire) => Self {
                error: wire.clone(),
                applied: Applied::Unknown,
            },
            None => Self::new("workflow_failed", chain(&error)),
        }
    }
}

/// The message of an error and of what caused it.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl From<Failure> for ExecutorError {
    fn from(failure: Failure) -> Self {
        Self {
            error: failure.error,
            applied: failure.applied,
        }
    }
}

impl From<Failure> for ProcessOutcome {
    fn from(failure: Failure) -> Self {
        failure.error.into()
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.error.code, self.error.message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}
