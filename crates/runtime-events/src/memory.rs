//! Live fan-out inside one process.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use crate::sync::{Mutex, lock};
use crate::{
    ListenError, LiveConfig, LiveError, LiveMessage, LiveReceiver, PublishError, Room,
    StreamAdapter,
};

/// Live fan-out in memory.
///
/// Readers of a room share one ring of messages; a message leaves the ring when the last reader
/// has taken it, so a room in which nobody is behind holds none.
#[derive(Debug, Clone)]
pub struct LiveAdapter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: LiveConfig,
    rooms: Mutex<Rooms>,
    /// Messages in all rings.
    buffered: AtomicUsize,
}

#[derive(Debug, Default)]
struct Rooms {
    open: HashMap<Room, Arc<Mutex<Ring>>>,
    readers: usize,
    closed: bool,
}

/// The messages of a room, and its readers. Message `start` is the first of `messages`.
#[derive(Debug, Default)]
struct Ring {
    start: u64,
    messages: VecDeque<Buffered>,
    readers: usize,
    /// One for each reader, and holes of readers that left.
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
    closed: bool,
}

#[derive(Debug)]
struct Buffered {
    message: LiveMessage,
    /// How many readers have not taken it.
    waiting: usize,
}

impl LiveAdapter {
    /// Makes an adapter without rooms.
    #[must_use]
    pub fn new(config: LiveConfig) -> Self {
        Self {
            shared: Arc::new(Shared {
                config,
                rooms: Mutex::default(),
                buffered: AtomicUsize::new(0),
            }),
        }
    }

    /// Returns how many rooms have a reader.
    #[must_use]
    pub fn rooms(&self) -> usize {
        lock(&self.shared.rooms).open.len()
    }

    /// Returns how many messages are buffered in all rooms.
    #[must_use]
    pub fn buffered_messages(&self) -> usize {
        self.shared.buffered.load(Ordering::Relaxed)
    }
}

impl StreamAdapter for LiveAdapter {
    fn publish(&self, room: &Room, message: LiveMessage) -> Result<(), PublishError> {
        let ring = {
            let rooms = lock(&self.shared.rooms);
            if rooms.closed {
                return Err(PublishError::Closed);
            }
            rooms.open.get(room).map(Arc::clone)
        };
        if let Some(ring) = ring {
            let wakers = lock(&ring).push(message, &self.shared);
            // Woken outside of the lock: a waker is host code.
            wakers.into_iter().for_each(Waker::wake);
        }
        Ok(())
    }

    fn listen(&self, room: &Room) -> Result<Box<dyn LiveReceiver>, ListenError> {
        let mut rooms = lock(&self.shared.rooms);
        if rooms.closed {
            return Err(ListenError::Closed);
        }
        let max = self.shared.config.readers_max;
        if rooms.readers >= max {
            return Err(ListenError::TooManyReaders { max });
        }
        rooms.readers += 1;
        let ring = Arc::clone(rooms.open.entry(room.clone()).or_default());
        let (slot, next) = lock(&ring).enter();
        Ok(Box::new(Receiver {
            shared: Arc::clone(&self.shared),
            room: room.clone(),
            ring,
            slot,
            next,
        }))
    }

    fn close(&self) {
        let rings: Vec<_> = {
            let mut rooms = lock(&self.shared.rooms);
            rooms.closed = true;
            rooms.open.values().map(Arc::clone).collect()
        };
        for ring in rings {
            let wakers = {
                let mut ring = lock(&ring);
                ring.closed = true;
                ring.take_wakers()
            };
            wakers.into_iter().for_each(Waker::wake);
        }
    }
}

impl Ring {
    fn enter(&mut self) -> (usize, u64) {
        self.readers += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.wakers.push(None);
            self.wakers.len() - 1
        });
        (slot, self.end())
    }

    fn leave(&mut self, slot: usize, next: u64, shared: &Shared) -> Option<Waker> {
        self.readers -= 1;
        self.free.push(slot);
        let unread = usize::try_from(next.saturating_sub(self.start)).unwrap_or(usize::MAX);
        for buffered in self.messages.iter_mut().skip(unread) {
            buffered.waiting -= 1;
        }
        self.drop_taken(shared);
        self.wakers[slot].take()
    }

    fn end(&self) -> u64 {
        self.start + self.messages.len() as u64
    }

    fn push(&mut self, message: LiveMessage, shared: &Shared) -> Vec<Waker> {
        if self.readers == 0 {
            return Vec::new();
        }
        if self.messages.len() >= shared.config.buffer_messages {
            self.drop_front(shared);
        }
        let before = shared.buffered.fetch_add(1, Ordering::Relaxed);
        self.messages.push_back(Buffered {
            message,
            waiting: self.readers,
        });
        if before >= shared.config.buffered_messages_max {
            // All rooms together are full: this one gives up its oldest, be it the new one.
            self.drop_front(shared);
        }
        self.take_wakers()
    }

    fn take_wakers(&mut self) -> Vec<Waker> {
        self.wakers.iter_mut().filter_map(Option::take).collect()
    }

    fn drop_front(&mut self, shared: &Shared) {
        if self.messages.pop_front().is_some() {
            self.start += 1;
            shared.buffered.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn drop_taken(&mut self, shared: &Shared) {
        while self.messages.front().is_some_and(|at| at.waiting == 0) {
            self.drop_front(shared);
        }
        if self.messages.is_empty() && self.messages.capacity() > 64 {
            self.messages.shrink_to(0);
        }
    }

    fn take(&mut self, next: &mut u64, shared: &Shared) -> Option<Result<LiveMessage, LiveError>> {
        if *next < self.start {
            let skipped = self.start - *next;
            *next = self.start;
            return Some(Err(LiveError::Lagged { skipped }));
        }
        let at = usize::try_from(*next - self.start).ok()?;
        let Some(buffered) = self.messages.get_mut(at) else {
            return self.closed.then_some(Err(LiveError::Closed));
        };
        buffered.waiting -= 1;
        let message = buffered.message.clone();
        *next += 1;
        self.drop_taken(shared);
        Some(Ok(message))
    }
}

#[derive(Debug)]
struct Receiver {
    shared: Arc<Shared>,
    room: Room,
    ring: Arc<Mutex<Ring>>,
    slot: usize,
    /// The number of the next message.
    next: u64,
}

impl LiveReceiver for Receiver {
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<LiveMessage, LiveError>> {
        let mut ring = lock(&self.ring);
        if let Some(taken) = ring.take(&mut self.next, &self.shared) {
            return Poll::Ready(taken);
        }
        // Registered under the lock that `push` takes, so a message in between is not missed.
        let replaced = ring.wakers[self.slot].replace(cx.waker().clone());
        drop(ring);
        // Dropped outside of the lock: the last waker of a task may drop the task.
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Rooms first, then the ring, as in `listen`: nobody enters a room that is given up.
        let mut rooms = lock(&self.shared.rooms);
        let mut ring = lock(&self.ring);
        rooms.readers -= 1;
        let waker = ring.leave(self.slot, self.next, &self.shared);
        if ring.readers == 0 {
            rooms.open.remove(&self.room);
        }
        drop(ring);
        drop(rooms);
        drop(waker);
    }
}
