//! What a reader asks for, and who may.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use runtime_core::{EventKind, RuntimeEvent, Topic};

use crate::Cursor;

/// What a reader asks for.
#[derive(Debug, Clone)]
pub struct Subscription {
    pub(crate) topic: Topic,
    pub(crate) cursor: Cursor,
    pub(crate) kinds: Option<Arc<[EventKind]>>,
    pub(crate) deltas: bool,
    pub(crate) subject: Option<Arc<str>>,
}

impl Subscription {
    /// Everything of a topic after a cursor, deltas included.
    #[must_use]
    pub const fn new(topic: Topic, cursor: Cursor) -> Self {
        Self {
            topic,
            cursor,
            kinds: None,
            deltas: true,
            subject: None,
        }
    }

    /// Leaves out events of other kinds. Gaps are told all the same, and a turn's stream ends
    /// after its terminal event even if that is left out.
    #[must_use]
    pub fn of_kinds(mut self, kinds: impl IntoIterator<Item = EventKind>) -> Self {
        self.kinds = Some(kinds.into_iter().collect());
        self
    }

    /// Leaves out deltas.
    #[must_use]
    pub const fn without_deltas(mut self) -> Self {
        self.deltas = false;
        self
    }

    /// Names who reads, for the [`Authorizer`].
    #[must_use]
    pub fn on_behalf_of(mut self, subject: impl AsRef<str>) -> Self {
        self.subject = Some(Arc::from(subject.as_ref()));
        self
    }

    pub(crate) fn wants(&self, event: &RuntimeEvent) -> bool {
        match &self.kinds {
            None => true,
            Some(kinds) => kinds.contains(event.kind()),
        }
    }
}

/// Decides who may read what (V9). It is asked once for each subscription and each
/// [`read`](crate::EventHub::read), before anything is read.
#[async_trait]
pub trait Authorizer: fmt::Debug + Send + Sync + 'static {
    /// Lets `subject` read `topic`, or says why not. Without a subject the host itself reads.
    ///
    /// # Errors
    /// The reason, for the reader to see. A panic here refuses as well.
    async fn authorize(&self, topic: &Topic, subject: Option<&str>) -> Result<(), String>;
}
