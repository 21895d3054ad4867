//! The store that fails when it is told to (R4), and that is otherwise a store like any other.

use std::sync::Arc;

use async_trait::async_trait;
use runtime_core::{CommitId, EventId, Random as _, RuntimeId, ScopeId, Timestamp};
use runtime_store::{
    AttachmentStore as _, Commit, CommitError, MemoryStore, NewEvent, ReadError, RowChange, RowKey,
    Store,
};
use runtime_testkit::store_laws::StoreFixture;
use runtime_testkit::{Fault, FaultStore, SeededRandom};

fn runtime() -> RuntimeId {
    "faults".parse().expect("a runtime id")
}

struct Wrapped(MemoryStore);

#[async_trait]
impl StoreFixture for Wrapped {
    async fn open(&self) -> Arc<dyn Store> {
        FaultStore::new(Arc::new(self.0.reopen()))
    }
}

mod laws {
    use super::*;

    runtime_testkit::store_laws!(Wrapped(MemoryStore::new(runtime())));
}

fn key() -> RowKey {
    RowKey::new("law", ScopeId::new("s").expect("a scope"), "a")
}

fn commit(random: &SeededRandom) -> Commit {
    let time = Timestamp::from_millis(1);
    let event = NewEvent {
        id: EventId::generate(time, random.ten()),
        streams: Vec::new(),
        closes: false,
        body: b"x".as_slice().into(),
    };
    Commit::new(CommitId::generate(time, random.ten()), time)
        .row(RowChange::put(key(), b"x".as_slice()))
        .event(event)
}

async fn version(store: &dyn Store) -> u64 {
    let row = store.row(&key()).await.expect("a read");
    row.map_or(0, |row| row.version)
}

/// R4: at each fault the caller is told what is true, and a repetition ends in one commit.
#[tokio::test]
async fn each_fault_tells_the_truth_and_a_repetition_heals_it_r4() {
    let faults = [
        (Fault::FailBefore, 1, false),
        (Fault::LoseResponse, 2, false),
        (Fault::CrashBefore, 1, true),
        (Fault::CrashAfter, 2, true),
    ];
    for (fault, happened, crashes) in faults {
        let random = SeededRandom::new(4);
        let store = FaultStore::new(Arc::new(MemoryStore::new(runtime())));
        store.fault_at(2, fault);
        store.commit(commit(&random)).await.expect("the first");
        let second = commit(&random);
        let error = store.commit(second.clone()).await.expect_err("the second");
        match fault {
            Fault::FailBefore => assert!(matches!(error, CommitError::Unavailable { .. })),
            _ => assert!(
                matches!(error, CommitError::Indeterminate { id, .. } if id == second.id),
                "{fault:?}: {error}"
            ),
        }
        assert_eq!(store.is_crashed(), crashes, "{fault:?}");
        if crashes {
            let late = store.commit(second.clone()).await;
            assert!(
                matches!(late, Err(CommitError::ReadOnly { .. })),
                "{late:?}"
            );
            let read = store.row(&key()).await;
            assert!(
                matches!(read, Err(ReadError::Unavailable { .. })),
                "{read:?}"
            );
            assert!(store.put_attachment(b"x".as_slice().into()).await.is_err());
        }
        let next = store.reopen();
        assert_eq!(version(&*next).await, happened, "{fault:?}");
        let again = next.commit(second).await.expect("a repetition");
        assert_eq!(again.repeated, happened == 2, "{fault:?}");
        assert_eq!(version(&*next).await, 2, "{fault:?}");
    }
}

#[tokio::test]
async fn commits_and_reads_are_counted_and_recorded() {
    let random = SeededRandom::new(5);
    let store = FaultStore::new(Arc::new(MemoryStore::new(runtime())));
    store.fault_at(2, Fault::LoseResponse);
    let commits = [commit(&random), commit(&random), commit(&random)];
    for commit in &commits {
        let _told = store.commit(commit.clone()).await;
    }
    version(&*store).await;
    version(&*store).await;
    assert_eq!((store.commits(), store.reads()), (3, 2));
    for (index, (recorded, commit)) in store.record().iter().zip(&commits).enumerate() {
        assert_eq!(recorded.commit.id, commit.id);
        assert_eq!(recorded.fault.is_some(), index == 1);
        assert!(
            matches!(&recorded.happened, Some(Ok(done)) if done.positions.start == index as u64 + 1)
        );
    }
    store.crash();
    assert!(store.is_crashed() && !store.reopen().is_crashed());
}
