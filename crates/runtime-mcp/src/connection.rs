//! One connection to one running server: handshake, requests, end.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use rmcp::model::{
    CancelledNotificationParam, ClientCapabilities, ClientConfig, ClientRequest, CustomResult,
    ElicitRequestParams, ElicitResult, ElicitationCapability, ErrorData, FormElicitationCapability,
    Implementation, ProtocolVersion, RequestId, RequestMetaObject, ServerNotification,
    ServerResult, SubscriptionFilter, TASKS_EXTENSION_ID,
};
use rmcp::service::{
    NotificationContext, Peer, PeerRequestOptions, RequestContext, RequestHandle, RunningService,
    ServiceError,
};
use rmcp::{ClientCacheConfig, ClientHandler, ClientLifecycleMode, ClientServiceExt, RoleClient};
use runtime_core::Clock;
use runtime_mcp_cache::Era;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::desk::{Desk, Question, Seat};
use crate::ending::Ending;
use crate::error::words;
use crate::{Lifecycle, McpError, McpServerConfig, wire};

/// Abandoned requests whose cancellation is not sent yet; beyond that the server is not told.
const CANCELLATIONS_MAX: usize = 256;

/// The pause after a stream of changes that brought nothing; it doubles.
const LISTEN_PAUSE: Duration = Duration::from_millis(500);
const LISTEN_PAUSE_MAX: Duration = Duration::from_secs(60);
/// So many such streams in a row, and the server is taken at its word.
const LISTEN_FAILURES_MAX: u32 = 8;

/// What a `list_changed` of the server sets off: must not block.
pub(crate) type OnListChanged = Arc<dyn Fn() + Send + Sync>;

/// A connection that was made. It may have ended since.
pub(crate) struct Connection {
    server: String,
    clock: Arc<dyn Clock>,
    peer: Peer<RoleClient>,
    service: tokio::sync::Mutex<Option<RunningService<RoleClient, Listener>>>,
    cancellations: mpsc::Sender<RequestId>,
    courier: JoinHandle<()>,
    ending: Arc<Ending>,
    era: Era,
    desk: Arc<Desk>,
}

/// Why a request has no result. The variants differ in what the server may have done.
#[derive(Debug)]
pub(crate) enum RequestError {
    /// It never reached the server, or did not run there.
    NotSent(String),
    /// The connection ended meanwhile.
    Lost,
    /// The server refused the credential; the request did not run.
    Unauthorised(String),
    /// No answer came in time; the server was told that nobody waits any more.
    TimedOut,
    /// The server answered with an error, or its answer could not be read.
    Refused(ErrorData),
}

/// How a server is reached.
#[derive(Clone)]
pub(crate) enum Endpoint {
    /// A child process.
    #[cfg(feature = "stdio")]
    Process {
        /// Where running processes are recorded.
        records: Option<std::path::PathBuf>,
    },
    /// A URL.
    #[cfg(feature = "http")]
    Url {
        client: crate::http_client::HttpClient,
        credentials: Arc<crate::credentials::Credentials>,
    },
}

impl Connection {
    /// Reaches the server and shakes hands, in whichever era it speaks.
    pub(crate) async fn open(
        config: &McpServerConfig,
        endpoint: &Endpoint,
        clock: Arc<dyn Clock>,
        on_list_changed: OnListChanged,
    ) -> Result<Self, McpError> {
        let ending = Arc::<Ending>::default();
        let desk = Arc::<Desk>::default();
        let listener = Listener {
            lifecycle: config.lifecycle,
            on_list_changed: Arc::clone(&on_list_changed),
            desk: Arc::clone(&desk),
        };
        let timeout = Duration::from_millis(config.discovery_timeout_ms);
        let shaking = shake(
            config,
            endpoint,
            Arc::clone(&clock),
            Arc::clone(&ending),
            listener,
        );
        let service = match select(Box::pin(shaking), clock.sleep(timeout)).await {
            Either::Left((shaken, _)) => shaken?,
            // Dropping the handshake drops the transport and with it kills the process.
            Either::Right(_) => {
                return Err(McpError::TimedOut {
                    server: config.name.clone(),
                    after: timeout,
                });
            }
        };
        let peer = service.peer().clone();
        peer.set_response_cache_config(ClientCacheConfig::disabled())
            .await;
        let era = era(&peer);
        let (cancellations, abandoned) = mpsc::channel(CANCELLATIONS_MAX);
        let courier = Courier {
            peer: peer.clone(),
            clock: Arc::clone(&clock),
            abandoned,
            on_list_changed,
        };
        Ok(Self {
            server: config.name.clone(),
            clock,
            service: tokio::sync::Mutex::new(Some(service)),
            cancellations,
            courier: tokio::spawn(courier.run(era == Era::WithHints && tells_of_changes(&peer))),
            peer,
            ending,
            era,
            desk,
        })
    }

    /// Says whether requests can be sent.
    pub(crate) fn is_open(&self) -> bool {
        !self.ending.is_set() && !self.peer.is_transport_closed()
    }

    /// Returns the era that the server speaks.
    pub(crate) const fn era(&self) -> Era {
        self.era
    }

    /// Returns how the connection ended, as an error.
    pub(crate) fn lost(&self) -> McpError {
        McpError::ConnectionLost {
            server: self.server.clone(),
            reason: self.ending.reason(),
        }
    }

    /// Sends a request once and returns its result as it came.
    ///
    /// # Cancel safety
    /// Dropping the future tells the server that nobody waits any more.
    pub(crate) async fn request(
        &self,
        request: ClientRequest,
        meta: Option<RequestMetaObject>,
        timeout: Duration,
    ) -> Result<Value, RequestError> {
        let mut flight = self.send(request, meta).await?;
        match select(pin!(flight.answer()), self.clock.sleep(timeout)).await {
            Either::Left((answer, _)) => answer,
            Either::Right(_) => Err(RequestError::TimedOut),
        }
    }

    /// Sends a request that may be asked about: while it is the only one, what the server asks
    /// meanwhile is asked for it.
    pub(crate) async fn send(
        &self,
        request: ClientRequest,
        meta: Option<RequestMetaObject>,
    ) -> Result<Flight, RequestError> {
        let mut options = PeerRequestOptions::no_options();
        options.meta = meta;
        if !self.is_open() {
            return Err(RequestError::NotSent(self.ending.reason()));
        }
        let sent = self.peer.send_request_with_option(request, options).await;
        let handle = sent.map_err(|_| RequestError::NotSent(self.ending.reason()))?;
        Ok(Flight {
            abandoned: Abandoned {
                id: Some(handle.id.clone()),
                cancellations: self.cancellations.clone(),
            },
            handle,
            clock: Arc::clone(&self.clock),
        })
    }

    /// Takes the seat of a call, so that what the server asks meanwhile reaches it.
    pub(crate) fn seat(&self) -> Seat {
        self.desk.seat()
    }

    /// Ends the connection and the process and waits for both.
    pub(crate) async fn close(&self) {
        self.courier.abort();
        let service = self.service.lock().await.take();
        if let Some(mut service) = service {
            // An error means that its task panicked or was aborted: it is gone either way.
            let _ = service.close().await;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Dropping the service, too, cancels its task, which then ends the process.
        self.courier.abort();
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("server", &self.server)
            .field("era", &self.era)
            .field("ending", &self.ending)
            .finish_non_exhaustive()
    }
}

fn era(peer: &Peer<RoleClient>) -> Era {
    let info = peer.peer_info();
    let legacy = info.is_none_or(|info| info.protocol_version.has_initialize());
    if legacy {
        Era::WithoutHints
    } else {
        Era::WithHints
    }
}

fn tells_of_changes(peer: &Peer<RoleClient>) -> bool {
    let info = peer.peer_info();
    let tools = info.and_then(|info| info.capabilities.tools.clone());
    tools.and_then(|tools| tools.list_changed) == Some(true)
}

/// A request under way. Dropping it tells the server that nobody waits any more.
pub(crate) struct Flight {
    handle: RequestHandle<RoleClient>,
    abandoned: Abandoned,
    clock: Arc<dyn Clock>,
}

impl Flight {
    /// Waits for the answer.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing; wait again.
    pub(crate) async fn answer(&mut self) -> Result<Value, RequestError> {
        let answer = (&mut self.handle.rx).await;
        self.abandoned.id = None;
        match answer {
            Ok(Ok(ServerResult::CustomResult(CustomResult(value)))) => Ok(value),
            // The transport hands every result on as it came; another kind cannot come.
            Ok(Ok(_) | Err(ServiceError::UnexpectedResponse)) => {
                let reason = "its answer is none to this request";
                Err(RequestError::Refused(ErrorData::internal_error(
                    reason, None,
                )))
            }
            Ok(Err(ServiceError::McpError(error))) => Err(sorted(error)),
            // Even a request that failed to be written may have arrived.
            Ok(Err(_)) | Err(_) => Err(RequestError::Lost),
        }
    }

    /// Waits for the answer, or for what the server asks before it can give one.
    pub(crate) async fn next(&mut self, seat: &mut Seat, timeout: Duration) -> FlightEvent {
        let clock = Arc::clone(&self.clock);
        let (answered, asked) = (pin!(self.answer()), pin!(seat.asked()));
        let either = select(answered, asked);
        match select(either, clock.sleep(timeout)).await {
            Either::Left((Either::Left((answer, _)), _)) => FlightEvent::Answered(answer),
            Either::Left((Either::Right((question, _)), _)) => FlightEvent::Asked(question),
            Either::Right(_) => FlightEvent::Answered(Err(RequestError::TimedOut)),
        }
    }
}

/// What comes of a request.
pub(crate) enum FlightEvent {
    Answered(Result<Value, RequestError>),
    Asked(Question),
}

/// Errors of our own making, told from those of the server.
fn sorted(error: ErrorData) -> RequestError {
    match error.code {
        wire::NOT_SENT => RequestError::NotSent(error.message.into_owned()),
        wire::LOST => RequestError::Lost,
        wire::UNAUTHORISED => RequestError::Unauthorised(error.message.into_owned()),
        _ => RequestError::Refused(error),
    }
}

/// Tells the server, when dropped, that nobody waits for a request any more.
struct Abandoned {
    id: Option<RequestId>,
    cancellations: mpsc::Sender<RequestId>,
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            // A full queue means a server that does not read; telling it more does not help.
            let _ = self.cancellations.try_send(id);
        }
    }
}

/// The task of a connection: carries cancellations out and changes in.
struct Courier {
    peer: Peer<RoleClient>,
    clock: Arc<dyn Clock>,
    abandoned: mpsc::Receiver<RequestId>,
    on_list_changed: OnListChanged,
}

impl Courier {
    async fn run(self, subscribe: bool) {
        let Self {
            peer,
            clock,
            abandoned,
            on_list_changed,
        } = self;
        let cancelling = pin!(cancel(&peer, abandoned));
        if subscribe {
            let listening = pin!(listen(&peer, &*clock, on_list_changed));
            // Listening may end early, for instance at a server that refuses it.
            if let Either::Right(((), cancelling)) = select(cancelling, listening).await {
                cancelling.await;
            }
        } else {
            cancelling.await;
        }
    }
}

async fn cancel(peer: &Peer<RoleClient>, mut abandoned: mpsc::Receiver<RequestId>) {
    while let Some(id) = abandoned.recv().await {
        let reason = Some("nobody waits for it any more".to_owned());
        let params = CancelledNotificationParam::new(Some(id), reason);
        if peer.notify_cancelled(params).await.is_err() {
            return;
        }
    }
}

/// In the newer era changes come only to those who listen (M4). Whenever a stream ends, whatever
/// changed meanwhile went unheard: the list counts as changed.
async fn listen(peer: &Peer<RoleClient>, clock: &dyn Clock, on_list_changed: OnListChanged) {
    let filter = SubscriptionFilter::builder().tools_list_changed().build();
    let mut pause = LISTEN_PAUSE;
    let mut failures = 0;
    while failures < LISTEN_FAILURES_MAX {
        let mut heard = false;
        if let Ok(mut changes) = peer.listen(filter.clone()).await {
            while let Ok(Some(change)) = changes.next().await {
                heard = true;
                if matches!(change, ServerNotification::ToolListChangedNotification(_)) {
                    on_list_changed();
                }
            }
            on_list_changed();
        }
        // A server that ends each stream at once, or refuses, would keep us busy for nothing.
        if heard {
            (pause, failures) = (LISTEN_PAUSE, 0);
        } else {
            (pause, failures) = ((pause * 2).min(LISTEN_PAUSE_MAX), failures + 1);
        }
        clock.sleep(pause).await;
    }
}

/// What the server can ask and tell us.
struct Listener {
    lifecycle: Lifecycle,
    on_list_changed: OnListChanged,
    desk: Arc<Desk>,
}

impl ClientHandler for Listener {
    fn get_info(&self) -> ClientConfig {
        let version = env!("CARGO_PKG_VERSION");
        let client = Implementation::new("agent-runtime", version);
        let mut capabilities = ClientCapabilities::default();
        let form = FormElicitationCapability::new();
        capabilities.elicitation = Some(ElicitationCapability::new().with_form(form));
        let tasks = (TASKS_EXTENSION_ID.to_owned(), Default::default());
        capabilities.extensions = Some([tasks].into_iter().collect());
        let mut config = ClientConfig::new(capabilities, client);
        if self.lifecycle == Lifecycle::Handshake {
            config.protocol_version = ProtocolVersion::V_2025_11_25;
        }
        config
    }

    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        (self.on_list_changed)();
    }

    async fn create_elicitation(
        &self,
        request: ElicitRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let params = serde_json::to_value(&request).unwrap_or_default();
        let answer = self.desk.ask(params).await;
        let answer = answer.unwrap_or_else(|| serde_json::json!({"action": "cancel"}));
        serde_json::from_value(answer)
            .map_err(|error| ErrorData::internal_error(error.to_string(), None))
    }
}

async fn shake(
    config: &McpServerConfig,
    endpoint: &Endpoint,
    clock: Arc<dyn Clock>,
    ending: Arc<Ending>,
    listener: Listener,
) -> Result<RunningService<RoleClient, Listener>, McpError> {
    let shaken = match endpoint {
        #[cfg(feature = "stdio")]
        Endpoint::Process { records } => {
            let started = crate::process::start(config, records.as_deref(), clock)?;
            let transport = crate::transport::LineTransport::new(
                started.output,
                started.input,
                config.message_bytes_max,
                Some(started.process),
                Arc::clone(&ending),
            );
            listener
                .serve_with_lifecycle(transport, lifecycle(config.lifecycle))
                .await
        }
        #[cfg(feature = "http")]
        Endpoint::Url {
            client,
            credentials,
        } => {
            let asked = credentials.renew(None).await;
            asked.map_err(|error| McpError::Unauthorised {
                server: config.name.clone(),
                reason: words(&error.reason),
            })?;
            let transport = crate::http::HttpTransport::new(
                config,
                client.clone(),
                Arc::clone(credentials),
                clock,
                Arc::clone(&ending),
            )?;
            listener
                .serve_with_lifecycle(transport, lifecycle(config.lifecycle))
                .await
        }
    };
    let server = config.name.clone();
    shaken.map_err(|error| match ending.unauthorised() {
        Some(reason) => McpError::Unauthorised {
            server,
            reason: words(&reason),
        },
        None => McpError::HandshakeFailed {
            server,
            reason: if ending.is_set() {
                ending.reason()
            } else {
                words(&error.to_string())
            },
        },
    })
}

fn lifecycle(lifecycle: Lifecycle) -> ClientLifecycleMode {
    let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
    match lifecycle {
        Lifecycle::Auto => ClientLifecycleMode::Auto {
            preferred_versions,
            legacy_version: Some(ProtocolVersion::V_2025_11_25),
        },
        Lifecycle::Handshake => ClientLifecycleMode::Initialize,
        Lifecycle::Stateless => ClientLifecycleMode::Discover { preferred_versions },
    }
}
