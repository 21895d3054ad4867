//! Streamable HTTP, in both eras, as a transport of `rmcp`.
//!
//! Its own transport keeps only the members that its types know, sends a request again when a
//! session has expired, and leaves addresses, redirects and sizes to whoever configures its HTTP
//! client. This one hands results on as they came, sends each request once (again only if the
//! server refused it before it ran: for its credential), bounds every message, and connects only
//! where the entry may (`egress.rs`).

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use rmcp::RoleClient;
use rmcp::model::{
    ClientNotification, ClientRequest, ErrorCode, ErrorData, GetExtensions, GetMeta,
    JsonRpcMessage, RequestId, ServerResult,
};
use rmcp::service::{RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use runtime_core::Clock;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

use crate::credentials::Credentials;
use crate::ending::Ending;
use crate::http_client::{HttpClient, HttpError};
use crate::param_headers::header_value;
use crate::sse::EventReader;
use crate::wire::{LOST, NOT_SENT, Reader, SERVER_REQUESTS_MAX, UNAUTHORISED, own_error};
use crate::{Challenge, McpError, McpServerConfig};

/// The messages that wait to be taken; then the server has to wait.
const INCOMING_MAX: usize = 64;
/// The requests to one server at once.
const REQUESTS_MAX: usize = 64;
/// How often a request is answered for its credential before it is given up.
const CREDENTIALS_MAX: usize = 3;
/// How often a stream that broke off is taken up again without anything coming.
const RESUMES_MAX: u32 = 5;
/// The pause before that, unless the server says otherwise.
const RESUME_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause that a server can ask for.
const RESUME_PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long the end of a session is waited for.
const FAREWELL: Duration = Duration::from_secs(2);
/// A longer session id is none.
const SESSION_BYTES_MAX: usize = 1024;

const ACCEPT_BOTH: &str = "application/json, text/event-stream";

/// Headers for one request, from the arguments of its call.
#[derive(Debug, Clone)]
pub(crate) struct ParamHeaders(pub(crate) Vec<(String, String)>);

/// A connection to a server over HTTP.
pub(crate) struct HttpTransport {
    line: Arc<Line>,
    incoming: mpsc::Receiver<RxJsonRpcMessage<RoleClient>>,
    closed: watch::Receiver<bool>,
}

/// What every request of a connection shares.
struct Line {
    url: Url,
    client: HttpClient,
    headers: HeaderMap,
    credentials: Arc<Credentials>,
    message_bytes_max: usize,
    clock: Arc<dyn Clock>,
    ending: Arc<Ending>,
    session: Mutex<Session>,
    reader: Mutex<Reader>,
    incoming: mpsc::Sender<RxJsonRpcMessage<RoleClient>>,
    running: Mutex<HashMap<RequestId, Arc<Notify>>>,
    permits: Semaphore,
    closed: watch::Sender<bool>,
    listening: Mutex<Option<JoinHandle<()>>>,
    server_requests: AtomicUsize,
}

/// What the server said when the connection was made.
#[derive(Debug, Default, Clone)]
struct Session {
    /// Only in the older era, and only of a server that keeps sessions.
    id: Option<HeaderValue>,
    version: Option<String>,
    legacy: bool,
}

/// Why a request has no answer.
#[derive(Debug)]
enum Failure {
    /// It did not run.
    NotSent(String),
    /// It left; nobody knows.
    Lost(String),
    /// The server refused the credential.
    Unauthorised(String),
    /// The server refused it.
    Refused(ErrorData),
    /// Nobody waits for it any more.
    Cancelled,
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        if error.did_not_leave {
            Self::NotSent(error.reason)
        } else {
            Self::Lost(error.reason)
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HttpTransport {
    /// Makes the transport; nothing is sent yet.
    pub(crate) fn new(
        config: &McpServerConfig,
        client: HttpClient,
        credentials: Arc<Credentials>,
        clock: Arc<dyn Clock>,
        ending: Arc<Ending>,
    ) -> Result<Self, McpError> {
        let wrong = |member: &str, reason: &str| McpError::InvalidConfig {
            server: config.name.clone(),
            member: Some(member.to_owned()),
            reason: reason.to_owned(),
        };
        let url = Url::parse(&config.url).map_err(|_| wrong("url", "its url is none"))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &config.headers {
            let name = HeaderName::try_from(name.as_str());
            let value = HeaderValue::try_from(value.as_str());
            let (Ok(name), Ok(mut value)) = (name, value) else {
                return Err(wrong("headers", "a header is none"));
            };
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let (sender, incoming) = mpsc::channel(INCOMING_MAX);
        let (closing, closed) = watch::channel(false);
        let line = Line {
            url,
            client,
            headers,
            credentials,
            message_bytes_max: config.message_bytes_max,
            clock,
            ending,
            session: Mutex::default(),
            reader: Mutex::default(),
            incoming: sender,
            running: Mutex::default(),
            permits: Semaphore::new(REQUESTS_MAX),
            closed: closing,
            listening: Mutex::default(),
            server_requests: AtomicUsize::new(0),
        };
        Ok(Self {
            line: Arc::new(line),
            incoming,
            closed,
        })
    }
}

impl Transport<RoleClient> for HttpTransport {
    type Error = io::Error;

    fn send(
        &mut self,
        message: TxJsonRpcMessage<RoleClient>,
    ) -> impl Future<Output = Result<(), io::Error>> + Send + 'static {
        let line = Arc::clone(&self.line);
        locked(&line.reader).remember(&message);
        // Registered before the future runs: a cancellation may follow at once.
        let cancelled = match &message {
            JsonRpcMessage::Request(request) => {
                let cancelled = Arc::<Notify>::default();
                locked(&line.running).insert(request.id.clone(), Arc::clone(&cancelled));
                Some(cancelled)
            }
            _ => None,
        };
        async move {
            match message {
                JsonRpcMessage::Request(request) => {
                    let id = request.id.clone();
                    let starts = matches!(
                        request.request,
                        ClientRequest::DiscoverRequest(_) | ClientRequest::InitializeRequest(_)
                    );
                    let message = JsonRpcMessage::Request(request);
                    let cancelled = cancelled.unwrap_or_default();
                    let ended = line.request(&message, &id, &cancelled).await;
                    locked(&line.running).remove(&id);
                    line.settle(id, ended, starts).await
                }
                JsonRpcMessage::Notification(notification) => {
                    line.notify(JsonRpcMessage::Notification(notification))
                        .await
                }
                answer => {
                    let posted = line.post(&answer).await;
                    line.server_requests.fetch_sub(1, Ordering::Relaxed);
                    posted
                        .map(|_| ())
                        .map_err(|_| io::ErrorKind::NotConnected.into())
                }
            }
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleClient>> {
        tokio::select! {
            message = self.incoming.recv() => message,
            _ = self.closed.wait_for(|closed| *closed) => None,
        }
    }

    async fn close(&mut self) -> Result<(), io::Error> {
        self.line.close().await;
        Ok(())
    }
}

impl Drop for HttpTransport {
    fn drop(&mut self) {
        self.line.closed.send_replace(true);
        if let Some(listening) = locked(&self.line.listening).take() {
            listening.abort();
        }
    }
}

impl Line {
    /// Sends a request and hands on what comes until its answer has come.
    async fn request(
        self: &Arc<Self>,
        message: &TxJsonRpcMessage<RoleClient>,
        id: &RequestId,
        cancelled: &Notify,
    ) -> Result<(), Failure> {
        let mut closed = self.closed.subscribe();
        let exchange = async {
            let _permit = self.permits.acquire().await;
            let response = self.post(message).await?;
            self.answered(message, id, response).await
        };
        tokio::select! {
            ended = exchange => ended,
            // Dropping the exchange ends its stream: in the newer era that is the cancellation.
            () = cancelled.notified() => Err(Failure::Cancelled),
            _ = closed.wait_for(|closed| *closed) => Err(Failure::Cancelled),
        }
    }

    /// Tells whoever waits how a request ended without an answer. A connection that cannot even
    /// be made fails as a whole.
    async fn settle(
        &self,
        id: RequestId,
        ended: Result<(), Failure>,
        starts: bool,
    ) -> Result<(), io::Error> {
        let Err(failure) = ended else {
            return Ok(());
        };
        locked(&self.reader).forget(&id);
        let (code, reason) = match failure {
            Failure::Cancelled => return Ok(()),
            Failure::Refused(error) => {
                let _ = self
                    .incoming
                    .send(JsonRpcMessage::error(error, Some(id)))
                    .await;
                return Ok(());
            }
            Failure::NotSent(reason) => (NOT_SENT, reason),
            Failure::Lost(reason) => (LOST, reason),
            Failure::Unauthorised(reason) => {
                self.ending.set_unauthorised(reason.clone());
                (UNAUTHORISED, reason)
            }
        };
        if starts {
            self.ending.set(reason.clone());
            return Err(io::Error::other(reason));
        }
        let _ = self.incoming.send(own_error(code, reason, id)).await;
        Ok(())
    }

    async fn notify(
        self: &Arc<Self>,
        message: TxJsonRpcMessage<RoleClient>,
    ) -> Result<(), io::Error> {
        let JsonRpcMessage::Notification(notification) = &message else {
            return Ok(());
        };
        let legacy = locked(&self.session).legacy;
        let mut initialised = false;
        match &notification.notification {
            ClientNotification::CancelledNotification(cancelled) => {
                let id = cancelled.params.request_id.as_ref();
                let running = id.and_then(|id| locked(&self.running).remove(id));
                if let Some(running) = running {
                    running.notify_one();
                }
                // In the newer era the end of the stream has said it.
                if !legacy {
                    return Ok(());
                }
            }
            ClientNotification::InitializedNotification(_) => initialised = true,
            _ => {}
        }
        let mut closed = self.closed.subscribe();
        let posted = tokio::select! {
            posted = self.post(&message) => posted,
            _ = closed.wait_for(|closed| *closed) => return Ok(()),
        };
        if initialised && posted.is_ok() {
            let line = Arc::clone(self);
            let listening = tokio::spawn(async move { line.listen().await });
            *locked(&self.listening) = Some(listening);
        }
        posted.map(|_| ()).map_err(|failure| {
            let reason = match failure {
                Failure::NotSent(reason) | Failure::Lost(reason) => reason,
                Failure::Unauthorised(reason) => reason,
                _ => "it was refused".to_owned(),
            };
            io::Error::other(reason)
        })
    }

    /// Sends one message: again only if the server wants another credential first.
    async fn post(
        &self,
        message: &TxJsonRpcMessage<RoleClient>,
    ) -> Result<reqwest::Response, Failure> {
        let body = serde_json::to_vec(message)
            .map_err(|error| Failure::NotSent(format!("it cannot be written: {error}")))?;
        let headers = self.post_headers(message);
        for _ in 0..CREDENTIALS_MAX {
            let headers = self.authorised(headers.clone());
            let sent = self
                .client
                .send(Method::POST, &self.url, headers, Some(body.clone()))
                .await;
            let response = match sent {
                Ok(response) => response,
                Err(error) => {
                    if error.did_not_leave {
                        // The next request starts anew, with back-off.
                        self.ending.set(error.reason.clone());
                    }
                    return Err(error.into());
                }
            };
            let Some(challenge) = challenge(&response) else {
                return self.accepted(message, response).await;
            };
            let renewed = self.credentials.renew(Some(challenge)).await;
            renewed.map_err(|error| Failure::Unauthorised(error.to_string()))?;
        }
        let reason = "it refused each credential that it was given".to_owned();
        Err(Failure::Unauthorised(reason))
    }

    /// Sorts responses that carry no answer.
    async fn accepted(
        &self,
        message: &TxJsonRpcMessage<RoleClient>,
        response: reqwest::Response,
    ) -> Result<reqwest::Response, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let in_session = locked(&self.session).id.is_some();
        if status == StatusCode::NOT_FOUND && in_session {
            let reason = "its session has expired".to_owned();
            self.ending.set(reason.clone());
            return Err(Failure::NotSent(reason));
        }
        let JsonRpcMessage::Request(request) = message else {
            return Err(Failure::NotSent(format!("it answered {status}")));
        };
        let body = self.client.body(response, self.message_bytes_max).await;
        let body = body.unwrap_or_default();
        if let Some(JsonRpcMessage::Error(error)) = locked(&self.reader).read(&body) {
            return Err(Failure::Refused(error.error));
        }
        if matches!(request.request, ClientRequest::DiscoverRequest(_)) && status.is_client_error()
        {
            // What an older server, or something before it, says to a method that it does not
            // know; the handshake of the older era follows.
            let reason = format!("it answered {status}");
            return Err(Failure::Refused(ErrorData::invalid_request(reason, None)));
        }
        Err(match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Failure::NotSent(format!("it answered {status}"))
            }
            _ if status.is_server_error() => Failure::Lost(format!("it answered {status}")),
            _ => Failure::Refused(ErrorData::new(
                ErrorCode::INVALID_REQUEST,
                format!("it answered {status}"),
                None,
            )),
        })
    }

    fn post_headers(&self, message: &TxJsonRpcMessage<RoleClient>) -> HeaderMap {
        let session = locked(&self.session).clone();
        let mut headers = self.headers.clone();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        headers.insert("accept", HeaderValue::from_static(ACCEPT_BOTH));
        let mut put = |name: &str, value: &str| {
            let name = HeaderName::try_from(name);
            if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
                headers.insert(name, value);
            }
        };
        let mut own_version = None;
        if let JsonRpcMessage::Request(request) = message {
            let meta = request.request.get_meta();
            own_version = meta.protocol_version().map(|v| v.as_str().to_owned());
        }
        let modern = own_version.is_some() || (!session.legacy && session.version.is_some());
        if let Some(version) = own_version.as_ref().or(session.version.as_ref()) {
            put("mcp-protocol-version", version);
        }
        if modern && let Ok(value) = serde_json::to_value(message) {
            let method = value["method"].as_str().unwrap_or_default();
            put("mcp-method", method);
            let named = match method {
                "tools/call" => value["params"]["name"].as_str(),
                "tasks/get" | "tasks/update" | "tasks/cancel" => value["params"]["taskId"].as_str(),
                _ => None,
            };
            if let Some(name) = named {
                put("mcp-name", &header_value(name));
            }
        }
        if modern
            && let JsonRpcMessage::Request(request) = message
            && let ClientRequest::CallToolRequest(call) = &request.request
            && let Some(ParamHeaders(extra)) = call.extensions().get::<ParamHeaders>()
        {
            for (name, value) in extra {
                put(name, value);
            }
        }
        if let Some(id) = session.id {
            headers.insert("mcp-session-id", id);
        }
        headers
    }

    fn authorised(&self, mut headers: HeaderMap) -> HeaderMap {
        if let Some(token) = self.credentials.header() {
            headers.insert("authorization", token);
        }
        headers
    }

    /// Hands on what a response brings, to the answer.
    async fn answered(
        &self,
        message: &TxJsonRpcMessage<RoleClient>,
        id: &RequestId,
        response: reqwest::Response,
    ) -> Result<(), Failure> {
        let session = session_id(&response)?;
        let kind = response.headers().get("content-type");
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        let asked = Asked {
            id,
            message,
            session: session.as_ref(),
        };
        match kind.as_str() {
            "application/json" => {
                let body = self.client.body(response, self.message_bytes_max).await;
                if self.deliver(&body?, Some(&asked)).await? {
                    Ok(())
                } else {
                    Err(Failure::Lost(
                        "its answer is none to this request".to_owned(),
                    ))
                }
            }
            "text/event-stream" => self.follow(response, &asked).await,
            _ => Err(Failure::Lost(
                "its answer is neither JSON nor a stream".to_owned(),
            )),
        }
    }

    /// Reads a stream to the answer; one that breaks off is taken up where it stood, if the
    /// server said where that is. That sends nothing again.
    async fn follow(&self, response: reqwest::Response, asked: &Asked<'_>) -> Result<(), Failure> {
        let mut response = Some(response);
        let mut place = Place::default();
        let mut resumes = 0;
        loop {
            if let Some(response) = response.take() {
                let before = place.events;
                let ended = self.read_stream(response, &mut place, Some(asked)).await?;
                if ended == StreamEnd::Answered {
                    return Ok(());
                }
                if place.events > before {
                    resumes = 0;
                }
            }
            resumes += 1;
            if place.id.is_none() || resumes > RESUMES_MAX {
                return Err(Failure::Lost(
                    "its stream ended before the answer".to_owned(),
                ));
            }
            self.clock.sleep(place.pause()).await;
            match self.get(place.id.as_deref()).await {
                Ok(Some(resumed)) => response = Some(resumed),
                Ok(None) => {
                    let reason = "its stream ended and cannot be taken up again".to_owned();
                    return Err(Failure::Lost(reason));
                }
                // The connection may come back.
                Err(_) => {}
            }
        }
    }

    async fn read_stream(
        &self,
        mut response: reqwest::Response,
        place: &mut Place,
        asked: Option<&Asked<'_>>,
    ) -> Result<StreamEnd, Failure> {
        let mut events = EventReader::new(self.message_bytes_max);
        // A stream that breaks is one that ended.
        while let Ok(Some(bytes)) = response.chunk().await {
            let taken = events.take(&bytes).map_err(|_| {
                let limit = self.message_bytes_max;
                let reason = format!("it sent a message of more than {limit} bytes");
                self.ending.set(reason.clone());
                Failure::Lost(reason)
            })?;
            for event in taken {
                place.events += 1;
                place.retry = event.retry.or(place.retry);
                if event.id.is_some() {
                    place.id = event.id;
                }
                if !event.data.is_empty() && self.deliver(&event.data, asked).await? {
                    return Ok(StreamEnd::Answered);
                }
            }
        }
        Ok(StreamEnd::Ended)
    }

    /// Hands a message on; says whether it is the answer that is waited for.
    async fn deliver(&self, bytes: &[u8], asked: Option<&Asked<'_>>) -> Result<bool, Failure> {
        let Some(message) = locked(&self.reader).read(bytes) else {
            return Ok(false);
        };
        let mut is_answer = false;
        match &message {
            JsonRpcMessage::Request(_) => {
                let waiting = self.server_requests.fetch_add(1, Ordering::Relaxed);
                if waiting >= SERVER_REQUESTS_MAX {
                    let reason = "it asked more than it lets us answer".to_owned();
                    self.ending.set(reason.clone());
                    return Err(Failure::Lost(reason));
                }
            }
            JsonRpcMessage::Response(response) => {
                is_answer = asked.is_some_and(|asked| *asked.id == response.id);
                if let (true, Some(asked)) = (is_answer, asked) {
                    self.learn(asked, &response.result);
                }
            }
            JsonRpcMessage::Error(error) => {
                is_answer = asked.is_some_and(|asked| error.id.as_ref() == Some(asked.id));
            }
            JsonRpcMessage::Notification(_) => {}
        }
        // On a stream of its own, an answer to anybody else is none of its business.
        let foreign = matches!(
            &message,
            JsonRpcMessage::Response(_) | JsonRpcMessage::Error(_)
        ) && !is_answer;
        if !foreign {
            let _ = self.incoming.send(message).await;
        }
        Ok(is_answer)
    }

    /// Keeps what the answer to a handshake says about all that follows.
    fn learn(&self, asked: &Asked<'_>, result: &ServerResult) {
        let JsonRpcMessage::Request(request) = asked.message else {
            return;
        };
        let mut session = locked(&self.session);
        match (&request.request, result) {
            (ClientRequest::InitializeRequest(_), ServerResult::InitializeResult(result)) => {
                session.version = Some(result.protocol_version.as_str().to_owned());
                session.legacy = true;
                session.id = asked.session.cloned();
            }
            (ClientRequest::DiscoverRequest(_), ServerResult::DiscoverResult(_)) => {
                let meta = request.request.get_meta();
                session.version = meta.protocol_version().map(|v| v.as_str().to_owned());
            }
            _ => {}
        }
    }

    /// Opens a stream of what the server says by itself, or takes one up; none if it has none.
    async fn get(&self, last: Option<&str>) -> Result<Option<reqwest::Response>, HttpError> {
        let session = locked(&self.session).clone();
        let mut headers = self.headers.clone();
        headers.insert("accept", HeaderValue::from_static("text/event-stream"));
        let mut put = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        };
        if let Some(version) = &session.version {
            put("mcp-protocol-version", version);
        }
        if let Some(last) = last {
            put("last-event-id", last);
        }
        if let Some(id) = session.id {
            headers.insert("mcp-session-id", id);
        }
        let headers = self.authorised(headers);
        let response = self
            .client
            .send(Method::GET, &self.url, headers, None)
            .await?;
        let kind = response.headers().get("content-type");
        let streams = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        Ok((response.status().is_success() && streams).then_some(response))
    }

    /// In the older era the server tells of changes on a stream of its own, if it has one.
    async fn listen(&self) {
        let mut place = Place::default();
        let mut failures = 0;
        while failures <= RESUMES_MAX && !self.ending.is_set() {
            match self.get(place.id.as_deref()).await {
                Ok(None) => return,
                Ok(Some(response)) => {
                    let before = place.events;
                    let resumed = place.id.is_some();
                    if self.read_stream(response, &mut place, None).await.is_err() {
                        return;
                    }
                    failures = if place.events > before {
                        0
                    } else {
                        failures + 1
                    };
                    if !resumed && place.id.is_none() {
                        // Whatever changed until it listens again goes unheard.
                        self.tell_of_change().await;
                    }
                }
                Err(_) => failures += 1,
            }
            self.clock.sleep(place.pause()).await;
        }
    }

    async fn tell_of_change(&self) {
        let changed = br#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
        let _ = self.deliver(changed, None).await;
    }

    async fn close(&self) {
        self.closed.send_replace(true);
        let listening = locked(&self.listening).take();
        if let Some(listening) = listening {
            listening.abort();
            let _ = listening.await;
        }
        let session = locked(&self.session).clone();
        if let (Some(id), false) = (session.id, self.ending.is_set()) {
            let mut headers = self.headers.clone();
            headers.insert("mcp-session-id", id);
            if let Some(version) = session.version.and_then(|v| HeaderValue::try_from(v).ok()) {
                headers.insert("mcp-protocol-version", version);
            }
            let headers = self.authorised(headers);
            let farewell = self.client.send(Method::DELETE, &self.url, headers, None);
            // A server that does not hear it forgets the session by itself.
            let _ = tokio::time::timeout(FAREWELL, farewell).await;
        }
        self.ending.set("it was closed");
    }
}

/// A request that waits for its answer.
struct Asked<'a> {
    id: &'a RequestId,
    message: &'a TxJsonRpcMessage<RoleClient>,
    session: Option<&'a HeaderValue>,
}

#[derive(Debug, PartialEq, Eq)]
enum StreamEnd {
    Answered,
    Ended,
}

/// Where a stream stands.
#[derive(Debug, Default)]
struct Place {
    id: Option<String>,
    retry: Option<u64>,
    events: u64,
}

impl Place {
    fn pause(&self) -> Duration {
        let asked = self.retry.map(Duration::from_millis);
        asked.unwrap_or(RESUME_PAUSE).min(RESUME_PAUSE_MAX)
    }
}

/// Reads the id of a session that a response starts.
fn session_id(response: &reqwest::Response) -> Result<Option<HeaderValue>, Failure> {
    let Some(id) = response.headers().get("mcp-session-id") else {
        return Ok(None);
    };
    let visible = id
        .as_bytes()
        .iter()
        .all(|byte| (0x21..=0x7e).contains(byte));
    if !visible || id.is_empty() || id.len() > SESSION_BYTES_MAX {
        return Err(Failure::Lost("the id of its session is none".to_owned()));
    }
    let mut id = id.clone();
    id.set_sensitive(true);
    Ok(Some(id))
}

/// How a response refuses the credential, if it does.
fn challenge(response: &reqwest::Response) -> Option<Challenge> {
    let status = response.status();
    let header = response.headers().get("www-authenticate");
    let header = header.and_then(|header| header.to_str().ok());
    let refused =
        status == StatusCode::UNAUTHORIZED || (status == StatusCode::FORBIDDEN && header.is_some());
    refused.then(|| Challenge {
        status: status.as_u16(),
        www_authenticate: header.unwrap_or_default().chars().take(4096).collect(),
    })
}
