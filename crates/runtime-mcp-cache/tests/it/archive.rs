//! Warm starts (M1): what comes back is stale, bounded, and exactly what was written.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use proptest::prelude::*;
use runtime_core::{Classified as _, Clock, Digest, ErrorClass, ScopeId, Timestamp, WireError};
use runtime_mcp_cache::{
    Authorisation, CacheConfig, CacheKey, Catalogue, CatalogueArchive, CatalogueBuilder,
    CatalogueChanged, DiscoveryCache, FetchError, FetchLimits, Hints, Owner, State, StoreArchive,
};
use runtime_store::{MemoryStore, Store};
use runtime_testkit::{SeededRandom, SimulatedClock};
use serde_json::json;

use crate::world::settle;

const HOUR: Duration = Duration::from_secs(3_600);

type Cache = DiscoveryCache<Catalogue>;

/// An archive in a map, which may be damaged or out of order.
#[derive(Default)]
struct Shelf {
    entries: Mutex<BTreeMap<String, Arc<[u8]>>>,
    writes: Mutex<usize>,
    broken: Mutex<bool>,
}

#[async_trait]
impl CatalogueArchive for Shelf {
    async fn load(
        &self,
        entries_max: usize,
        _: u64,
    ) -> Result<Vec<(Digest, Arc<[u8]>)>, WireError> {
        self.check()?;
        let entries = self.entries.lock().unwrap();
        let parsed = entries
            .iter()
            .map(|(name, bytes)| (name.parse().unwrap(), Arc::clone(bytes)));
        Ok(parsed.take(entries_max).collect())
    }

    async fn save(
        &self,
        name: Digest,
        entry: Option<Arc<[u8]>>,
        _changes: &[CatalogueChanged],
    ) -> Result<(), WireError> {
        self.check()?;
        *self.writes.lock().unwrap() += 1;
        let mut entries = self.entries.lock().unwrap();
        match entry {
            Some(entry) => entries.insert(name.to_string(), entry),
            None => entries.remove(&name.to_string()),
        };
        Ok(())
    }
}

impl Shelf {
    fn check(&self) -> Result<(), WireError> {
        if *self.broken.lock().unwrap() {
            let message = "it is gone";
            return Err(WireError::new("gone", ErrorClass::Unavailable, message));
        }
        Ok(())
    }

    fn len(&self) -> usize {
        self.entries.lock().unwrap().len()
    }
}

fn clock(millis: u64) -> Arc<SimulatedClock> {
    Arc::new(SimulatedClock::new(Timestamp::from_millis(millis)))
}

fn cache(clock: &Arc<SimulatedClock>) -> Cache {
    cache_with(clock, CacheConfig::default())
}

fn cache_with(clock: &Arc<SimulatedClock>, config: CacheConfig) -> Cache {
    let time = Arc::clone(clock) as Arc<dyn Clock>;
    DiscoveryCache::new(config, time, Arc::new(SeededRandom::new(3)))
}

fn key(server: &str) -> CacheKey {
    let connection = json!({"command": server});
    CacheKey::new(
        Owner::Shared,
        server,
        &connection,
        &Authorisation::Anonymous,
    )
}

/// Fills the cache with one list whose second tool is refused.
async fn fill(cache: &Cache, server: &'static str, trusted: bool) {
    let fetch = Arc::new(move |limits: FetchLimits| async move {
        let mut list = CatalogueBuilder::new(server, trusted, limits);
        let read = json!({"name": "read", "inputSchema": {"type": "object"},
            "annotations": {"readOnlyHint": true}, "unheardOf": [1, 2.5]});
        list.page([read, json!({"name": "bare"})], Hints::default())?;
        Ok(list.finish())
    });
    assert!(cache.get(&key(server), &fetch).await.value.is_some());
}

/// A server that nobody reaches.
fn down() -> Arc<impl runtime_mcp_cache::Fetch<Catalogue>> {
    Arc::new(|_: FetchLimits| async {
        let error = WireError::new("down", ErrorClass::Unavailable, "nobody listens");
        Err::<runtime_mcp_cache::Fetched<Catalogue>, _>(FetchError::Failed(error))
    })
}

#[tokio::test]
async fn m1_a_restart_starts_warm_from_the_store_and_its_age_is_that_of_the_wall_clock() {
    let before = clock(1_000_000);
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new("r".parse().unwrap()));
    let scope = ScopeId::new("discovery").unwrap();
    let archive = |clock: &Arc<SimulatedClock>, seed| {
        let time = Arc::clone(clock) as Arc<dyn Clock>;
        let random = Arc::new(SeededRandom::new(seed));
        StoreArchive::new(Arc::clone(&store), scope.clone(), time, random)
    };
    let first = cache(&before);
    fill(&first, "files", false).await;
    before.advance(60 * Duration::from_secs(1));
    let saved = first.save(&archive(&before, 1)).await.unwrap();
    assert_eq!((saved.written, saved.removed, saved.unchanged), (1, 0, 0));
    let old = first.peek(&key("files")).unwrap().value.unwrap();

    // Another process, half an hour later; its monotonic clock starts anew.
    let after = clock(1_000_000 + 60_000 + 1_800_000);
    let second = cache(&after);
    let report = second.restore(&archive(&after, 2)).await.unwrap();
    assert_eq!((report.restored, report.skipped, report.refused), (1, 0, 0));
    let answer = second.get(&key("files"), &down()).await;
    assert_eq!(answer.state, State::Stale);
    assert_eq!(answer.age, Duration::from_secs(1_860));
    let value = answer.value.unwrap();
    assert_eq!(value.tools(), old.tools());
    assert_eq!(value.refused(), old.refused());
    assert_eq!(value.rendered(), old.rendered());
    // Another connection of the same name does not meet it.
    let other = json!({"command": "other"});
    let other = CacheKey::new(Owner::Shared, "files", &other, &Authorisation::Anonymous);
    assert!(second.peek(&other).is_none());
    second.close().await;
}

#[tokio::test]
async fn m1_what_is_older_than_its_window_is_not_restored_and_the_next_save_removes_it() {
    let (archive, before) = (Shelf::default(), clock(1_000_000));
    let first = cache(&before);
    fill(&first, "files", false).await;
    first.save(&archive).await.unwrap();
    // Fresh for an hour, within a tenth; stale for another one.
    let after = clock(1_000_000 + 3 * HOUR.as_millis() as u64);
    let second = cache(&after);
    let report = second.restore(&archive).await.unwrap();
    assert_eq!((report.restored, report.skipped), (0, 1));
    assert!(second.is_empty());
    assert_eq!(second.save(&archive).await.unwrap().removed, 1);
    assert_eq!(archive.len(), 0);
}

#[tokio::test]
async fn m1_a_wall_clock_that_went_back_makes_nothing_fresh() {
    let (archive, before) = (Shelf::default(), clock(10_000_000));
    let first = cache(&before);
    fill(&first, "files", false).await;
    first.save(&archive).await.unwrap();
    let second = cache(&clock(1_000));
    assert_eq!(second.restore(&archive).await.unwrap().restored, 1);
    let answer = second.peek(&key("files")).unwrap();
    assert_eq!((answer.state, answer.age), (State::Stale, Duration::ZERO));
}

#[tokio::test]
async fn m1_only_changes_are_saved_and_what_is_gone_or_refused_is_removed() {
    let (archive, time) = (Shelf::default(), clock(1_000_000));
    let cache = cache(&time);
    for server in ["one", "two", "three"] {
        fill(&cache, server, false).await;
    }
    assert_eq!(cache.save(&archive).await.unwrap().written, 3);
    let again = cache.save(&archive).await.unwrap();
    assert_eq!((again.written, again.unchanged), (0, 3));
    cache.invalidate(&key("one"));
    let refused = Arc::new(|_: FetchLimits| async {
        let error = WireError::new("refused", ErrorClass::Terminal, "unknown token");
        Err::<runtime_mcp_cache::Fetched<Catalogue>, _>(FetchError::Refused(error))
    });
    let answer = cache.reload(&key("two"), &refused).await;
    assert_eq!(answer.state, State::Blocked);
    let report = cache.save(&archive).await.unwrap();
    assert_eq!((report.removed, report.unchanged), (2, 1));
    assert_eq!((archive.len(), *archive.writes.lock().unwrap()), (1, 5));
}

#[tokio::test]
async fn m1_an_archive_that_fails_is_an_error_and_the_next_save_makes_it_good() {
    let (archive, time) = (Shelf::default(), clock(1_000_000));
    let cache = cache(&time);
    fill(&cache, "files", false).await;
    *archive.broken.lock().unwrap() = true;
    let saved = cache.save(&archive).await.unwrap_err();
    assert_eq!(saved.code(), "discovery_archive_unwritable");
    assert_eq!(saved.class(), ErrorClass::Unavailable);
    let restored = cache.restore(&archive).await.unwrap_err();
    assert_eq!(restored.code(), "discovery_archive_unreadable");
    *archive.broken.lock().unwrap() = false;
    assert_eq!(cache.save(&archive).await.unwrap().written, 1);
}

#[tokio::test]
async fn m5_restoring_keeps_the_limits_and_overwrites_nothing() {
    let (archive, time) = (Shelf::default(), clock(1_000_000));
    let first = cache(&time);
    for server in ["a", "b", "c", "d"] {
        fill(&first, server, false).await;
    }
    first.save(&archive).await.unwrap();
    let config = CacheConfig {
        entries_max: 2,
        ..CacheConfig::default()
    };
    let second = cache_with(&time, config);
    fill(&second, "z", false).await;
    let report = second.restore(&archive).await.unwrap();
    assert_eq!((report.restored, second.len()), (1, 2));
    assert_eq!(second.peek(&key("z")).unwrap().state, State::Fresh);

    let third = cache(&time);
    fill(&third, "a", false).await;
    assert_eq!(third.restore(&archive).await.unwrap().restored, 3);
    assert_eq!(third.peek(&key("a")).unwrap().state, State::Fresh);

    let config = CacheConfig {
        entry_bytes_max: 10,
        ..CacheConfig::default()
    };
    let small = cache_with(&time, config);
    assert_eq!(small.restore(&archive).await.unwrap().refused, 4);
}

/// Trust is part of what a key digests: whoever trusts the server no more asks it anew.
#[tokio::test]
async fn m10_a_list_that_was_trusted_is_met_only_by_those_who_trust_its_server() {
    let (archive, time) = (Shelf::default(), clock(1_000_000));
    let key = |trusted: bool| {
        let connection = json!({"command": "files", "trusted": trusted});
        CacheKey::new(
            Owner::Shared,
            "files",
            &connection,
            &Authorisation::Anonymous,
        )
    };
    let first = cache(&time);
    let fetch = Arc::new(|limits: FetchLimits| async move {
        let mut list = CatalogueBuilder::new("files", true, limits);
        let read = json!({"name": "read", "inputSchema": {"type": "object"},
            "annotations": {"readOnlyHint": true}});
        list.page([read], Hints::default())?;
        Ok::<_, FetchError>(list.finish())
    });
    first.get(&key(true), &fetch).await;
    first.save(&archive).await.unwrap();
    let second = cache(&time);
    assert_eq!(second.restore(&archive).await.unwrap().restored, 1);
    let restored = second.peek(&key(true)).unwrap().value.unwrap();
    assert!(!restored.tools()[0].definition.needs_approval());
    assert!(second.peek(&key(false)).is_none());
    // The same list again is no change.
    second.reload(&key(true), &fetch).await;
    assert_eq!(second.counters().unchanged, 1);
}

/// Every single byte of an entry, changed; every cut; an entry under another's name.
#[tokio::test]
async fn m1_a_damaged_entry_is_refused_and_removed_by_the_next_save() {
    let (archive, time) = (Shelf::default(), clock(1_000_000));
    let first = cache(&time);
    fill(&first, "files", false).await;
    first.save(&archive).await.unwrap();
    let (name, whole) = archive.entries.lock().unwrap().pop_first().unwrap();
    let restore = async |name: &str, bytes: Vec<u8>| {
        let damaged = Shelf::default();
        let entries = [(name.to_owned(), Arc::from(bytes))];
        damaged.entries.lock().unwrap().extend(entries);
        let cache = cache(&time);
        let report = cache.restore(&damaged).await.unwrap();
        cache.save(&damaged).await.unwrap();
        assert_eq!(damaged.len(), cache.len(), "what was refused is removed");
        (report, cache)
    };
    let head = whole.iter().position(|&byte| byte == b'\n').unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 1;
        let (report, cache) = restore(&name, bytes).await;
        if at > head {
            assert_eq!(report.refused, 1, "a changed byte at {at} was taken");
        }
        // In the head a time or a name may still read well, but never as another list.
        if let Some(answer) = cache.peek(&key("files")) {
            let tools = answer.value.unwrap();
            assert_eq!(tools.tools()[0].name, "read");
        }
        let (report, _) = restore(&name, whole[..at].to_vec()).await;
        assert_eq!(report.refused, 1, "a cut at {at} was taken");
    }
    let foreign = Digest::of_bytes(b"another").to_string();
    assert_eq!(restore(&foreign, whole.to_vec()).await.0.refused, 1);
    assert_eq!(restore(&name, whole.to_vec()).await.0.restored, 1);
}

/// Lists one tool of that name.
fn listing(name: &'static str) -> Arc<impl runtime_mcp_cache::Fetch<Catalogue>> {
    Arc::new(move |limits: FetchLimits| async move {
        let mut list = CatalogueBuilder::new("files", false, limits);
        list.page(
            [json!({"name": name, "inputSchema": {"type": "object"}})],
            Hints::default(),
        )?;
        Ok::<_, FetchError>(list.finish())
    })
}

fn refusing() -> Arc<impl runtime_mcp_cache::Fetch<Catalogue>> {
    Arc::new(|_: FetchLimits| async {
        let error = WireError::new("refused", ErrorClass::Terminal, "unknown token");
        Err::<runtime_mcp_cache::Fetched<Catalogue>, _>(FetchError::Refused(error))
    })
}

/// Nobody closes it, nobody saves: it may be killed at any time after the fetch.
#[tokio::test]
async fn m1_a_kept_cache_is_warm_after_a_kill_and_tells_changes_in_the_log() {
    let time = clock(1_000_000);
    let store = Arc::new(MemoryStore::new("archive".parse().unwrap()));
    let archive = || {
        let store = Arc::clone(&store) as Arc<dyn Store>;
        let random = Arc::new(SeededRandom::new(5));
        let scope = ScopeId::new("tool-servers").unwrap();
        Arc::new(StoreArchive::new(store, scope, time.clone(), random))
    };
    let first = cache(&time);
    assert_eq!(first.keep_in(archive()).await.unwrap().restored, 0);
    first.get(&key("files"), &listing("read")).await;
    settle().await;
    let changed = first.reload(&key("files"), &listing("write")).await;
    assert_eq!(changed.value.unwrap().tools()[0].name, "write");
    settle().await;
    assert_eq!(first.archive_error(), None);
    drop(first);

    let second = cache(&time);
    assert_eq!(second.keep_in(archive()).await.unwrap().restored, 1);
    let answer = second.get(&key("files"), &down()).await;
    assert_eq!(answer.state, State::Stale);
    assert_eq!(answer.value.unwrap().tools()[0].name, "write");

    let page = runtime_store::Page::after(runtime_store::Position(0), 9);
    let events = store.events(None, page).await.unwrap().events;
    assert_eq!(events.len(), 1, "a first list is no change");
    let event = events[0].decode().unwrap();
    assert_eq!(event.kind().as_str(), "tool_list_changed");
    let payload = &event.draft.payload;
    assert_eq!(
        (&payload["server"], &payload["names"]),
        (&json!("files"), &json!(2))
    );
    assert_eq!(
        (&payload["added"], &payload["removed"]),
        (&json!(["write"]), &json!(["read"]))
    );
}

#[tokio::test]
async fn m1_a_kept_cache_writes_no_more_than_it_must() {
    let (archive, time) = (Arc::new(Shelf::default()), clock(1_000_000));
    let cache = cache_with(
        &time,
        CacheConfig {
            entries_max: 2,
            ..CacheConfig::default()
        },
    );
    cache
        .keep_in(Arc::clone(&archive) as Arc<dyn CatalogueArchive>)
        .await
        .unwrap();
    let writes = || *archive.writes.lock().unwrap();
    cache.get(&key("files"), &listing("read")).await;
    settle().await;
    assert_eq!(writes(), 1);
    for _ in 0..29 {
        time.advance(Duration::from_secs(60));
        cache.reload(&key("files"), &listing("read")).await;
        settle().await;
    }
    assert_eq!(writes(), 1, "the same list was written again");
    time.advance(Duration::from_secs(60));
    cache.reload(&key("files"), &listing("read")).await;
    settle().await;
    assert_eq!(writes(), 2, "after half a window it would be too old soon");
    // What made room, and what was refused or invalidated, goes from the archive as well.
    cache.get(&key("one"), &listing("read")).await;
    cache.get(&key("two"), &listing("read")).await;
    settle().await;
    assert_eq!((archive.len(), cache.len()), (2, 2));
    cache.reload(&key("two"), &refusing()).await;
    settle().await;
    assert_eq!(archive.len(), 1);
    cache.invalidate(&key("one"));
    cache.invalidate(&key("files"));
    cache.close().await;
    assert_eq!(archive.len(), 0);
}

#[tokio::test]
async fn m1_what_the_archive_did_not_take_is_told_and_written_later() {
    let (archive, time) = (Arc::new(Shelf::default()), clock(1_000_000));
    let cache = cache(&time);
    cache
        .keep_in(Arc::clone(&archive) as Arc<dyn CatalogueArchive>)
        .await
        .unwrap();
    *archive.broken.lock().unwrap() = true;
    cache.get(&key("files"), &listing("read")).await;
    settle().await;
    assert_eq!(cache.archive_error().unwrap().code, "gone");
    assert_eq!((cache.counters().archive_failures, archive.len()), (1, 0));
    *archive.broken.lock().unwrap() = false;
    cache.close().await;
    assert_eq!((cache.archive_error(), archive.len()), (None, 1));
}

proptest! {
    #[test]
    fn m1_garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let archive = Shelf::default();
            let name = Digest::of_bytes(b"x").to_string();
            archive.entries.lock().unwrap().insert(name, Arc::from(bytes));
            let cache = cache(&clock(1_000_000));
            let report = cache.restore(&archive).await.unwrap();
            assert_eq!((report.refused, cache.len()), (1, 0));
        });
    }
}
