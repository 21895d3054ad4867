//! A tool server as a source of tools.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use rmcp::model::{
    CallToolRequest, CallToolRequestParams, ClientRequest, ErrorCode, ListToolsRequest,
    PaginatedRequestParams, RequestMetaObject,
};
use runtime_core::{Clock, Digest, ErrorClass, Random, ToolDefinition, WireError};
use runtime_mcp_cache::{
    Answer, Authorisation, CacheKey, CacheValue, Catalogue, DiscoveryCache, Fetch, FetchError,
    FetchLimits, Fetched, Owner,
};
use runtime_tools::{
    SourceDiagnostic, SourceListing, Tool, ToolContext, ToolError, ToolOutput, ToolSource,
};
use serde_json::{Map, Value};

use crate::backoff::{BackOff, Pauses};
use crate::call::{call_error, call_output};
use crate::connection::{Connection, OnListChanged, RequestError};
use crate::deception::hides_characters;
use crate::error::words;
use crate::listing::Pages;
use crate::{McpError, McpServerConfig};

/// The member of a call's `_meta` that carries its idempotency key.
const IDEMPOTENCY_KEY: &str = "agent-runtime/idempotencyKey";

/// A tool server as a source of tools: one process, started when first needed, started again with
/// back-off when it died.
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
    slot: Mutex<Slot>,
    inspected: Mutex<Option<Inspected>>,
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
    /// [`McpError::InvalidConfig`].
    pub fn new(
        config: McpServerConfig,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        cache: DiscoveryCache<Catalogue>,
    ) -> Result<Self, McpError> {
        config.check()?;
        // What a child process is asked as is in its arguments and variables, all of the key.
        let key = CacheKey::new(
            Owner::Shared,
            config.name.clone(),
            &config.connection_identity(),
            &Authorisation::Anonymous,
        );
        Ok(Self(Arc::new(Inner {
            config,
            clock,
            random,
            cache,
            key,
            slot: Mutex::default(),
            inspected: Mutex::default(),
        })))
    }

    /// Returns the entry of the server.
    #[must_use]
    pub fn config(&self) -> &McpServerConfig {
        &self.0.config
    }

    fn listing(&self, answer: Answer<Catalogue>) -> SourceListing {
        let diagnostic = self.0.diagnostic(&answer);
        let catalogue = answer.value;
        let tools = catalogue.iter().flat_map(|catalogue| {
            (0..catalogue.tools().len()).map(|index| {
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
        let answer = self.0.cache.get(&self.0.key, &self.0).await;
        self.listing(answer)
    }

    async fn close(&self) {
        let state = {
            let mut slot = self.0.slot();
            slot.closed = true;
            std::mem::take(&mut slot.state)
        };
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
        let opening: Opening = async move {
            let opened = Connection::open(&config, clock, on_list_changed).await;
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
            RequestError::NotSent | RequestError::Lost => connection.lost(),
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
        let connection = self.connection().await;
        let connection = connection.map_err(|error| FetchError::failed(&error))?;
        let timeout = Duration::from_millis(self.config.discovery_timeout_ms);
        let (name, trusted) = (&self.config.name, self.config.trusted);
        let mut pages = Pages::new(name, trusted, connection.era(), limits);
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
                page.map_err(|error| FetchError::failed(&self.request_error(&connection, error)))?;
            match pages.take(page)? {
                Some(next) => cursor = Some(next),
                None => return Ok(pages.finish()),
            }
        }
    }
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

    fn timeout(&self, context: &ToolContext) -> Duration {
        let source = &self.source;
        let left = context.deadline.since(source.clock.now());
        left.min(Duration::from_millis(source.config.call_timeout_ms))
    }

    async fn connection(&self) -> Result<Arc<Connection>, ToolError> {
        let connection = self.source.connection().await;
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
        let public = &self.definition().name;
        let arguments = object(public, arguments)?;
        let connection = self.connection().await?;
        let mut params = CallToolRequestParams::new(self.name().to_owned());
        params.arguments = arguments;
        let request = ClientRequest::CallToolRequest(CallToolRequest::new(params));
        let timeout = self.timeout(&context);
        let meta = Map::from_iter([(IDEMPOTENCY_KEY.to_owned(), context.idempotency_key.into())]);
        let meta = Some(RequestMetaObject::from(meta));
        match connection.request(request, meta, timeout).await {
            Ok(result) => call_output(public, &result, self.source.config.result_bytes_max),
            Err(error) => {
                if is_about_the_list(&error) {
                    // Polled once, it runs on in the cache: the model gets its error now.
                    let (cache, key) = (&self.source.cache, &self.source.key);
                    let _ = cache.refetch(key, &self.source).now_or_never();
                }
                Err(call_error(public, error, &connection.lost().to_string()))
            }
        }
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
