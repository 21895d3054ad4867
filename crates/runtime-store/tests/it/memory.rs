//! The memory store against the law of a store (R18).

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use runtime_core::{CommitId, Random as _, Timestamp};
use runtime_store::{AttachmentStore as _, Commit, Limits, MemoryStore, Store};
use runtime_testkit::store_laws::StoreFixture;
use runtime_testkit::{SeededRandom, SimulatedClock};

struct Memory(MemoryStore);

const REMEMBERED: usize = 1_000;

impl Memory {
    fn new() -> Self {
        Self::at(&SimulatedClock::new(Timestamp::from_millis(0)))
    }

    fn at(clock: &SimulatedClock) -> Self {
        // Smaller than the default, so that forgetting and refusing take no time.
        let limits = Limits {
            commit_bytes_max: 64 * 1024,
            remembered_commits: REMEMBERED,
            ..Limits::default()
        };
        Self(MemoryStore::with_parts(
            "laws".parse().expect("a runtime id"),
            Arc::new(clock.clone()),
            Arc::new(SeededRandom::new(18)),
            limits,
        ))
    }
}

#[async_trait]
impl StoreFixture for Memory {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(self.0.reopen())
    }
}

runtime_testkit::store_laws!(Memory::new());

/// R12: any sequence of commits, reads and reopenings reads as a plain list of commits does.
#[test]
fn r12_any_sequence_reads_as_the_model_says() {
    const CASES: u32 = 2_000;
    let started = Instant::now();
    runtime_testkit::check_against_model(CASES, 12, Memory::new);
    println!("R12 {CASES} 0 {:.1}", started.elapsed().as_secs_f64());
}

/// E18: an attachment is swept at the age asked for, counted from when it was last put.
#[tokio::test]
async fn an_attachment_put_again_is_young_again_e18() {
    const HOUR: Duration = Duration::from_secs(3600);
    let clock = SimulatedClock::new(Timestamp::from_millis(0));
    let Memory(store) = Memory::at(&clock);
    let sweep = async || {
        store
            .sweep_attachments(&|_| false, HOUR)
            .await
            .expect("a sweep")
    };
    let put = async || {
        store
            .put_attachment(b"x".as_slice().into())
            .await
            .expect("a put")
    };
    put().await;
    clock.advance(HOUR / 2);
    put().await;
    clock.advance(HOUR / 2);
    assert_eq!(sweep().await, 0);
    clock.advance(HOUR / 2);
    assert_eq!(sweep().await, 1);
}

/// R15: ids of a clock that stands still, or that jumped ahead once and came back, are not too
/// old however many there are.
#[tokio::test]
async fn a_clock_that_stands_or_jumps_makes_no_commit_too_old_r15() {
    let Memory(store) = Memory::new();
    let random = SeededRandom::new(15);
    let now = Timestamp::from_millis(1_000_000);
    let ahead = now.after(Duration::from_secs(315_360_000));
    for index in 0..3 * REMEMBERED {
        let time = if index == 7 { ahead } else { now };
        let commit = Commit::new(CommitId::generate(time, random.ten()), time);
        let committed = store.commit(commit).await.expect("a commit");
        assert!(!committed.repeated);
    }
}
