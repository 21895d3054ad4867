//! What a person answers when asked to approve a call (T3).

use runtime_core::Resolution;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a person answers when asked to approve a call.
///
/// As JSON: `{"decision":"approve"}`, `{"decision":"deny","reason":"…"}` or
/// `{"decision":"edit","arguments":{…}}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "decision", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ApprovalDecision {
    /// Run it.
    Approve,
    /// Do not run it; the model is told.
    Deny {
        /// Why, for the model.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Run it with these arguments instead.
    Edit {
        /// The arguments.
        arguments: Value,
    },
}

impl ApprovalDecision {
    /// Returns the resolution that carries the decision.
    #[must_use]
    pub fn to_resolution(&self) -> Resolution {
        Resolution::Ok {
            value: serde_json::to_value(self).expect("a decision is plain data"),
        }
    }
}

/// What a resolution means for the call; whatever is no clear yes is a no.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Ruling {
    Run,
    RunWith(Value),
    Refuse(String),
}

pub(crate) fn ruling(resolution: &Resolution) -> Ruling {
    let value = match resolution {
        Resolution::Ok { value } => value,
        Resolution::Err { code, message, .. } => {
            return Ruling::Refuse(format!("approval failed: {code}: {message}"));
        }
        Resolution::Timeout => return Ruling::Refuse("nobody approved this call in time".into()),
        Resolution::Cancelled => return Ruling::Refuse("the approval was withdrawn".into()),
        _ => return Ruling::Refuse("the answer was not understood, so the call is denied".into()),
    };
    match ApprovalDecision::deserialize(value) {
        Ok(ApprovalDecision::Approve) => Ruling::Run,
        Ok(ApprovalDecision::Edit { arguments }) => Ruling::RunWith(arguments),
        Ok(ApprovalDecision::Deny { reason: None }) => {
            Ruling::Refuse("a person denied this call".into())
        }
        Ok(ApprovalDecision::Deny {
            reason: Some(reason),
        }) => Ruling::Refuse(format!("a person denied this call: {reason}")),
        Err(_) => Ruling::Refuse("the answer was not understood, so the call is denied".into()),
    }
}
