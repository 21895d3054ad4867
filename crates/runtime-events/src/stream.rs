//! One reader: replay, join and live as one stream.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream};
use runtime_core::{Classified, RuntimeEvent, Sleep, Topic};
use runtime_store::{Position, ReadError};

use crate::delta::DeltaFilter;
use crate::hub::{Counters, Shared};
use crate::join::{Entry, Given, Join, Need, Verdict};
use crate::read::{self, Pages};
use crate::{
    Cursor, CursorError, Delta, ListenError, LiveDelta, LiveError, LiveEvent, LiveMessage,
    LiveReceiver, Room, SubscribeError, Subscription,
};

/// What a watcher is given.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum StreamItem {
    /// The next event of the topic.
    Event(Arc<RuntimeEvent>),
    /// A piece of a streaming answer; live only, may be lost.
    Delta(Arc<Delta>),
    /// Retention removed events of the topic before this position, or may have.
    Gap {
        /// The first position after the gap.
        oldest: Position,
    },
    /// The events from here to there are damaged; what follows is whole again.
    Corrupt {
        /// The first damaged position.
        from: Position,
        /// The last damaged position.
        to: Position,
    },
}

/// The events of a topic, in order, without a gap or a repetition.
///
/// A turn's stream ends after its terminal event; every other ends when the hub is closed. An
/// error ends it as well, except one whose class says that trying again may help
/// ([`is_retryable`](runtime_core::ErrorClass::is_retryable)): then polling on goes on where it
/// was, after [`live_recheck`](crate::EventConfig::live_recheck).
///
/// # Cancel safety
/// Nothing is lost between polls. Dropping it ends the watching and nothing else (V8).
pub struct EventStream {
    hub: Arc<Shared>,
    subscription: Subscription,
    room: Room,
    join: Join,
    /// The position of the last item that was given, or that the filter left out.
    seen: Position,
    step: Step,
    given: std::vec::IntoIter<Given<Arc<RuntimeEvent>>>,
    live: Option<Box<dyn LiveReceiver>>,
    /// A message that was taken while deltas were coalesced.
    put_back: Option<Result<LiveMessage, LiveError>>,
    silence: Option<Sleep>,
    /// When the last message was heard, on the monotonic clock; none while there are more.
    quiet_since: Option<Duration>,
    deltas: DeltaFilter,
    open: Option<OpenStream>,
}

type Read = BoxFuture<'static, Result<Pages, ReadError>>;

enum Step {
    /// Asking whether this reader may read.
    Opening(BoxFuture<'static, Result<(), SubscribeError>>),
    /// Nothing is under way; the join says what is next.
    Deciding,
    /// Reading the log; the first page is checked against the cursor.
    Reading {
        read: Read,
        first: bool,
    },
    /// Waiting before the log is read again after a failure.
    Pausing {
        pause: Sleep,
        first: bool,
    },
    Ended,
}

/// Counts the stream for [`close`](crate::EventHub::close).
struct OpenStream {
    hub: Arc<Shared>,
    /// Somebody awaits it, or has polled it since the hub is closing.
    awaited: bool,
}

impl OpenStream {
    fn set_awaited(&mut self, awaited: bool) {
        if std::mem::replace(&mut self.awaited, awaited) == awaited {
            return;
        }
        let count = &self.hub.streams_awaited;
        if awaited {
            count.fetch_add(1, Ordering::SeqCst);
        } else if count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.hub.streams_gone.notify_waiters();
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.hub.streams_open.fetch_sub(1, Ordering::SeqCst);
        self.set_awaited(false);
    }
}

impl EventStream {
    pub(crate) fn open(hub: Arc<Shared>, subscription: Subscription) -> Self {
        Counters::add(&hub.counters.streams_opened, 1);
        hub.streams_open.fetch_add(1, Ordering::SeqCst);
        let after = subscription.cursor.position();
        let opening = read::admit(Arc::clone(&hub), subscription.clone()).boxed();
        Self {
            open: Some(OpenStream {
                hub: Arc::clone(&hub),
                awaited: false,
            }),
            room: Room::from(&subscription.topic),
            subscription,
            join: Join::after(after),
            seen: after,
            step: Step::Opening(opening),
            given: Vec::new().into_iter(),
            live: None,
            put_back: None,
            silence: None,
            quiet_since: None,
            deltas: DeltaFilter::default(),
            hub,
        }
    }

    /// Returns the cursor after the last item that was given: subscribing there goes on with
    /// the next.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor::after(self.hub.store.identity(), self.seen)
    }

    /// Returns the topic.
    #[must_use]
    pub const fn topic(&self) -> &Topic {
        &self.subscription.topic
    }

    /// Joins the live side and reads the first page now rather than at the first poll, so that no
    /// delta from here on is missed, however late the first poll comes. Events need no such care:
    /// they are in the log.
    ///
    /// # Errors
    /// [`SubscribeError`], as the first poll would give it: an error whose class says that trying
    /// again may help leaves the stream as it was, any other ends it.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped; the next poll goes on.
    pub async fn join(&mut self) -> Result<(), SubscribeError> {
        poll_fn(|cx| {
            while !self.has_joined() {
                if let Err(error) = ready!(self.poll_step(cx)) {
                    return Poll::Ready(Err(self.failed(error)));
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    const fn has_joined(&self) -> bool {
        match &self.step {
            Step::Opening(_) => false,
            Step::Reading { first, .. } | Step::Pausing { first, .. } => !*first,
            Step::Deciding | Step::Ended => true,
        }
    }

    /// Ends the stream, unless it only pauses.
    fn failed(&mut self, error: SubscribeError) -> SubscribeError {
        if !matches!(self.step, Step::Pausing { .. }) {
            self.end();
        }
        error
    }

    fn end(&mut self) {
        self.step = Step::Ended;
        self.live = None;
        self.silence = None;
        self.open = None;
    }

    /// Takes the next item of a page.
    fn next_given(&mut self) -> Option<StreamItem> {
        loop {
            let given = self.given.next()?;
            if self.given.len() == 0 {
                // An idle stream keeps no page.
                self.given = Vec::new().into_iter();
            }
            if let Some(item) = self.admit(given) {
                return Some(item);
            }
        }
    }

    fn admit(&mut self, given: Given<Arc<RuntimeEvent>>) -> Option<StreamItem> {
        match given {
            Given::Event(position, event) => {
                self.seen = position;
                self.deltas.event(&event);
                let wanted = self.subscription.wants(&event);
                wanted.then_some(StreamItem::Event(event))
            }
            Given::Gap { oldest } => {
                self.seen = Position(oldest.0.saturating_sub(1));
                Some(StreamItem::Gap { oldest })
            }
            Given::Corrupt { from, to } => {
                self.seen = to;
                Some(StreamItem::Corrupt { from, to })
            }
        }
    }

    fn begin(&mut self) -> Result<(), SubscribeError> {
        // Live first, log second: what is stored during the read is heard.
        self.live = match self.hub.adapter.listen(&self.room) {
            Ok(live) => Some(live),
            // Closing: give what is stored, then end.
            Err(ListenError::Closed) => None,
            Err(error) => return Err(error.into()),
        };
        self.step = self.read(true);
        Ok(())
    }

    fn read(&self, first: bool) -> Step {
        let hub = Arc::clone(&self.hub);
        let topic = self.subscription.topic.clone();
        Step::Reading {
            read: read::page(hub, topic, self.join.last(), first).boxed(),
            first,
        }
    }

    fn take_page(
        &mut self,
        pages: Result<Pages, ReadError>,
        first: bool,
    ) -> Result<(), SubscribeError> {
        let pages = match pages {
            Ok(pages) => pages,
            Err(error) => {
                if error.class().is_retryable() {
                    let pause = self.hub.config.live_recheck;
                    let pause = self.hub.clock.sleep(pause);
                    self.step = Step::Pausing { pause, first };
                }
                return Err(error.into());
            }
        };
        let position = self.subscription.cursor.position();
        if first && position > pages.head {
            let head = pages.head;
            return Err(CursorError::Future { position, head }.into());
        }
        if first {
            self.hub.ensure_follower(pages.head);
        }
        if pages.ended_before {
            self.join.ended_before();
        } else {
            self.given = self.join.page(pages.page).into_iter();
        }
        self.step = Step::Deciding;
        Ok(())
    }

    /// Waits for the next live message, or for silence.
    fn poll_live(&mut self, cx: &mut Context<'_>) -> Poll<Option<StreamItem>> {
        let Some(live) = &mut self.live else {
            // The hub is closing and the log was read to its end.
            self.end();
            return Poll::Ready(None);
        };
        let message = match self.put_back.take() {
            Some(message) => message,
            None => match live.poll_receive(cx) {
                Poll::Ready(message) => message,
                Poll::Pending => return self.poll_silence(cx),
            },
        };
        self.quiet_since = None;
        Poll::Ready(match message {
            Ok(LiveMessage::Event(event)) => self.take_event(&event),
            Ok(LiveMessage::Delta(delta)) => self.take_delta(cx, delta),
            Err(LiveError::Lagged { skipped }) => {
                Counters::add(&self.hub.counters.live_skipped, skipped);
                self.join.lagged();
                None
            }
            Err(LiveError::Closed) => {
                self.live = None;
                self.join.lagged();
                None
            }
        })
    }

    fn take_event(&mut self, live: &LiveEvent) -> Option<StreamItem> {
        let position = live.stored().position;
        if position <= self.join.last() {
            return None;
        }
        let event = live.event();
        let entry = Entry {
            position,
            previous: live.previous_in(&self.room),
            ends: event
                .as_ref()
                .is_some_and(|event| read::ends(&self.subscription.topic, event)),
            event: Some(()),
        };
        if self.join.live(&entry) != Verdict::Give {
            return None;
        }
        self.admit(match event {
            Some(event) => Given::Event(position, event),
            None => Given::Corrupt {
                from: position,
                to: position,
            },
        })
    }

    /// Gives a delta, with those that wait right behind it as one.
    fn take_delta(&mut self, cx: &mut Context<'_>, live: Arc<LiveDelta>) -> Option<StreamItem> {
        if !self.subscription.deltas || !self.deltas.passes(&live.delta, live.at) {
            return None;
        }
        let mut delta = live.delta.clone();
        let bytes_max = self.hub.config.delta_bytes_max;
        while let Some(receiver) = &mut self.live {
            match receiver.poll_receive(cx) {
                Poll::Ready(Ok(LiveMessage::Delta(next)))
                    if delta.takes(&next.delta, bytes_max) =>
                {
                    delta.append(&next.delta);
                }
                Poll::Ready(other) => {
                    self.put_back = Some(other);
                    break;
                }
                Poll::Pending => break,
            }
        }
        Some(StreamItem::Delta(Arc::new(delta)))
    }

    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<Option<StreamItem>> {
        let recheck = self.hub.config.live_recheck;
        let clock = &self.hub.clock;
        let quiet_since = *self.quiet_since.get_or_insert_with(|| clock.monotonic());
        loop {
            let silence = self
                .silence
                .get_or_insert_with(|| self.hub.clock.sleep(recheck));
            ready!(silence.as_mut().poll(cx));
            // One timer serves many messages: it is set anew only when it has run down.
            let quiet = self.hub.clock.monotonic().saturating_sub(quiet_since);
            let rest = recheck.saturating_sub(quiet);
            if rest.is_zero() {
                break;
            }
            self.silence = Some(self.hub.clock.sleep(rest));
        }
        self.silence = None;
        self.quiet_since = None;
        self.join.silent(self.hub.known_head());
        Poll::Ready(None)
    }

    /// Goes one step; an item or an error is for the reader.
    fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<StreamItem>, SubscribeError>> {
        match &mut self.step {
            Step::Opening(opening) => {
                ready!(opening.as_mut().poll(cx))?;
                self.begin()?;
            }
            Step::Reading { read, first } => {
                let first = *first;
                let pages = ready!(read.as_mut().poll(cx));
                self.take_page(pages, first)?;
            }
            Step::Pausing { pause, first } => {
                let first = *first;
                ready!(pause.as_mut().poll(cx));
                self.step = self.read(first);
            }
            Step::Deciding => match self.join.need() {
                Need::Read { .. } => self.step = self.read(false),
                Need::Listen => return self.poll_live(cx).map(Ok),
                Need::Ended => self.end(),
            },
            Step::Ended => {}
        }
        Poll::Ready(Ok(None))
    }
}

impl EventStream {
    fn poll_item(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<StreamItem, SubscribeError>>> {
        loop {
            if let Some(item) = self.next_given() {
                return Poll::Ready(Some(Ok(item)));
            }
            if matches!(self.step, Step::Ended) {
                return Poll::Ready(None);
            }
            match ready!(self.poll_step(cx)) {
                Ok(None) => {}
                Ok(Some(item)) => return Poll::Ready(Some(Ok(item))),
                Err(error) => return Poll::Ready(Some(Err(self.failed(error)))),
            }
        }
    }
}

impl Stream for EventStream {
    type Item = Result<StreamItem, SubscribeError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let polled = this.poll_item(cx);
        if let Some(open) = &mut this.open {
            open.set_awaited(polled.is_pending() || open.hub.is_closing());
        }
        polled
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream")
            .field("subscription", &self.subscription)
            .field("seen", &self.seen)
            .field("join", &self.join)
            .finish_non_exhaustive()
    }
}
