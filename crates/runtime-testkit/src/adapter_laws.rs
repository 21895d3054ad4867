//! The law of live fan-out (V7), one function per clause: each takes a way to make an adapter that
//! nobody uses yet, and says what broke.
//!
//! [`adapter_laws!`](crate::adapter_laws!) makes one test per law for an adapter; [`ALL`] lists
//! them. An adapter may lose, delay and repeat messages: these laws are for fair weather, on an
//! adapter that nothing disturbs.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use runtime_core::{EventDraft, EventId, EventKind, StreamKey, Timestamp};
use runtime_events::{
    Delta, DeltaTarget, ListenError, LiveConfig, LiveDelta, LiveError, LiveEvent, LiveMessage,
    LiveReceiver, PublishError, Room, StreamAdapter,
};
use runtime_store::{Position, StoredEvent};
use tokio::sync::Notify;

use crate::store_laws::{LawBroken, LawFuture, ensure, ensure_eq, ensure_matches};

/// One kind of live fan-out.
pub trait AdapterFixture: Send + Sync {
    /// Makes an adapter with these bounds that nobody uses yet.
    fn open(&self, config: LiveConfig) -> Arc<dyn StreamAdapter>;

    /// Returns how many rooms hold something, if the adapter can tell.
    fn rooms(&self, adapter: &Arc<dyn StreamAdapter>) -> Option<usize> {
        let _ = adapter;
        None
    }

    /// How long a message may take before it counts as lost.
    fn patience(&self) -> Duration {
        Duration::from_secs(10)
    }
}

/// A law of live fan-out by its name.
pub type AdapterLaw = (
    &'static str,
    for<'fixture> fn(&'fixture dyn AdapterFixture) -> LawFuture<'fixture>,
);

/// Every law of live fan-out.
pub const ALL: &[AdapterLaw] = crate::adapter_laws!(@laws [list]);

/// Makes one test per law of live fan-out for an adapter.
///
/// The expression makes an [`AdapterFixture`](crate::adapter_laws::AdapterFixture).
///
/// ```
/// use std::sync::Arc;
///
/// use runtime_events::{LiveAdapter, LiveConfig, StreamAdapter};
///
/// struct Memory;
///
/// impl runtime_testkit::adapter_laws::AdapterFixture for Memory {
///     fn open(&self, config: LiveConfig) -> Arc<dyn StreamAdapter> {
///         Arc::new(LiveAdapter::new(config))
///     }
/// }
///
/// runtime_testkit::adapter_laws!(Memory);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! adapter_laws {
    (@laws $to:tt) => {
        $crate::adapter_laws! { @each $to
            v7_a_message_wakes_whoever_waits
            v7_a_receiver_that_is_behind_is_told_and_goes_on
            v7_a_receiver_that_left_holds_up_nobody
            v7_closing_gives_what_is_buffered_first
            v7_everyone_in_the_room_hears_it_in_order
            v7_publishing_to_nobody_is_no_error
            v7_readers_are_bounded
            v7_rooms_are_freed
        }
    };
    (@each [list] $($law:ident)+) => {
        &[$((stringify!($law), |fixture| Box::pin($crate::adapter_laws::$law(fixture)))),+]
    };
    (@each [test $fixture:expr] $($law:ident)+) => {
        $(
            #[test]
            fn $law() {
                let fixture = $fixture;
                let broken = $crate::store_laws::run(|| $crate::adapter_laws::$law(&fixture));
                if let Err(broken) = broken {
                    panic!("{broken}");
                }
            }
        )+
    };
    ($fixture:expr) => {
        $crate::adapter_laws! { @laws [test $fixture] }
    };
}

/// An adapter in use.
struct Bench<'fixture> {
    fixture: &'fixture dyn AdapterFixture,
    adapter: Arc<dyn StreamAdapter>,
}

impl<'fixture> Bench<'fixture> {
    fn new(fixture: &'fixture dyn AdapterFixture) -> Self {
        let config = LiveConfig {
            buffer_messages: 8,
            readers_max: 4,
            ..LiveConfig::default()
        };
        Self {
            fixture,
            adapter: fixture.open(config),
        }
    }

    fn publish(&self, room: &Room, number: u64) -> Result<(), LawBroken> {
        Ok(self.adapter.publish(room, event(number))?)
    }

    fn listen(&self, room: &Room) -> Result<Box<dyn LiveReceiver>, LawBroken> {
        Ok(self.adapter.listen(room)?)
    }

    /// Waits for the next message; none if none comes in time.
    async fn hear(&self, receiver: &mut dyn LiveReceiver) -> Option<Result<u64, LiveError>> {
        within(self.fixture.patience(), receive(receiver)).await
    }

    /// Takes so many messages, none of which may be missing.
    async fn take(
        &self,
        receiver: &mut dyn LiveReceiver,
        messages: usize,
    ) -> Result<Vec<u64>, LawBroken> {
        let mut heard = Vec::with_capacity(messages);
        for _ in 0..messages {
            match self.hear(receiver).await {
                Some(Ok(number)) => heard.push(number),
                other => {
                    let what = format!("after {heard:?} came {other:?} instead of a message");
                    return Err(LawBroken::at(file!(), line!(), what));
                }
            }
        }
        Ok(heard)
    }

    /// Says whether a receiver hears nothing. Whatever was published before is followed by a last
    /// message, so that a slow adapter is not taken for a silent one.
    async fn hears_only_the_last(
        &self,
        room: &Room,
        receiver: &mut dyn LiveReceiver,
    ) -> Result<(), LawBroken> {
        self.publish(room, LAST)?;
        ensure_eq!(
            self.take(receiver, 1).await?,
            [LAST],
            "what is heard besides"
        );
        Ok(())
    }
}

/// The number of a message that ends a law.
const LAST: u64 = 1_000_000;

async fn receive(receiver: &mut dyn LiveReceiver) -> Result<u64, LiveError> {
    let message = poll_fn(|cx| receiver.poll_receive(cx)).await?;
    Ok(match message {
        LiveMessage::Event(event) => event.stored().position.0,
        LiveMessage::Delta(delta) => delta.at.0,
        other => panic!("no law publishes {other:?}"),
    })
}

async fn within<T>(patience: Duration, future: impl Future<Output = T>) -> Option<T> {
    let future: Pin<Box<dyn Future<Output = T> + '_>> = Box::pin(future);
    tokio::time::timeout(patience, future).await.ok()
}

fn event(number: u64) -> LiveMessage {
    let time = Timestamp::from_millis(number);
    let stored = StoredEvent {
        position: Position(number),
        id: EventId::generate(time, [0; 10]),
        time,
        places: Vec::new(),
        closes: false,
        erased: false,
        body: EventDraft::new(EventKind::Diagnostic).to_bytes().into(),
    };
    LiveMessage::Event(Arc::new(LiveEvent::new(stored, None)))
}

fn delta(number: u64) -> LiveMessage {
    let delta = Delta {
        session: "desk".parse().expect("an id"),
        turn: "1".parse().expect("an id"),
        call: "call".to_owned(),
        attempt: 1,
        index: 0,
        pieces: 1,
        target: DeltaTarget::Text,
        text: "piece".to_owned(),
    };
    let at = Position(number);
    LiveMessage::Delta(Arc::new(LiveDelta { delta, at }))
}

fn room(name: &str) -> Room {
    Room::stream(StreamKey::new(name).expect("a stream key"))
}

/// A message goes to every receiver that is in its room, and to no other, in the order of
/// publication; events and deltas alike.
///
/// # Errors
/// The clause that broke.
pub async fn v7_everyone_in_the_room_hears_it_in_order(
    fixture: &dyn AdapterFixture,
) -> Result<(), LawBroken> {
    let bench = Bench::new(fixture);
    let (here, there) = (room("here"), room("there"));
    let mut first = bench.listen(&here)?;
    bench.publish(&here, 1)?;
    ensure_eq!(
        bench.take(&mut *first, 1).await?,
        [1],
        "what the first one hears"
    );
    let mut second = bench.listen(&here)?;
    let mut other = bench.listen(&there)?;
    let mut whole = bench.listen(&Room::runtime())?;
    bench.publish(&here, 2)?;
    bench.adapter.publish(&here, delta(3))?;
    bench.publish(&here, 4)?;
    bench.publish(&Room::runtime(), 5)?;
    ensure_eq!(
        bench.take(&mut *first, 3).await?,
        [2, 3, 4],
        "what the first one hears"
    );
    ensure_eq!(
        bench.take(&mut *second, 3).await?,
        [2, 3, 4],
        "what the second one hears"
    );
    ensure_eq!(
        bench.take(&mut *whole, 1).await?,
        [5],
        "what the room of the runtime hears"
    );
    bench.hears_only_the_last(&there, &mut *other).await
}

/// Publishing where nobody listens is no error, and nobody who comes later hears it.
///
/// # Errors
/// The clause that broke.
pub async fn v7_publishing_to_nobody_is_no_error(
    fixture: &dyn AdapterFixture,
) -> Result<(), LawBroken> {
    let bench = Bench::new(fixture);
    let here = room("empty");
    for number in 1..100 {
        bench.publish(&here, number)?;
    }
    let mut late = bench.listen(&here)?;
    bench.hears_only_the_last(&here, &mut *late).await
}

/// A receiver that waits is woken by the next message.
///
/// # Errors
/// The clause that broke.
pub async fn v7_a_message_wakes_whoever_waits(
    fixture: &dyn AdapterFixture,
) -> Result<(), LawBroken> {
    let bench = Bench::new(fixture);
    let here = room("waiting");
    let mut receiver = bench.listen(&here)?;
    for number in 1..=20 {
        let told = Arc::new(Notify::new());
        let mut waits = Some(Arc::clone(&told));
        let heard = tokio::spawn(async move {
            let mut receiving = Box::pin(receive(&mut *receiver));
            // Nobody polls it again until it is woken.
            let heard = poll_fn(|context| {
                let polled = receiving.as_mut().poll(context);
                if let Some(waits) = waits.take() {
                    waits.notify_one();
                }
                polled
            });
            let heard = heard.await;
            drop(receiving);
            (heard, receiver)
        });
        told.notified().await;
        bench.publish(&here, number)?;
        let Some(heard) = within(fixture.patience(), heard).await else {
            let what = format!("message {number} woke nobody");
            return Err(LawBroken::at(file!(), line!(), what));
        };
        let heard = heard?;
        ensure_eq!(heard.0, Ok(number), "what woke a receiver");
        receiver = heard.1;
    }
    Ok(())
}

/// A receiver further behind than its buffer is told how many messages it lost and goes on; one
/// that keeps up hears each. Publishing waits for neither.
///
/// # Errors
/// The clause that broke.
pub async fn v7_a_receiver_that_is_behind_is_told_and_goes_on(
    fixture: &dyn AdapterFixture,
) -> Result<(), LawBroken> {
    const MESSAGES: u64 = 40;
    let bench = Bench::new(fixture);
    let here = room("slow");
    let (mut slow, mut quick) = (bench.listen(&here)?, bench.listen(&here)?);
    for number in 1..=MESSAGES {
        bench.publish(&here, number)?;
        ensure_eq!(
            bench.take(&mut *quick, 1).await?,
            [number],
            "what the quick one hears"
        );
    }
    let (mut heard, mut skipped) = (Vec::new(), 0);
    while heard.last() != Some(&MESSAGES) {
        match bench.hear(&mut *slow).await {
            Some(Ok(number)) => heard.push(number),
            Some(Err(LiveError::Lagged { skipped: more })) => {
                skipped += more;
                ensure!(
                    more > 0 && skipped <= MESSAGES,
                    "{skipped} of {MESSAGES} messages were skipped"
                );
            }
            other => {
                let what = format!("a slow receiver got {other:?} after {heard:?}");
                return Err(LawBroken::at(file!(), line!(), what));
            }
        }
    }
    ensure!(heard.is_sorted(), "a slow receiver hears {heard:?}");
    ensure!(
        heard.len() <= 8,
        "{} messages were buffered for it, 8 are allowed",
        heard.len()
    );
    ensure_eq!(
        skipped + heard.len() as u64,
        MESSAGES,
        "what it lost and heard"
    );
    bench.publish(&here, LAST)?;
    ensure_eq!(
        bench.take(&mut *slow, 1).await?,
        [LAST],
        "what the slow one hears after"
    );
    Ok(())
}

/// A receiver that is gone takes nothing with it.
///
/// # Errors
/// The clause that broke.
pub async fn v7_a_receiver_that_left_holds_up_nobody(
    fixture: &dyn AdapterFixture,
) -> Result<(), LawBroken> {
    let bench = Bench::new(fixture);
    let here = room("leaving");
    let mut stays = bench.listen(&here)?;
    for round in 0..10 {
        let mut leaves = bench.listen(&here)?;
        bench.publish(&here, 2 * round + 1)?;
        if round % 2 == 0 {
            bench.take(&mut *leaves, 1).await?;
        }
        drop(leaves);
        bench.publish(&here, 2 * round + 2)?;
        let both = bench.take(&mut *stays, 2).await?;
        ensure_eq!(
            both,
            [2 * round + 1, 2 * round + 2],
            "what the one that stays hears"
        );
    }
    Ok(())
}

/// After `close` nothing is taken any more; receivers are given what was buffered, then they are
/// told. Closing twice does nothing.
///
/// # Errors
/// The clause that broke.
pub async fn v7_closing_gives_what_is_buffered_first(
    fixture: &dyn AdapterFixture,
) -> Result<(), LawBroken> {
    let bench = Bench::new(fixture);
    let here = room("closing");
    let (mut receiver, mut idle) = (bench.listen(&here)?, bench.listen(&room("idle"))?);
    bench.publish(&here, 1)?;
    bench.publish(&here, 2)?;
    // Whether it has arrived is seen by the one that waits for it; an adapter may take its time.
    let mut beside = bench.listen(&here)?;
    bench.publish(&here, 3)?;
    bench.take(&mut *beside, 1).await?;
    bench.adapter.close();
    bench.adapter.close();
    ensure_eq!(
        bench.take(&mut *receiver, 3).await?,
        [1, 2, 3],
        "what was buffered"
    );
    for receiver in [&mut receiver, &mut idle, &mut beside] {
        for _ in 0..2 {
            let told = bench.hear(&mut **receiver).await;
            ensure_eq!(
                told,
                Some(Err(LiveError::Closed)),
                "what is told after the last one"
            );
        }
    }
    let refused = bench.adapter.publish(&here, event(4));
    ensure_eq!(refused, Err(PublishError::Closed), "publishing after close");
    let refused = bench.adapter.listen(&here).err();
    ensure_eq!(refused, Some(ListenError::Closed), "listening after close");
    Ok(())
}

/// No more receivers than allowed, in all rooms together; one that leaves makes room.
///
/// # Errors
/// The clause that broke.
pub async fn v7_readers_are_bounded(fixture: &dyn AdapterFixture) -> Result<(), LawBroken> {
    let bench = Bench::new(fixture);
    let mut receivers = Vec::new();
    for number in 0..4 {
        receivers.push(bench.listen(&room(&format!("room-{number}")))?);
    }
    let refused = bench.adapter.listen(&room("room-0"));
    ensure_matches!(
        refused,
        Err(ListenError::TooManyReaders { max: 4 }),
        "one too many"
    );
    receivers.pop();
    let mut last = bench.listen(&room("room-0"))?;
    bench.hears_only_the_last(&room("room-0"), &mut *last).await
}

/// A room costs nothing once its last receiver is gone, whatever it had not heard.
///
/// # Errors
/// The clause that broke.
pub async fn v7_rooms_are_freed(fixture: &dyn AdapterFixture) -> Result<(), LawBroken> {
    let bench = Bench::new(fixture);
    for number in 0..50 {
        let here = room(&format!("room-{number}"));
        let receiver = bench.listen(&here)?;
        bench.publish(&here, 1)?;
        drop(receiver);
        bench.publish(&here, 2)?;
    }
    let rooms = fixture.rooms(&bench.adapter);
    ensure!(
        rooms.is_none_or(|rooms| rooms == 0),
        "{rooms:?} rooms are left"
    );
    Ok(())
}

macro_rules! from_error {
    ($($error:ty),+) => {
        $(impl From<$error> for LawBroken {
            fn from(error: $error) -> Self {
                Self::refused(&error)
            }
        })+
    };
}

from_error!(PublishError, ListenError);
