//! A model provider on this machine: speaks OpenAI's streaming protocol over HTTP, well or as
//! badly as a test wants.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

/// How often a step that waits looks whether the server is to end.
const TICK: Duration = Duration::from_millis(5);

/// What was asked.
#[derive(Debug, Clone)]
pub struct ProviderRequest {
    /// Which request of this server, from 1.
    pub number: usize,
    /// The path, such as `/v1/chat/completions`.
    pub path: String,
    /// The headers, their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Value,
}

/// One step of a response.
#[derive(Debug, Clone)]
pub enum ProviderStep {
    /// Send these bytes.
    Bytes(Vec<u8>),
    /// Wait.
    Pause(Duration),
    /// Send these bytes again and again until the client goes away.
    Repeat(Vec<u8>, Duration),
    /// Send nothing more and keep the connection open.
    Hang,
    /// End the connection without the end of the response.
    Break,
}

/// A response of the streaming protocol, step by step.
///
/// It starts with the head of a chunked event stream; each event is one chunk unless
/// [`fragmented`](Self::fragmented) says otherwise.
#[derive(Debug, Clone)]
pub struct ProviderResponse {
    steps: Vec<ProviderStep>,
    piece_bytes: usize,
}

impl ProviderResponse {
    /// Starts a stream of events.
    #[must_use]
    pub fn stream() -> Self {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                    transfer-encoding: chunked\r\nconnection: close\r\n\r\n";
        Self {
            steps: vec![ProviderStep::Bytes(head.into())],
            piece_bytes: usize::MAX,
        }
    }

    /// Answers with a status, headers and a body, and no stream.
    #[must_use]
    pub fn status(status: u16, headers: &[(&str, &str)], body: &str) -> Self {
        let headers = headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"));
        let headers: String = headers.collect();
        let length = body.len();
        let text = format!(
            "HTTP/1.1 {status} Status\r\ncontent-length: {length}\r\nconnection: close\r\n\
             {headers}\r\n{body}"
        );
        Self {
            steps: vec![ProviderStep::Bytes(text.into_bytes())],
            piece_bytes: usize::MAX,
        }
    }

    /// Answers with nothing at all.
    #[must_use]
    pub const fn silence() -> Self {
        Self {
            steps: Vec::new(),
            piece_bytes: usize::MAX,
        }
    }

    /// Cuts the events that follow into chunks of so many bytes, wherever that may be.
    #[must_use]
    pub fn fragmented(mut self, piece_bytes: usize) -> Self {
        self.piece_bytes = piece_bytes.max(1);
        self
    }

    /// Sends these bytes of the event stream as they are.
    #[must_use]
    pub fn raw(mut self, bytes: impl AsRef<[u8]>) -> Self {
        for piece in bytes.as_ref().chunks(self.piece_bytes) {
            self.steps.push(ProviderStep::Bytes(http_chunk(piece)));
        }
        self
    }

    /// Sends one event.
    #[must_use]
    pub fn event(self, data: &str) -> Self {
        self.raw(format!("data: {data}\n\n"))
    }

    /// Sends one chunk of the answer with this delta.
    #[must_use]
    pub fn delta(self, delta: &Value) -> Self {
        let chunk = json!({
            "id": "answer", "object": "chat.completion.chunk", "model": "fake",
            "choices": [{ "index": 0, "delta": delta, "finish_reason": null }],
        });
        self.event(&chunk.to_string())
    }

    /// Sends a piece of text.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        self.delta(&json!({ "content": text }))
    }

    /// Sends a call with whole arguments.
    #[must_use]
    pub fn call(self, index: usize, id: &str, name: &str, arguments: &Value) -> Self {
        let function = json!({ "name": name, "arguments": arguments.to_string() });
        let call = json!({ "index": index, "id": id, "type": "function", "function": function });
        self.delta(&json!({ "tool_calls": [call] }))
    }

    /// Sends why the answer ends.
    #[must_use]
    pub fn reason(self, reason: &str) -> Self {
        let chunk = json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": reason }] });
        self.event(&chunk.to_string())
    }

    /// Sends the tokens spent, as a last chunk without choices.
    #[must_use]
    pub fn usage(self, input: u64, output: u64) -> Self {
        let usage = json!({ "prompt_tokens": input, "completion_tokens": output,
            "total_tokens": input + output });
        self.event(&json!({ "choices": [], "usage": usage }).to_string())
    }

    /// Sends the end of the answer and of the response.
    #[must_use]
    pub fn done(self) -> Self {
        self.event("[DONE]").end()
    }

    /// Ends the response as HTTP wants it, whatever the answer lacks.
    #[must_use]
    pub fn end(self) -> Self {
        self.step(ProviderStep::Bytes(b"0\r\n\r\n".to_vec()))
    }

    /// Adds a step.
    #[must_use]
    pub fn step(mut self, step: ProviderStep) -> Self {
        self.steps.push(step);
        self
    }

    /// Waits so long.
    #[must_use]
    pub fn pause(self, pause: Duration) -> Self {
        self.step(ProviderStep::Pause(pause))
    }
}

fn http_chunk(bytes: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

type Answers = dyn Fn(&ProviderRequest) -> ProviderResponse + Send + Sync;

struct Shared {
    answers: Box<Answers>,
    requests: Mutex<Vec<ProviderRequest>>,
    /// The open connections: a write to a client that no longer reads must end with the server.
    connections: Mutex<Vec<TcpStream>>,
    ending: AtomicBool,
}

/// A provider on a port of this machine's loopback address. It ends when it is dropped.
pub struct ProviderServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for ProviderServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProviderServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl ProviderServer {
    /// Starts a server that answers each request so.
    ///
    /// # Panics
    /// When the machine has no loopback address.
    #[must_use]
    pub fn start(
        answers: impl Fn(&ProviderRequest) -> ProviderResponse + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback address");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            answers: Box::new(answers),
            requests: Mutex::default(),
            connections: Mutex::default(),
            ending: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        let listener = thread::spawn(move || serve(&listener, &serving));
        Self {
            address,
            shared,
            listener: Some(listener),
        }
    }

    /// Returns the address of its API.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Returns what it was asked so far.
    #[must_use]
    pub fn requests(&self) -> Vec<ProviderRequest> {
        self.shared.requests().clone()
    }
}

impl Drop for ProviderServer {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Release);
        for connection in self.shared.connections().drain(..) {
            // It may have ended by itself.
            let _ = connection.shutdown(Shutdown::Both);
        }
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

impl Shared {
    fn requests(&self) -> MutexGuard<'_, Vec<ProviderRequest>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connections(&self) -> MutexGuard<'_, Vec<TcpStream>> {
        let connections = self.connections.lock();
        connections.unwrap_or_else(PoisonError::into_inner)
    }

    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }
}

fn serve(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut connections = Vec::new();
    for connection in listener.incoming() {
        if shared.is_ending() {
            break;
        }
        let Ok(connection) = connection else { continue };
        shared.connections().extend(connection.try_clone());
        let shared = Arc::clone(shared);
        connections.push(thread::spawn(move || {
            // A client that went away is what some tests are about.
            let _ = answer(connection, &shared);
        }));
    }
    for connection in connections {
        let _ = connection.join();
    }
}

fn answer(mut connection: TcpStream, shared: &Shared) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let Some(request) = read_request(&connection, shared)? else {
        return Ok(());
    };
    let response = (shared.answers)(&request);
    for step in response.steps {
        match step {
            ProviderStep::Bytes(bytes) => connection.write_all(&bytes)?,
            ProviderStep::Pause(pause) => wait(pause, shared),
            ProviderStep::Repeat(bytes, pause) => {
                while !shared.is_ending() {
                    connection.write_all(&http_chunk(&bytes))?;
                    wait(pause, shared);
                }
            }
            ProviderStep::Hang => wait(Duration::MAX, shared),
            ProviderStep::Break => break,
        }
    }
    connection.shutdown(Shutdown::Both)
}

fn wait(pause: Duration, shared: &Shared) {
    let mut left = pause;
    while !left.is_zero() && !shared.is_ending() {
        let step = left.min(TICK);
        thread::sleep(step);
        left -= step;
    }
}

/// Reads a request; it counts as soon as it is whole.
fn read_request(
    connection: &TcpStream,
    shared: &Shared,
) -> std::io::Result<Option<ProviderRequest>> {
    let mut reader = BufReader::new(connection);
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.insert(name.trim().to_lowercase(), value.trim().to_owned());
    }
    let length = headers
        .get("content-length")
        .and_then(|text| text.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let mut requests = shared.requests();
    let request = ProviderRequest {
        number: requests.len() + 1,
        path,
        headers,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    };
    requests.push(request.clone());
    Ok(Some(request))
}
