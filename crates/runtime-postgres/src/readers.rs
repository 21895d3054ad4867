//! The reading side: a few connections that come back by themselves.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};

use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, Statement};

use crate::PostgresLimits;
use crate::committer::within;
use crate::connect::{Connector, PAUSE_FIRST, PAUSE_MAX, Session};
use crate::error::Failure;

/// The connections for reads. The first also hears notifications.
#[derive(Debug)]
pub(crate) struct Readers {
    connector: Connector,
    limits: PostgresLimits,
    /// The channel on which processes tell each other that they have appended.
    channel: String,
    slots: Vec<Mutex<Option<Arc<Reader>>>>,
    next: AtomicUsize,
    notified: watch::Sender<u64>,
}

/// One connection with what was prepared on it.
#[derive(Debug)]
pub(crate) struct Reader {
    session: Session,
    statements: SyncMutex<HashMap<&'static str, Statement>>,
}

impl Reader {
    pub(crate) fn client(&self) -> &Client {
        &self.session.client
    }

    /// Prepares a statement, once for each connection.
    pub(crate) async fn prepared(&self, text: &'static str) -> Result<Statement, Failure> {
        let known = || {
            self.statements
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if let Some(statement) = known().get(text) {
            return Ok(statement.clone());
        }
        let statement = self.client().prepare(text).await?;
        known().insert(text, statement.clone());
        Ok(statement)
    }
}

impl Readers {
    pub(crate) fn new(connector: Connector, limits: PostgresLimits, channel: String) -> Self {
        let slots = 0..limits.reader_connections.max(1);
        Self {
            connector,
            limits,
            channel,
            slots: slots.map(|_| Mutex::default()).collect(),
            next: AtomicUsize::new(0),
            notified: watch::Sender::default(),
        }
    }

    /// Changes with each notification, and with each new connection that hears them: what was
    /// told in between is not heard, so whoever waits must look.
    pub(crate) fn notifications(&self) -> watch::Receiver<u64> {
        self.notified.subscribe()
    }

    /// Reads on any connection. A read may be made again, so a lost connection only costs time.
    pub(crate) async fn read<T, F>(&self, read: impl Fn(Arc<Reader>) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let slot = self.next.fetch_add(1, Ordering::Relaxed) % self.slots.len();
        self.read_in(slot, read).await
    }

    /// Reads on the connection that hears notifications.
    pub(crate) async fn read_listening<T, F>(
        &self,
        read: impl Fn(Arc<Reader>) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        self.read_in(0, read).await
    }

    async fn read_in<T, F>(
        &self,
        slot: usize,
        read: impl Fn(Arc<Reader>) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let deadline = Instant::now() + self.limits.patience;
        let mut pause = PAUSE_FIRST;
        loop {
            let failure = match self.reader(slot).await {
                Ok(reader) => {
                    match within(self.limits.call_timeout, read(Arc::clone(&reader))).await {
                        Err(Failure::Lost(reason)) => {
                            self.forget(slot, &reader).await;
                            Failure::Lost(reason)
                        }
                        answer => return answer,
                    }
                }
                Err(failure) => failure,
            };
            if Instant::now() >= deadline {
                return Err(failure);
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn reader(&self, slot: usize) -> Result<Arc<Reader>, Failure> {
        let mut found = self.slots[slot].lock().await;
        if let Some(reader) = found.as_ref().filter(|reader| !reader.session.is_lost()) {
            return Ok(Arc::clone(reader));
        }
        let session = self.connector.connect(self.notified.clone()).await?;
        if slot == 0 {
            let listen = format!("LISTEN \"{}\"", self.channel);
            session.client.batch_execute(&listen).await?;
            self.notified.send_modify(|count| *count += 1);
        }
        let reader = Arc::new(Reader {
            session,
            statements: SyncMutex::default(),
        });
        *found = Some(Arc::clone(&reader));
        Ok(reader)
    }

    async fn forget(&self, slot: usize, lost: &Arc<Reader>) {
        let mut found = self.slots[slot].lock().await;
        if found
            .as_ref()
            .is_some_and(|reader| Arc::ptr_eq(reader, lost))
        {
            *found = None;
        }
    }

    /// Tells other processes that the log has grown. A hint: nobody relies on it.
    pub(crate) async fn announce(&self) -> Result<(), Failure> {
        const NOTIFY: &str = "SELECT pg_notify($1, '')";
        self.read_listening(async |reader: Arc<Reader>| {
            let statement = reader.prepared(NOTIFY).await?;
            reader
                .client()
                .execute(&statement, &[&self.channel])
                .await?;
            Ok(())
        })
        .await
    }

    /// Ends the connections; a later read makes new ones.
    pub(crate) async fn close(&self) {
        for slot in &self.slots {
            let reader = slot.lock().await.take();
            if let Some(reader) = reader.and_then(Arc::into_inner) {
                reader.session.close().await;
            }
        }
    }
}
