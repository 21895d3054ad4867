//! Checkpoints and the loss of power at tier Crash (R1), with the fault that it must find (R2).

use runtime_core::Tier;
use runtime_fs_store::{Fault, FsStore, plant};
use runtime_testkit::SeededRandom;

use crate::power::{Expected, LIVES, Met, count, disk, make_parent, options};
use crate::support::{on_all_cores, print_row, run};

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
    let seeds = count(1_000);
    let checkpoints = on_all_cores(seeds, |seed| {
        run(buffered(seed, None)).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"))
    });
    assert!(checkpoints.into_iter().sum::<u64>() > seeds);
    let planted = Some(Fault::SealsUnsynced);
    let broken = on_all_cores(seeds, |seed| run(buffered(seed, planted)).is_err());
    assert!(broken.contains(&true), "sealing unsynced was not found");
    let crashes = usize::try_from(seeds * LIVES).unwrap();
    print_row("R1-buffered", crashes, started);
}
