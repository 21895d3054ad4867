//! Running code: the seam to whatever runs it (E3).

use std::fmt;

use async_trait::async_trait;
use runtime_core::{CodeOutput, ExecutionScope, Timestamp};

use crate::ToolError;

/// Code to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    /// The language, as the executor names it.
    pub language: String,
    /// The source text.
    pub source: String,
}

/// What an executor is told besides the code.
#[derive(Debug, Clone)]
pub struct CodeContext {
    /// Whose code it is.
    pub scope: ExecutionScope,
    /// The same for every attempt.
    pub idempotency_key: String,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// The epoch of the scope: a fencing token that grows with each take-over (E5).
    pub fencing_token: u64,
    /// When the attempt is given up.
    pub deadline: Timestamp,
}

/// Runs code: an interpreter, a sandbox, a machine elsewhere. None is built in.
///
/// ```
/// use async_trait::async_trait;
/// use runtime_core::{CodeOutput, ContentPart};
/// use runtime_tools::{Code, CodeContext, CodeExecutor, ToolError};
///
/// /// Counts the lines of every program.
/// #[derive(Debug)]
/// struct Lines;
///
/// #[async_trait]
/// impl CodeExecutor for Lines {
///     async fn execute(&self, code: Code, _: CodeContext) -> Result<CodeOutput, ToolError> {
///         let text = code.source.lines().count().to_string();
///         let observations = vec![ContentPart::Text { text }];
///         Ok(CodeOutput { observations, ..CodeOutput::default() })
///     }
/// }
/// # assert!(!Lines.retry_safe());
/// ```
#[async_trait]
pub trait CodeExecutor: fmt::Debug + Send + Sync + 'static {
    /// Says whether running code again, overlapping or late, does no harm (E7); otherwise code that
    /// a crash cut off is in doubt.
    fn retry_safe(&self) -> bool {
        false
    }

    /// Runs code. Code that ran and failed in its own terms is an ordinary output with an error.
    ///
    /// # Errors
    /// [`ToolError`]; its variant says whether something may have happened.
    ///
    /// # Cancel safety
    /// Dropping the future ends the code as far as the executor can; it may have run.
    async fn execute(&self, code: Code, context: CodeContext) -> Result<CodeOutput, ToolError>;
}
