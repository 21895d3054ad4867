//! Loss of power at any point (R1), whether the test would notice a missing sync (R2), and
//! operations that fail (R7).

use std::ops::Range;
use std::sync::Arc;

use runtime_core::{EventId, Tier, Timestamp};
use runtime_fs_store::{
    CleanOptions, Failure, Fault, FsLimits, FsStore, FsStoreOptions, Operation, has_failed, plant,
    plant_failure, submit_command, syncs,
};
use runtime_store::{
    Commit, CommitError, KeyRingStore, NewEvent, Page, Position, Removal, RowQuery, Store,
};
use runtime_testkit::{SeededRandom, SimulatedClock};
use turmoil_fs::Fs;
use turmoil_fs::shim::std::fs as simulated;

use crate::support::{
    commit, commit_id, number, numbers, on_all_cores, print_row, random, read_events, run, seeds,
    stream, times,
};

pub(crate) const LIVES: u64 = 4;
const EACCES: i32 = 13;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// What runs of many seeds met.
#[derive(Debug, Default)]
pub(crate) struct Met {
    crashes: u64,
    acknowledged: u64,
    indeterminate: u64,
    cuts: u64,
    rolled: u64,
    rotated: u64,
    pruned: u64,
    cleaned: u64,
    killed: u64,
    checkpoints: u64,
}

impl Met {
    fn add(&mut self, other: &Self) {
        self.crashes += other.crashes;
        self.acknowledged += other.acknowledged;
        self.indeterminate += other.indeterminate;
        self.cuts += other.cuts;
        self.rolled += other.rolled;
        self.rotated += other.rotated;
        self.pruned += other.pruned;
        self.cleaned += other.cleaned;
        self.killed += other.killed;
        self.checkpoints += other.checkpoints;
    }
}

pub(crate) fn options(seed: u64) -> FsStoreOptions {
    let options = FsStoreOptions::new("/data/store").world(
        Arc::new(SimulatedClock::new(Timestamp::from_millis(1_000))),
        Arc::new(SeededRandom::new(seed)),
    );
    FsStoreOptions {
        fs_limits: FsLimits {
            segment_bytes_first: 2048,
            segment_bytes_max: 4096,
            checkpoint_bytes: 3 * 4096,
            fill_bytes: if seed.is_multiple_of(3) { 0 } else { 4096 },
            ..FsLimits::default()
        },
        ..options
    }
}

pub(crate) fn disk(seed: u64) -> Fs {
    Fs::builder()
        .seed(seed)
        .block_size(512)
        .sync_probability(if seed.is_multiple_of(2) { 0.0 } else { 0.2 })
        .build()
}

pub(crate) fn make_parent() {
    simulated::create_dir("/data").unwrap();
    simulated::sync_dir("/data").unwrap();
}

/// What a store must hold: everything durable, then a part of what was submitted after it.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    pub(crate) durable: Vec<u64>,
    pub(crate) submitted: Vec<u64>,
    /// The key that signs.
    key: u32,
    /// How much is surely pruned, and how much may be.
    pruned: (u64, u64),
}

impl Expected {
    /// Everything acknowledged is there, and what is there is a prefix of what was submitted.
    pub(crate) async fn check(&mut self, store: &FsStore) -> Result<(), String> {
        let page = Page::after(Position(0), 1);
        let page = store.events(None, page).await.map_err(|e| e.to_string())?;
        let (surely, perhaps) = self.pruned;
        let Position(pruned) = page.pruned;
        if pruned < surely || pruned > perhaps {
            return Err(format!("{pruned} are pruned, not {surely} to {perhaps}"));
        }
        self.pruned = (pruned, pruned);
        let found = read_events(store).await.map_err(|e| e.to_string())?;
        let found: Vec<u64> = found.iter().map(number).collect();
        let end = usize::try_from(page.head.0).unwrap();
        let gone = usize::try_from(pruned).unwrap();
        if self.submitted.get(gone..end) != Some(&found[..]) || end < self.durable.len() {
            let Self {
                durable, submitted, ..
            } = self;
            return Err(format!(
                "acknowledged {durable:?}, submitted {submitted:?}, {pruned} pruned, found {found:?}"
            ));
        }
        // Streams are told through sidecars, the log through extents beside them.
        let session = stream("session/all");
        let mut of_stream = Vec::new();
        let mut after = Position(0);
        loop {
            let page = store.events(Some(&session), Page::after(after, 16)).await;
            let page = page.map_err(|e| e.to_string())?;
            of_stream.extend(page.events.iter().map(number));
            after = page.next;
            if !page.has_more {
                break;
            }
        }
        if of_stream != found {
            return Err(format!("the stream has {of_stream:?}, the log {found:?}"));
        }
        self.submitted.truncate(end);
        self.durable.clone_from(&self.submitted);
        // Each row has the event it was put with, pruned or not, and says so twice.
        let rows = store.rows(RowQuery::space("state"), Page::after(None, 256));
        for row in rows.await.map_err(|e| e.to_string())?.rows {
            let event = row.event.as_ref().map(|event| event.body[..8].to_vec());
            if event.as_deref() != Some(&row.body[..]) {
                return Err(format!("{row:?} has another event"));
            }
        }
        let ring = store.key_ring().await.map_err(|e| e.to_string())?;
        if ring.signing().id < self.key {
            return Err(format!("key {} is gone", self.key));
        }
        Ok(())
    }

    /// Prunes up to somewhere, and cleans.
    async fn prune(
        &mut self,
        store: &FsStore,
        (number, through): (u64, u64),
        met: &mut Met,
    ) -> Result<(), String> {
        let through = through.max(self.pruned.0);
        let time = Timestamp::from_millis(number);
        let commit = Commit::new(commit_id(number), time);
        let commit = commit.remove(Removal::Through(Position(through)));
        match store.commit(commit).await {
            Ok(_) => {
                let through = through.min(self.submitted.len() as u64);
                self.pruned = (through, self.pruned.1.max(through));
                met.pruned += 1;
            }
            Err(CommitError::Indeterminate { .. }) => {
                self.pruned.1 = self.pruned.1.max(through.min(self.submitted.len() as u64));
            }
            Err(CommitError::ReadOnly { .. }) => {}
            Err(other) => return Err(other.to_string()),
        }
        if store.clean(CleanOptions::default(), |_| ()).await.is_ok() {
            met.cleaned += 1;
        }
        Ok(())
    }

    pub(crate) fn commit_group(
        &mut self,
        store: &FsStore,
        group: Range<u64>,
        met: &mut Met,
    ) -> Result<(), String> {
        let results = store.commit_group(group.clone().map(commit).collect());
        for (number, result) in group.zip(results) {
            match result {
                Ok(_) => {
                    self.submitted.push(number);
                    self.durable.clone_from(&self.submitted);
                    met.acknowledged += 1;
                }
                Err(CommitError::Indeterminate { .. }) => {
                    self.submitted.push(number);
                    met.indeterminate += 1;
                }
                Err(CommitError::ReadOnly { .. }) => {}
                Err(other) => return Err(other.to_string()),
            }
        }
        Ok(())
    }
}

/// Lives several lives, each ended by a loss of power; says what broke. With a fault that is there
/// `always` some operations fail as well if that is what it takes to find it.
pub(crate) async fn live(seed: u64, always: Option<Fault>) -> Result<Met, String> {
    let chance = SeededRandom::new(seed ^ 0x5eed);
    let below = |end: u64| chance.below(end);
    let disk = disk(seed);
    let _entered = disk.enter();
    plant(None);
    make_parent();
    let mut met = Met::default();
    let mut expected = Expected::default();
    let mut next = 0;
    // These are about cleaning, and found only where a sync fails in the middle of it.
    let needs_failures = matches!(always, Some(Fault::RemovesFirst | Fault::CleansOn));
    let cleans_every = if needs_failures || seed.is_multiple_of(4) {
        3
    } else {
        12
    };
    for life in 0..LIVES {
        plant(always);
        let some_operation = match (always, below(4)) {
            (None, 0) => Some(Operation::Write),
            (None, 1) => Some(Operation::Sync),
            _ => needs_failures.then_some(Operation::Sync),
        };
        if let Some(operation) = some_operation {
            plant_failure(Failure {
                operation,
                after: u32::try_from(below(60)).unwrap(),
                error: EIO,
            });
        }
        // Killed once before the power goes, or not.
        for instance in 0..1 + below(2) {
            met.killed += u64::from(instance > 0);
            if let Ok(store) = FsStore::open(&options(seed + life * 1_000 + instance)) {
                expected.check(&store).await?;
                met.cuts += u64::from(store.report().cut.is_some());
                work(
                    &store,
                    &chance,
                    cleans_every,
                    &mut next,
                    &mut expected,
                    &mut met,
                )
                .await?;
                if below(6) == 0 {
                    let _may_fail = store.close().await;
                }
                met.rolled += u64::from(simulated::exists("/data/store/segments/0000000002.log"));
            }
        }
        plant(always);
        disk.crash();
        met.crashes += 1;
    }
    plant(None);
    let store = FsStore::open(&options(seed)).map_err(|e| e.to_string())?;
    if !store.report().damage.is_empty() {
        return Err(format!("{:?}", store.report().damage));
    }
    expected.check(&store).await?;
    Ok(met)
}

/// Commits, marks, writes checkpoints, prunes and cleans, rotates keys.
async fn work(
    store: &FsStore,
    chance: &SeededRandom,
    cleans_every: u64,
    next: &mut u64,
    expected: &mut Expected,
    met: &mut Met,
) -> Result<(), String> {
    let below = |end: u64| chance.below(end);
    for _ in 0..below(24) {
        let group = *next..*next + 1 + below(4);
        *next = group.end;
        expected.commit_group(store, group, met)?;
        if below(8) == 0 {
            store.mark_idle();
        }
        if below(cleans_every) == 0 {
            *next += 1;
            let through = below(expected.submitted.len() as u64 + 1);
            let number = 1_000_000 + *next;
            expected.prune(store, (number, through), met).await?;
        }
        if below(16) == 0 && store.checkpoint().await.is_ok() {
            met.checkpoints += 1;
        }
        if below(16) == 0
            && let Ok(ring) = store.rotate_key_ring().await
        {
            expected.key = ring.signing().id;
            met.rotated += 1;
        }
    }
    Ok(())
}

/// R1: whatever is lost with the power, nothing acknowledged is, and nothing comes twice.
#[test]
fn r1_no_loss_of_power_loses_an_acknowledged_commit() {
    let started = std::time::Instant::now();
    let seeds = seeds(5_000);
    let lives = seeds.end - seeds.start;
    let mut sum = Met::default();
    for met in on_all_cores(seeds, |seed| {
        run(live(seed, None)).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"))
    }) {
        sum.add(&met);
    }
    assert!(
        sum.crashes == lives * LIVES && sum.acknowledged > lives,
        "{sum:?}"
    );
    // Otherwise the run did not meet what it is for.
    assert!(
        [
            sum.indeterminate,
            sum.cuts,
            sum.rolled,
            sum.rotated,
            sum.pruned,
            sum.cleaned,
            sum.killed,
            sum.checkpoints
        ]
        .iter()
        .all(|met| *met > lives / 100),
        "{sum:?}"
    );
    print_row("R1", usize::try_from(sum.crashes).unwrap(), started);
}

/// R2: without a sync of files, of directories, or of what is renamed, with a cleaning that removes
/// first or goes on after a failure, and with a checkpoint that is believed as it is, the same run
/// finds losses.
#[test]
fn r2_a_missing_sync_is_found() {
    let started = std::time::Instant::now();
    let runs = 1_250 * u64::from(times());
    let mut crashes = 0;
    for fault in [
        Fault::NoFileSync,
        Fault::NoDirectorySync,
        Fault::NoRenameSync,
        Fault::RemovesFirst,
        Fault::CleansOn,
        Fault::AnyCheckpoint,
    ] {
        crashes += LIVES * runs_until_found(fault, 2 * runs);
    }
    print_row("R2-sync", usize::try_from(crashes).unwrap(), started);
}

/// Runs seeds until one finds the fault; returns how many that took.
fn runs_until_found(fault: Fault, runs_max: u64) -> u64 {
    const AT_ONCE: u64 = 16;
    for first in (0..runs_max).step_by(usize::try_from(AT_ONCE).unwrap()) {
        let broken = on_all_cores(first..first + AT_ONCE, |seed| {
            run(live(seed, Some(fault))).is_err()
        });
        if broken.contains(&true) {
            return first + AT_ONCE;
        }
    }
    panic!("{fault:?} was not found in {runs_max} runs");
}

/// A commit of `events` events with bodies of `bytes` bytes, and nothing else.
fn commit_of(number: u64, events: u64, bytes: usize) -> Commit {
    let mut body = vec![0; bytes];
    body[..8].copy_from_slice(&number.to_be_bytes());
    let time = Timestamp::from_millis(number);
    let commit = Commit::new(commit_id(number), time);
    (0..events).fold(commit, |commit, event| {
        commit.event(NewEvent {
            id: EventId::generate(time, random(number * 8 + event)),
            streams: vec![stream("session/all")],
            closes: false,
            body: body.clone().into(),
        })
    })
}

/// A group whose sync fails, a loss of power that keeps a part of it in any order, and a commit
/// that may end just where a discarded frame begins; says what broke.
async fn relapse(seed: u64, always: Option<Fault>) -> Result<(), String> {
    let chance = SeededRandom::new(seed ^ 0xc0de);
    let bytes = || 8 * usize::try_from(1 + chance.below(24)).unwrap();
    let disk = disk(seed);
    let _entered = disk.enter();
    plant(always);
    make_parent();
    let roomy = FsStoreOptions {
        fs_limits: FsLimits {
            // It would write over what was discarded.
            fill_bytes: 0,
            ..FsLimits::default()
        },
        ..options(seed)
    };
    let open = || FsStore::open(&roomy).map_err(|e| e.to_string());
    let mut expected = Expected::default();
    let store = open()?;
    let group: Vec<Commit> = (0..12).map(|n| commit_of(n, 1, bytes())).collect();
    plant(Some(Fault::Fails(Failure {
        operation: Operation::Sync,
        after: 0,
        error: EIO,
    })));
    let results = store.commit_group(group);
    if results.iter().any(Result::is_ok) {
        return Err("a failed sync was acknowledged".to_owned());
    }
    expected.submitted.extend(0..12);
    drop(store);
    plant(always);
    disk.crash();
    let store = open()?;
    expected.check(&store).await?;
    // Two events, so that the positions agree with those of two frames before.
    store
        .commit(commit_of(100, 2, bytes()))
        .await
        .map_err(|e| e.to_string())?;
    expected.submitted.extend([100, 100]);
    expected.durable.clone_from(&expected.submitted);
    drop(store);
    disk.crash();
    expected.check(&open()?).await
}

/// R2: with no incarnation in the checksums, and no new segment after a cut, discarded frames
/// come back; with them, none does.
#[test]
fn r2_a_missing_incarnation_is_found() {
    let started = std::time::Instant::now();
    let runs = seeds(5_000);
    let broken = |fault: Option<Fault>| {
        let broken = on_all_cores(runs.clone(), |seed| run(relapse(seed, fault)).err());
        broken.into_iter().flatten().collect::<Vec<_>>()
    };
    assert_eq!(broken(None), Vec::<String>::new());
    let found = broken(Some(Fault::NoIncarnation));
    assert!(!found.is_empty(), "no discarded frame came back");
    print_row("R2-incarnation", runs.count(), started);
}

/// One operation fails while a store is opened and used; says what broke, or whether the
/// operation was met.
async fn survive(seed: u64, failure: Failure) -> Result<bool, String> {
    let disk = disk(seed);
    let _entered = disk.enter();
    plant(None);
    make_parent();
    let mut expected = Expected::default();
    let mut met = Met::default();
    let open = || FsStore::open(&options(seed));
    let store = open().map_err(|e| e.to_string())?;
    expected.commit_group(&store, 0..3, &mut met)?;
    drop(store);
    plant(Some(Fault::Fails(failure)));
    if let Ok(store) = open() {
        for next in (3..30).step_by(3) {
            let acknowledged = met.acknowledged;
            let failed_before = has_failed();
            let stopped = met.indeterminate > 0;
            expected.commit_group(&store, next..next + 3, &mut met)?;
            if stopped && met.acknowledged > acknowledged {
                return Err("a stopped store took a commit".to_owned());
            }
            if !failed_before && has_failed() && met.indeterminate > 0 {
                let before = syncs();
                let refused = store.commit(commit(1_000)).await;
                if !matches!(refused, Err(CommitError::ReadOnly { .. })) {
                    return Err(format!("after a failure: {refused:?}"));
                }
                let _says_so = store.close().await;
                if syncs() != before {
                    return Err("it synced again".to_owned());
                }
            }
        }
    }
    let failed = has_failed();
    plant(None);
    if seed.is_multiple_of(3) {
        disk.crash();
    }
    let store = open().map_err(|e| e.to_string())?;
    expected.check(&store).await?;
    store
        .commit(commit(2_000))
        .await
        .map_err(|e| e.to_string())?;
    Ok(failed)
}

/// R7: whatever fails at whatever place, what was acknowledged is there, the error is typed, and
/// nothing is written or synced again before the store is reopened (S5).
#[test]
fn r7_a_failed_operation_stops_the_store_and_loses_nothing() {
    let started = std::time::Instant::now();
    let operations = [
        Operation::Write,
        Operation::ShortWrite,
        Operation::Sync,
        Operation::Rename,
        Operation::Open,
    ];
    let mut cases = Vec::new();
    for operation in operations {
        // About as many as there are of each.
        let places = match operation {
            Operation::Write | Operation::ShortWrite => 70,
            Operation::Sync => 25,
            Operation::Rename => 5,
            Operation::Open => 14,
        };
        cases.extend(seeds(700).map(|case| Failure {
            operation,
            after: u32::try_from(case % places).unwrap(),
            error: if case % 2 == 0 { EIO } else { ENOSPC },
        }));
    }
    let results = on_all_cores(0..cases.len() as u64, |seed| {
        let failure = cases[usize::try_from(seed).unwrap()];
        let failed = run(survive(seed, failure));
        failed.unwrap_or_else(|broken| panic!("{failure:?}: {broken}"))
    });
    for operation in operations {
        let met = cases
            .iter()
            .zip(&results)
            .filter(|(failure, failed)| failure.operation == operation && **failed);
        assert!(met.count() > 0, "{operation:?} never failed");
    }
    let met = results.iter().filter(|failed| **failed).count();
    assert!(met >= 1_500, "only {met} cases");
    print_row("R7", met, started);
}

/// S8: a command that may not be read, since another user left it, is told of and keeps no other
/// from being taken. Any other failure to read one is a failure of the look.
#[test]
fn s8_a_command_of_another_user_keeps_no_other_from_being_taken() {
    let disk = disk(1);
    let _entered = disk.enter();
    plant(None);
    make_parent();
    let options = options(1);
    let store = FsStore::open(&options).unwrap();
    for number in [1, 2] {
        submit_command(&options.directory, commit(number).id, b"{}").unwrap();
    }
    let inbox = store.inbox().unwrap();
    let first_open = |error| {
        plant_failure(Failure {
            operation: Operation::Open,
            after: 0,
            error,
        });
    };
    first_open(EACCES);
    let taken = run(inbox.commands()).unwrap();
    assert_eq!(taken.len(), 1);
    first_open(EACCES);
    let foreign = store.foreign_in_inbox().unwrap();
    assert_eq!(foreign.len(), 1);
    assert_ne!(foreign[0], taken[0].id.to_string());
    first_open(EIO);
    assert!(run(inbox.commands()).is_err());
    assert_eq!(run(inbox.commands()).unwrap().len(), 2);
}

/// V6: at tier Crash the loss of power takes what was acknowledged, and the hint with it; whoever
/// has read it is told by a new lineage.
#[test]
fn v6_lost_positions_renew_the_lineage_at_tier_crash() {
    let lost = on_all_cores(seeds(300), |seed| {
        let disk = disk(seed);
        let _entered = disk.enter();
        plant(None);
        make_parent();
        let options = options(seed).tier(Tier::Crash);
        let mut expected = Expected::default();
        let store = FsStore::open(&options).unwrap();
        let groups = 1 + seed % 16;
        for group in 0..groups {
            let group = group * 2..group * 2 + 2;
            expected
                .commit_group(&store, group, &mut Met::default())
                .unwrap();
        }
        let lineage = store.identity().lineage.clone();
        let closes = seed.is_multiple_of(5);
        if closes {
            run(store.close()).unwrap();
        }
        drop(store);
        disk.crash();
        let store = FsStore::open(&options).unwrap();
        let is_lost = run(numbers(&store)) != expected.submitted;
        let is_same = store.identity().lineage == lineage;
        assert!(!(is_lost && is_same), "seed {seed}: nobody is told");
        assert!(
            !closes || (is_same && !is_lost),
            "seed {seed}: it was closed"
        );
        is_lost
    });
    assert!(lost.contains(&true), "nothing was lost");
}
