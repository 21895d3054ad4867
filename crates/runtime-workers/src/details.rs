//! What a person needs in order to answer: the call, and the tool as the model saw it (T3).

use runtime_core::{
    Classified, Digest, EffectOutcome, EffectOutput, ErrorClass, ExecutionScope, ToolCall,
    ToolDefinition, WaitIdentity, WireError, WorkerId,
};
use runtime_effects::PendingPromise;
use runtime_store::{Position, Store};
use runtime_turn::RecordedEffect;
use serde::Serialize;
use serde_json::Value;

use crate::RuntimeError;
use crate::carried::Said;

/// A call that somebody is asked about.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CallDetails {
    /// The arguments that the model gave.
    pub arguments: Value,
    /// The digest of the arguments: an approval is bound to it.
    pub arguments_digest: Digest,
    /// The tool as the turn recorded it: what the model sees, and where its hints come from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub definition: Option<ToolDefinition>,
}

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
            _ => {}
        }
    }

    /// Finds what a promise is about; none if it is about no call.
    pub(crate) fn details(&self, promise: &PendingPromise) -> Option<CallDetails> {
        let call = promise.call.as_ref()?;
        // A provider may use an id again: then the turn gives the call another, and only the
        // arguments tell which it is.
        let is_bound = |candidate: &&ToolCall| {
            let digest = candidate.arguments_digest();
            WaitIdentity::approval(call, &digest) == promise.identity
        };
        let mut newest = self.calls.iter().rev();
        let named = newest.clone().find(|candidate| candidate.id == *call);
        let found = newest.find(is_bound).or(named)?;
        Some(CallDetails {
            arguments: found.arguments.clone(),
            arguments_digest: found.arguments_digest(),
            definition: self
                .tools
                .iter()
                .find(|tool| tool.name == found.name)
                .cloned(),
        })
    }
}
