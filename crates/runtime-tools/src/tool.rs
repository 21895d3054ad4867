//! Tools, their sources, and the catalogue of a turn.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use runtime_core::{
    CallId, ContentPart, Continuation, ExecutionScope, OnCancel, OnTimeout, Reserve, Resolution,
    Spent, Timestamp, ToolDefinition, Trigger, WireError,
};
use serde_json::Value;

use crate::{Delegates, ToolError};

/// What a call is told besides its arguments.
#[derive(Debug, Clone)]
pub struct ToolContext {
    /// Whose call it is.
    pub scope: ExecutionScope,
    /// The call as the model's provider names it.
    pub call: CallId,
    /// The same for every attempt of this call; hand it to whatever can recognise a repetition.
    pub idempotency_key: String,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// The epoch of the scope: a fencing token that grows with each take-over (E5).
    pub fencing_token: u64,
    /// When the attempt is given up.
    pub deadline: Timestamp,
    /// Who makes the key by which the call can be completed from outside; none where nobody can.
    pub completions: Option<Arc<dyn CompletionKeys>>,
    /// Who starts sub-agents; none where nobody can.
    pub delegates: Option<Arc<dyn Delegates>>,
    /// Who hears of what happened outside; none where nobody does.
    pub triggers: Option<Arc<dyn Triggers>>,
    /// What is left of the turn's budgets for this call, shared evenly with the calls beside it.
    pub budget: Reserve,
}

impl ToolContext {
    /// Returns the key by which somebody outside completes this call, once the tool has answered
    /// [`ToolOutput::Pending`]: URL-safe text, a secret of whoever may complete it. It is the same
    /// on every attempt. A completion that comes before the tool has answered is kept.
    ///
    /// # Errors
    /// [`ToolError::Unavailable`]: calls cannot be completed from outside here, or the key cannot
    /// be made now.
    pub async fn completion_key(&self) -> Result<String, ToolError> {
        let unavailable = |reason: String| ToolError::Unavailable {
            tool: self.call.to_string(),
            reason,
        };
        let Some(completions) = &self.completions else {
            let reason = "calls cannot be completed from outside here".to_owned();
            return Err(unavailable(reason));
        };
        let key = completions.completion_key(&self.scope, &self.call).await;
        key.map_err(|error| unavailable(format!("{}: {}", error.code, error.message)))
    }
}

impl ToolContext {
    /// Reports what happened outside, with the outcome of this call: recording the outcome and
    /// starting the subscribed processes is one commit, and an occurrence that was reported before
    /// starts nothing again (E15). Of a call that fails nothing is heard.
    ///
    /// # Errors
    /// [`ToolError::Unavailable`]: nobody hears of it here.
    pub fn report(&self, trigger: Trigger) -> Result<(), ToolError> {
        let Some(triggers) = &self.triggers else {
            return Err(ToolError::Unavailable {
                tool: self.call.to_string(),
                reason: "nothing that happens outside is heard of here".to_owned(),
            });
        };
        triggers.report(trigger);
        Ok(())
    }
}

/// Hears what happened outside, as a tool reports it. The runtime gives one to every call.
pub trait Triggers: fmt::Debug + Send + Sync + 'static {
    /// Notes one occurrence; it counts when the outcome of the call is recorded.
    fn report(&self, trigger: Trigger);
}

/// Makes the keys by which calls are completed from outside (E10). The runtime gives one to every
/// call, over the durable promises of the turn.
#[async_trait]
pub trait CompletionKeys: fmt::Debug + Send + Sync + 'static {
    /// Returns the key of a call.
    ///
    /// # Errors
    /// The error of the promises, with its class.
    async fn completion_key(
        &self,
        scope: &ExecutionScope,
        call: &CallId,
    ) -> Result<String, WireError>;
}

/// How a call is waited for that is completed from outside (T5).
///
/// What it says is recorded with the call, so a restart changes nothing of it; its times count
/// from the end of the call.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pending {
    /// How long to wait for it; for ever without.
    pub deadline: Option<Duration>,
    /// What the turn does then; otherwise the model reads an error.
    pub on_timeout: OnTimeout,
    /// What becomes of the outside work when nobody waits for it any more; otherwise
    /// [`Tool::cancel`] is called.
    pub on_cancel: OnCancel,
    /// What somebody outside is asked, for people; shown in the list of what waits.
    pub question: Option<String>,
    /// What the tool wants to be told when it is cancelled, such as the id of a job.
    pub handle: Option<Value>,
    /// The value of the resolution is a [`CallReport`](runtime_core::CallReport), not the result
    /// itself.
    pub reports: bool,
    /// What is set aside of the turn's budgets until the call ends: at most
    /// [`ToolContext::budget`].
    pub reserve: Reserve,
}

/// What a call gave.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ToolOutput {
    /// It is done.
    Finished {
        /// What the model sees.
        content: Vec<ContentPart>,
        /// It ran and failed; the content says how.
        is_error: bool,
    },
    /// It is done, and has spent something of the turn's budgets.
    FinishedSpending {
        /// What the model sees.
        content: Vec<ContentPart>,
        /// It ran and failed; the content says how.
        is_error: bool,
        /// What it spent.
        spent: Spent,
    },
    /// It will be completed from outside, through the promise of this call.
    Pending(Pending),
    /// It goes on by [`Tool::resume`] once its wait has ended: somebody answered through the
    /// promise of this call, the deadline passed, or the promise was cancelled. The process may
    /// end and another go on in between.
    Parked {
        /// How long to wait at most; for ever without. A tool that polls waits in this way.
        deadline: Option<Duration>,
        /// What [`Tool::resume`] is given back.
        continuation: Continuation,
    },
}

/// A parked call that goes on.
#[derive(Debug, Clone, PartialEq)]
pub struct Resumption {
    /// The arguments of the call.
    pub arguments: Value,
    /// What the tool left in its [`Continuation`].
    pub state: Value,
    /// How the wait ended; [`Resolution::Timeout`] if its deadline passed.
    pub resolution: Resolution,
}

impl ToolOutput {
    /// A text.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::Finished {
            content: vec![ContentPart::Text { text: text.into() }],
            is_error: false,
        }
    }

    /// A failure that the model should read.
    #[must_use]
    pub fn error(text: impl Into<String>) -> Self {
        Self::Finished {
            content: vec![ContentPart::Text { text: text.into() }],
            is_error: true,
        }
    }
}

/// One callable thing.
#[async_trait]
pub trait Tool: fmt::Debug + Send + Sync + 'static {
    /// Returns what models and people see.
    fn definition(&self) -> &ToolDefinition;

    /// Runs a call.
    ///
    /// # Errors
    /// [`ToolError`]; its variant says whether something may have happened.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call as far as the tool can; it may have happened.
    async fn call(&self, arguments: Value, context: ToolContext) -> Result<ToolOutput, ToolError>;

    /// Goes on with a call that answered [`ToolOutput::Parked`], perhaps in another process. A
    /// tool that never parks has nothing to write here.
    ///
    /// # Errors
    /// As of [`call`](Self::call).
    ///
    /// # Cancel safety
    /// As of [`call`](Self::call).
    async fn resume(
        &self,
        resumption: Resumption,
        context: ToolContext,
    ) -> Result<ToolOutput, ToolError> {
        let _ = (resumption, context);
        Err(ToolError::Failed {
            tool: self.definition().name.clone(),
            reason: "it cannot go on with a parked call".to_owned(),
            details: None,
        })
    }

    /// Tells the tool that nobody waits any more for a call that had answered
    /// [`ToolOutput::Pending`] or [`ToolOutput::Parked`]: its turn was cancelled, or ended without it. It may be called
    /// twice for one call, after a crash.
    ///
    /// # Errors
    /// [`ToolError`]: the work could not be stopped; the end of the turn says so.
    ///
    /// # Cancel safety
    /// It is given up after the deadline in `context`.
    async fn cancel(
        &self,
        _arguments: Value,
        _handle: Option<Value>,
        _context: ToolContext,
    ) -> Result<(), ToolError> {
        Ok(())
    }
}

/// What a source offers now.
#[derive(Debug, Clone, Default)]
pub struct SourceListing {
    /// The tools; empty both when there are none and when the source cannot be listed:
    /// `diagnostic` tells which.
    pub tools: Vec<Arc<dyn Tool>>,
    /// Why there are none, or why they are not the newest (M1).
    pub diagnostic: Option<SourceDiagnostic>,
}

/// Why a source's tools are missing or old (M1).
#[derive(Debug, Clone, PartialEq)]
pub struct SourceDiagnostic {
    /// The source.
    pub source: String,
    /// The state: `stale`, `cold`, `negative`, `blocked`, `uncached`.
    pub state: String,
    /// What went wrong.
    pub error: Option<WireError>,
    /// When it will be tried again.
    pub next_retry: Option<Timestamp>,
}

/// A changing set of tools, such as a tool server.
#[async_trait]
pub trait ToolSource: fmt::Debug + Send + Sync + 'static {
    /// Returns the name of the source.
    fn name(&self) -> &str;

    /// Says whether a turn must wait for this source rather than go on without it (M1).
    fn required(&self) -> bool {
        false
    }

    /// Returns what it offers now. It never fails: a source that cannot be listed says so in the
    /// listing, so that a turn can go on and tell of it.
    async fn list(&self) -> SourceListing;

    /// Ends whatever the source runs: connections, child processes.
    async fn close(&self) {}
}

/// The catalogue of one turn: unique names in a fixed order.
#[derive(Debug, Clone, Default)]
pub struct Toolbox {
    tools: BTreeMap<String, Arc<dyn Tool>>,
}

impl Toolbox {
    /// Gathers tools. A name that comes twice is refused both times and returned, so that no tool
    /// can stand in for another.
    #[must_use]
    pub fn gather(tools: impl IntoIterator<Item = Arc<dyn Tool>>) -> (Self, Vec<String>) {
        let mut kept: BTreeMap<String, Option<Arc<dyn Tool>>> = BTreeMap::new();
        for tool in tools {
            let name = tool.definition().name.clone();
            kept.entry(name)
                .and_modify(|slot| *slot = None)
                .or_insert(Some(tool));
        }
        let refused = kept
            .iter()
            .filter(|(_, tool)| tool.is_none())
            .map(|(n, _)| n.clone());
        let refused = refused.collect();
        let tools = kept
            .into_iter()
            .filter_map(|(name, tool)| Some((name, tool?)))
            .collect();
        (Self { tools }, refused)
    }

    /// Returns the tool of that name.
    #[must_use]
    pub fn tool(&self, name: &str) -> Option<&Arc<dyn Tool>> {
        self.tools.get(name)
    }

    /// Returns the definitions, ordered by name.
    #[must_use]
    pub fn definitions(&self) -> Vec<ToolDefinition> {
        self.tools
            .values()
            .map(|tool| tool.definition().clone())
            .collect()
    }
}
