//! Effects that were begun and have not ended: what a restart will find.

use runtime_core::{
    CallId, Classified, EffectCommand, EffectKind, ReplayKey, ScopeId, Timestamp, WireError,
};
use runtime_store::{Page, RowQuery, Store};
use serde::{Deserialize, Serialize};

use crate::journal::{EffectState, Recorded};
use crate::recording::EFFECT_SPACE;

/// An effect that was begun and has not ended.
///
/// Of an effect that may run twice nothing is written when it begins (E5), so it is not among
/// these before one of its attempts has failed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UnfinishedEffect {
    /// Its address in its scope.
    pub key: ReplayKey,
    /// What kind of effect.
    pub effect: EffectKind,
    /// The tool call that it is, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<CallId>,
    /// The name of the tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// How many attempts have begun.
    pub attempts: u32,
    /// When what is recorded last happened: the last attempt began, or failed.
    pub since: Timestamp,
    /// When it is tried again. None if its last attempt may not happen twice and has not ended:
    /// when its process has died, it is in doubt.
    pub next_attempt: Option<Timestamp>,
    /// Why the last attempt failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<WireError>,
}

impl UnfinishedEffect {
    /// Reads what a scope has begun and not ended, by key: attempts of effects that may not happen
    /// twice, and effects that are tried again later.
    ///
    /// # Errors
    /// The store cannot be read, or a record is damaged.
    pub async fn all_of(store: &dyn Store, scope: &ScopeId) -> Result<Vec<Self>, WireError> {
        let query = RowQuery::scope(EFFECT_SPACE, scope.clone());
        let limit = store.capabilities().limits.page_entries_max;
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = store.rows(query.clone(), Page::after(after, limit)).await;
            let page = page.map_err(|error| error.to_wire())?;
            for row in &page.rows {
                let since = row.event.as_ref().map(|event| event.time);
                let recorded = Recorded::decode(row)?;
                let since = since.unwrap_or_default();
                found.extend(Self::of(&recorded, &row.key.name, since)?);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(found),
            }
        }
    }

    fn of(recorded: &Recorded, key: &str, since: Timestamp) -> Result<Option<Self>, WireError> {
        let next_attempt = match recorded.row.state {
            EffectState::Started { .. } => None,
            EffectState::Retrying { due } => Some(due),
            _ => return Ok(None),
        };
        let unreadable = |error: &dyn std::fmt::Display| {
            let message = format!("the record of effect {key} is damaged: {error}");
            WireError::new(
                "effect_record_corrupt",
                runtime_core::ErrorClass::Corrupt,
                message,
            )
        };
        let command = &recorded.identity()["command"];
        let command = EffectCommand::deserialize(command).map_err(|error| unreadable(&error))?;
        let error = recorded.payload.get("error");
        let error = error.map(WireError::deserialize).transpose();
        let (call, tool) = match &command {
            EffectCommand::ToolCall(call) => (Some(call.call.clone()), Some(call.tool.clone())),
            _ => (None, None),
        };
        Ok(Some(Self {
            key: key
                .parse()
                .map_err(|error: runtime_core::EnvelopeError| unreadable(&error))?,
            effect: command.kind(),
            call,
            tool,
            attempts: recorded.row.attempts,
            since,
            next_attempt,
            error: error.map_err(|error| unreadable(&error))?,
        }))
    }
}
