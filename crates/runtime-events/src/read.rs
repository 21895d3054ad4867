//! Reading pages of a topic: for streams, and for those who poll (V6).

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use runtime_core::{RuntimeEvent, SessionId, StreamKey, Topic, TurnId};
use runtime_store::{EventPage, Page, Position, ReadError, StoredEvent};

use crate::hub::{Counters, Shared};
use crate::join::{Entry, Given, Join, LogPage};
use crate::{Cursor, CursorError, EventHub, SubscribeError, Subscription};

/// A page of events for one who polls.
#[derive(Debug, Clone, PartialEq)]
pub struct EventRead {
    /// The events, in order.
    pub events: Vec<Arc<RuntimeEvent>>,
    /// Where the next read goes on.
    pub next: Cursor,
    /// More events of the topic are stored.
    pub has_more: bool,
    /// How many events the page could have had: the limit asked for, clamped.
    pub limit: usize,
}

/// A page, and what only the first one of a reader is looked at for.
pub(crate) struct Pages {
    pub(crate) page: LogPage<Arc<RuntimeEvent>>,
    pub(crate) head: Position,
    /// The topic's last event comes at or before the place that was read after.
    pub(crate) ended_before: bool,
}

/// Says whether nothing of the topic can follow this event (V5, E15).
pub(crate) fn ends(topic: &Topic, event: &RuntimeEvent) -> bool {
    match topic {
        Topic::Turn { .. } => event.kind().ends_turn(),
        Topic::Process { .. } => event.kind().ends_process(),
        _ => false,
    }
}

/// Checks the cursor's origin and asks the host.
pub(crate) async fn admit(
    hub: Arc<Shared>,
    subscription: Subscription,
) -> Result<(), SubscribeError> {
    if hub.is_closing() {
        return Err(SubscribeError::Closed);
    }
    subscription.cursor.check(hub.store.identity())?;
    let Some(authorizer) = &hub.authorizer else {
        return Ok(());
    };
    let subject = subscription.subject.as_deref();
    let asked =
        AssertUnwindSafe(async { authorizer.authorize(&subscription.topic, subject).await });
    match asked.catch_unwind().await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(reason)) => Err(SubscribeError::Refused { reason }),
        Err(_panic) => Err(SubscribeError::Refused {
            reason: "the authorizer panicked".to_owned(),
        }),
    }
}

/// Reads one page. The first page of a reader also tells whether its turn was over already.
pub(crate) async fn page(
    hub: Arc<Shared>,
    topic: Topic,
    after: Position,
    first: bool,
) -> Result<Pages, ReadError> {
    let key = topic.stream_key();
    let limit = hub.page_limit();
    let page = match events(&hub, key.as_ref(), after, limit).await {
        Err(ReadError::CorruptEvents { from, to, .. }) => {
            return Ok(Pages {
                head: to,
                ended_before: false,
                page: LogPage {
                    entries: Vec::new(),
                    next: to,
                    has_more: true,
                    pruned: Position(0),
                    corrupt: Some((from, to)),
                },
            });
        }
        page => page?,
    };
    let may_be_over = first && after > Position(0) && page.events.is_empty();
    let ended_before =
        may_be_over && matches!(topic, Topic::Turn { .. }) && turn_is_over(&hub, &topic).await?;
    let dense = hub.store.capabilities().dense_positions;
    Ok(Pages {
        head: page.head,
        ended_before,
        page: log_page(&topic, key.as_ref(), page, dense),
    })
}

async fn events(
    hub: &Shared,
    key: Option<&StreamKey>,
    after: Position,
    limit: usize,
) -> Result<EventPage, ReadError> {
    Counters::add(&hub.counters.pages_read, 1);
    hub.store.events(key, Page::after(after, limit)).await
}

/// Reads the turn from its start: a reader came with a cursor after its last event. Turns are
/// short, and this happens once for such a reader.
async fn turn_is_over(hub: &Shared, topic: &Topic) -> Result<bool, ReadError> {
    let key = topic.stream_key();
    let mut after = Position(0);
    loop {
        let page = match events(hub, key.as_ref(), after, hub.page_limit()).await {
            Err(ReadError::CorruptEvents { to, .. }) => {
                after = to;
                continue;
            }
            page => page?,
        };
        if !page.has_more {
            // A stub ends its turn as well, and so does an event that cannot be read any more.
            return Ok(page.events.last().is_some_and(|last| last.closes));
        }
        after = page.next;
    }
}

fn log_page(
    topic: &Topic,
    key: Option<&StreamKey>,
    page: EventPage,
    dense: bool,
) -> LogPage<Arc<RuntimeEvent>> {
    let entry = |stored: StoredEvent| {
        let event = stored.decode().ok().map(Arc::new);
        // A stub says no more what it was, but still that it was the last.
        let ends_erased = stored.erased && stored.closes && matches!(topic, Topic::Turn { .. });
        Entry {
            position: stored.position,
            previous: previous(&stored, key, dense),
            ends: ends_erased || event.as_ref().is_some_and(|event| ends(topic, event)),
            event,
        }
    };
    LogPage {
        entries: page.events.into_iter().map(entry).collect(),
        next: page.next,
        has_more: page.has_more,
        pruned: page.pruned,
        corrupt: None,
    }
}

fn previous(stored: &StoredEvent, key: Option<&StreamKey>, dense: bool) -> Option<Position> {
    let Some(key) = key else {
        return dense.then(|| Position(stored.position.0.saturating_sub(1)));
    };
    let place = stored.places.iter().find(|place| place.stream == *key)?;
    Some(place.previous)
}

impl EventHub {
    /// Reads one page of a topic after a cursor, for those who poll.
    ///
    /// `limit` is clamped to [`page_events_max`](crate::EventConfig::page_events_max) and to the
    /// store's own limit.
    ///
    /// # Errors
    /// [`SubscribeError`]: a limit of 0 (`page_limit_zero`), each wrong cursor by its own code,
    /// a topic without any event ([`SubscribeError::UnknownTopic`]); damaged events are
    /// [`ReadError::CorruptEvents`]. Go on from [`cursor_after`](Self::cursor_after) their `to`,
    /// and after [`CursorError::Pruned`] from the position before its `oldest`.
    pub async fn read(
        &self,
        topic: Topic,
        cursor: Cursor,
        limit: usize,
    ) -> Result<EventRead, SubscribeError> {
        self.read_with(Subscription::new(topic, cursor), limit)
            .await
    }

    /// Reads one page of what a subscription asks for. Its filter is applied to the page, so a
    /// page may have fewer events than the limit, or none, while [`EventRead::has_more`] holds.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_with(
        &self,
        subscription: Subscription,
        limit: usize,
    ) -> Result<EventRead, SubscribeError> {
        if limit == 0 {
            return Err(ReadError::LimitZero.into());
        }
        let shared = &self.shared;
        admit(Arc::clone(shared), subscription.clone()).await?;
        let limit = limit.min(shared.page_limit());
        let after = subscription.cursor.position();
        let key = subscription.topic.stream_key();
        let page = events(shared, key.as_ref(), after, limit).await?;
        if after > page.head {
            let (position, head) = (after, page.head);
            return Err(CursorError::Future { position, head }.into());
        }
        if page.events.is_empty() {
            self.refuse_unknown(key.as_ref()).await?;
        }
        let has_more = page.has_more;
        let dense = shared.store.capabilities().dense_positions;
        let mut join = Join::after(after);
        let given = join.page(log_page(&subscription.topic, key.as_ref(), page, dense));
        let mut read = EventRead {
            events: Vec::with_capacity(given.len()),
            next: self.cursor_after(join.last()),
            has_more,
            limit,
        };
        let mut seen = after;
        for given in given {
            let refused = match given {
                Given::Event(position, event) => {
                    seen = position;
                    if subscription.wants(&event) {
                        read.events.push(event);
                    }
                    continue;
                }
                Given::Gap { oldest } => CursorError::Pruned { oldest }.into(),
                Given::Corrupt { from, to } => ReadError::CorruptEvents {
                    from,
                    to,
                    place: None,
                }
                .into(),
            };
            if seen == after {
                return Err(refused);
            }
            // What comes before the hole is given now; the next read is told of the hole.
            read.next = self.cursor_after(seen);
            read.has_more = true;
            break;
        }
        Ok(read)
    }

    /// The cursor after the `seq`-th event of a turn; 0 is its start.
    ///
    /// It reads the turn up to there.
    ///
    /// # Errors
    /// [`CursorError::Future`] when the turn has fewer events (its position and head are then
    /// counted in the turn), [`SubscribeError::UnknownTopic`] when it has none,
    /// [`SubscribeError::Read`].
    pub async fn after_seq(
        &self,
        session: &SessionId,
        turn: &TurnId,
        seq: u64,
    ) -> Result<Cursor, SubscribeError> {
        let topic = Topic::Turn {
            session: session.clone(),
            turn: turn.clone(),
        };
        let key = topic.stream_key();
        let (mut after, mut last) = (Position(0), 0);
        loop {
            let page = events(&self.shared, key.as_ref(), after, self.shared.page_limit()).await?;
            for stored in &page.events {
                if seq == 0 {
                    return Ok(self.cursor_from_start());
                }
                let mut places = stored.places.iter();
                let own = places.find(|place| Some(&place.stream) == key.as_ref());
                last = own.map_or(last, |place| place.seq.0);
                if last == seq {
                    return Ok(self.cursor_after(stored.position));
                }
            }
            if !page.has_more {
                break;
            }
            after = page.next;
        }
        if last == 0 {
            return Err(SubscribeError::UnknownTopic);
        }
        let (position, head) = (Position(seq), Position(last));
        Err(CursorError::Future { position, head }.into())
    }

    /// Unknown is not empty: a stream exists once it has an event. Where events were pruned,
    /// nobody can tell any more.
    async fn refuse_unknown(&self, key: Option<&StreamKey>) -> Result<(), SubscribeError> {
        if key.is_none() {
            return Ok(());
        }
        let page = events(&self.shared, key, Position(0), 1).await?;
        if page.events.is_empty() && page.pruned == Position(0) {
            return Err(SubscribeError::UnknownTopic);
        }
        Ok(())
    }
}
