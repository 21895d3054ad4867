//! One connection to one running server: handshake, requests, end.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use rmcp::model::{
    CancelledNotificationParam, ClientCapabilities, ClientConfig, ClientRequest, CustomResult,
    ErrorData, Implementation, ProtocolVersion, RequestId, RequestMetaObject, ServerNotification,
    ServerResult, SubscriptionFilter,
};
use rmcp::service::{NotificationContext, Peer, PeerRequestOptions, RunningService, ServiceError};
use rmcp::{ClientCacheConfig, ClientHandler, ClientLifecycleMode, ClientServiceExt, RoleClient};
use runtime_core::Clock;
use runtime_mcp_cache::Era;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::error::words;
use crate::process;
use crate::transport::{Ending, LineTransport};
use crate::{McpError, McpServerConfig};

/// Abandoned requests whose cancellation is not sent yet; beyond that the server is not told.
const CANCELLATIONS_MAX: usize = 256;

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
}

/// Why a request has no result. The variants differ in what the server may have done.
#[derive(Debug)]
pub(crate) enum RequestError {
    /// The connection had ended before; the server knows nothing of it.
    NotSent,
    /// The connection ended meanwhile.
    Lost,
    /// No answer came in time; the server was told that nobody waits any more.
    TimedOut,
    /// The server answered with an error, or its answer could not be read.
    Refused(ErrorData),
}

impl Connection {
    /// Starts the server and shakes hands, in whichever era it speaks.
    pub(crate) async fn open(
        config: &McpServerConfig,
        clock: Arc<dyn Clock>,
        on_list_changed: OnListChanged,
    ) -> Result<Self, McpError> {
        let ending = Arc::<Ending>::default();
        let started = process::start(config, Arc::clone(&clock))?;
        let transport = LineTransport::new(
            started.output,
            started.input,
            config.message_bytes_max,
            Some(started.process),
            Arc::clone(&ending),
        );
        let listener = Listener(Arc::clone(&on_list_changed));
        let timeout = Duration::from_millis(config.discovery_timeout_ms);
        let shaking = Box::pin(listener.serve_with_lifecycle(
            transport,
            ClientLifecycleMode::Auto {
                preferred_versions: vec![ProtocolVersion::V_2026_07_28],
                legacy_version: Some(ProtocolVersion::V_2025_11_25),
            },
        ));
        let service = match select(shaking, clock.sleep(timeout)).await {
            Either::Left((shaken, _)) => shaken.map_err(|error| McpError::HandshakeFailed {
                server: config.name.clone(),
                reason: if ending.is_set() {
                    ending.reason()
                } else {
                    words(&error.to_string())
                },
            })?,
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
        let mut options = PeerRequestOptions::no_options();
        options.meta = meta;
        if !self.is_open() {
            return Err(RequestError::NotSent);
        }
        let sent = self.peer.send_request_with_option(request, options).await;
        let handle = sent.map_err(|_| RequestError::NotSent)?;
        let mut abandoned = Abandoned {
            id: Some(handle.id.clone()),
            cancellations: &self.cancellations,
        };
        let answered = pin!(handle.await_response());
        let Either::Left((answer, _)) = select(answered, self.clock.sleep(timeout)).await else {
            return Err(RequestError::TimedOut);
        };
        abandoned.id = None;
        match answer {
            Ok(ServerResult::CustomResult(CustomResult(value))) => Ok(value),
            // The transport hands every result on as it came; another kind cannot come.
            Ok(_) | Err(ServiceError::UnexpectedResponse) => Err(RequestError::Refused(
                ErrorData::internal_error("its answer is none to this request", None),
            )),
            Err(ServiceError::McpError(error)) => Err(RequestError::Refused(error)),
            // Even a request that failed to be written may have arrived.
            Err(_) => Err(RequestError::Lost),
        }
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

/// Tells the server, when dropped, that nobody waits for a request any more.
struct Abandoned<'a> {
    id: Option<RequestId>,
    cancellations: &'a mpsc::Sender<RequestId>,
}

impl Drop for Abandoned<'_> {
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
    abandoned: mpsc::Receiver<RequestId>,
    on_list_changed: OnListChanged,
}

impl Courier {
    async fn run(self, subscribe: bool) {
        let Self {
            peer,
            abandoned,
            on_list_changed,
        } = self;
        let cancelling = pin!(cancel(&peer, abandoned));
        if subscribe {
            let listening = pin!(listen(&peer, on_list_changed));
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
async fn listen(peer: &Peer<RoleClient>, on_list_changed: OnListChanged) {
    let filter = SubscriptionFilter::builder().tools_list_changed().build();
    while let Ok(mut changes) = peer.listen(filter.clone()).await {
        let mut heard = false;
        while let Ok(Some(change)) = changes.next().await {
            heard = true;
            if matches!(change, ServerNotification::ToolListChangedNotification(_)) {
                on_list_changed();
            }
        }
        on_list_changed();
        // A server that ends each stream at once would keep us busy for nothing.
        if !heard {
            return;
        }
    }
}

/// What the server can ask and tell us: only, in the older era, that its list changed.
struct Listener(OnListChanged);

impl ClientHandler for Listener {
    fn get_info(&self) -> ClientConfig {
        let version = env!("CARGO_PKG_VERSION");
        let client = Implementation::new("agent-runtime", version);
        ClientConfig::new(ClientCapabilities::default(), client)
    }

    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        (self.0)();
    }
}
