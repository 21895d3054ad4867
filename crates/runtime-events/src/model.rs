//! The join and the live fan-out under a schedule checker (R11).
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test -p runtime-events --lib model`
//!
//! There is no timer in the model: a reader that missed its wake-up would wait for ever, which
//! the checker reports as a deadlock.

use std::future::poll_fn;
use std::sync::Arc;

use runtime_core::{EventId, Timestamp};
use runtime_store::{Position, StoredEvent};
use shuttle::thread;

use crate::join::{Entry, Given, Join, LogPage, Need, Verdict};
use crate::sync::{Mutex, lock};
use crate::{
    LiveAdapter, LiveConfig, LiveError, LiveEvent, LiveMessage, LiveReceiver, Room, StreamAdapter,
};

const SCHEDULES: usize = 20_000;
const WRITERS: u64 = 2;
const EVENTS_EACH: u64 = 2;

/// The log is its head: event `n` has position `n`.
type Log = Arc<Mutex<u64>>;

fn write(log: &Log, adapter: &LiveAdapter) {
    let position = {
        let mut head = lock(log);
        *head += 1;
        *head
    };
    // Log first; another writer may publish a later event before this one.
    let time = Timestamp::from_millis(position);
    let stored = StoredEvent {
        position: Position(position),
        id: EventId::generate(time, [0; 10]),
        time,
        places: Vec::new(),
        closes: false,
        erased: false,
        body: Arc::from(&b""[..]),
    };
    let live = LiveEvent::new(stored, Some(Position(position - 1)));
    let message = LiveMessage::Event(Arc::new(live));
    let published = adapter.publish(&Room::runtime(), message);
    published.expect("the adapter is open");
}

fn entry(position: u64) -> Entry<u64> {
    Entry {
        position: Position(position),
        previous: Some(Position(position - 1)),
        ends: false,
        event: Some(position),
    }
}

fn read(log: &Log, after: Position) -> LogPage<u64> {
    let head = *lock(log);
    let end = head.min(after.0 + 2);
    LogPage {
        entries: (after.0 + 1..=end).map(entry).collect(),
        next: Position(end),
        has_more: end < head,
        pruned: Position(0),
        corrupt: None,
    }
}

fn hear(receiver: &mut dyn LiveReceiver, join: &mut Join) -> Option<u64> {
    match shuttle::future::block_on(poll_fn(|cx| receiver.poll_receive(cx))) {
        Ok(LiveMessage::Event(live)) => {
            let position = live.stored().position.0;
            (join.live(&entry(position)) == Verdict::Give).then_some(position)
        }
        Ok(LiveMessage::Delta(_)) => None,
        Err(LiveError::Lagged { .. }) => {
            join.lagged();
            None
        }
        Err(LiveError::Closed) => panic!("nobody closes the adapter"),
    }
}

/// Reads everything. `listen_first` is how the stream does it.
fn read_all(log: &Log, adapter: &LiveAdapter, listen_first: bool) {
    let listen = || {
        adapter
            .listen(&Room::runtime())
            .expect("the adapter is open")
    };
    let mut receiver = listen_first.then(listen);
    let (mut join, mut seen) = (Join::after(Position(0)), Vec::new());
    while (seen.len() as u64) < WRITERS * EVENTS_EACH {
        match join.need() {
            Need::Read { after } => {
                let given = join.page(read(log, after));
                seen.extend(given.into_iter().map(|given| match given {
                    Given::Event(_, event) => event,
                    other => panic!("expected an event, found {other:?}"),
                }));
            }
            Need::Listen => {
                let receiver = receiver.get_or_insert_with(listen);
                seen.extend(hear(&mut **receiver, &mut join));
            }
            Need::Ended => panic!("nothing ends the topic"),
        }
    }
    assert_eq!(seen, (1..=WRITERS * EVENTS_EACH).collect::<Vec<_>>());
}

fn scenario(listen_first: bool) {
    let log = Log::default();
    let adapter = LiveAdapter::new(LiveConfig {
        // So small that readers lag.
        buffer_messages: 1,
        ..LiveConfig::default()
    });
    let mut threads = Vec::new();
    for _ in 0..WRITERS {
        let (log, adapter) = (Arc::clone(&log), adapter.clone());
        threads.push(thread::spawn(move || {
            (0..EVENTS_EACH).for_each(|_| write(&log, &adapter));
        }));
    }
    for _ in 0..2 {
        let (log, adapter) = (Arc::clone(&log), adapter.clone());
        threads.push(thread::spawn(move || {
            read_all(&log, &adapter, listen_first)
        }));
    }
    for thread in threads {
        thread.join().expect("no thread panics");
    }
    assert_eq!((adapter.rooms(), adapter.buffered_messages()), (0, 0));
}

#[test]
fn r11_no_schedule_loses_or_repeats_an_event() {
    shuttle::check_random(|| scenario(true), SCHEDULES);
    shuttle::check_pct(|| scenario(true), SCHEDULES, 3);
}

/// The planted fault: what is stored between the read and the listening is not heard.
#[test]
#[should_panic(expected = "deadlock")]
fn r11_listening_after_the_read_is_found() {
    shuttle::check_random(|| scenario(false), SCHEDULES);
}
