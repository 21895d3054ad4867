//! One message of a server: bounded bytes in, what concerns us out. Pure.
//!
//! The client library keeps only the members that its types know and waits for ever for an answer
//! that it cannot read. So the results of lists, calls and tasks are handed on as they came, an
//! answer that cannot be read becomes an error of its request, and nothing is let through that
//! nobody asked for.

use std::collections::HashSet;

use rmcp::RoleClient;
use rmcp::model::{
    ClientNotification, ClientRequest, CustomResult, ErrorCode, ErrorData, JsonRpcMessage,
    RequestId, ServerResult,
};
use rmcp::service::{RxJsonRpcMessage, TxJsonRpcMessage};
use serde::Deserialize;
use serde_json::Value;

/// The requests of the server that may wait for our answer at once.
pub(crate) const SERVER_REQUESTS_MAX: usize = 64;

/// Errors of our own making, handed to whoever waits for an answer; never on the wire.
pub(crate) const UNREADABLE: ErrorCode = ErrorCode(OWN_FIRST);
/// The request did not leave, or the server refused it before it could run.
pub(crate) const NOT_SENT: ErrorCode = ErrorCode(OWN_FIRST - 1);
/// The request left, and its answer was lost.
pub(crate) const LOST: ErrorCode = ErrorCode(OWN_FIRST - 2);
/// The server refused the credential.
pub(crate) const UNAUTHORISED: ErrorCode = ErrorCode(OWN_FIRST - 3);

const OWN_FIRST: i32 = -32_000_001;
const OWN_LAST: i32 = OWN_FIRST - 15;

/// What is known of the requests under way.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// Requests whose results are handed on as they come.
    raw: HashSet<RequestId>,
}

impl Reader {
    /// Notes a message before it is sent.
    pub(crate) fn remember(&mut self, message: &TxJsonRpcMessage<RoleClient>) {
        match message {
            JsonRpcMessage::Request(request) => {
                let raw = matches!(
                    request.request,
                    ClientRequest::ListToolsRequest(_)
                        | ClientRequest::CallToolRequest(_)
                        | ClientRequest::GetTaskRequest(_)
                        | ClientRequest::UpdateTaskRequest(_)
                        | ClientRequest::CancelTaskRequest(_)
                );
                if raw {
                    self.raw.insert(request.id.clone());
                }
            }
            // A cancelled request may stay without an answer for ever.
            JsonRpcMessage::Notification(notification) => {
                if let ClientNotification::CancelledNotification(cancelled) =
                    &notification.notification
                    && let Some(id) = &cancelled.params.request_id
                {
                    self.raw.remove(id);
                }
            }
            JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_) => {}
        }
    }

    /// Reads one message; none if it is nothing that concerns us.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Option<RxJsonRpcMessage<RoleClient>> {
        let value: Value = match serde_json::from_slice(bytes) {
            Ok(value) => value,
            Err(error) => return self.unreadable(bytes, &error),
        };
        let id = value.get("id").and_then(request_id);
        match (value.get("method").and_then(Value::as_str), id) {
            (Some(method), None) if !concerns_us(method) => None,
            (Some(_), _) => serde_json::from_value(value).ok(),
            (None, Some(id)) if value.get("result").is_some() && self.raw.remove(&id) => {
                let Value::Object(mut members) = value else {
                    return None;
                };
                let result = members.remove("result")?;
                let result = ServerResult::CustomResult(CustomResult::new(result));
                Some(JsonRpcMessage::response(result, id))
            }
            (None, id) => {
                if let Some(id) = &id {
                    self.raw.remove(id);
                }
                serde_json::from_value(value).ok().map(foreign)
            }
        }
    }

    /// An answer that cannot be read (too deep, not UTF-8, cut) fails its request at once instead
    /// of letting it wait; anything else that cannot be read is noise, such as a stray print.
    fn unreadable(
        &mut self,
        bytes: &[u8],
        error: &serde_json::Error,
    ) -> Option<RxJsonRpcMessage<RoleClient>> {
        #[derive(Deserialize)]
        struct Envelope {
            id: Value,
            method: Option<serde::de::IgnoredAny>,
        }
        let envelope: Envelope = serde_json::from_slice(bytes).ok()?;
        let id = request_id(&envelope.id).filter(|_| envelope.method.is_none())?;
        self.raw.remove(&id);
        let reason = format!("it cannot be read: {error}");
        Some(own_error(UNREADABLE, reason, id))
    }

    /// Forgets a request that gets no answer any more.
    #[cfg(feature = "http")]
    pub(crate) fn forget(&mut self, id: &RequestId) {
        self.raw.remove(id);
    }
}

/// Makes an error of our own as the answer to a request.
pub(crate) fn own_error(
    code: ErrorCode,
    reason: impl Into<String>,
    id: RequestId,
) -> RxJsonRpcMessage<RoleClient> {
    JsonRpcMessage::error(ErrorData::new(code, reason.into(), None), Some(id))
}

/// A server cannot pass its errors off as ours: those say whether a call has run.
fn foreign(message: RxJsonRpcMessage<RoleClient>) -> RxJsonRpcMessage<RoleClient> {
    match message {
        JsonRpcMessage::Error(mut error) => {
            if (OWN_LAST..=OWN_FIRST).contains(&error.error.code.0) {
                error.error.code = ErrorCode::INTERNAL_ERROR;
            }
            JsonRpcMessage::Error(error)
        }
        other => other,
    }
}

fn request_id(value: &Value) -> Option<RequestId> {
    match value {
        Value::Number(number) => number.as_i64().map(RequestId::Number),
        Value::String(text) => Some(RequestId::String(text.as_str().into())),
        _ => None,
    }
}

/// Says whether a notification may reach the client library. Everything else (progress, logs,
/// resources) would be work and traces for nothing.
fn concerns_us(method: &str) -> bool {
    matches!(
        method,
        "notifications/tools/list_changed"
            | "notifications/subscriptions/acknowledged"
            | "notifications/cancelled"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(message: &Value) -> Option<RxJsonRpcMessage<RoleClient>> {
        Reader::default().read(message.to_string().as_bytes())
    }

    #[test]
    fn x4_a_server_cannot_claim_that_a_call_did_not_run() {
        for own in [UNREADABLE, NOT_SENT, LOST, UNAUTHORISED] {
            let error =
                json!({"jsonrpc": "2.0", "id": 1, "error": {"code": own.0, "message": "x"}});
            let Some(JsonRpcMessage::Error(error)) = read(&error) else {
                panic!("an error");
            };
            assert_eq!(error.error.code, ErrorCode::INTERNAL_ERROR);
        }
    }

    #[test]
    fn m9_notifications_that_nobody_asked_for_end_here() {
        let told = |method: &str| read(&json!({"jsonrpc": "2.0", "method": method}));
        assert!(told("notifications/progress").is_none());
        assert!(told("notifications/message").is_none());
        assert!(told("notifications/tools/list_changed").is_some());
    }
}
