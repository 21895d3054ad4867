//! One connection to the server, and the task that drives it.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::{Failure, text};
use crate::{OpenError, PostgresOptions, tls};

/// Pauses between attempts to reach a server that is away.
pub(crate) const PAUSE_FIRST: Duration = Duration::from_millis(10);
pub(crate) const PAUSE_MAX: Duration = Duration::from_millis(500);

/// What every connection of a store has in common.
#[derive(Clone)]
pub(crate) struct Connector {
    server: Config,
    tls: Option<MakeRustlsConnect>,
    settings: Arc<str>,
    connect_timeout: Duration,
}

impl Connector {
    pub(crate) fn new(options: &PostgresOptions) -> Result<Self, OpenError> {
        let tls = options
            .tls
            .then(|| tls::connector(options.root_certificate.as_deref()))
            .transpose()?;
        let schema = &options.schema;
        // The plans of this store look everything up by key. Statistics of a table that has just
        // grown from nothing would say otherwise.
        let settings = format!(
            "SET search_path TO \"{schema}\", pg_temp; \
             SET synchronous_commit TO on; \
             SET default_transaction_isolation TO 'read committed'; \
             SET default_transaction_read_only TO off; \
             SET statement_timeout TO 0; SET lock_timeout TO 0; \
             SET client_min_messages TO warning; \
             SET jit TO off; SET enable_seqscan TO off; SET plan_cache_mode TO force_generic_plan"
        );
        Ok(Self {
            server: options.server.clone(),
            tls,
            settings: settings.into(),
            connect_timeout: options.postgres_limits.connect_timeout,
        })
    }

    /// Connects and sets the session up. `notified` changes with each notification that comes.
    pub(crate) async fn connect(&self, notified: watch::Sender<u64>) -> Result<Session, Failure> {
        let connected = async {
            let session = match &self.tls {
                Some(tls) => {
                    let (client, connection) = self.server.connect(tls.clone()).await?;
                    Session::new(client, connection, notified)
                }
                None => {
                    let (client, connection) = self.server.connect(NoTls).await?;
                    Session::new(client, connection, notified)
                }
            };
            session.client.batch_execute(&self.settings).await?;
            Ok(session)
        };
        match timeout(self.connect_timeout, connected).await {
            Ok(connected) => connected,
            Err(_) => Err(Failure::Lost(format!(
                "no connection within {:?}",
                self.connect_timeout
            ))),
        }
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

/// A connection; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    driver: JoinHandle<()>,
}

impl Session {
    fn new<T>(
        client: Client,
        connection: Connection<Socket, T>,
        notified: watch::Sender<u64>,
    ) -> Self
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let driver = tokio::spawn(drive(connection, notified));
        Self { client, driver }
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.client.is_closed() || self.driver.is_finished()
    }

    /// Says goodbye and waits until the connection has ended.
    pub(crate) async fn close(mut self) {
        // Without a client the driver sends the goodbye and ends.
        let driver = std::mem::replace(&mut self.driver, tokio::spawn(async {}));
        drop(self);
        let _ended = timeout(Duration::from_secs(1), driver).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Whoever drops a session that is not at rest has given it up: a half-open connection
        // would otherwise live on in its driver.
        self.driver.abort();
    }
}

async fn drive<T>(mut connection: Connection<Socket, T>, notified: watch::Sender<u64>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notification(_))) => notified.send_modify(|count| *count += 1),
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::debug!(reason = text(&error), "a connection to the database ended");
                return;
            }
            None => return,
        }
    }
}
