//! Bounded JSON lines over a pipe, as a transport of `rmcp`.
//!
//! Its own transport has no choice of line length for a child process; this one ends the
//! connection at a line that is too long.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rmcp::RoleClient;
use rmcp::model::JsonRpcMessage;
use rmcp::service::{RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};

use crate::ending::Ending;
use crate::process::ServerProcess;
use crate::wire::{Reader, SERVER_REQUESTS_MAX};

/// JSON lines from and to a server.
pub(crate) struct LineTransport<R, W> {
    lines: BoundedLines<R>,
    writer: Arc<tokio::sync::Mutex<Option<W>>>,
    reader: Reader,
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
            reader: Reader::default(),
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
        self.reader.remember(&message);
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
            let Some(message) = self.reader.read(&line) else {
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
