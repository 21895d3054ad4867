//! How far the log is, as this process knows it, and who waits for more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use runtime_store::Position;
use tokio::sync::{Notify, watch};

/// The head of the log. It only grows.
#[derive(Debug, Default)]
pub(crate) struct Head {
    known: watch::Sender<u64>,
    waiting: AtomicUsize,
    /// Somebody began to wait.
    wanted: Notify,
    /// This process appended, so others should be told.
    news: Notify,
}

impl Head {
    pub(crate) fn new(position: u64) -> Arc<Self> {
        let head = Self::default();
        head.learn(position);
        Arc::new(head)
    }

    /// This process has appended up to there.
    pub(crate) fn appended(&self, position: Position) {
        self.learn(position.0);
        self.news.notify_one();
    }

    /// The log was seen to reach at least so far.
    pub(crate) fn learn(&self, position: u64) {
        self.known.send_if_modified(|known| {
            let grows = position > *known;
            *known = position.max(*known);
            grows
        });
    }

    /// Waits until this process has appended something since the last time.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    /// Waits until somebody waits for more than is known.
    pub(crate) async fn wanted(&self) {
        while self.waiting.load(Ordering::SeqCst) == 0 {
            self.wanted.notified().await;
        }
    }

    /// Waits until the log goes on after that position.
    pub(crate) async fn after(&self, position: Position) -> Position {
        let _waiting = Waiting::new(self);
        let mut known = self.known.subscribe();
        let found = known.wait_for(|known| *known > position.0).await;
        Position(*found.expect("the sender lives in this head"))
    }
}

struct Waiting<'head>(&'head Head);

impl<'head> Waiting<'head> {
    fn new(head: &'head Head) -> Self {
        head.waiting.fetch_add(1, Ordering::SeqCst);
        head.wanted.notify_one();
        Self(head)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}
