//! Events to many subscribers: through the hub (log first, then live, each reader its own ordered
//! stream), and through a bare broadcast channel.

use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt as _;
use runtime::core::Topic;
use runtime::events::{EventHub, StreamItem};
use runtime::store::{MemoryStore, SystemClock, SystemRandom};
use tokio::sync::broadcast;
use tokio::task::JoinSet;

use harness::{Figures, Outcome, Table};

/// No reader is behind by more than it may.
const CAPACITY: usize = 256;

pub(super) fn tables() -> Vec<Table> {
    let tables = [(1, 200), (100, 200), (10_000, 10)].map(|(subscribers, events)| {
        Table::new(format!(
            "{events} events to {subscribers} subscribers, deliveries"
        ))
        .contender("floor: tokio broadcast", move |_, _| {
            broadcast_to(subscribers, events)
        })
        .contender("event hub over memory", move |_, _| {
            hub_to(subscribers, events)
        })
    });
    tables.into()
}

fn deliveries(started: Instant, subscribers: usize, events: usize) -> Figures {
    Figures {
        rate: (subscribers * events) as f64 / started.elapsed().as_secs_f64(),
        per_operation: Vec::new(),
    }
}

async fn broadcast_to(subscribers: usize, events: usize) -> Outcome<Figures> {
    let (sender, _) = broadcast::channel::<Arc<Vec<u8>>>(CAPACITY);
    let mut readers = JoinSet::new();
    for _ in 0..subscribers {
        let mut receiver = sender.subscribe();
        readers.spawn(async move {
            for _ in 0..events {
                receiver.recv().await?;
            }
            Outcome::Ok(())
        });
    }
    tokio::task::yield_now().await;
    let started = Instant::now();
    for _ in 0..events {
        sender.send(Arc::new(vec![0; 300]))?;
        tokio::task::yield_now().await;
    }
    while let Some(read) = readers.join_next().await {
        read??;
    }
    Ok(deliveries(started, subscribers, events))
}

async fn hub_to(subscribers: usize, events: usize) -> Outcome<Figures> {
    let store = Arc::new(MemoryStore::new("bench".parse()?));
    let hub = EventHub::new(store, Arc::new(SystemClock::new()), Arc::new(SystemRandom));
    let mut readers = JoinSet::new();
    for _ in 0..subscribers {
        let mut stream = hub.subscribe(Topic::Runtime, hub.cursor_from_start());
        stream.join().await?;
        readers.spawn(async move {
            let mut found = 0;
            while found < events {
                let item = stream.next().await.ok_or("the stream ended")??;
                found += usize::from(matches!(item, StreamItem::Event(_)));
            }
            Outcome::Ok(())
        });
    }
    tokio::task::yield_now().await;
    let draft = own::draft("bench")?;
    let started = Instant::now();
    let store = hub.store();
    for _ in 0..events {
        own::tell(&*store, &draft).await?;
        tokio::task::yield_now().await;
    }
    while let Some(read) = readers.join_next().await {
        read??;
    }
    let figures = deliveries(started, subscribers, events);
    hub.close().await;
    Ok(figures)
}
