//! Live fan-out in memory, beyond its law (V7).

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use runtime_core::{EventDraft, EventId, EventKind, StreamKey, Timestamp};
use runtime_events::{
    ListenError, LiveAdapter, LiveConfig, LiveError, LiveEvent, LiveMessage, LiveReceiver, Room,
    StreamAdapter,
};
use runtime_store::{Position, StoredEvent};

fn message(position: u64) -> LiveMessage {
    let time = Timestamp::from_millis(position);
    let stored = StoredEvent {
        position: Position(position),
        id: EventId::generate(time, [0; 10]),
        time,
        places: Vec::new(),
        closes: false,
        erased: false,
        body: EventDraft::new(EventKind::Diagnostic).to_bytes().into(),
    };
    LiveMessage::Event(Arc::new(LiveEvent::new(stored, None)))
}

fn room(name: &str) -> Room {
    Room::stream(StreamKey::new(name).expect("a stream key"))
}

fn publish(adapter: &dyn StreamAdapter, room: &Room, position: u64) {
    let published = adapter.publish(room, message(position));
    published.expect("the adapter is open");
}

fn listen(adapter: &dyn StreamAdapter, room: &Room) -> Box<dyn LiveReceiver> {
    adapter.listen(room).expect("the adapter is open")
}

fn poll(receiver: &mut dyn LiveReceiver) -> Poll<Result<u64, LiveError>> {
    let received = receiver.poll_receive(&mut Context::from_waker(Waker::noop()));
    received.map_ok(|message| match message {
        LiveMessage::Event(event) => event.stored().position.0,
        other => panic!("expected an event, found {other:?}"),
    })
}

fn take(receiver: &mut dyn LiveReceiver, count: usize) -> Vec<u64> {
    let next = |_| match poll(receiver) {
        Poll::Ready(Ok(position)) => position,
        other => panic!("expected an event, found {other:?}"),
    };
    (0..count).map(next).collect()
}

fn adapter() -> LiveAdapter {
    LiveAdapter::new(LiveConfig {
        buffer_messages: 8,
        ..LiveConfig::default()
    })
}

#[test]
fn v7_rooms_and_buffers_are_freed() {
    let adapter = adapter();
    let here = room("freed");
    let mut quick = listen(&adapter, &here);
    let slow = listen(&adapter, &here);
    for position in 1..=8 {
        publish(&adapter, &here, position);
    }
    take(&mut *quick, 8);
    assert_eq!((adapter.rooms(), adapter.buffered_messages()), (1, 8));
    drop(slow);
    assert_eq!((adapter.rooms(), adapter.buffered_messages()), (1, 0));
    drop(quick);
    assert_eq!(adapter.rooms(), 0);
}

#[test]
fn v7_all_rooms_together_and_all_readers_are_bounded() {
    let adapter = LiveAdapter::new(LiveConfig {
        buffer_messages: 8,
        buffered_messages_max: 10,
        readers_max: 3,
    });
    let rooms = [room("a"), room("b"), room("c")];
    let mut readers: Vec<_> = rooms.iter().map(|room| listen(&adapter, room)).collect();
    let refused = adapter.listen(&rooms[0]).err();
    assert_eq!(refused, Some(ListenError::TooManyReaders { max: 3 }));
    for position in 1..=6 {
        rooms
            .iter()
            .for_each(|room| publish(&adapter, room, position));
    }
    assert!(adapter.buffered_messages() <= 10);
    for reader in &mut readers {
        let mut heard = 0;
        while let Poll::Ready(next) = poll(&mut **reader) {
            heard += match next {
                Ok(_) => 1,
                Err(LiveError::Lagged { skipped }) => skipped,
                Err(error) => panic!("{error}"),
            };
        }
        assert_eq!(heard, 6, "each message is heard or counted as skipped");
    }
    readers.pop();
    listen(&adapter, &rooms[0]);
}

/// What was lost is counted to the message: readers and operators tell by it how far they fell
/// behind.
#[test]
fn v7_a_reader_that_lags_is_told_how_many_it_missed() {
    let adapter = adapter();
    let here = room("counted");
    let mut slow = listen(&adapter, &here);
    for position in 1..=11 {
        publish(&adapter, &here, position);
    }
    assert_eq!(
        poll(&mut *slow),
        Poll::Ready(Err(LiveError::Lagged { skipped: 3 }))
    );
    assert_eq!(take(&mut *slow, 8), [4, 5, 6, 7, 8, 9, 10, 11]);
    for position in 12..=21 {
        publish(&adapter, &here, position);
    }
    assert_eq!(
        poll(&mut *slow),
        Poll::Ready(Err(LiveError::Lagged { skipped: 2 }))
    );
    assert_eq!(take(&mut *slow, 1), [14]);
}
