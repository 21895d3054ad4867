//! Readers against a log with two writers and a live channel that loses, repeats and delays.

use std::sync::Arc;

use futures_util::{FutureExt, StreamExt};
use proptest::prelude::*;
use runtime_core::{EventKind, Topic};
use runtime_events::{EventConfig, EventStream, HubParts, LiveAdapter, LiveConfig, StreamItem};
use runtime_store::Position;
use runtime_testkit::event_laws::{FlakyAdapter, Weather};

use crate::bench::{Bench, SECOND, draft, settle, turn};

#[derive(Debug, Clone)]
enum Act {
    /// Through the hub, or past it as another process would.
    Commit {
        turn: bool,
        past: bool,
    },
    Subscribe {
        topic: usize,
        percent: u64,
    },
    Take {
        reader: usize,
        items: usize,
    },
    Drop {
        reader: usize,
    },
    Second,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (any::<bool>(), proptest::bool::weighted(0.3))
            .prop_map(|(turn, past)| Act::Commit { turn, past }),
        2 => (0usize..3, 0u64..=100).prop_map(|(topic, percent)| Act::Subscribe { topic, percent }),
        6 => (0usize..8, 0usize..12).prop_map(|(reader, items)| Act::Take { reader, items }),
        1 => (0usize..8).prop_map(|reader| Act::Drop { reader }),
        1 => Just(Act::Second),
    ]
}

struct Reader {
    stream: EventStream,
    topic: usize,
    after: u64,
    seen: Vec<u64>,
}

impl Reader {
    /// Takes what is there now, at most so many.
    fn take(&mut self, items: usize) {
        for _ in 0..items {
            let next = tokio::task::unconstrained(self.stream.next()).now_or_never();
            match next {
                Some(Some(Ok(StreamItem::Event(event)))) => self.seen.push(event.position),
                None | Some(None) => return,
                other => panic!("expected an event, found {other:?}"),
            }
        }
    }
}

fn topic(index: usize) -> Topic {
    let session = "desk".parse().expect("an id");
    [
        Topic::Runtime,
        Topic::Session { session },
        turn("desk", "1"),
    ][index]
        .clone()
}

async fn run(acts: &[Act], page_events_max: usize, buffer_messages: usize, seed: u64) {
    let live = LiveConfig {
        buffer_messages,
        ..LiveConfig::default()
    };
    let mut parts = HubParts::default();
    parts.config = EventConfig {
        page_events_max,
        live,
        ..EventConfig::default()
    };
    let inner = Arc::new(LiveAdapter::new(live));
    parts.adapter = Some(Arc::new(FlakyAdapter::new(inner, Weather::Storm, seed)));
    let bench = Bench::with_parts(parts);
    let (mut readers, mut log) = (Vec::<Reader>::new(), Vec::<bool>::new());
    for act in acts {
        match *act {
            Act::Commit { turn, past } => {
                let (session, of) = if turn { ("desk", "1") } else { ("shop", "2") };
                let draft = draft(EventKind::MessageCommitted, session, of);
                if past {
                    bench.commit_past(&draft).await;
                } else {
                    bench.commit(&draft).await;
                }
                log.push(turn);
            }
            Act::Subscribe { topic: of, percent } => {
                let after = log.len() as u64 * percent / 100;
                let cursor = bench.hub.cursor_after(Position(after));
                readers.push(Reader {
                    stream: bench.hub.subscribe(topic(of), cursor),
                    topic: of,
                    after,
                    seen: Vec::new(),
                });
            }
            Act::Take { reader, items } => {
                if let Some(reader) = readers.get_mut(reader) {
                    reader.take(items);
                }
            }
            Act::Drop { reader } => {
                if reader < readers.len() {
                    readers.remove(reader);
                }
            }
            Act::Second => {
                bench.clock.advance(SECOND);
                settle().await;
            }
        }
    }
    // Two seconds of silence are enough for everyone, whatever was lost.
    for _ in 0..6 {
        readers
            .iter_mut()
            .for_each(|reader| reader.take(usize::MAX));
        settle().await;
        bench.clock.advance(SECOND / 2);
        settle().await;
    }
    for reader in &mut readers {
        reader.take(usize::MAX);
        let stored = log.iter().zip(1u64..);
        let wanted =
            stored.filter(|(in_turn, at)| *at > reader.after && (reader.topic == 0 || **in_turn));
        let wanted: Vec<_> = wanted.map(|(_, at)| at).collect();
        assert_eq!(reader.seen, wanted, "topic {}", reader.topic);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn v4_no_gap_no_repeat_no_inversion_r11(
        acts in proptest::collection::vec(act(), 0..80),
        page in 1usize..6,
        buffer in 1usize..8,
        seed: u64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime").block_on(run(&acts, page, buffer, seed));
    }
}
