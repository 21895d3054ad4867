//! Wall clocks that jump, stand still and go backwards (R15): no commit is refused for it, no
//! sequence goes back, no lease ends early or late.

use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime_core::{Clock, CommitId, EventId, Random, Sleep, Timestamp};
use runtime_effects::{Beat, LeaseConfig, LeaseKeeper};
use runtime_fs_store::{FsStore, FsStoreOptions};
use runtime_store::{Commit, CommitError, Limits, MemoryStore, NewEvent, Seq, Store};
use runtime_testkit::{SeededRandom, SimulatedClock};

use crate::support::{all_events, in_memory, on_all_cores, print_row, run, seeds, stream};

const HOUR: Duration = Duration::from_secs(3_600);
const DECADE: Duration = Duration::from_secs(3_600 * 24 * 3_652);
/// 2026, so that ten years back are as far from the beginning of time as ten years on.
const START: Timestamp = Timestamp::from_millis(1_790_000_000_000);

/// Lets the wall clock do what wall clocks do; `frozen` is where it stands still.
fn jump(clock: &SimulatedClock, frozen: &mut Option<Timestamp>, chance: &SeededRandom) {
    let now = clock.now();
    match chance.below(8) {
        0 => clock.set_wall(now.after(HOUR)),
        1 => clock.set_wall(now.before(HOUR)),
        2 => clock.set_wall(now.after(DECADE)),
        3 => clock.set_wall(now.before(DECADE)),
        4 => *frozen = Some(now),
        5 => *frozen = None,
        // A little back, as when a server of the time corrects it.
        6 => clock.set_wall(now.before(Duration::from_millis(1 + chance.below(2_000)))),
        _ => {}
    }
    if let Some(stands) = *frozen {
        clock.set_wall(stands);
    }
}

/// What is planted, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Ids are made of the wall clock alone.
    WallIds,
    /// Leases are measured by the wall clock.
    WallLeases,
}

const JUMPS: u64 = 100;
const COMMITS_A_JUMP: u64 = 3;
const REMEMBERED: usize = 8;

/// A store that is written to while its wall clock jumps; says how many jumps it has seen.
async fn sequences(seed: u64, fault: Option<Fault>) -> Result<u64, String> {
    let parent = in_memory();
    let chance = SeededRandom::new(seed);
    let clock = SimulatedClock::new(START);
    let options = FsStoreOptions {
        limits: Limits {
            remembered_commits: REMEMBERED,
            ..Limits::default()
        },
        ..FsStoreOptions::new(parent.path().join("store"))
    };
    let random = Arc::new(SeededRandom::new(seed));
    let options = options.world(Arc::new(clock.clone()), Arc::clone(&random) as _);
    let open = || FsStore::open(&options).map_err(|error| error.to_string());
    let mut store = open()?;
    let mut frozen = None;
    let mut made: Vec<Commit> = Vec::new();
    for _ in 0..JUMPS {
        clock.advance(Duration::from_millis(chance.below(10_000)));
        jump(&clock, &mut frozen, &chance);
        for _ in 0..COMMITS_A_JUMP {
            let commit = match fault {
                Some(_) => {
                    let now = clock.now();
                    Commit::new(CommitId::generate(now, random.ten()), now)
                }
                None => Commit::fresh(&store, &clock, &*random),
            };
            let commit = commit.event(NewEvent {
                id: EventId::generate(clock.now(), random.ten()),
                streams: vec![stream("session/all")],
                closes: false,
                body: made.len().to_be_bytes().into(),
            });
            let committed = store.commit(commit.clone()).await;
            let committed = committed.map_err(|error| error.to_string())?;
            made.push(commit);
            let (position, seq) = (made.len() as u64, Seq(made.len() as u64));
            let places = &committed.places[0];
            if committed.positions != (position..position + 1) || places[0].seq != seq {
                return Err(format!("commit {position} came to {committed:?}"));
            }
        }
        if chance.below(16) == 0 {
            drop(store);
            store = open()?;
        }
        // Whatever the clock says, a commit that is long forgotten does not happen again.
        let old = chance.below(made.len() as u64);
        let old = made[usize::try_from(old).unwrap()].clone();
        match store.commit(old).await {
            Ok(committed) if committed.repeated => {}
            Err(CommitError::TooOld { .. }) => {}
            other => return Err(format!("an old commit again: {other:?}")),
        }
    }
    let read = all_events(&store).await;
    let expected: Vec<_> = made.iter().map(|commit| commit.events[0].id).collect();
    let found: Vec<_> = read.iter().map(|event| event.id).collect();
    match found == expected {
        true => Ok(JUMPS),
        false => Err("the log is not what was committed".to_owned()),
    }
}

/// A clock whose timers run on the wall, as they must not.
#[derive(Debug)]
struct WallTimers(SimulatedClock);

impl Clock for WallTimers {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.now().as_millis())
    }

    fn sleep(&self, duration: Duration) -> Sleep {
        self.0.sleep(duration)
    }
}

const STEP: Duration = Duration::from_millis(500);

/// An instance that renews its lease until it dies, and another one that looks; the wall clock of
/// each jumps as it likes.
async fn leases(seed: u64, fault: Option<Fault>) -> Result<(), String> {
    let chance = SeededRandom::new(seed);
    let clocks = [(); 2].map(|()| SimulatedClock::new(START));
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new("clocks".parse().unwrap()));
    let config = LeaseConfig::default();
    let keeper = |index: usize| {
        let clock = clocks[index].clone();
        let clock: Arc<dyn Clock> = match fault {
            Some(Fault::WallLeases) => Arc::new(WallTimers(clock)),
            _ => Arc::new(clock),
        };
        let random = Arc::new(SeededRandom::new(seed * 2 + index as u64));
        LeaseKeeper::new(Arc::clone(&store), clock, random, config).unwrap()
    };
    let (holder, other) = (keeper(0), keeper(1));
    let mut frozen = [None; 2];
    let dies = STEP * u32::try_from(chance.below(24)).unwrap();
    let (mut now, mut renewed) = (Duration::ZERO, None::<Duration>);
    let told = |error: runtime_effects::LeaseError| error.to_string();
    loop {
        if now <= dies && renewed.is_none_or(|at| now - at >= config.renew_every) {
            let beat = holder.beat().await.map_err(told)?;
            let expected = match renewed {
                None => Beat::Registered,
                Some(_) => Beat::Renewed,
            };
            if beat != expected {
                return Err(format!("{beat:?} at {now:?}"));
            }
            renewed = Some(now);
        }
        let since = now - renewed.expect("the first beat is at once");
        let holds = holder.lease().instance().is_some();
        if holds != (since < config.ttl - config.margin) {
            return Err(format!(
                "{since:?} after a renewal it holds a lease: {holds}"
            ));
        }
        if now
            .as_millis()
            .is_multiple_of(config.look_every.as_millis())
        {
            let dead = !other.look().await.map_err(told)?.is_empty();
            if dead && since < config.ttl {
                return Err(format!("taken for dead {since:?} after a renewal"));
            }
            if dead {
                return Ok(());
            }
            if since > config.ttl + 2 * config.look_every {
                return Err(format!(
                    "not taken for dead {since:?} after the last renewal"
                ));
            }
        }
        now += STEP;
        for (clock, frozen) in clocks.iter().zip(&mut frozen) {
            clock.advance(STEP);
            jump(clock, frozen, &chance);
        }
    }
}

/// R15: clocks that jump an hour or ten years either way, stand still, and go back.
#[test]
fn r15_clock_jumps_move_no_lease_and_no_sequence() {
    let started = Instant::now();
    let jumps: u64 = on_all_cores(seeds(70), |seed| {
        run(sequences(seed, None)).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"))
    })
    .into_iter()
    .sum();
    let leased = on_all_cores(seeds(3_000), |seed| {
        run(leases(seed, None)).unwrap_or_else(|broken| panic!("lease {seed}: {broken}"));
    });
    let cases = usize::try_from(jumps).unwrap() + leased.len();
    assert!(cases >= 10_000, "{cases} cases");
    print_row("R15", cases, started);
}

/// R15, planted: ids and leases that trust the wall clock.
#[test]
fn r15_trusting_the_wall_clock_is_found() {
    let broken = on_all_cores(0..20, |seed| {
        run(sequences(seed, Some(Fault::WallIds))).is_err()
    });
    assert!(broken.contains(&true), "no id was too old");
    let broken = on_all_cores(0..100, |seed| {
        run(leases(seed, Some(Fault::WallLeases))).is_err()
    });
    assert!(broken.contains(&true), "no lease was wrong");
}
