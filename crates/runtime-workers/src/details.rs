//! What a person needs in order to answer: the arguments of a call, and the tool as the model saw
//! it (T3).

use runtime_core::{
    CallId, Classified, Digest, EffectCommand, EffectOutcome, EffectOutput, ErrorClass,
    ExecutionScope, Resolution, ToolCall, ToolDefinition, WaitIdentity, WaitOutput, WaitSource,
    WireError, WorkerId,
};
use runtime_effects::PendingPromise;
use runtime_store::{Position, Store};
use runtime_turn::{ApprovalDecision, RecordedEffect};
use serde::Deserialize;

use crate::RuntimeError;
use crate::carried::Said;

/// What the record of a turn says of its calls.
#[derive(Debug, Default)]
pub(crate) struct TurnCalls {
    tools: Vec<ToolDefinition>,
    calls: Vec<ToolCall>,
}

impl TurnCalls {
    /// Reads the record of a turn; of another scope there is none.
    pub(crate) async fn read(
        store: &dyn Store,
        scope: &ExecutionScope,
    ) -> Result<Self, RuntimeError> {
        let mut read = Self::default();
        let (Some(session), Some(turn)) = (scope.session(), scope.turn()) else {
            return Ok(read);
        };
        let worker = WorkerId::from(session);
        let said = Said {
            worker: &worker,
            turn: Some(turn),
        };
        let mut catalogue = None;
        said.each(store, Position(0), |_, event| {
            let recorded = RecordedEffect::from_event(event);
            if let Some(recorded) = recorded.map_err(|error| error.to_wire())? {
                read.take(recorded, &mut catalogue);
            }
            Ok(())
        })
        .await?;
        if let Some(catalogue) = catalogue {
            let bytes = store.attachment(&catalogue).await;
            let bytes = bytes.map_err(|error| error.to_wire())?;
            read.tools = serde_json::from_slice(&bytes).map_err(|error| {
                WireError::new("turn_environment_undecodable", ErrorClass::Corrupt, error)
            })?;
        }
        Ok(read)
    }

    fn take(&mut self, recorded: RecordedEffect, catalogue: &mut Option<Digest>) {
        let EffectOutcome::Completed(output) = recorded.outcome else {
            return;
        };
        match output {
            EffectOutput::SyncExecutionEnvironment { tools, .. } => *catalogue = Some(tools),
            EffectOutput::LlmCall(response) => {
                self.calls.extend(response.message.tool_calls().cloned());
            }
            EffectOutput::AwaitEvent(WaitOutput::Resolved { source, resolution }) => {
                self.edit(&recorded.command, source, &resolution);
            }
            _ => {}
        }
    }

    /// A call that a person approved with other arguments runs with those.
    fn edit(&mut self, command: &EffectCommand, source: u32, resolution: &Resolution) {
        let (EffectCommand::AwaitEvent { sources }, Resolution::Ok { value }) =
            (command, resolution)
        else {
            return;
        };
        let source = usize::try_from(source).ok().and_then(|at| sources.get(at));
        if let (
            Some(WaitSource::Promise {
                identity,
                call: Some(call),
                ..
            }),
            Ok(ApprovalDecision::Edit { arguments }),
        ) = (source, ApprovalDecision::deserialize(value))
            && let Some(edited) = self.bound(call, identity)
        {
            self.calls[edited].arguments = arguments;
        }
    }

    /// Finds the call that an approval is bound to. A provider may use an id again: then the turn
    /// gives the call another, and only the arguments tell which it is.
    fn bound(&self, call: &CallId, identity: &WaitIdentity) -> Option<usize> {
        self.calls.iter().rposition(|candidate| {
            WaitIdentity::approval(call, &candidate.arguments_digest()) == *identity
        })
    }

    /// Finds the call of that id, the newest first.
    pub(crate) fn named(&self, call: &CallId) -> Option<&ToolCall> {
        self.calls.iter().rev().find(|named| named.id == *call)
    }

    /// Finds the call that a promise is about; none if it is about no call.
    pub(crate) fn promised(&self, promise: &PendingPromise) -> Option<&ToolCall> {
        let call = promise.call.as_ref()?;
        let bound = self.bound(call, &promise.identity);
        bound.map(|at| &self.calls[at]).or_else(|| self.named(call))
    }

    /// Finds a tool as the turn recorded it: what the model sees, and where its hints come from.
    pub(crate) fn definition(&self, tool: &str) -> Option<&ToolDefinition> {
        self.tools.iter().find(|offered| offered.name == tool)
    }
}
