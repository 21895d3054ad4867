//! Deliberately broken logs and live fan-outs: each must break a law of events (R18).

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use runtime_events::{
    ListenError, LiveAdapter, LiveConfig, LiveError, LiveEvent, LiveMessage, LiveReceiver,
    PublishError, Room, StreamAdapter,
};
use runtime_store::Position;
use runtime_testkit::adapter_laws::{self, AdapterFixture};
use runtime_testkit::event_laws::{self, EventFixture};
use runtime_testkit::store_laws::{LawBroken, run};

use crate::broken::Breakage::{self, *};
use crate::broken::Broken;

/// What is wrong with a [`BrokenAdapter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Nothing,
    OnlyTheFirstHears,
    TurnsPairsAround,
    MixesRooms,
    DropsDeltas,
    RefusesEmptyRooms,
    KeepsForThoseWhoCome,
    NeverWakes,
    BuffersWithoutBound,
    CountsTheSkippedWrongly,
    LagsOnForEver,
    ALeaverClosesItsRoom,
    ForgetsItsBufferOnClose,
    TakesMessagesAfterClose,
    LetsInAfterClose,
    ClosesOnceOnly,
    AnyNumberOfReaders,
    NeverFreesAPlace,
    KeepsRooms,
    ClaimsThatNothingIsMissing,
}

use Wrong::*;

/// Each with the law of live fan-out that must catch it.
const WRONGS: &[(Wrong, &str)] = &[
    (
        OnlyTheFirstHears,
        "v7_everyone_in_the_room_hears_it_in_order",
    ),
    (
        TurnsPairsAround,
        "v7_everyone_in_the_room_hears_it_in_order",
    ),
    (MixesRooms, "v7_everyone_in_the_room_hears_it_in_order"),
    (DropsDeltas, "v7_everyone_in_the_room_hears_it_in_order"),
    (RefusesEmptyRooms, "v7_publishing_to_nobody_is_no_error"),
    (KeepsForThoseWhoCome, "v7_publishing_to_nobody_is_no_error"),
    (NeverWakes, "v7_a_message_wakes_whoever_waits"),
    (
        BuffersWithoutBound,
        "v7_a_receiver_that_is_behind_is_told_and_goes_on",
    ),
    (
        CountsTheSkippedWrongly,
        "v7_a_receiver_that_is_behind_is_told_and_goes_on",
    ),
    (
        LagsOnForEver,
        "v7_a_receiver_that_is_behind_is_told_and_goes_on",
    ),
    (
        ALeaverClosesItsRoom,
        "v7_a_receiver_that_left_holds_up_nobody",
    ),
    (
        ForgetsItsBufferOnClose,
        "v7_closing_gives_what_is_buffered_first",
    ),
    (
        TakesMessagesAfterClose,
        "v7_closing_gives_what_is_buffered_first",
    ),
    (LetsInAfterClose, "v7_closing_gives_what_is_buffered_first"),
    (ClosesOnceOnly, "v7_closing_gives_what_is_buffered_first"),
    (AnyNumberOfReaders, "v7_readers_are_bounded"),
    (NeverFreesAPlace, "v7_readers_are_bounded"),
    (KeepsRooms, "v7_rooms_are_freed"),
];

/// Each broken store with the law of the event log that must catch it.
const STORES: &[(Breakage, &str)] = &[
    (ForgetsAllCommits, "v1_appending_again_gives_what_is_stored"),
    (
        UnmarkedRepetition,
        "v1_appending_again_gives_what_is_stored",
    ),
    (
        TakesOtherContentForARepetition,
        "v1_other_content_under_an_id_is_a_conflict",
    ),
    (
        TakesAnEventIdTwice,
        "v1_other_content_under_an_id_is_a_conflict",
    ),
    (IgnoresHeadGuard, "v1_an_unexpected_head_appends_nothing"),
    (SkipsASeq, "v1_appends_at_once_are_dense"),
    (SkipsAPosition, "v1_appends_at_once_are_dense"),
    (
        EventPageSkipsOne,
        "v4_pages_of_any_limit_give_the_whole_log",
    ),
    (
        EventPageHidesMore,
        "v4_pages_of_any_limit_give_the_whole_log",
    ),
    (
        StreamPageIgnoresTheStream,
        "v4_pages_of_any_limit_give_the_whole_log",
    ),
    (
        StreamPageIgnoresTheStream,
        "v4_what_was_appended_before_is_replayed",
    ),
    (
        StreamPageIgnoresTheStream,
        "v4_an_append_during_the_join_is_given_once",
    ),
    (EventPageSkipsOne, "v4_a_slow_reader_misses_nothing"),
    (
        StreamPageIgnoresTheStream,
        "v4_a_lost_live_message_is_repaired",
    ),
    (
        StreamPageIgnoresTheStream,
        "v4_a_repeated_live_message_is_given_once",
    ),
    (
        StreamPageIgnoresTheStream,
        "v4_what_another_process_appends_arrives",
    ),
    (
        StreamPageIgnoresTheStream,
        "v4_writers_and_readers_at_once_miss_nothing",
    ),
    (EventPageSkipsOne, "v5_a_finished_turn_replays_and_ends"),
    (IgnoresCloses, "v5_nothing_follows_the_end_of_a_turn"),
    (RenewsLineageOnReopening, "v6_cursors_survive_reopening"),
    (LosesAllOnReopening, "v6_cursors_survive_reopening"),
    (
        StreamPageIgnoresTheStream,
        "v6_cursors_that_lead_nowhere_are_told_apart",
    ),
    (
        LosesAllOnReopening,
        "v9_a_consumer_goes_on_after_what_it_acknowledged",
    ),
    (IgnoresErasure, "v4_an_erased_topic_keeps_its_places"),
    (IgnoresPruning, "v9_what_retention_removed_is_a_visible_gap"),
    (
        HidesThatItPruned,
        "v9_what_retention_removed_is_a_visible_gap",
    ),
    (
        UndoesPruningOnReopening,
        "v9_what_retention_removed_is_a_visible_gap",
    ),
    (
        IgnoresPruning,
        "v9_retention_keeps_to_its_bounds_and_waits_for_consumers",
    ),
];

/// Makes a live fan-out.
type MakeAdapter = fn(LiveConfig) -> Arc<dyn StreamAdapter>;

/// Each broken fan-out that breaks more than its own law.
const FAN_OUTS: &[(MakeAdapter, &str)] = &[
    (
        |config| Arc::new(BrokenAdapter::new(ClaimsThatNothingIsMissing, config)),
        "v4_writers_and_readers_at_once_miss_nothing",
    ),
    (
        |config| Arc::new(BrokenAdapter::new(ALeaverClosesItsRoom, config)),
        "v8_a_reader_that_leaves_holds_up_nobody",
    ),
];

#[derive(Debug)]
struct BrokenAdapter {
    wrong: Wrong,
    inner: LiveAdapter,
    heard: Arc<AtomicUsize>,
    held: Mutex<Option<(Room, LiveMessage)>>,
    missed: Mutex<Vec<(Room, LiveMessage)>>,
    /// For the breakages that need another adapter later.
    second: LiveAdapter,
    closed: AtomicUsize,
}

impl BrokenAdapter {
    fn new(wrong: Wrong, config: LiveConfig) -> Self {
        let bound = match wrong {
            BuffersWithoutBound => LiveConfig {
                buffer_messages: 10_000,
                ..config
            },
            AnyNumberOfReaders => LiveConfig {
                readers_max: 10_000,
                ..config
            },
            _ => config,
        };
        Self {
            wrong,
            inner: LiveAdapter::new(bound),
            heard: Arc::default(),
            held: Mutex::default(),
            missed: Mutex::default(),
            second: LiveAdapter::new(config),
            closed: AtomicUsize::new(0),
        }
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst) > 0
    }

    fn publish_broken(&self, room: &Room, message: LiveMessage) -> Result<(), PublishError> {
        match (self.wrong, &message) {
            (TurnsPairsAround, _) => {
                let held = self.held.lock().expect("no panic").take();
                match held {
                    Some((held_in, held)) => {
                        self.inner.publish(room, message)?;
                        self.inner.publish(&held_in, held)
                    }
                    None if !room.eq(&Room::runtime()) && number(&message) == 2 => {
                        *self.held.lock().expect("no panic") = Some((room.clone(), message));
                        Ok(())
                    }
                    None => self.inner.publish(room, message),
                }
            }
            (MixesRooms, _) => self.inner.publish(&Room::runtime(), message),
            (DropsDeltas, LiveMessage::Delta(_)) => Ok(()),
            (RefusesEmptyRooms, _) if self.inner.rooms() == 0 => Err(PublishError::Unavailable {
                reason: "nobody is there".to_owned(),
            }),
            (KeepsForThoseWhoCome, _) if self.inner.rooms() == 0 => {
                let mut missed = self.missed.lock().expect("no panic");
                missed.push((room.clone(), message));
                Ok(())
            }
            (TakesMessagesAfterClose, _) if self.is_closed() => Ok(()),
            (ClaimsThatNothingIsMissing, LiveMessage::Event(event)) => {
                let mut stored = event.stored().clone();
                for place in &mut stored.places {
                    place.previous = Position(0);
                }
                let event = LiveEvent::new(stored, Some(Position(0)));
                self.inner
                    .publish(room, LiveMessage::Event(Arc::new(event)))
            }
            _ => self.inner.publish(room, message),
        }
    }
}

fn number(message: &LiveMessage) -> u64 {
    match message {
        LiveMessage::Event(event) => event.stored().position.0,
        _ => 0,
    }
}

impl StreamAdapter for BrokenAdapter {
    fn publish(&self, room: &Room, message: LiveMessage) -> Result<(), PublishError> {
        self.publish_broken(room, message)
    }

    fn listen(&self, room: &Room) -> Result<Box<dyn LiveReceiver>, ListenError> {
        if self.is_closed() && self.wrong == LetsInAfterClose {
            return self.second.listen(room);
        }
        let room = match self.wrong {
            MixesRooms => &Room::runtime(),
            _ => room,
        };
        let inner = self.inner.listen(room)?;
        for (room, message) in std::mem::take(&mut *self.missed.lock().expect("no panic")) {
            let published = self.inner.publish(&room, message);
            published.expect("it is open");
        }
        let number = self.heard.fetch_add(1, Ordering::SeqCst);
        let leaves = match self.wrong {
            ALeaverClosesItsRoom => Some(self.inner.clone()),
            _ => None,
        };
        let inner = Some(inner);
        Ok(Box::new(BrokenReceiver {
            wrong: self.wrong,
            first: number == 0,
            leaves,
            inner,
            lag: 0,
        }))
    }

    fn close(&self) {
        let before = self.closed.fetch_add(1, Ordering::SeqCst);
        match self.wrong {
            ForgetsItsBufferOnClose => {
                // Room for one message each: what was buffered before is lost.
                for name in ["closing", "idle"] {
                    let key = runtime_core::StreamKey::new(name).expect("a key");
                    for _ in 0..9 {
                        let event = LiveEvent::new(stored(u64::MAX), None);
                        let message = LiveMessage::Event(Arc::new(event));
                        let _full = self.inner.publish(&Room::stream(key.clone()), message);
                    }
                }
                self.inner.close();
            }
            ClosesOnceOnly if before > 0 => panic!("closed twice"),
            _ => self.inner.close(),
        }
    }
}

fn stored(position: u64) -> runtime_store::StoredEvent {
    let time = runtime_core::Timestamp::from_millis(0);
    runtime_store::StoredEvent {
        position: Position(position),
        id: runtime_core::EventId::generate(time, [0; 10]),
        time,
        places: Vec::new(),
        closes: false,
        erased: false,
        body: b"{}".as_slice().into(),
    }
}

#[derive(Debug)]
struct BrokenReceiver {
    wrong: Wrong,
    first: bool,
    leaves: Option<LiveAdapter>,
    inner: Option<Box<dyn LiveReceiver>>,
    lag: u64,
}

impl LiveReceiver for BrokenReceiver {
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<LiveMessage, LiveError>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Pending;
        };
        if self.wrong == OnlyTheFirstHears && !self.first {
            return Poll::Pending;
        }
        if self.wrong == NeverWakes {
            let mut noop = Context::from_waker(std::task::Waker::noop());
            return inner.poll_receive(&mut noop);
        }
        if self.wrong == LagsOnForEver && self.lag > 0 {
            return Poll::Ready(Err(LiveError::Lagged { skipped: self.lag }));
        }
        let polled = inner.poll_receive(cx);
        if let Poll::Ready(Err(LiveError::Lagged { skipped })) = polled {
            self.lag = skipped;
            if self.wrong == CountsTheSkippedWrongly {
                return Poll::Ready(Err(LiveError::Lagged { skipped: 1 }));
            }
        }
        polled
    }
}

impl Drop for BrokenReceiver {
    fn drop(&mut self) {
        if let Some(adapter) = &self.leaves {
            adapter.close();
        }
        if matches!(self.wrong, NeverFreesAPlace | KeepsRooms) {
            std::mem::forget(self.inner.take());
        }
    }
}

struct Adapter {
    wrong: Wrong,
    made: Mutex<Option<LiveAdapter>>,
}

impl AdapterFixture for Adapter {
    fn open(&self, config: LiveConfig) -> Arc<dyn StreamAdapter> {
        let config = match self.wrong {
            // So many readers that those which are never freed do not reach the bound.
            KeepsRooms => LiveConfig {
                readers_max: 10_000,
                ..config
            },
            _ => config,
        };
        let adapter = BrokenAdapter::new(self.wrong, config);
        *self.made.lock().expect("no panic") = Some(adapter.inner.clone());
        Arc::new(adapter)
    }

    fn rooms(&self, _: &Arc<dyn StreamAdapter>) -> Option<usize> {
        let made = self.made.lock().expect("no panic");
        made.as_ref().map(LiveAdapter::rooms)
    }

    fn patience(&self) -> Duration {
        // Nothing here waits for a network; a message that takes so long never comes.
        Duration::from_millis(200)
    }
}

fn keeps_adapter_law(wrong: Wrong, law: &str) -> Result<(), LawBroken> {
    let fixture = Adapter {
        wrong,
        made: Mutex::default(),
    };
    let (_, law) = *adapter_laws::ALL
        .iter()
        .find(|(name, _)| *name == law)
        .expect("a law of that name");
    caught(|| run(|| law(&fixture)))
}

fn keeps_event_law(breakage: Breakage, adapter: MakeAdapter, law: &str) -> Result<(), LawBroken> {
    let storage = Broken::new(breakage);
    let fixture = EventFixture::new(&storage, adapter);
    let (_, law) = *event_laws::ALL
        .iter()
        .find(|(name, _)| *name == law)
        .expect("a law of that name");
    caught(|| run(|| law(&fixture)))
}

/// What is broken may panic on its way; that is caught as well as any other finding.
fn caught(law: impl FnOnce() -> Result<(), LawBroken>) -> Result<(), LawBroken> {
    catch_unwind(AssertUnwindSafe(law))
        .unwrap_or_else(|_| Err(LawBroken::at(file!(), line!(), "a panic")))
}

/// R18: each broken log and fan-out breaks the law that speaks of it, and each law can be broken.
#[test]
fn r18_every_broken_log_and_fan_out_is_caught_by_its_law() {
    let started = Instant::now();
    let mut missed = Vec::new();
    for (wrong, law) in WRONGS {
        if keeps_adapter_law(*wrong, law).is_ok() {
            missed.push(format!("{wrong:?} by {law}"));
        }
    }
    for (breakage, law) in STORES {
        if keeps_event_law(*breakage, EventFixture::in_memory, law).is_ok() {
            missed.push(format!("{breakage:?} by {law}"));
        }
    }
    for (adapter, law) in FAN_OUTS {
        // What it breaks shows only where a writer and a reader race, on a loaded machine once in
        // a dozen tries.
        let mut tries = 0..2_000;
        if tries.all(|_| keeps_event_law(Breakage::Nothing, *adapter, law).is_ok()) {
            missed.push(format!("a broken fan-out by {law}"));
        }
    }
    let cases = WRONGS.len() + STORES.len() + FAN_OUTS.len();
    let seconds = started.elapsed().as_secs_f64();
    println!("R18-events {cases} {} {seconds:.1}", missed.len());
    assert!(missed.is_empty(), "not caught: {missed:#?}");

    let breakable: HashSet<&str> = WRONGS
        .iter()
        .map(|(_, law)| *law)
        .chain(STORES.iter().map(|(_, law)| *law))
        .chain(FAN_OUTS.iter().map(|(_, law)| *law))
        .collect();
    let laws = adapter_laws::ALL.iter().map(|(name, _)| *name);
    let laws = laws.chain(event_laws::ALL.iter().map(|(name, _)| *name));
    let unbroken = laws.filter(|law| !breakable.contains(law));
    let unbroken: Vec<&str> = unbroken.collect();
    assert!(
        unbroken.is_empty(),
        "laws that nothing breaks: {unbroken:?}"
    );
}

/// R18: what is broken above is broken by the breakage, not by the wrapping.
#[test]
fn what_is_broken_is_sound_before() {
    for (law, _) in adapter_laws::ALL {
        assert_eq!(keeps_adapter_law(Wrong::Nothing, law), Ok(()), "{law}");
    }
    for (law, _) in event_laws::ALL {
        let adapter: MakeAdapter = |config| Arc::new(BrokenAdapter::new(Wrong::Nothing, config));
        let kept = keeps_event_law(Breakage::Nothing, adapter, law);
        assert_eq!(kept, Ok(()), "{law}");
    }
}
