//! What of the suite must hold over PostgreSQL as well: retention and live workers (V9).

use std::sync::Arc;

use postgres_for_tests::url_for_tests;
use runtime_core::{Clock as _, Random as _, RuntimeId};
use runtime_postgres::{PostgresOptions, PostgresStore};
use runtime_store::{Store, SystemClock, SystemRandom};
use tokio::runtime::Handle;

use crate::suite::Place;

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

impl Place for Database {
    fn open(&self) -> Arc<dyn Store> {
        let opening = PostgresStore::open(self.0.clone());
        let opened = tokio::task::block_in_place(|| Handle::current().block_on(opening));
        Arc::new(opened.unwrap())
    }
}

macro_rules! over_the_database {
    ($($law:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $law() {
                if let Some(database) = Database::new() {
                    crate::suite::$law(&database).await;
                }
            }
        )*
    };
}

// Not the law of retention by itself: its clock jumps by minutes, and a lease that is not renewed
// meanwhile is lost.
over_the_database! {
    v9_a_live_worker_remembers_what_retention_removed
    v9_a_parked_turn_goes_on_after_its_events_are_gone
    v9_what_a_final_worker_said_goes_and_is_told
    v9_a_worker_whose_past_was_cut_off_says_so
}
