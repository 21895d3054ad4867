//! Decorators that kill this process at a named point. They stand on the seams (store, model,
//! tool); the product itself has no failpoints.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use runtime::core::{EventDraft, EventKind, ModelEvent, ModelRequest, ToolDefinition};
use runtime::model::{Model, ModelError, ModelStream};
use runtime::store::{Commit, CommitError, Committed, Store, StoreLayer};
use runtime::tools::{Tool, ToolContext, ToolError, ToolOutput};
use std::sync::Arc;

use crate::args::CrashPoint;

/// Ends this process as a crash would: at once, nothing flushed, nothing cleaned up.
fn crash() -> ! {
    let own = rustix::process::getpid();
    let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
    // The signal ends the process before this is reached.
    std::process::abort()
}

/// A store that crashes before or after the commit of a certain event.
#[derive(Debug)]
pub(crate) struct CrashStore {
    store: Arc<dyn Store>,
    point: CrashPoint,
    /// The tool whose calls count.
    tool: &'static str,
}

impl CrashStore {
    pub(crate) fn new(store: Arc<dyn Store>, point: CrashPoint, tool: &'static str) -> Self {
        Self { store, point, tool }
    }

    fn names_tool(&self, event: &EventDraft) -> bool {
        let tool = event.payload.pointer("/identity/command/tool");
        tool.and_then(|tool| tool.as_str()) == Some(self.tool)
    }

    fn crashes_before(&self, event: &EventDraft) -> bool {
        match self.point {
            CrashPoint::BeforeTool => {
                event.kind == EventKind::ToolCallStarted && self.names_tool(event)
            }
            CrashPoint::BeforeTerminal => event.kind.ends_turn(),
            _ => false,
        }
    }

    fn crashes_after(&self, event: &EventDraft) -> bool {
        match self.point {
            CrashPoint::AfterInput => event.kind == EventKind::InputAccepted,
            CrashPoint::AfterModel => event.kind == EventKind::MessageCommitted,
            CrashPoint::AfterRecord => {
                event.kind == EventKind::ToolCallFinished && self.names_tool(event)
            }
            _ => false,
        }
    }
}

#[async_trait]
impl StoreLayer for CrashStore {
    fn below(&self) -> &dyn Store {
        &*self.store
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        let events = commit
            .events
            .iter()
            .filter_map(|e| EventDraft::from_bytes(&e.body).ok());
        let events: Vec<EventDraft> = events.collect();
        if events.iter().any(|event| self.crashes_before(event)) {
            crash();
        }
        let committed = self.store.commit(commit).await?;
        if events.iter().any(|event| self.crashes_after(event)) {
            crash();
        }
        Ok(committed)
    }
}

/// A model that crashes once a part of its answer has been streamed.
#[derive(Debug)]
pub(crate) struct CrashModel(pub(crate) Arc<dyn Model>);

#[async_trait]
impl Model for CrashModel {
    fn provider(&self) -> &str {
        self.0.provider()
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    async fn stream(&self, request: ModelRequest) -> Result<ModelStream<'_>, ModelError> {
        let mut deltas = 0;
        let stream = self.0.stream(request).await?.inspect(move |event| {
            deltas += usize::from(matches!(event, Ok(ModelEvent::TextDelta { .. })));
            if deltas == 2 {
                crash();
            }
        });
        Ok(Box::pin(stream))
    }
}

/// A tool that crashes while it runs, or when it has run.
#[derive(Debug)]
pub(crate) struct CrashTool {
    pub(crate) tool: Arc<dyn Tool>,
    /// Crash so long after the start; without, when the call has ended.
    pub(crate) after: Option<Duration>,
}

#[async_trait]
impl Tool for CrashTool {
    fn definition(&self) -> &ToolDefinition {
        self.tool.definition()
    }

    async fn call(
        &self,
        arguments: serde_json::Value,
        context: ToolContext,
    ) -> Result<ToolOutput, ToolError> {
        let call = self.tool.call(arguments, context);
        match self.after {
            Some(after) => {
                let _ = tokio::time::timeout(after, call).await;
            }
            None => {
                let _ = call.await;
            }
        }
        crash()
    }
}
