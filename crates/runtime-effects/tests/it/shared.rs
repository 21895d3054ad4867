//! A store that several processes write to: waits notice what others committed (E14).

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use runtime_core::{
    CommitId, Digest, EffectOutcome, EffectOutput, Resolution, StreamKey, Timestamp, WaitOutput,
};
use runtime_effects::ResolveAnswer;
use runtime_store::{
    AttachmentError, AttachmentStore, Capabilities, Commit, CommitError, Committed, EventPage,
    KeyRing, KeyRingStore, MemoryStore, Page, Payload, Position, ReadError, RetentionUnit, Row,
    RowKey, RowPage, RowQuery, Store, StoreIdentity,
};
use runtime_testkit::effect_laws::{World, custom, desk, fresh_id, wait_for};
use runtime_testkit::store_laws::StoreFixture;

/// A store that says that other processes write to it.
#[derive(Debug)]
struct SharedStore {
    inner: MemoryStore,
    capabilities: Capabilities,
}

impl SharedStore {
    fn new() -> Self {
        let inner = MemoryStore::new("test".parse().expect("legal"));
        let capabilities = Capabilities {
            shared_by_processes: true,
            ..inner.capabilities().clone()
        };
        Self {
            inner,
            capabilities,
        }
    }
}

struct Shared;

#[async_trait]
impl StoreFixture for Shared {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(SharedStore::new())
    }
}

#[async_trait]
impl Store for SharedStore {
    fn identity(&self) -> &StoreIdentity {
        self.inner.identity()
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        // Others get between a look and the commit that follows from it.
        tokio::task::yield_now().await;
        self.inner.commit(commit).await
    }

    async fn committed(&self, id: &CommitId) -> Result<Option<Committed>, ReadError> {
        self.inner.committed(id).await
    }

    fn id_time(&self, now: Timestamp) -> Timestamp {
        self.inner.id_time(now)
    }

    async fn row(&self, key: &RowKey) -> Result<Option<Row>, ReadError> {
        self.inner.row(key).await
    }

    async fn rows(
        &self,
        query: RowQuery,
        page: Page<Option<RowKey>>,
    ) -> Result<RowPage, ReadError> {
        self.inner.rows(query, page).await
    }

    async fn events(
        &self,
        stream: Option<&StreamKey>,
        page: Page<Position>,
    ) -> Result<EventPage, ReadError> {
        self.inner.events(stream, page).await
    }

    async fn retention_units(&self, page: Page<Position>) -> Result<Vec<RetentionUnit>, ReadError> {
        self.inner.retention_units(page).await
    }

    async fn changed(&self, after: Position) -> Position {
        self.inner.changed(after).await
    }

    async fn close(&self) -> Result<(), CommitError> {
        self.inner.close().await
    }
}

#[async_trait]
impl AttachmentStore for SharedStore {
    async fn put_attachment(&self, bytes: Payload) -> Result<Digest, AttachmentError> {
        self.inner.put_attachment(bytes).await
    }

    async fn attachment(&self, digest: &Digest) -> Result<Payload, AttachmentError> {
        self.inner.attachment(digest).await
    }

    async fn has_attachment(&self, digest: &Digest) -> Result<bool, AttachmentError> {
        self.inner.has_attachment(digest).await
    }

    async fn sweep_attachments(
        &self,
        live: &(dyn for<'a> Fn(&'a Digest) -> bool + Sync),
        min_age: Duration,
    ) -> Result<usize, AttachmentError> {
        self.inner.sweep_attachments(live, min_age).await
    }
}

#[async_trait]
impl KeyRingStore for SharedStore {
    async fn key_ring(&self) -> Result<KeyRing, ReadError> {
        self.inner.key_ring().await
    }

    async fn rotate_key_ring(&self) -> Result<KeyRing, ReadError> {
        self.inner.rotate_key_ring().await
    }
}

/// E14: a promise resolved by another process rings no bell here; the change of the log does.
#[tokio::test]
async fn e14_a_wait_sees_what_another_process_resolved() {
    let world = World::new(&Shared).await;
    let (scope, identity) = (desk(), custom("answer"));
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let mut waiting = pin!(controller.wait_any(wait_for(&scope, &identity, None)));
    assert!(world.stands_still(waiting.as_mut()).await);
    // The bells of this host are not those of the other one.
    let elsewhere = world.host().await_events().await.expect("loads");
    let resolution = Resolution::Ok {
        value: serde_json::json!("yes"),
    };
    elsewhere
        .resolve_identity(&scope, &identity, resolution.clone(), None)
        .await
        .expect("decides");
    let seen = EffectOutput::AwaitEvent(WaitOutput::Resolved {
        source: 0,
        resolution,
    });
    // A wait that is not woken parks as soon as time moves.
    assert_eq!(
        world.drive(waiting).await,
        Ok(EffectOutcome::Completed(seen))
    );
}

/// E10: processes that all found the promise open have one winner, by the guard of the commit.
#[tokio::test]
async fn e10_resolving_from_several_processes_at_once_has_one_winner() {
    let world = World::new(&Shared).await;
    world.next_epoch(&desk()).await;
    let racers = (0..8).map(|racer| {
        let host = world.host();
        async move {
            let promises = host.await_events().await.expect("loads");
            let value = serde_json::json!(racer);
            let resolution = Resolution::Ok { value };
            promises
                .resolve_identity(&desk(), &custom("answer"), resolution, Some(fresh_id()))
                .await
                .expect("decides")
        }
    });
    let answers = futures_util::future::join_all(racers).await;
    let accepted = answers
        .iter()
        .filter(|answer| **answer == ResolveAnswer::Accepted);
    assert_eq!(accepted.count(), 1);
    assert_eq!(world.kinds().await, ["promise_resolved"]);
}
