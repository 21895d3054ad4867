//! Loss of power at any point (R1), and whether the test would notice a missing sync (R2).

use runtime_core::Timestamp;
use runtime_fs_store::{Fault, FsLimits, FsStore, FsStoreOptions, plant};
use runtime_store::{CommitError, Store};
use runtime_testkit::{SeededRandom, SimulatedClock};
use std::sync::Arc;
use turmoil_fs::Fs;
use turmoil_fs::shim::std::fs as simulated;

use crate::support::{commit, numbers, print_row};

const LIVES: u64 = 4;

/// What a run of one seed met.
#[derive(Debug, Default)]
struct Met {
    crashes: u64,
    acknowledged: u64,
    indeterminate: u64,
    cuts: u64,
    rolled: u64,
}

fn options(seed: u64) -> FsStoreOptions {
    let options = FsStoreOptions::new("/data/store").world(
        Arc::new(SimulatedClock::new(Timestamp::from_millis(1_000))),
        Arc::new(SeededRandom::new(seed)),
    );
    FsStoreOptions {
        fs_limits: FsLimits {
            segment_bytes_first: 2048,
            segment_bytes_max: 4096,
            ..FsLimits::default()
        },
        ..options
    }
}

/// Lives several lives, each ended by a loss of power; says what broke.
async fn live(seed: u64, always: Option<Fault>) -> Result<Met, String> {
    let chance = SeededRandom::new(seed ^ 0x5eed);
    let below = |end: u64| chance.below(end);
    let disk = Fs::builder()
        .seed(seed)
        .block_size(512)
        .sync_probability(if seed.is_multiple_of(2) { 0.0 } else { 0.2 })
        .build();
    let _entered = disk.enter();
    plant(None);
    simulated::create_dir("/data").map_err(|e| e.to_string())?;
    simulated::sync_dir("/data").map_err(|e| e.to_string())?;
    let mut met = Met::default();
    // What is durable, and what may follow it in this order.
    let mut durable: Vec<u64> = Vec::new();
    let mut submitted: Vec<u64> = Vec::new();
    let mut next = 0;
    for life in 0..LIVES {
        let fault = always.or_else(|| match below(4) {
            0 => Some(Fault::WriteFails(u32::try_from(below(60)).unwrap())),
            1 => Some(Fault::SyncFails(u32::try_from(below(30)).unwrap())),
            _ => None,
        });
        plant(fault);
        if let Ok(store) = FsStore::open(&options(seed + life * 1_000)) {
            let found = numbers(&store).await;
            check(&durable, &submitted, &found)?;
            durable.clone_from(&found);
            submitted = found;
            met.cuts += u64::from(store.report().cut.is_some());
            for _ in 0..below(24) {
                let size = 1 + below(4);
                let group: Vec<u64> = (next..next + size).collect();
                next += size;
                let results = store.commit_group(group.iter().map(|&n| commit(n)).collect());
                for (number, result) in group.into_iter().zip(results) {
                    match result {
                        Ok(_) => {
                            submitted.push(number);
                            durable.clone_from(&submitted);
                            met.acknowledged += 1;
                        }
                        Err(CommitError::Indeterminate { .. }) => {
                            submitted.push(number);
                            met.indeterminate += 1;
                        }
                        Err(CommitError::ReadOnly { .. }) => {}
                        Err(other) => return Err(format!("seed {seed}: {other}")),
                    }
                }
                if below(8) == 0 {
                    store.mark_idle();
                }
            }
            if below(6) == 0 {
                let _may_fail = store.close().await;
            }
            met.rolled += u64::from(simulated::exists("/data/store/segments/0000000002.log"));
        }
        plant(always);
        disk.crash();
        met.crashes += 1;
    }
    plant(None);
    let store = FsStore::open(&options(seed)).map_err(|e| format!("seed {seed}: {e}"))?;
    if !store.report().damage.is_empty() {
        return Err(format!("seed {seed}: {:?}", store.report().damage));
    }
    check(&durable, &submitted, &numbers(&store).await)?;
    Ok(met)
}

/// Everything acknowledged is there, and what is there is a prefix of what was submitted.
fn check(durable: &[u64], submitted: &[u64], found: &[u64]) -> Result<(), String> {
    if submitted.starts_with(found) && found.starts_with(durable) {
        return Ok(());
    }
    Err(format!(
        "acknowledged {durable:?}, submitted {submitted:?}, found {found:?}"
    ))
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(work)
}

/// R1: whatever is lost with the power, nothing acknowledged is, and nothing comes twice.
#[test]
fn r1_no_loss_of_power_loses_an_acknowledged_commit() {
    let started = std::time::Instant::now();
    let seeds = std::env::var("FS_STORE_SEEDS").map_or(300, |text| text.parse().unwrap());
    let mut sum = Met::default();
    for seed in 0..seeds {
        let met = run(live(seed, None)).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        sum.crashes += met.crashes;
        sum.acknowledged += met.acknowledged;
        sum.indeterminate += met.indeterminate;
        sum.cuts += met.cuts;
        sum.rolled += met.rolled;
    }
    assert!(
        sum.crashes == seeds * LIVES && sum.acknowledged > seeds,
        "{sum:?}"
    );
    // Otherwise the run did not meet what it is for.
    assert!(
        sum.indeterminate > 0 && sum.cuts > 0 && sum.rolled > 0,
        "{sum:?}"
    );
    print_row("R1", usize::try_from(sum.crashes).unwrap(), started);
}

/// R2: without a sync of files, or of directories, the same run finds losses.
#[test]
fn r2_a_missing_sync_is_found() {
    let started = std::time::Instant::now();
    let mut cases = 0;
    for fault in [Fault::NoFileSync, Fault::NoDirectorySync] {
        let broken = (0..50).filter(|&seed| run(live(seed, Some(fault))).is_err());
        let broken = broken.count();
        assert!(broken > 0, "{fault:?} was not found");
        cases += 50;
    }
    print_row("R2", cases, started);
}
