//! Bounded JSON lines over a pipe, as a transport of `rmcp`.
//!
//! Its own transport has no choice of line length for a child process, waits for ever for an
//! answer that it cannot read, and keeps only the members that its types know. This one ends the
//! connection at a line that is too long, answers an unreadable answer with an error, hands the
//! results of lists and calls on as they came, and lets nothing through that nobody asked for.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rmcp::RoleClient;
use rmcp::model::{
    ClientRequest, CustomResult, ErrorCode, ErrorData, JsonRpcMessage, RequestId, ServerResult,
};
use rmcp::service::{RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};

use crate::process::ServerProcess;

/// The requests of the server that may wait for our answer at once.
const SERVER_REQUESTS_MAX: usize = 64;

/// How a connection ended, written by its transport, read by those whose calls it cut off.
#[derive(Debug, Default)]
pub(crate) struct Ending(Mutex<Option<String>>);

impl Ending {
    /// The first reason wins: what follows is its consequence.
    fn set(&self, reason: impl Into<String>) {
        let mut ending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ending.get_or_insert_with(|| reason.into());
    }

    fn add(&self, fact: &str) {
        let mut ending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *ending {
            Some(reason) => {
                reason.push_str("; ");
                reason.push_str(fact);
            }
            None => *ending = Some(fact.to_owned()),
        }
    }

    /// Returns how it ended.
    pub(crate) fn reason(&self) -> String {
        let ending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ending.clone().unwrap_or_else(|| "it was closed".to_owned())
    }

    /// Says whether it ended.
    pub(crate) fn is_set(&self) -> bool {
        let ending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ending.is_some()
    }
}

/// JSON lines from and to a server.
pub(crate) struct LineTransport<R, W> {
    lines: BoundedLines<R>,
    writer: Arc<tokio::sync::Mutex<Option<W>>>,
    /// Requests whose results are handed on as they come.
    raw: HashSet<RequestId>,
    /// The requests of the server that are not answered yet.
    server_requests: Arc<AtomicUsize>,
    ending: Arc<Ending>,
    process: Option<ServerProcess>,
    /// The server broke a bound: it gets no time to end by itself.
    broken: bool,
}

impl<R, W> LineTransport<R, W>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send + 'static,
{
    pub(crate) fn new(
        reader: R,
        writer: W,
        line_bytes_max: usize,
        process: Option<ServerProcess>,
        ending: Arc<Ending>,
    ) -> Self {
        Self {
            lines: BoundedLines::new(reader, line_bytes_max),
            writer: Arc::new(tokio::sync::Mutex::new(Some(writer))),
            raw: HashSet::new(),
            server_requests: Arc::default(),
            ending,
            process,
            broken: false,
        }
    }

    fn cut_off(&mut self, reason: &str) {
        self.broken = true;
        self.ending.set(reason);
        // Now, not at the close: answers of ours that are stuck in its pipe come free by it.
        if let Some(process) = &mut self.process {
            process.kill_group();
        }
    }

    fn remember(&mut self, message: &TxJsonRpcMessage<RoleClient>) {
        match message {
            JsonRpcMessage::Request(request) => {
                let raw = matches!(
                    request.request,
                    ClientRequest::ListToolsRequest(_) | ClientRequest::CallToolRequest(_)
                );
                if raw {
                    self.raw.insert(request.id.clone());
                }
            }
            // A cancelled request may stay without an answer for ever.
            JsonRpcMessage::Notification(notification) => {
                if let rmcp::model::ClientNotification::CancelledNotification(cancelled) =
                    &notification.notification
                    && let Some(id) = &cancelled.params.request_id
                {
                    self.raw.remove(id);
                }
            }
            JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_) => {}
        }
    }

    /// Reads one line; none if it is nothing that concerns us.
    fn read(&mut self, line: &[u8]) -> Option<RxJsonRpcMessage<RoleClient>> {
        let value: Value = match serde_json::from_slice(line) {
            Ok(value) => value,
            Err(error) => return self.unreadable(line, &error),
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
                serde_json::from_value(value).ok()
            }
        }
    }

    /// An answer that cannot be read (too deep, not UTF-8, cut) fails its request at once instead
    /// of letting it wait; anything else that cannot be read is noise, such as a stray print.
    fn unreadable(
        &mut self,
        line: &[u8],
        error: &serde_json::Error,
    ) -> Option<RxJsonRpcMessage<RoleClient>> {
        #[derive(Deserialize)]
        struct Envelope {
            id: Value,
            method: Option<serde::de::IgnoredAny>,
        }
        let envelope: Envelope = serde_json::from_slice(line).ok()?;
        let id = request_id(&envelope.id).filter(|_| envelope.method.is_none())?;
        self.raw.remove(&id);
        let error = ErrorData::new(UNREADABLE, format!("it cannot be read: {error}"), None);
        Some(JsonRpcMessage::error(error, Some(id)))
    }
}

/// The code of an answer that came but could not be read; of our own making, never on the wire.
pub(crate) const UNREADABLE: ErrorCode = ErrorCode(-32_000_001);

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

impl<R, W> Transport<RoleClient> for LineTransport<R, W>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send + 'static,
{
    type Error = io::Error;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleClient>,
    ) -> impl Future<Output = Result<(), io::Error>> + Send + 'static {
        self.remember(&message);
        let writer = Arc::clone(&self.writer);
        let answered = matches!(
            message,
            JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_)
        );
        let server_requests = Arc::clone(&self.server_requests);
        async move {
            let mut line = serde_json::to_vec(&message)?;
            line.push(b'\n');
            let mut writer = writer.lock().await;
            let Some(open) = writer.as_mut() else {
                return Err(io::ErrorKind::NotConnected.into());
            };
            open.write_all(&line).await?;
            open.flush().await?;
            if answered {
                server_requests.fetch_sub(1, Ordering::Relaxed);
            }
            Ok(())
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleClient>> {
        loop {
            let line = match self.lines.next().await {
                Ok(Some(line)) => line,
                Ok(None) => {
                    self.ending.set("it closed its output");
                    return None;
                }
                Err(error) => {
                    self.cut_off(&error.to_string());
                    return None;
                }
            };
            let Some(message) = self.read(&line) else {
                continue;
            };
            if matches!(message, JsonRpcMessage::Request(_)) {
                let waiting = self.server_requests.fetch_add(1, Ordering::Relaxed);
                if waiting >= SERVER_REQUESTS_MAX {
                    self.cut_off("it asked more than it lets us answer");
                    return None;
                }
            }
            return Some(message);
        }
    }

    async fn close(&mut self) -> Result<(), io::Error> {
        // Whoever writes now is stuck at a server that does not read; it ends with the process.
        if let Ok(mut writer) = self.writer.try_lock() {
            writer.take();
        }
        if let Some(mut process) = self.process.take() {
            let status = if self.broken {
                process.kill().await
            } else {
                process.end().await
            };
            self.ending.add(&status);
        }
        self.ending.set("it was closed");
        Ok(())
    }
}

/// Lines of at most so many bytes.
struct BoundedLines<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
    bytes_max: usize,
}

impl<R: AsyncRead + Unpin> BoundedLines<R> {
    fn new(reader: R, bytes_max: usize) -> Self {
        Self {
            reader: BufReader::new(reader),
            line: Vec::new(),
            bytes_max,
        }
    }

    /// Returns the next line, or none at the end; what is left unfinished there is no message.
    ///
    /// # Cancel safety
    /// Dropping the future keeps what was read for the next call.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, io::Error> {
        loop {
            let available = self.reader.fill_buf().await?;
            if available.is_empty() {
                return Ok(None);
            }
            let end = available.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(available.len(), |end| end + 1);
            if self.line.len() + taken > self.bytes_max {
                let message = format!("it sent a message of more than {} bytes", self.bytes_max);
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            self.line.extend_from_slice(&available[..taken]);
            self.reader.consume(taken);
            if end.is_some() {
                return Ok(Some(std::mem::take(&mut self.line)));
            }
        }
    }
}
