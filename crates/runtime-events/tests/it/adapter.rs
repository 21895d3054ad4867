//! The law of live fan-out, a function for each clause (V7).

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use runtime_core::{EventDraft, EventId, EventKind, StreamKey, Timestamp};
use runtime_events::{
    ListenError, LiveAdapter, LiveConfig, LiveError, LiveEvent, LiveMessage, LiveReceiver,
    PublishError, Room, StreamAdapter,
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

fn everyone_in_the_room_hears_it_in_order(adapter: &dyn StreamAdapter) {
    let (here, there) = (room("here"), room("there"));
    let mut first = listen(adapter, &here);
    publish(adapter, &here, 1);
    let mut second = listen(adapter, &here);
    let mut other = listen(adapter, &there);
    publish(adapter, &here, 2);
    publish(adapter, &here, 3);
    assert_eq!(take(&mut *first, 3), [1, 2, 3]);
    assert_eq!(take(&mut *second, 2), [2, 3]);
    assert!(poll(&mut *other).is_pending());
}

fn publishing_to_nobody_is_no_error(adapter: &dyn StreamAdapter) {
    publish(adapter, &room("empty"), 1);
    let mut late = listen(adapter, &room("empty"));
    assert!(poll(&mut *late).is_pending());
}

/// A receiver more than `behind` messages behind is told so, exactly once, and goes on.
fn a_slow_receiver_lags_alone(adapter: &dyn StreamAdapter, behind: u64) {
    let here = room("slow");
    let (mut slow, mut quick) = (listen(adapter, &here), listen(adapter, &here));
    for position in 1..=behind + 5 {
        publish(adapter, &here, position);
        assert_eq!(take(&mut *quick, 1), [position]);
    }
    assert_eq!(
        poll(&mut *slow),
        Poll::Ready(Err(LiveError::Lagged { skipped: 5 }))
    );
    let rest = usize::try_from(behind).expect("a small bound");
    assert_eq!(take(&mut *slow, rest), (6..=behind + 5).collect::<Vec<_>>());
    assert!(poll(&mut *slow).is_pending());
}

fn a_receiver_that_left_holds_up_nobody(adapter: &dyn StreamAdapter) {
    let here = room("leaving");
    let (gone, mut stays) = (listen(adapter, &here), listen(adapter, &here));
    publish(adapter, &here, 1);
    drop(gone);
    publish(adapter, &here, 2);
    assert_eq!(take(&mut *stays, 2), [1, 2]);
}

fn closing_gives_what_is_buffered_first(adapter: &dyn StreamAdapter) {
    let here = room("closing");
    let mut receiver = listen(adapter, &here);
    publish(adapter, &here, 1);
    adapter.close();
    adapter.close();
    assert_eq!(take(&mut *receiver, 1), [1]);
    for _ in 0..2 {
        assert_eq!(poll(&mut *receiver), Poll::Ready(Err(LiveError::Closed)));
    }
    let refused = adapter.publish(&here, message(2));
    assert_eq!(refused, Err(PublishError::Closed));
    assert_eq!(adapter.listen(&here).err(), Some(ListenError::Closed));
}

fn adapter() -> LiveAdapter {
    LiveAdapter::new(LiveConfig {
        buffer_messages: 8,
        ..LiveConfig::default()
    })
}

#[test]
fn v7_the_adapter_in_memory_keeps_the_law() {
    everyone_in_the_room_hears_it_in_order(&adapter());
    publishing_to_nobody_is_no_error(&adapter());
    a_slow_receiver_lags_alone(&adapter(), 8);
    a_receiver_that_left_holds_up_nobody(&adapter());
    closing_gives_what_is_buffered_first(&adapter());
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
