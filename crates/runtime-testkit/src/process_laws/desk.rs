//! A world with processes.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use runtime_core::{ProcessEventType, ProcessId, ProcessOutcome, ProcessRegistration, SessionId};
use runtime_effects::{EndAnswer, ProcessLimits, Processes, StoreEffectHost};
use runtime_store::Store;
use serde_json::Value;

use crate::effect_laws::World;
use crate::store_laws::StoreFixture;

/// A world, a host in it, and the processes of that host.
pub(super) struct Desk<'fixture> {
    pub(super) world: World<'fixture>,
    pub(super) host: StoreEffectHost,
    pub(super) processes: Processes,
}

impl<'fixture> Desk<'fixture> {
    pub(super) async fn new(fixture: &'fixture dyn StoreFixture) -> Self {
        let world = World::new(fixture).await;
        let host = world.host();
        let processes = host
            .processes(ProcessLimits::default())
            .await
            .expect("opens");
        Self {
            world,
            host,
            processes,
        }
    }

    /// Ends the process of the operating system, and starts the next one.
    pub(super) async fn restart(&mut self) {
        self.world.restart().await;
        self.reopen(ProcessLimits::default()).await;
    }

    /// Another host beside the others.
    pub(super) async fn reopen(&mut self, limits: ProcessLimits) {
        self.host = self.world.host();
        self.processes = self.host.processes(limits).await.expect("opens");
    }

    /// A host over a store that stands in front of that of the world.
    pub(super) async fn reopen_over(&mut self, store: Arc<dyn Store>) {
        self.host = self.world.host_over(store);
        let limits = ProcessLimits::default();
        self.processes = self.host.processes(limits).await.expect("opens");
    }

    /// Ends a process with a value.
    pub(super) async fn end(&self, id: &str, value: Value) -> EndAnswer {
        let claim = self.processes.claim(&process(id)).await.expect("is there");
        let outcome = ProcessOutcome::Success { value };
        self.processes.end(&claim, &outcome).await.expect("ends")
    }
}

/// Names a process.
pub(super) fn process(id: &str) -> ProcessId {
    ProcessId::new(id).expect("legal")
}

/// Names a session.
pub(super) fn session(id: &str) -> SessionId {
    SessionId::new(id).expect("legal")
}

/// A process that runs function `order`.
pub(super) fn function(id: &str, input: Value) -> ProcessRegistration {
    ProcessRegistration::function(process(id), "order", input)
}

/// Declares a kind of event.
pub(super) fn event_type(name: &str, schema: Option<Value>) -> ProcessEventType {
    ProcessEventType {
        name: name.to_owned(),
        schema,
        wakes: false,
    }
}

/// How often in a row everything must stand still before time moves on.
const STILL: usize = 24;

/// After so many moves of the clock, what is waited for does not come.
const MOVES_MAX: usize = 20_000;

impl Desk<'_> {
    /// Drives a future and the tasks of instances; when all of it stands still, time moves on.
    pub(super) async fn work<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        for _ in 0..MOVES_MAX {
            if let Some(value) = self.until_still(future.as_mut()).await {
                return value;
            }
            let moved = self.world.clock.advance_to_next();
            assert!(moved.is_some(), "nothing is waited for");
        }
        panic!("what is waited for does not come");
    }

    /// Lets the tasks of instances go on until something is so.
    pub(super) async fn work_until(&self, is_so: impl Fn() -> bool) {
        let so = std::future::poll_fn(|_| match is_so() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        });
        self.work(so).await;
    }

    /// Lets the tasks of instances go on until all of it stands still; time stays.
    pub(super) async fn rest(&self) {
        let never = pin!(std::future::pending::<()>());
        self.until_still(never).await;
    }

    async fn until_still<T>(&self, mut future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        let mut still = 0;
        while still < STILL {
            let polled = std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context)));
            if let Poll::Ready(value) = polled.await {
                return Some(value);
            }
            if self.world.is_at_work() {
                // The store does real I/O; simulated time does not pass meanwhile.
                still = 0;
                tokio::time::sleep(Duration::from_micros(50)).await;
            } else {
                still += 1;
                tokio::task::yield_now().await;
            }
        }
        None
    }
}
