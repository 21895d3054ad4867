//! Checkpoints and the loss of power (R1, R6), each check with the fault that it must find (R2).

use runtime_core::Tier;
use runtime_fs_store::{Fault, FsStore, plant};
use runtime_store::Store;
use runtime_testkit::SeededRandom;
use turmoil_fs::shim::std::fs as simulated;

use crate::power::{Expected, LIVES, Met, disk, live, make_parent, options};
use crate::support::{on_all_cores, print_row, run, seeds};

/// Loses the power at tier Crash, where only what was sealed is durable; says what broke. What a
/// checkpoint was asked for is there, and what is there is a prefix of what was submitted.
async fn buffered(seed: u64, always: Option<Fault>) -> Result<u64, String> {
    let chance = SeededRandom::new(seed ^ 0xb0ff);
    let disk = disk(seed);
    let _entered = disk.enter();
    plant(None);
    make_parent();
    let options = options(seed).tier(Tier::Crash);
    let mut expected = Expected::default();
    let mut met = Met::default();
    let mut checkpoints = 0;
    let mut next = 0;
    for _ in 0..LIVES {
        plant(always);
        let store = FsStore::open(&options).map_err(|e| e.to_string())?;
        if !store.report().damage.is_empty() {
            return Err(format!("{:?}", store.report().damage));
        }
        expected.check(&store).await?;
        for _ in 0..chance.below(24) {
            let durable = std::mem::take(&mut expected.durable);
            let group = next..next + 1 + chance.below(4);
            next = group.end;
            expected.commit_group(&store, group, &mut met)?;
            expected.durable = durable;
            if chance.below(12) == 0 {
                store.checkpoint().await.map_err(|e| e.to_string())?;
                expected.durable.clone_from(&expected.submitted);
                checkpoints += 1;
            }
        }
        drop(store);
        disk.crash();
    }
    plant(None);
    let store = FsStore::open(&options).map_err(|e| e.to_string())?;
    if !store.report().damage.is_empty() {
        return Err(format!("{:?}", store.report().damage));
    }
    expected.check(&store).await?;
    Ok(checkpoints)
}

/// R1, S3: at tier Crash a loss of power leaves a prefix with all that a checkpoint holds, without
/// damage; sealing before syncing is found.
#[test]
fn r1_at_tier_crash_a_prefix_with_the_checkpoint_is_left() {
    let started = std::time::Instant::now();
    let seeds = seeds(1_000);
    let checkpoints = on_all_cores(seeds.clone(), |seed| {
        run(buffered(seed, None)).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"))
    });
    let lives = checkpoints.len() as u64;
    assert!(checkpoints.into_iter().sum::<u64>() > lives);
    let planted = Some(Fault::SealsUnsynced);
    let broken = on_all_cores(seeds, |seed| run(buffered(seed, planted)).is_err());
    assert!(broken.contains(&true), "sealing unsynced was not found");
    let crashes = usize::try_from(lives * LIVES).unwrap();
    print_row("R1-buffered", crashes, started);
}

/// S6: a checkpoint is a cache. Named before it is synced, it costs time and loses nothing. What
/// finds a cache that is believed too much is beside this: `AnyCheckpoint` and `UncheckedCaches`.
#[test]
fn r1_checkpoints_that_are_not_synced_lose_nothing() {
    let started = std::time::Instant::now();
    // What is never synced stays in the simulation's queue, which makes these runs long.
    let lives = on_all_cores(seeds(10), |seed| {
        run(live(seed, Some(Fault::NoCacheSync)))
            .unwrap_or_else(|broken| panic!("seed {seed}: {broken}"))
    });
    let crashes = lives.len() * usize::try_from(LIVES).unwrap();
    print_row("R1-caches", crashes, started);
}

/// Flips bits of checkpoints and sidecars one at a time, until the store tells something else;
/// returns how many cases that took, and what was told.
async fn flips(planted: Option<Fault>) -> (u64, Result<(), String>) {
    let disk = disk(0);
    let _entered = disk.enter();
    plant(None);
    make_parent();
    let options = options(0);
    let store = FsStore::open(&options).unwrap();
    let mut expected = Expected::default();
    let mut met = Met::default();
    expected.commit_group(&store, 0..40, &mut met).unwrap();
    store.checkpoint().await.unwrap();
    expected.commit_group(&store, 40..44, &mut met).unwrap();
    store.close().await.unwrap();
    drop(store);
    let directory = std::path::Path::new("/data/store/checkpoints");
    let mut names: Vec<_> = simulated::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    // A checkpoint and a sidecar.
    assert!(names.len() > 1, "{names:?}");
    let mut cases = 0;
    for path in names {
        let whole = simulated::read(&path).unwrap();
        for bit in (0..whole.len() * 8).step_by(7) {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            put(&path, &flipped);
            plant(planted);
            let found = match FsStore::open_read_only(&options) {
                Ok(store) => expected.check(&store).await,
                Err(error) => Err(error.to_string()),
            };
            plant(None);
            cases += 1;
            if found.is_err() {
                // Nothing more is read: unchecked lengths are believed as well.
                return (cases, found);
            }
        }
        put(&path, &whole);
    }
    (cases, Ok(()))
}

/// Writes a file and syncs it: what is not synced stays in the simulation's queue, and each later
/// operation looks through it.
fn put(path: &std::path::Path, bytes: &[u8]) {
    simulated::write(path, bytes).unwrap();
    let file = simulated::File::open(path).unwrap();
    file.sync_all().unwrap();
}

/// R6: no flipped bit of a checkpoint or sidecar changes what is told; believed without their
/// checksums they do.
#[test]
fn r6_a_checkpoint_believed_without_its_checksum_is_found() {
    let started = std::time::Instant::now();
    let (cases, told) = run(flips(None));
    told.unwrap();
    assert!(cases > 5_000, "only {cases} cases");
    let (_, told) = run(flips(Some(Fault::UncheckedCaches)));
    told.expect_err("unchecked blocks were not found");
    print_row("R6-simulated", usize::try_from(cases).unwrap(), started);
}
