//! A store as one of several processes sees it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use runtime_core::StreamKey;
use runtime_store::{
    Capabilities, Commit, CommitError, Committed, EventPage, Page, Position, ReadError, Store,
    StoreLayer,
};
use tokio::sync::watch;

/// What becomes of a commit on its way to the store; none swallows it, and it is answered as if
/// it had happened.
type Alter = dyn Fn(Commit) -> Option<Commit> + Send + Sync;
/// What becomes of a page of events on its way from the store.
type Distort = dyn Fn(EventPage) -> Result<EventPage, ReadError> + Send + Sync;

/// A store as one process sees it: it says that others write to it too, and the process can stand
/// still. Several of them over one store are several processes.
pub struct ProcessStore {
    inner: Arc<dyn Store>,
    capabilities: Capabilities,
    stopped: watch::Sender<bool>,
    alter: Box<Alter>,
    distort: Box<Distort>,
}

impl fmt::Debug for ProcessStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessStore")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl ProcessStore {
    /// Looks at a store as one of several processes.
    #[must_use]
    pub fn over(inner: Arc<dyn Store>) -> Arc<Self> {
        Self::altering(inner, Some)
    }

    /// Looks at a store as a process with a planted fault: its commits arrive altered, or are
    /// swallowed and answered as if they had happened.
    #[must_use]
    pub fn altering(
        inner: Arc<dyn Store>,
        alter: impl Fn(Commit) -> Option<Commit> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Self::with(inner, Box::new(alter), Box::new(Ok))
    }

    /// Looks at a store as a process whose reads of the log arrive distorted, or fail.
    #[must_use]
    pub fn distorting(
        inner: Arc<dyn Store>,
        distort: impl Fn(EventPage) -> Result<EventPage, ReadError> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Self::with(inner, Box::new(Some), Box::new(distort))
    }

    fn with(inner: Arc<dyn Store>, alter: Box<Alter>, distort: Box<Distort>) -> Arc<Self> {
        Arc::new(Self {
            capabilities: Capabilities {
                shared_by_processes: true,
                ..inner.capabilities().clone()
            },
            inner,
            stopped: watch::Sender::new(false),
            alter,
            distort,
        })
    }

    /// Lets the process stand still before its next commit, as SIGSTOP does.
    pub fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// Lets the process go on.
    pub fn wake(&self) {
        self.stopped.send_replace(false);
    }
}

#[async_trait]
impl StoreLayer for ProcessStore {
    fn below(&self) -> &dyn Store {
        &*self.inner
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        // Others get between a look and the commit that follows from it.
        tokio::task::yield_now().await;
        let mut stopped = self.stopped.subscribe();
        // The sender lives in this store, so the wait cannot fail.
        let _ = stopped.wait_for(|stopped| !stopped).await;
        match (self.alter)(commit) {
            Some(commit) => self.inner.commit(commit).await,
            None => Ok(Committed {
                positions: Range::default(),
                places: Vec::new(),
                repeated: false,
            }),
        }
    }

    async fn events(
        &self,
        stream: Option<&StreamKey>,
        page: Page<Position>,
    ) -> Result<EventPage, ReadError> {
        (self.distort)(self.inner.events(stream, page).await?)
    }
}
