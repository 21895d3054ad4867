//! From the resolution of a promise to whoever waits for it, with so many promises waiting. Over
//! memory, so that what is seen is the way, not the disk: two commits lie on it, that of the
//! resolution and that of what the wait saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use runtime::store::{MemoryStore, Store};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use harness::{Figures, Outcome, Table};

/// How many are resolved, one after another: of those that wait, or one of one so often.
const RESOLVED: usize = 100;
/// Until everybody waits, and has been quiet for a while.
const SETTLE: Duration = Duration::from_millis(20);

pub(super) fn tables() -> Vec<Table> {
    let tables = [1, 10_000].map(|waiting| {
        Table::new(format!("resolve to wake, {waiting} waiting"))
            .contender("floor: oneshot channel", move |_, _| {
                wakings(waiting, oneshots)
            })
            .contender("promise over memory", move |_, _| {
                wakings(waiting, promises)
            })
    });
    tables.into()
}

/// The rate is that of wakings one after another: its inverse is the mean time of one.
async fn wakings(
    waiting: usize,
    run: impl AsyncFn(usize) -> Outcome<Duration>,
) -> Outcome<Figures> {
    let mut total = Duration::ZERO;
    for _ in 0..RESOLVED.div_ceil(waiting) {
        total += run(waiting).await?;
    }
    Ok(Figures {
        rate: RESOLVED as f64 / total.as_secs_f64(),
        per_operation: Vec::new(),
    })
}

async fn oneshots(waiting: usize) -> Outcome<Duration> {
    let waits: Vec<_> = (0..waiting)
        .map(|_| {
            let (sender, receiver) = oneshot::channel::<u64>();
            let woken = tokio::spawn(async move { receiver.await.map(|_| Instant::now()) });
            (sender, woken)
        })
        .collect();
    tokio::time::sleep(SETTLE).await;
    let mut total = Duration::ZERO;
    for (sender, woken) in waits.into_iter().take(RESOLVED) {
        let started = Instant::now();
        sender.send(1).map_err(|_| "nobody waits")?;
        total += woken.await??.duration_since(started);
    }
    Ok(total)
}

async fn promises(waiting: usize) -> Outcome<Duration> {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new("bench".parse()?));
    let host = own::host(&store);
    let asleep = Arc::new(AtomicUsize::new(0));
    let mut waits = Vec::new();
    for turn in 0..waiting {
        own::start(&*store, &own::scope(turn)?).await?;
        let (host, asleep) = (host.clone(), Arc::clone(&asleep));
        let task = tokio::spawn(async move {
            let mut wait = Box::pin(own::promise::wait(&host, turn));
            // Over memory nothing but the wait itself is ever not ready.
            let first = futures_util::poll!(&mut wait);
            asleep.fetch_add(1, Ordering::Relaxed);
            match first {
                Poll::Ready(done) => done,
                Poll::Pending => wait.await,
            }
        });
        waits.push(task);
    }
    while asleep.load(Ordering::Relaxed) < waiting {
        tokio::time::sleep(SETTLE).await;
    }
    tokio::time::sleep(SETTLE).await;
    let mut total = Duration::ZERO;
    for (turn, woken) in waits.iter_mut().enumerate().take(RESOLVED) {
        let started = Instant::now();
        own::promise::resolve(&host, turn).await?;
        total += woken.await??.duration_since(started);
    }
    waits.iter().for_each(JoinHandle::abort);
    Ok(total)
}
