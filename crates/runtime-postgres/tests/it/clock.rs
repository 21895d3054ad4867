//! A wall clock that is set back (R15).

use std::time::Duration;

use runtime_core::Timestamp;
use runtime_postgres::PostgresStore;
use runtime_store::{Commit, CommitError, Store, SystemRandom};
use runtime_testkit::SimulatedClock;

use crate::support::{Database, or_skip};

/// R15: a process that made nothing while the clock was ahead and others committed is refused
/// once when it is set back, and goes on by itself.
#[tokio::test]
async fn r15_a_clock_that_is_set_back_stops_no_process() {
    let mut database = or_skip!(Database::new());
    database.options.limits.remembered_commits = 8;
    let open = || PostgresStore::open(database.options.clone());
    let idle = open().await.expect("opens");
    let busy = open().await.expect("opens");
    let back = busy.clock().now();
    let ahead = back.after(Duration::from_secs(3_600));
    let fresh = |store: &PostgresStore, now: Timestamp| {
        Commit::fresh(store, &SimulatedClock::new(now), &SystemRandom)
    };
    for _ in 0..32 {
        busy.commit(fresh(&busy, ahead)).await.expect("commits");
    }
    busy.commit(fresh(&busy, back)).await.expect("is set back");
    let refused = idle.commit(fresh(&idle, back)).await;
    assert!(
        matches!(refused, Err(CommitError::TooOld { .. })),
        "{refused:?}"
    );
    idle.commit(fresh(&idle, back)).await.expect("has learnt");
    let next = open().await.expect("opens");
    next.commit(fresh(&next, back)).await.expect("is told");
    for store in [idle, busy, next] {
        store.close().await.expect("closes");
    }
}
