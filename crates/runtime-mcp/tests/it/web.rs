//! A tool server over HTTP inside the test: correct in both eras, hostile on demand.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use runtime_core::Timestamp;
use runtime_mcp::{AuthProvider, McpServerConfig, McpSource};
use runtime_mcp_cache::{CacheConfig, DiscoveryCache};
use runtime_testkit::{SeededRandom, SimulatedClock};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinHandle;

/// One request as the server saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) verb: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Value,
}

impl Seen {
    pub(crate) fn method(&self) -> &str {
        self.body["method"].as_str().unwrap_or_default()
    }
}

/// What the server does.
pub(crate) enum Reply {
    /// A result of the request.
    Result(Value),
    /// An error of the request, with this status.
    Error(u16, i64, &'static str),
    /// Anything: status, headers, body.
    Raw(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// The connection breaks.
    Break,
    /// Nothing ever comes.
    Hang,
    /// This body, again and again.
    Endless(&'static str, Vec<u8>),
    /// A stream that stays open and brings what is fed: the subscription of the newer era, which is
    /// acknowledged first, or the listening of the older one.
    Feed(Arc<Feed>),
    /// A stream that brings nothing; it is noted when the client has let go of it.
    UntilDropped(Arc<AtomicUsize>),
    /// A stream: asks for something, waits for the answer, then gives the result.
    Ask(Value, Arc<Answers>),
}

/// What a server tells those who listen.
#[derive(Debug)]
pub(crate) struct Feed(broadcast::Sender<&'static str>);

impl Feed {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(broadcast::Sender::new(4_096)))
    }

    /// Tells everybody who listens.
    pub(crate) fn tell(&self, method: &'static str) {
        // Nobody may be listening.
        let _ = self.0.send(method);
    }

    pub(crate) fn listeners(&self) -> usize {
        self.0.receiver_count()
    }

    async fn serve(
        &self,
        socket: &mut BufReader<TcpStream>,
        subscription: Option<Value>,
    ) -> std::io::Result<()> {
        let mut told = self.0.subscribe();
        let head =
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
        socket.write_all(head.as_bytes()).await?;
        let message = |method: &str, mut params: Value| {
            if let Some(id) = &subscription {
                params["_meta"] = json!({"io.modelcontextprotocol/subscriptionId": id});
            }
            let message = json!({"jsonrpc": "2.0", "method": method, "params": params});
            format!("data: {message}\n\n")
        };
        if subscription.is_some() {
            let params = json!({"notifications": {"toolsListChanged": true}});
            let acknowledged = message("notifications/subscriptions/acknowledged", params);
            socket.write_all(acknowledged.as_bytes()).await?;
        }
        socket.flush().await?;
        while let Ok(method) = told.recv().await {
            if method.is_empty() {
                return Ok(());
            }
            socket
                .write_all(message(method, json!({})).as_bytes())
                .await?;
            socket.flush().await?;
        }
        Ok(())
    }
}

/// Answers of the client to what the server asked.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    got: Mutex<Vec<Value>>,
    news: Notify,
}

impl Answers {
    async fn next(&self) -> Value {
        loop {
            let news = self.news.notified();
            if let Some(answer) = self.got.lock().expect("no panic").pop() {
                return answer;
            }
            news.await;
        }
    }
}

type Behave = Arc<dyn Fn(&Seen) -> Option<Reply> + Send + Sync>;

/// A running server. Dropping it ends it.
pub(crate) struct Web {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    serving: JoinHandle<()>,
}

impl Drop for Web {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The era that a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    Old,
    New,
}

impl Web {
    /// Starts a server that does what `behave` says, and where it says nothing what is right.
    pub(crate) async fn start(
        speaks: Speaks,
        behave: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address"), speaks, behave).await
    }

    /// The same at an address: a server that comes back where it was.
    pub(crate) async fn start_at(
        address: SocketAddr,
        speaks: Speaks,
        behave: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let (log, behave) = (Arc::clone(&seen), Arc::new(behave) as Behave);
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (log, behave) = (Arc::clone(&log), Arc::clone(&behave));
                connections.spawn(async move {
                    // A connection that breaks is the client's affair.
                    let _ = serve(socket, speaks, &log, &behave).await;
                });
            }
        });
        Self {
            address,
            seen,
            serving,
        }
    }

    pub(crate) fn config(&self) -> McpServerConfig {
        let url = format!("http://{}/mcp", self.address);
        McpServerConfig::http("web", url).allow_private_addresses()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic").clone()
    }

    pub(crate) fn count(&self, method: &str) -> usize {
        let seen = self.seen();
        seen.iter().filter(|seen| seen.method() == method).count()
    }
}

/// A source, and the clock that its limits run on.
pub(crate) fn source(config: McpServerConfig) -> (McpSource, Arc<SimulatedClock>) {
    let clock = Arc::new(SimulatedClock::new(Timestamp::from_millis(1_000_000)));
    let random = Arc::new(SeededRandom::new(7));
    let cache = DiscoveryCache::new(CacheConfig::default(), clock.clone(), random.clone());
    let source = McpSource::new(config, clock.clone(), random, cache);
    (source.expect("the entry is right"), clock)
}

pub(crate) fn source_with(config: McpServerConfig, auth: Arc<dyn AuthProvider>) -> McpSource {
    source(config).0.with_auth(auth)
}

async fn serve(
    socket: TcpStream,
    speaks: Speaks,
    log: &Mutex<Vec<Seen>>,
    behave: &Behave,
) -> std::io::Result<()> {
    let mut socket = BufReader::new(socket);
    while let Some(seen) = read(&mut socket).await? {
        log.lock().expect("no panic").push(seen.clone());
        let reply = behave(&seen).unwrap_or_else(|| right(&seen, speaks));
        let id = seen.body["id"].clone();
        match reply {
            Reply::Result(result) => {
                let body = json!({"jsonrpc": "2.0", "id": id, "result": result});
                let mut headers = Vec::new();
                if seen.method() == "initialize" {
                    headers.push(("mcp-session-id", "session-1".to_owned()));
                }
                write(
                    &mut socket,
                    200,
                    headers,
                    "application/json",
                    body.to_string().as_bytes(),
                )
                .await?;
            }
            Reply::Error(status, code, message) => {
                let error = json!({"code": code, "message": message});
                let body = json!({"jsonrpc": "2.0", "id": id, "error": error});
                write(
                    &mut socket,
                    status,
                    Vec::new(),
                    "application/json",
                    body.to_string().as_bytes(),
                )
                .await?;
            }
            Reply::Raw(status, headers, body) => {
                write(&mut socket, status, headers, "application/json", &body).await?;
            }
            Reply::Break => return Ok(()),
            Reply::Hang => std::future::pending().await,
            Reply::Feed(feed) => {
                let subscribes = seen.method() == "subscriptions/listen";
                return feed.serve(&mut socket, subscribes.then_some(id)).await;
            }
            Reply::UntilDropped(dropped) => {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
                socket.write_all(head.as_bytes()).await?;
                socket.flush().await?;
                // The client sends nothing more on this connection: the end is all that comes.
                let mut nothing = [0; 1];
                let _ = socket.read(&mut nothing).await;
                dropped.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            Reply::Endless(kind, block) => {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n\r\n");
                socket.write_all(head.as_bytes()).await?;
                loop {
                    socket.write_all(&block).await?;
                }
            }
            Reply::Ask(asked, answers) => {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
                socket.write_all(head.as_bytes()).await?;
                let event = format!("data: {asked}\n\n");
                socket.write_all(event.as_bytes()).await?;
                socket.flush().await?;
                let answer = answers.next().await;
                let said =
                    json!({"content": [{"type": "text", "text": answer["result"].to_string()}]});
                let result = json!({"jsonrpc": "2.0", "id": id, "result": said});
                socket
                    .write_all(format!("data: {result}\n\n").as_bytes())
                    .await?;
                return Ok(());
            }
        }
    }
    Ok(())
}

impl Answers {
    /// Takes what the client posted, if it is an answer.
    pub(crate) fn take(&self, seen: &Seen) -> Option<Reply> {
        if seen.verb != "POST" || !seen.body["method"].is_null() {
            return None;
        }
        self.got.lock().expect("no panic").push(seen.body.clone());
        self.news.notify_one();
        Some(Reply::Raw(202, Vec::new(), Vec::new()))
    }
}

async fn read(socket: &mut BufReader<TcpStream>) -> std::io::Result<Option<Seen>> {
    let mut line = String::new();
    if socket.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let verb = line.split(' ').next().unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        socket.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers
        .get("content-length")
        .and_then(|length| length.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    socket.read_exact(&mut body).await?;
    let body = serde_json::from_slice(&body).unwrap_or_default();
    Ok(Some(Seen {
        verb,
        headers,
        body,
    }))
}

async fn write(
    socket: &mut BufReader<TcpStream>,
    status: u16,
    headers: Vec<(&'static str, String)>,
    kind: &str,
    body: &[u8],
) -> std::io::Result<()> {
    let mut head = format!(
        "HTTP/1.1 {status} Told\r\ncontent-length: {}\r\n",
        body.len()
    );
    if !headers.iter().any(|(name, _)| *name == "content-type") {
        head.push_str(&format!("content-type: {kind}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    socket.write_all(head.as_bytes()).await?;
    socket.write_all(body).await?;
    socket.flush().await
}

/// What a server that means well says.
fn right(seen: &Seen, speaks: Speaks) -> Reply {
    match (seen.verb.as_str(), seen.method()) {
        ("DELETE", _) => Reply::Raw(200, Vec::new(), Vec::new()),
        ("GET", _) => Reply::Raw(405, Vec::new(), Vec::new()),
        (_, "server/discover") if speaks == Speaks::New => Reply::Result(json!({
            "supportedVersions": ["2026-07-28"],
            "capabilities": {"tools": {}},
            "ttlMs": 0, "cacheScope": "private", "resultType": "complete",
        })),
        (_, "initialize") if speaks == Speaks::Old => Reply::Result(json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "web", "version": "1"},
        })),
        (_, "tools/list") => Reply::Result(json!({
            "tools": [tool(json!({"type": "object"}))],
            "ttlMs": 3_600_000, "cacheScope": "public", "resultType": "complete",
        })),
        (_, "tools/call") => Reply::Result(json!({
            "content": [{"type": "text", "text": seen.body["params"]["arguments"].to_string()}],
            "resultType": "complete",
        })),
        (_, method) if method.starts_with("notifications/") => {
            Reply::Raw(202, Vec::new(), Vec::new())
        }
        _ => Reply::Error(400, -32601, "no such method"),
    }
}

pub(crate) fn tool(schema: Value) -> Value {
    json!({"name": "work", "description": "Works.", "inputSchema": schema})
}
