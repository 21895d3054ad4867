//! What the writer and all readers share: the durable view.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use runtime_store::Position;
use tokio::sync::watch;

use crate::counts::WriteCounters;
use crate::history::History;
use crate::index::Index;
use crate::segments::Segments;

#[derive(Debug)]
pub(crate) struct Shared {
    index: RwLock<Index>,
    pub(crate) segments: Segments,
    pub(crate) history: History,
    pub(crate) written: WriteCounters,
    head: watch::Sender<Position>,
}

impl Shared {
    pub(crate) fn new(index: Index, segments: Segments, history: History) -> Self {
        let head = Position(index.head());
        Self {
            index: RwLock::new(index),
            segments,
            history,
            written: WriteCounters::default(),
            head: watch::Sender::new(head),
        }
    }

    // Folding a commit that was checked cannot panic half-way, so a poisoned lock is whole.
    pub(crate) fn read_index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write_index(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn announce(&self, head: Position) {
        self.head.send_if_modified(|known| {
            let is_later = head > *known;
            *known = head.max(*known);
            is_later
        });
    }

    pub(crate) fn head(&self) -> watch::Receiver<Position> {
        self.head.subscribe()
    }
}
