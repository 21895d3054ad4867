//! A tool server as a source of tools.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use rmcp::model::{ClientRequest, ListToolsRequest, PaginatedRequestParams};
use runtime_core::{Classified, Clock, Digest, ErrorClass, Random, WireError};
use runtime_mcp_cache::{
    Answer, Authorisation, CacheKey, CacheValue, Catalogue, DiscoveredTool, DiscoveryCache, Fetch,
    FetchError, FetchLimits, Fetched, Owner, StorePins,
};
use runtime_tools::{SourceDiagnostic, SourceListing, Tool, ToolSource};

use crate::backoff::{BackOff, Pauses};
use crate::connection::{Connection, Endpoint, Flight, OnListChanged, RequestError};
use crate::deception::hidden_characters;
use crate::desk::{Question, Seat};
use crate::error::words;
use crate::listing::Pages;
use crate::tool::McpTool;
use crate::{McpError, McpServerConfig, ServerType};

/// The calls of one source that wait for an answer on an open connection.
const HELD_MAX: usize = 64;

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
///
/// [`ToolError::Indeterminate`]: runtime_tools::ToolError::Indeterminate
/// [`ToolError::TimedOut`]: runtime_tools::ToolError::TimedOut
/// [`ToolError::Unavailable`]: runtime_tools::ToolError::Unavailable
#[derive(Clone)]
pub struct McpSource(Arc<Inner>);

/// What a source is: its tools hold on to it.
pub(crate) struct Inner {
    pub(crate) config: McpServerConfig,
    pub(crate) clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    pub(crate) cache: DiscoveryCache<Catalogue>,
    pub(crate) key: CacheKey,
    endpoint: Endpoint,
    pub(crate) pins: Option<Arc<StorePins>>,
    slot: Mutex<Slot>,
    inspected: Mutex<Option<Inspected>>,
    held: Mutex<VecDeque<Held>>,
}

/// A call of the older era that the server asks something for: it is still open.
pub(crate) struct Held {
    pub(crate) id: String,
    pub(crate) flight: Flight,
    pub(crate) seat: Seat,
    pub(crate) question: Question,
    pub(crate) connection: Arc<Connection>,
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
        Ok(self.recorded_in(directory))
    }

    /// Records the running process in a directory, for a host that has called
    /// [`end_survivors`](crate::end_survivors) for all of its sources at once. Call it before the
    /// source is used.
    #[cfg(feature = "stdio")]
    #[must_use]
    pub fn recorded_in(self, directory: impl Into<std::path::PathBuf>) -> Self {
        if !matches!(self.0.endpoint, Endpoint::Process { .. }) {
            return self;
        }
        let key = self.0.key.clone();
        let records = Some(directory.into());
        self.reached_by(key, Endpoint::Process { records })
    }

    /// Says that there is a new credential: a server that refused the last one is asked again
    /// (M1).
    pub fn credential_changed(&self) {
        // The pause was for a server that would refuse again.
        self.0.slot().backoff = BackOff::default();
        self.0.cache.unblock(&self.0.key);
    }

    /// Returns what is known of the server's list without asking it: nothing is started, nothing
    /// counts as a read.
    #[must_use]
    pub fn peek(&self) -> Option<Answer<Catalogue>> {
        self.0.cache.peek(&self.0.key)
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
        if let (true, Some(catalogue)) = (self.0.is_pinned(), &catalogue) {
            let (names, withheld) = match &self.0.pins {
                Some(pins) => pinned_names(pins, catalogue).await,
                None => (Vec::new(), Some(self.0.unpinned())),
            };
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

    pub(crate) fn is_connected(&self) -> bool {
        matches!(&self.slot().state, State::Open { connection, .. } if connection.is_open())
    }

    /// Returns the connection, opening it if need be: all who ask meanwhile share one start.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the start to whoever waits too, or asks next.
    pub(crate) async fn connection(&self) -> Result<Arc<Connection>, McpError> {
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
    pub(crate) fn hold(&self, held: Held) {
        let oldest = {
            let mut all = self.held();
            all.push_back(held);
            (all.len() > HELD_MAX).then(|| all.pop_front()).flatten()
        };
        drop(oldest);
    }

    pub(crate) fn take_held(&self, id: &str) -> Option<Held> {
        let mut all = self.held();
        let at = all.iter().position(|held| held.id == id)?;
        all.remove(at)
    }

    pub(crate) fn nonce(&self) -> String {
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

    pub(crate) fn is_http(&self) -> bool {
        self.config.server_type == ServerType::Http
    }

    /// Whether only what is pinned may be called.
    pub(crate) const fn is_pinned(&self) -> bool {
        self.config.pin || self.pins.is_some()
    }

    /// The entry asks for pins, and the host gave none: nothing of it may be called.
    fn unpinned(&self) -> WireError {
        let server = &self.config.name;
        let message = format!("{server} is to be pinned, and there is nothing to keep its pins in");
        WireError::new("mcp_pins_missing", ErrorClass::Invalid, message)
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
    let deceptive = tools.find(|tool| !hidden_characters(&tool.raw).is_empty())?;
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
        member: Some("url".to_owned()),
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
    let client = client.map_err(|error| McpError::InvalidConfig {
        server: config.name.clone(),
        member: None,
        reason: error.to_string(),
    })?;
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
