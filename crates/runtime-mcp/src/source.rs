//! A tool server as a source of tools.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use rmcp::model::{
    CallToolRequest, CallToolRequestParams, CancelTaskParams, CancelTaskRequest, ClientRequest,
    ErrorCode, GetTaskParams, GetTaskRequest, ListToolsRequest, PaginatedRequestParams,
    RequestMetaObject, UpdateTaskParams, UpdateTaskRequest,
};
use runtime_core::{
    Classified, Clock, Continuation, Digest, ErrorClass, Random, Resolution, ToolDefinition,
    WireError,
};
use runtime_mcp_cache::{
    Answer, Authorisation, CacheKey, CacheValue, Catalogue, DiscoveredTool, DiscoveryCache, Fetch,
    FetchError, FetchLimits, Fetched, Owner, StorePins,
};
use runtime_tools::{
    Resumption, SourceDiagnostic, SourceListing, Tool, ToolContext, ToolError, ToolOutput,
    ToolSource,
};
use serde_json::{Map, Value};

use crate::backoff::{BackOff, Pauses};
use crate::call::{call_error, call_output};
use crate::connection::{Connection, Endpoint, Flight, FlightEvent, OnListChanged, RequestError};
use crate::deception::hides_characters;
use crate::desk::{Question, Seat};
use crate::error::words;
use crate::listing::Pages;
use crate::rounds::{self, Left, ROUNDS_MAX, TaskNow};
use crate::{McpError, McpServerConfig, ServerType};

/// The calls of one source that wait for an answer on an open connection.
const HELD_MAX: usize = 64;

/// The member of a call's `_meta` that carries its idempotency key.
const IDEMPOTENCY_KEY: &str = "agent-runtime/idempotencyKey";

/// A tool server as a source of tools: one connection, and for a child process one process, made
/// when first needed, made again with back-off when it ended.
///
/// # Law
/// - A call is sent at most once. One that was under way when the connection ended is
///   [`ToolError::Indeterminate`], one without an answer in time [`ToolError::TimedOut`]; only a
///   call that never left is [`ToolError::Unavailable`].
/// - What is listed comes through the [`DiscoveryCache`]; a server that is down is a diagnostic,
///   never an empty list (M1).
///
/// Cheap to clone; clones share the process. Dropping the last one, and the last tool that was
/// listed, ends it without waiting.
#[derive(Clone)]
pub struct McpSource(Arc<Inner>);

struct Inner {
    config: McpServerConfig,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    cache: DiscoveryCache<Catalogue>,
    key: CacheKey,
    endpoint: Endpoint,
    pins: Option<Arc<StorePins>>,
    slot: Mutex<Slot>,
    inspected: Mutex<Option<Inspected>>,
    held: Mutex<VecDeque<Held>>,
}

/// A call of the older era that the server asks something for: it is still open.
struct Held {
    id: String,
    flight: Flight,
    seat: Seat,
    question: Question,
    connection: Arc<Connection>,
}

/// What was found in a catalogue, so that each is searched once.
#[derive(Clone)]
struct Inspected {
    catalogue: Digest,
    finding: Option<WireError>,
}

type Opening = Shared<BoxFuture<'static, Result<Arc<Connection>, McpError>>>;

/// Where the one connection is kept.
#[derive(Default)]
struct Slot {
    state: State,
    backoff: BackOff,
    closed: bool,
}

#[derive(Default)]
enum State {
    #[default]
    Idle,
    Opening(Opening),
    Open {
        connection: Arc<Connection>,
        since: Duration,
    },
}

impl McpSource {
    /// Makes the source of a server; nothing is started yet.
    ///
    /// # Errors
    /// [`McpError::InvalidConfig`], [`McpError::Unsupported`].
    pub fn new(
        config: McpServerConfig,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        cache: DiscoveryCache<Catalogue>,
    ) -> Result<Self, McpError> {
        config.check()?;
        let endpoint = endpoint(&config)?;
        // What a child process is asked as is in its arguments and variables, all of the key.
        let key = CacheKey::new(
            Owner::Shared,
            config.name.clone(),
            &config.connection_identity(),
            &Authorisation::Anonymous,
        );
        Ok(Self::of(config, clock, random, cache, key, endpoint, None))
    }

    fn of(
        config: McpServerConfig,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        cache: DiscoveryCache<Catalogue>,
        key: CacheKey,
        endpoint: Endpoint,
        pins: Option<Arc<StorePins>>,
    ) -> Self {
        Self(Arc::new(Inner {
            config,
            clock,
            random,
            cache,
            key,
            endpoint,
            pins,
            slot: Mutex::default(),
            inspected: Mutex::default(),
            held: Mutex::default(),
        }))
    }

    /// The same source with another way to reach its server; nothing of this one is shared.
    fn reached_by(self, key: CacheKey, endpoint: Endpoint) -> Self {
        let inner = &self.0;
        Self::of(
            inner.config.clone(),
            Arc::clone(&inner.clock),
            Arc::clone(&inner.random),
            inner.cache.clone(),
            key,
            endpoint,
            inner.pins.clone(),
        )
    }

    /// Pins the definitions (M7): the first list of the server is trusted, and what is added or
    /// changed later is neither listed nor callable before somebody
    /// [approves](StorePins::approve) it. Call it before the source is used.
    #[must_use]
    pub fn pinned_by(self, pins: Arc<StorePins>) -> Self {
        let inner = &self.0;
        Self::of(
            inner.config.clone(),
            Arc::clone(&inner.clock),
            Arc::clone(&inner.random),
            inner.cache.clone(),
            inner.key.clone(),
            inner.endpoint.clone(),
            Some(pins),
        )
    }

    /// Asks this provider for the credential of the server, instead of what the entry says. Call
    /// it before the source is used. A child process gets none.
    #[cfg(feature = "http")]
    #[must_use]
    pub fn with_auth(self, provider: Arc<dyn crate::AuthProvider>) -> Self {
        let Endpoint::Url { client, .. } = &self.0.endpoint else {
            return self;
        };
        let client = client.clone();
        let config = &self.0.config;
        let key = CacheKey::new(
            Owner::Shared,
            config.name.clone(),
            &config.connection_identity(),
            &Authorisation::Account(provider.account()),
        );
        let credentials =
            crate::credentials::Credentials::new(&config.name, &config.url, Some(provider));
        let credentials = Arc::new(credentials);
        let endpoint = Endpoint::Url {
            client,
            credentials,
        };
        self.reached_by(key, endpoint)
    }

    /// Records the running process in a directory, so that it can be ended if this process is
    /// killed: see [`end_survivors`](crate::end_survivors), which is called here, before anything
    /// is started. Call it before the source is used.
    ///
    /// # Errors
    /// The directory cannot be read.
    #[cfg(feature = "stdio")]
    pub fn recording_processes(
        self,
        directory: impl Into<std::path::PathBuf>,
    ) -> std::io::Result<Self> {
        let directory = directory.into();
        crate::end_survivors(&directory)?;
        if !matches!(self.0.endpoint, Endpoint::Process { .. }) {
            return Ok(self);
        }
        let key = self.0.key.clone();
        let records = Some(directory);
        Ok(self.reached_by(key, Endpoint::Process { records }))
    }

    /// Says that there is a new credential: a server that refused the last one is asked again
    /// (M1).
    pub fn credential_changed(&self) {
        // The pause was for a server that would refuse again.
        self.0.slot().backoff = BackOff::default();
        self.0.cache.unblock(&self.0.key);
    }

    /// Returns the entry of the server.
    #[must_use]
    pub fn config(&self) -> &McpServerConfig {
        &self.0.config
    }

    async fn listing(&self, answer: Answer<Catalogue>) -> SourceListing {
        let mut diagnostic = self.0.diagnostic(&answer);
        let catalogue = answer.value;
        let mut callable = None;
        if let (Some(pins), Some(catalogue)) = (&self.0.pins, &catalogue) {
            let (names, withheld) = pinned_names(pins, catalogue).await;
            callable = Some(names);
            // What is wrong with the server comes first; the rest is seen once that is over.
            if let (None, Some(error)) = (&diagnostic, withheld) {
                diagnostic = Some(SourceDiagnostic {
                    source: self.0.config.name.clone(),
                    state: answer.state.as_str().to_owned(),
                    error: Some(error),
                    next_retry: None,
                });
            }
        }
        let offered = |tool: &DiscoveredTool| match &callable {
            None => true,
            Some(names) => names.binary_search(&tool.name).is_ok(),
        };
        let tools = catalogue.iter().flat_map(|catalogue| {
            let tools = catalogue.tools().iter().enumerate();
            let offered = tools.filter(|(_, tool)| offered(tool));
            offered.map(|(index, _)| {
                Arc::new(McpTool {
                    source: Arc::clone(&self.0),
                    catalogue: Arc::clone(catalogue),
                    index,
                }) as Arc<dyn Tool>
            })
        });
        SourceListing {
            tools: tools.collect(),
            diagnostic,
        }
    }
}

impl fmt::Debug for McpSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("McpSource")
            .field("config", &self.0.config)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl ToolSource for McpSource {
    fn name(&self) -> &str {
        &self.0.config.name
    }

    fn required(&self) -> bool {
        self.0.config.required
    }

    async fn list(&self) -> SourceListing {
        if !self.0.config.discovery {
            return SourceListing::default();
        }
        let answer = self.0.cache.get(&self.0.key, &self.0).await;
        self.listing(answer).await
    }

    async fn close(&self) {
        let state = {
            let mut slot = self.0.slot();
            slot.closed = true;
            std::mem::take(&mut slot.state)
        };
        // Whoever asked is told that nobody answers.
        self.0.held().clear();
        match state {
            State::Open { connection, .. } => connection.close().await,
            // Dropping a start that is under way kills its process.
            State::Opening(opening) => drop(opening),
            State::Idle => {}
        }
    }
}

impl Inner {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_connected(&self) -> bool {
        matches!(&self.slot().state, State::Open { connection, .. } if connection.is_open())
    }

    /// Returns the connection, opening it if need be: all who ask meanwhile share one start.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the start to whoever waits too, or asks next.
    async fn connection(&self) -> Result<Arc<Connection>, McpError> {
        let opening = {
            let mut slot = self.slot();
            if slot.closed {
                return Err(self.closed());
            }
            match &slot.state {
                State::Open { connection, .. } if connection.is_open() => {
                    return Ok(Arc::clone(connection));
                }
                State::Opening(opening) => opening.clone(),
                State::Open { since, .. } => {
                    let now = self.clock.monotonic();
                    let ran = now.saturating_sub(*since);
                    slot.backoff.ended(ran, now, self.pauses(), self.fraction());
                    self.start(&mut slot)?
                }
                State::Idle => self.start(&mut slot)?,
            }
        };
        let opened = opening.clone().await;
        self.settle(&opening, opened)
    }

    fn start(&self, slot: &mut Slot) -> Result<Opening, McpError> {
        if let Some(wait) = slot.backoff.wait(self.clock.monotonic()) {
            slot.state = State::Idle;
            return Err(McpError::BackingOff {
                server: self.config.name.clone(),
                next_retry: self.clock.now().after(wait),
            });
        }
        let config = self.config.clone();
        let clock = Arc::clone(&self.clock);
        let on_list_changed = self.on_list_changed();
        let endpoint = self.endpoint.clone();
        let opening: Opening = async move {
            let opened = Connection::open(&config, &endpoint, clock, on_list_changed).await;
            opened.map(Arc::new)
        }
        .boxed()
        .shared();
        slot.state = State::Opening(opening.clone());
        Ok(opening)
    }

    /// Puts away how a start ended; the first who gets here does it for all.
    fn settle(
        &self,
        opening: &Opening,
        opened: Result<Arc<Connection>, McpError>,
    ) -> Result<Arc<Connection>, McpError> {
        let mut slot = self.slot();
        if slot.closed {
            return Err(self.closed());
        }
        let ours = matches!(&slot.state, State::Opening(current) if current.ptr_eq(opening));
        if ours {
            let now = self.clock.monotonic();
            slot.state = match &opened {
                Ok(connection) => State::Open {
                    connection: Arc::clone(connection),
                    since: now,
                },
                Err(_) => {
                    slot.backoff
                        .start_failed(now, self.pauses(), self.fraction());
                    State::Idle
                }
            };
        }
        opened
    }

    fn held(&self) -> MutexGuard<'_, VecDeque<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a call that waits for an answer, at the cost of the oldest if there are too many.
    fn hold(&self, held: Held) {
        let oldest = {
            let mut all = self.held();
            all.push_back(held);
            (all.len() > HELD_MAX).then(|| all.pop_front()).flatten()
        };
        drop(oldest);
    }

    fn take_held(&self, id: &str) -> Option<Held> {
        let mut all = self.held();
        let at = all.iter().position(|held| held.id == id)?;
        all.remove(at)
    }

    fn nonce(&self) -> String {
        let mut bytes = [0; 16];
        self.random.fill(&mut bytes);
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Asks for the credential anew: it may have been withdrawn since the connection was made.
    async fn renew_credential(&self) -> Result<(), McpError> {
        match &self.endpoint {
            #[cfg(feature = "http")]
            Endpoint::Url { credentials, .. } => {
                let renewed = credentials.renew(None).await;
                renewed.map_err(|error| McpError::Unauthorised {
                    server: self.config.name.clone(),
                    reason: words(&error.reason),
                })
            }
            #[cfg(feature = "stdio")]
            Endpoint::Process { .. } => Ok(()),
        }
    }

    fn is_http(&self) -> bool {
        self.config.server_type == ServerType::Http
    }

    fn on_list_changed(&self) -> OnListChanged {
        let (cache, key) = (self.cache.clone(), self.key.clone());
        Arc::new(move || cache.mark_stale(&key))
    }

    fn closed(&self) -> McpError {
        McpError::Closed {
            server: self.config.name.clone(),
        }
    }

    const fn pauses(&self) -> Pauses {
        Pauses {
            initial: Duration::from_millis(self.config.restart_backoff_initial_ms),
            max: Duration::from_millis(self.config.restart_backoff_max_ms),
        }
    }

    fn fraction(&self) -> f64 {
        let mut byte = [0];
        self.random.fill(&mut byte);
        f64::from(byte[0]) / 255.0
    }

    fn request_error(&self, connection: &Connection, error: RequestError) -> McpError {
        let server = self.config.name.clone();
        match error {
            RequestError::NotSent(_) | RequestError::Lost => connection.lost(),
            RequestError::Unauthorised(reason) => McpError::Unauthorised {
                server,
                reason: words(&reason),
            },
            RequestError::TimedOut => McpError::TimedOut {
                server,
                after: Duration::from_millis(self.config.discovery_timeout_ms),
            },
            RequestError::Refused(error) => McpError::Refused {
                server,
                error_code: error.code.0,
                reason: words(&error.message),
            },
        }
    }

    /// Says why the tools are missing, old, or not as they should be; nothing if all is well.
    fn diagnostic(&self, answer: &Answer<Catalogue>) -> Option<SourceDiagnostic> {
        let error = match (&answer.error, &answer.value) {
            (Some(error), _) => Some(WireError::clone(error)),
            (None, Some(catalogue)) => self.finding(catalogue),
            (None, None) => None,
        };
        let missing = answer.value.is_none();
        (missing || error.is_some()).then(|| SourceDiagnostic {
            source: self.config.name.clone(),
            state: answer.state.as_str().to_owned(),
            error,
            next_retry: answer.next_retry,
        })
    }

    fn finding(&self, catalogue: &Catalogue) -> Option<WireError> {
        let digest = catalogue.digest();
        let lock = || {
            self.inspected
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if let Some(inspected) = &*lock()
            && inspected.catalogue == digest
        {
            return inspected.finding.clone();
        }
        let finding = inspect(catalogue);
        *lock() = Some(Inspected {
            catalogue: digest,
            finding: finding.clone(),
        });
        finding
    }
}

/// Returns the names that may be called, in order, and what is to be told of the others. Pins that
/// cannot be read let nothing through.
async fn pinned_names(pins: &StorePins, catalogue: &Catalogue) -> (Vec<String>, Option<WireError>) {
    let review = match pins.review(catalogue).await {
        Ok(review) => review,
        Err(error) => return (Vec::new(), Some(error.to_wire())),
    };
    let withheld = review.withheld.first().map(|first| {
        let message = format!(
            "{} of its tools wait for approval; the first is {:?}",
            review.withheld.len(),
            words(&first.name)
        );
        WireError::new("mcp_tools_withheld", ErrorClass::Invalid, message)
    });
    (review.callable, withheld)
}

fn inspect(catalogue: &Catalogue) -> Option<WireError> {
    let refused = catalogue.refused();
    if let Some(first) = refused.first() {
        let message = format!(
            "{} of its tools are not offered; the first is {:?}: {}",
            refused.len(),
            words(&first.name),
            first.reason
        );
        let code = "mcp_tools_refused";
        return Some(WireError::new(code, ErrorClass::Invalid, message));
    }
    let mut tools = catalogue.tools().iter();
    let deceptive = tools.find(|tool| hides_characters(&tool.definition))?;
    let message = format!(
        "the definition of {} has characters that nobody sees; look at it before you approve",
        deceptive.definition.name
    );
    let code = "mcp_tools_deceptive";
    Some(WireError::new(code, ErrorClass::Invalid, message))
}

#[async_trait]
impl Fetch<Catalogue> for Inner {
    async fn fetch(&self, limits: FetchLimits) -> Result<Fetched<Catalogue>, FetchError> {
        let connection = self
            .connection()
            .await
            .map_err(|error| fetch_error(&error))?;
        let renewed = self.renew_credential().await;
        renewed.map_err(|error| fetch_error(&error))?;
        let timeout = Duration::from_millis(self.config.discovery_timeout_ms);
        let (name, trusted) = (&self.config.name, self.config.trusted);
        let mut pages = Pages::new(name, trusted, connection.era(), limits);
        if self.is_http() {
            pages = pages.checking_headers();
        }
        let mut cursor = None;
        loop {
            let params = PaginatedRequestParams::default().with_cursor(cursor);
            let request = ClientRequest::ListToolsRequest(ListToolsRequest {
                method: Default::default(),
                params: Some(params),
                extensions: Default::default(),
            });
            let page = connection.request(request, None, timeout).await;
            let page =
                page.map_err(|error| fetch_error(&self.request_error(&connection, error)))?;
            match pages.take(page)? {
                Some(next) => cursor = Some(next),
                None => return Ok(pages.finish()),
            }
        }
    }
}

fn fetch_error(error: &McpError) -> FetchError {
    match error {
        McpError::Unauthorised { .. } => FetchError::refused(error),
        _ => FetchError::failed(error),
    }
}

fn endpoint(config: &McpServerConfig) -> Result<Endpoint, McpError> {
    match config.server_type {
        #[cfg(feature = "stdio")]
        ServerType::Stdio => Ok(Endpoint::Process { records: None }),
        #[cfg(not(feature = "stdio"))]
        ServerType::Stdio => Err(McpError::Unsupported {
            server: config.name.clone(),
            feature: "stdio",
        }),
        #[cfg(feature = "http")]
        ServerType::Http => url_endpoint(config),
        #[cfg(not(feature = "http"))]
        ServerType::Http => Err(McpError::Unsupported {
            server: config.name.clone(),
            feature: "http",
        }),
    }
}

#[cfg(feature = "http")]
fn url_endpoint(config: &McpServerConfig) -> Result<Endpoint, McpError> {
    use crate::auth::EnvironmentToken;
    use crate::{AuthConfig, AuthProvider};

    let wrong = |reason: String| McpError::InvalidConfig {
        server: config.name.clone(),
        reason,
    };
    let egress = crate::egress::Egress {
        allow_private: config.allow_private_addresses,
    };
    let url = reqwest::Url::parse(&config.url).map_err(|_| wrong("its url is none".to_owned()))?;
    egress
        .check_url(&url)
        .map_err(|error| wrong(error.to_string()))?;
    let client = crate::http_client::HttpClient::new(egress);
    let client = client.map_err(|error| wrong(error.to_string()))?;
    let provider = config.auth.as_ref().map(|auth| match auth {
        AuthConfig::BearerEnv { variable } => Arc::new(EnvironmentToken {
            variable: variable.clone(),
        }) as Arc<dyn AuthProvider>,
    });
    let credentials = crate::credentials::Credentials::new(&config.name, &config.url, provider);
    Ok(Endpoint::Url {
        client,
        credentials: Arc::new(credentials),
    })
}

/// One tool of a server, as it was listed.
struct McpTool {
    source: Arc<Inner>,
    catalogue: Arc<Catalogue>,
    index: usize,
}

impl McpTool {
    /// The name on the server; the definition has the public one.
    fn name(&self) -> &str {
        &self.catalogue.tools()[self.index].name
    }

    /// Refuses a definition that is not the pinned one (any more).
    async fn check_pin(&self) -> Result<(), ToolError> {
        let Some(pins) = &self.source.pins else {
            return Ok(());
        };
        let tool = &self.catalogue.tools()[self.index];
        let public = &tool.definition.name;
        match pins.allows(&self.source.config.name, tool).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(ToolError::NotFound {
                tool: format!("{public} (its definition waits for approval)"),
            }),
            Err(error) => Err(ToolError::Unavailable {
                tool: public.clone(),
                reason: error.to_string(),
            }),
        }
    }

    fn timeout(&self, context: &ToolContext) -> Duration {
        let source = &self.source;
        let left = context.deadline.since(source.clock.now());
        left.min(Duration::from_millis(source.config.call_timeout_ms))
    }

    async fn connection(&self) -> Result<Arc<Connection>, ToolError> {
        let reconnects = !self.source.is_connected();
        let connection = self.source.connection().await;
        if reconnects && connection.is_ok() {
            // Another process may answer now, with other tools (M4). The list that is there serves
            // until the next look fetches it again.
            self.source.cache.mark_stale(&self.source.key);
        }
        connection.map_err(|error| ToolError::Unavailable {
            tool: self.definition().name.clone(),
            reason: error.to_string(),
        })
    }
}

#[async_trait]
impl Tool for McpTool {
    fn definition(&self) -> &ToolDefinition {
        &self.catalogue.tools()[self.index].definition
    }

    async fn call(&self, arguments: Value, context: ToolContext) -> Result<ToolOutput, ToolError> {
        self.make(arguments, context, Inputs::default()).await
    }

    async fn resume(
        &self,
        resumption: Resumption,
        context: ToolContext,
    ) -> Result<ToolOutput, ToolError> {
        let Resumption {
            arguments,
            state,
            resolution,
        } = resumption;
        let left: Left = serde_json::from_value(state)
            .map_err(|_| self.failed("what it left behind cannot be read"))?;
        match &left {
            Left::Round {
                round,
                requests,
                state,
            } => match rounds::answers(requests, &resolution) {
                Ok(responses) => {
                    let inputs = Inputs {
                        round: round + 1,
                        responses,
                        state: state.clone(),
                    };
                    self.make(arguments, context, inputs).await
                }
                Err(why) => self.ask_again(&left, requests, &why),
            },
            Left::Held {
                flight,
                round,
                requests,
            } => {
                let Some(held) = self.source.take_held(flight) else {
                    return Err(ToolError::Indeterminate {
                        tool: self.definition().name.clone(),
                        reason: "the connection on which it asked is gone".to_owned(),
                    });
                };
                match rounds::answers(requests, &resolution) {
                    Ok(mut answers) => {
                        let answer = answers.remove(HELD_KEY).unwrap_or_default();
                        self.answer_held(held, answer, round + 1, context).await
                    }
                    Err(why) => {
                        self.source.hold(held);
                        self.ask_again(&left, requests, &why)
                    }
                }
            }
            Left::Task { .. } => self.look_at_task(left, &resolution, context).await,
        }
    }
}

/// The one question of a held call.
const HELD_KEY: &str = "question";

/// What goes with a call beside its arguments.
#[derive(Debug, Clone, Default)]
struct Inputs {
    round: u32,
    responses: Map<String, Value>,
    state: Option<String>,
}

impl McpTool {
    /// Makes the call, once; again only where the server says that it has not run, or that
    /// nobody needs to be asked.
    async fn make(
        &self,
        arguments: Value,
        context: ToolContext,
        mut inputs: Inputs,
    ) -> Result<ToolOutput, ToolError> {
        let arguments = object(&self.definition().name, arguments)?;
        self.check_pin().await?;
        let mut listed_again = false;
        let mut schema = self.definition().input_schema.clone();
        loop {
            let connection = self.connection().await?;
            let request = self.request(arguments.clone(), &inputs, &schema);
            let key = context.idempotency_key.clone().into();
            let meta = Map::from_iter([(IDEMPOTENCY_KEY.to_owned(), key)]);
            let meta = Some(RequestMetaObject::from(meta));
            let mut seat = connection.seat();
            let event = match connection.send(request, meta).await {
                Ok(mut flight) => match flight.next(&mut seat, self.timeout(&context)).await {
                    FlightEvent::Answered(answer) => answer,
                    FlightEvent::Asked(question) => {
                        return self.park_held(connection, flight, seat, question, inputs.round);
                    }
                },
                Err(error) => Err(error),
            };
            match event {
                Ok(result) => match self.read(&result, inputs.round)? {
                    Reading::Output(output) => return Ok(output),
                    Reading::Again(next) => inputs = next,
                },
                // The headers of the call are not those that the server wants: it has not run.
                Err(RequestError::Refused(error))
                    if error.code == ErrorCode::HEADER_MISMATCH && !listed_again =>
                {
                    listed_again = true;
                    schema = self.schema_now().await?;
                }
                Err(error) => {
                    if is_about_the_list(&error) {
                        // Polled once, it runs on in the cache: the model gets its error now.
                        let (cache, key) = (&self.source.cache, &self.source.key);
                        let _ = cache.refetch(key, &self.source).now_or_never();
                    }
                    let public = &self.definition().name;
                    return Err(call_error(public, error, &connection.lost().to_string()));
                }
            }
        }
    }

    fn request(
        &self,
        arguments: Option<Map<String, Value>>,
        inputs: &Inputs,
        schema: &Value,
    ) -> ClientRequest {
        let mut params = CallToolRequestParams::new(self.name().to_owned());
        #[cfg(feature = "http")]
        let headers = arguments.as_ref().map(|arguments| {
            let arguments = Value::Object(arguments.clone());
            crate::param_headers::of_call(schema, &arguments)
        });
        #[cfg(not(feature = "http"))]
        let _ = schema;
        params.arguments = arguments;
        if !inputs.responses.is_empty() {
            let responses = inputs.responses.clone().into_iter();
            params.input_responses = Some(responses.collect());
        }
        params.request_state.clone_from(&inputs.state);
        #[cfg_attr(
            not(feature = "http"),
            allow(unused_mut, reason = "only HTTP has headers")
        )]
        let mut request = CallToolRequest::new(params);
        #[cfg(feature = "http")]
        if let (true, Some(headers)) = (self.source.is_http(), headers) {
            request
                .extensions
                .insert(crate::http::ParamHeaders(headers));
        }
        ClientRequest::CallToolRequest(request)
    }

    /// Lists the tools again and returns the schema that the tool has now.
    async fn schema_now(&self) -> Result<Value, ToolError> {
        let (cache, key) = (&self.source.cache, &self.source.key);
        let answer = cache.refetch(key, &self.source).await;
        let tool = answer.value.as_ref().and_then(|now| now.tool(self.name()));
        match tool {
            Some(tool) => Ok(tool.definition.input_schema.clone()),
            None => Err(ToolError::NotFound {
                tool: self.definition().name.clone(),
            }),
        }
    }

    /// Reads the answer to a call: its result, or what it still needs.
    fn read(&self, result: &Value, round: u32) -> Result<Reading, ToolError> {
        let unaskable = |why| self.failed(why);
        match result.get("resultType").and_then(Value::as_str) {
            Some("input_required") => {
                if round >= ROUNDS_MAX {
                    return Err(self.failed("it asks again and again"));
                }
                let requests = rounds::requests(result.get("inputRequests")).map_err(unaskable)?;
                let state = rounds::request_state(result).map_err(unaskable)?;
                if !requests.is_empty() {
                    let question = rounds::question(&self.source.config.name, &requests);
                    let left = Left::Round {
                        round,
                        requests,
                        state,
                    };
                    return Ok(Reading::Output(parked(&left, Some(question), None)));
                }
                if state.is_none() {
                    return Err(self.failed("it asks for input without saying for what"));
                }
                Ok(Reading::Again(Inputs {
                    round: round + 1,
                    responses: Map::new(),
                    state,
                }))
            }
            Some("task") => {
                let Some(id) = rounds::task_id(result) else {
                    return Err(self.failed("it answered with a task that has no id"));
                };
                let time = Duration::from_millis(self.source.config.task_timeout_ms);
                let left = Left::Task {
                    id,
                    until: self.source.clock.now().after(time),
                    round,
                    requests: Map::new(),
                };
                let now = rounds::task_now(result).map_err(unaskable)?;
                self.task_goes_on(left, now).map(Reading::Output)
            }
            _ => {
                let bytes_max = self.source.config.result_bytes_max;
                call_output(&self.definition().name, result, bytes_max).map(Reading::Output)
            }
        }
    }

    fn task_goes_on(&self, left: Left, now: TaskNow) -> Result<ToolOutput, ToolError> {
        let Left::Task {
            id, until, round, ..
        } = left
        else {
            return Err(self.failed("it is no task"));
        };
        let task = |round, requests| Left::Task {
            id: id.clone(),
            until,
            round,
            requests,
        };
        match now {
            TaskNow::Working { poll_ms } => {
                if self.source.clock.now() >= until {
                    return Err(ToolError::TimedOut {
                        tool: self.definition().name.clone(),
                    });
                }
                let pause = Duration::from_millis(poll_ms);
                Ok(parked(&task(round, Map::new()), None, Some(pause)))
            }
            TaskNow::Asks(_) if round >= ROUNDS_MAX => Err(self.failed("it asks again and again")),
            TaskNow::Asks(requests) => {
                let question = rounds::question(&self.source.config.name, &requests);
                Ok(parked(&task(round + 1, requests), Some(question), None))
            }
            TaskNow::Completed(result) => {
                let bytes_max = self.source.config.result_bytes_max;
                call_output(&self.definition().name, &result, bytes_max)
            }
            TaskNow::Over(reason) => Ok(ToolOutput::error(reason)),
        }
    }

    /// Goes on with a task: hands it what it asked for, ends it, or looks at it.
    async fn look_at_task(
        &self,
        left: Left,
        resolution: &Resolution,
        context: ToolContext,
    ) -> Result<ToolOutput, ToolError> {
        let Left::Task { id, requests, .. } = &left else {
            return Err(self.failed("it is no task"));
        };
        if !requests.is_empty() {
            let responses = match rounds::answers(requests, resolution) {
                Ok(responses) => responses,
                Err(why) => return self.ask_again(&left, requests, &why),
            };
            let params = UpdateTaskParams::new(id.clone(), responses.into_iter().collect());
            let update = ClientRequest::UpdateTaskRequest(UpdateTaskRequest::new(params));
            match self.exchange(update, &context).await {
                // Refused: it was told before, or does not ask any more. What it does now says so.
                Ok(_) | Err(RequestError::Refused(_)) => {}
                Err(error) => return Err(self.task_error(error)),
            }
        } else if *resolution == Resolution::Cancelled {
            let params = CancelTaskParams::new(id.clone());
            let cancel = ClientRequest::CancelTaskRequest(CancelTaskRequest::new(params));
            // Whether it heard it or not, nobody waits for it any more.
            let _ = self.exchange(cancel, &context).await;
            return Ok(ToolOutput::error("the task was cancelled"));
        }
        let params = GetTaskParams::new(id.clone());
        let get = ClientRequest::GetTaskRequest(GetTaskRequest::new(params));
        let task = self.exchange(get, &context).await;
        let task = task.map_err(|error| self.task_error(error))?;
        let now = rounds::task_now(&task).map_err(|why| self.failed(why))?;
        self.task_goes_on(left, now)
    }

    async fn exchange(
        &self,
        request: ClientRequest,
        context: &ToolContext,
    ) -> Result<Value, RequestError> {
        let connection = self.source.connection().await;
        let connection = connection.map_err(|error| RequestError::NotSent(error.to_string()))?;
        connection
            .request(request, None, self.timeout(context))
            .await
    }

    fn task_error(&self, error: RequestError) -> ToolError {
        let lost = "the connection ended while its task was looked at";
        call_error(&self.definition().name, error, lost)
    }

    fn park_held(
        &self,
        connection: Arc<Connection>,
        flight: Flight,
        seat: Seat,
        question: Question,
        round: u32,
    ) -> Result<ToolOutput, ToolError> {
        if round >= ROUNDS_MAX {
            return Err(self.failed("it asks again and again"));
        }
        let request = serde_json::json!({
            "method": "elicitation/create",
            "params": question.params,
        });
        let asked = Value::Object(Map::from_iter([(HELD_KEY.to_owned(), request)]));
        let requests = rounds::requests(Some(&asked)).map_err(|why| self.failed(why))?;
        let text = rounds::question(&self.source.config.name, &requests);
        let id = self.source.nonce();
        self.source.hold(Held {
            id: id.clone(),
            flight,
            seat,
            question,
            connection,
        });
        let left = Left::Held {
            flight: id,
            round,
            requests,
        };
        Ok(parked(&left, Some(text), None))
    }

    async fn answer_held(
        &self,
        held: Held,
        answer: Value,
        round: u32,
        context: ToolContext,
    ) -> Result<ToolOutput, ToolError> {
        let Held {
            mut flight,
            mut seat,
            question,
            connection,
            ..
        } = held;
        // Nobody listens if the connection ended meanwhile; then the call is lost with it.
        let _ = question.reply.send(answer);
        let answered = match flight.next(&mut seat, self.timeout(&context)).await {
            FlightEvent::Asked(question) => {
                return self.park_held(connection, flight, seat, question, round);
            }
            FlightEvent::Answered(answered) => answered,
        };
        let public = &self.definition().name;
        let result =
            answered.map_err(|error| call_error(public, error, &connection.lost().to_string()))?;
        call_output(public, &result, self.source.config.result_bytes_max)
    }

    fn ask_again(
        &self,
        left: &Left,
        requests: &Map<String, Value>,
        why: &str,
    ) -> Result<ToolOutput, ToolError> {
        let question = rounds::question(&self.source.config.name, requests);
        let question = format!("not understood ({}); {question}", words(why));
        Ok(parked(left, Some(question), None))
    }

    fn failed(&self, reason: &str) -> ToolError {
        ToolError::Failed {
            tool: self.definition().name.clone(),
            reason: reason.to_owned(),
            details: None,
        }
    }
}

/// What an answer means.
enum Reading {
    Output(ToolOutput),
    /// The server wants the call again, and nobody asked.
    Again(Inputs),
}

fn parked(left: &Left, question: Option<String>, deadline: Option<Duration>) -> ToolOutput {
    ToolOutput::Parked {
        deadline,
        continuation: Continuation {
            question,
            state: serde_json::to_value(left).expect("what is left behind is plain data"),
            // Looking at a task changes nothing.
            retry_safe: matches!(left, Left::Task { .. }),
        },
    }
}

impl fmt::Debug for McpTool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("McpTool")
            .field("server", &self.source.config.name)
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

fn object(tool: &str, arguments: Value) -> Result<Option<Map<String, Value>>, ToolError> {
    match arguments {
        Value::Object(members) => Ok(Some(members)),
        Value::Null => Ok(None),
        _ => Err(ToolError::InvalidArguments {
            tool: tool.to_owned(),
            reason: "they are not an object".to_owned(),
        }),
    }
}

/// Says whether the answer hints that the tool is not what was listed (M4).
fn is_about_the_list(error: &RequestError) -> bool {
    let RequestError::Refused(error) = error else {
        return false;
    };
    matches!(
        error.code,
        ErrorCode::METHOD_NOT_FOUND | ErrorCode::INVALID_PARAMS
    )
}
