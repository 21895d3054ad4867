//! The suite of the runtime entity over PostgreSQL.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use postgres_for_tests::url_for_tests;
use runtime_core::{Clock as _, Random as _, RuntimeId, Timestamp};
use runtime_effects::LeaseKeeper;
use runtime_postgres::{PostgresOptions, PostgresStore};
use runtime_store::{Store, SystemClock, SystemRandom};
use runtime_testkit::SimulatedClock;

use crate::suite::{Desk, Place};

/// A runtime of its own in the database for tests, which one process after another opens.
struct Database(PostgresOptions);

impl Database {
    /// None where there is no server; that has been reported.
    fn new() -> Option<Self> {
        let fresh = RuntimeId::generate(SystemClock::new().now(), SystemRandom.ten());
        let mut options = PostgresOptions::new(&url_for_tests()?)
            .unwrap()
            .runtime(fresh);
        options.schema = "agent_runtime_tests".to_owned();
        Some(Self(options))
    }
}

#[async_trait]
impl Place for Database {
    async fn open(&self) -> Arc<dyn Store> {
        let opened = PostgresStore::open(self.0.clone()).await;
        let store: Arc<dyn Store> = Arc::new(opened.unwrap());
        declare_dead(&store).await;
        store
    }
}

/// Declares whoever had the runtime open before dead, as one who has watched them for the whole
/// of their lease would: the clock of the test stands still, so none of its leases runs out.
async fn declare_dead(store: &Arc<dyn Store>) {
    let clock = SimulatedClock::new(Timestamp::from_millis(1_000_000));
    let watch = Arc::new(clock.clone());
    let terms = Desk::config().lease;
    let observer = LeaseKeeper::new(Arc::clone(store), watch, Arc::new(SystemRandom), terms);
    let observer = observer.unwrap();
    observer.look().await.unwrap();
    clock.advance(terms.ttl + Duration::from_millis(1));
    observer.look().await.unwrap();
}

crate::suite_over!("postgres", Database::new());
