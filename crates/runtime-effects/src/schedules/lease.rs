//! Leases: renewal, expiry, take-over, and those who watch their own lease end (E5, R9).

use runtime_core::InstanceId;

use super::*;
use crate::lease::Lease;
use crate::{Beat, Interrupt, LeaseConfig, LeaseKeeper};

const TTL: Duration = Duration::from_secs(10);

fn config() -> LeaseConfig {
    LeaseConfig {
        ttl: TTL,
        ..LeaseConfig::default()
    }
}

fn keeper(table: &Table, clock: &ModelClock, random: &std::sync::Arc<Counter>) -> LeaseKeeper {
    let keeper = LeaseKeeper::new(
        std::sync::Arc::new(table.clone()),
        std::sync::Arc::new(clock.clone()),
        std::sync::Arc::clone(random) as _,
        config(),
    );
    keeper.expect("the terms fit")
}

/// The processes of a scenario: a holder of a lease and a scope, and two that look at it.
struct Scene {
    table: Table,
    clock: ModelClock,
    random: std::sync::Arc<Counter>,
}

impl Scene {
    fn new(left_out: LeftOut) -> Self {
        Self {
            table: Table::leaving_out(left_out),
            clock: ModelClock::default(),
            random: std::sync::Arc::default(),
        }
    }

    fn keeper(&self) -> Arc<LeaseKeeper> {
        Arc::new(keeper(&self.table, &self.clock, &self.random))
    }

    fn host(&self, lease: Lease, clock: &ModelClock) -> StoreEffectHost {
        StoreEffectHost::leased(
            std::sync::Arc::new(self.table.clone()),
            std::sync::Arc::new(clock.clone()),
            std::sync::Arc::clone(&self.random) as _,
            EffectLimits::default(),
            lease,
        )
    }

    /// Opens the scope in the name of a keeper, if that instance holds it, or nobody; none when
    /// somebody was first, or the keeper has no lease.
    async fn open(
        &self,
        keeper: &LeaseKeeper,
        held_by: Option<&InstanceId>,
    ) -> Option<ScopeOpening> {
        let id = scope().scope_id();
        let key = RowKey::epoch(id.clone());
        let row = Store::row(&self.table, &key).await.expect("reads");
        let holder = row.as_ref().and_then(Lease::holder);
        if holder.as_ref() != held_by {
            return None;
        }
        let version = row.map_or(0, |row| row.version);
        let guard = match version {
            0 => Guard::Absent(key),
            version => Guard::Version(key, version),
        };
        let now = self.clock.now();
        let commit = Commit::new(CommitId::generate(now, self.random.ten()), now).guard(guard);
        let (commit, instance) = keeper.takes_over(commit, &id, holder.as_ref()).ok()?;
        Store::commit(&self.table, commit).await.ok()?;
        Some(opening(Epoch(version + 1)).held_by(instance))
    }
}

/// Looks until the holder is dead, then takes its scope over and drives it, by a clock of its own.
async fn succeed(scene: &Scene, runs: &[Runs; 2]) -> Option<Driven> {
    let clock = ModelClock::default();
    let keeper = &keeper(&scene.table, &clock, &scene.random);
    for _ in 0..2 {
        keeper.beat().await.expect("registers");
        let dead = keeper.look().await.expect("looks");
        for dead in dead {
            for held in keeper.held_by(&dead, None).await.expect("reads").scopes {
                if !keeper.is_orphan(&dead, &held).await.expect("reads") {
                    continue;
                }
                if let Some(opening) = scene.open(keeper, Some(&dead)).await {
                    let host = scene.host(keeper.lease(), &clock);
                    return Some(drive(&host, opening, runs).await);
                }
            }
        }
        clock.advance(TTL);
    }
    None
}

/// A holder drives a batch and does not renew, and its own clock stands still, so that only the
/// fence stops it; two successors look, each with its own time. One of them takes it over, and what
/// must not run twice does not.
fn expires(left_out: LeftOut) {
    check(move || {
        let scene = Arc::new(Scene::new(left_out));
        let runs: [Runs; 2] = Default::default();
        let holder = scene.keeper();
        let opening = future::block_on(async {
            holder.beat().await.expect("registers");
            scene.open(&holder, None).await.expect("is first")
        });
        let zombie = {
            let (scene, runs) = (Arc::clone(&scene), runs.clone());
            spawn(move || {
                let host = scene.host(holder.lease(), &scene.clock);
                future::block_on(drive(&host, opening, &runs))
            })
        };
        let successors = [(); 2].map(|()| {
            let (scene, runs) = (Arc::clone(&scene), runs.clone());
            spawn(move || future::block_on(succeed(&scene, &runs)))
        });
        let (zombie, successors) = (joined(zombie), successors.map(joined));
        assert!(runs[0].count() <= 1, "ran twice: {zombie:?} {successors:?}");
        for result in successors.iter().flatten().flatten() {
            // Time may pass over the successor's own lease, too.
            let fits = matches!(
                result,
                Ok(_) | Err(Interrupt::Fenced | Interrupt::InDoubt { .. })
            );
            assert!(fits, "the zombie came through: {result:?}");
        }
        let finished = future::block_on(scene.table.told(&EventKind::EffectFinished));
        assert_eq!(
            finished,
            future::block_on(ended(&scene.table)),
            "the zombie came through"
        );
        for result in &zombie {
            let fits = matches!(
                result,
                Ok(_) | Err(Interrupt::Fenced | Interrupt::InDoubt { .. })
            );
            assert!(fits, "{zombie:?}");
        }
    });
}

#[test]
fn r10_a_lease_that_expires_lets_nothing_run_twice() {
    expires(LeftOut::Nothing);
}

/// The twin that must fail: commits without their fence.
#[test]
#[should_panic(expected = "the zombie came through")]
fn r10_planted_a_zombie_without_a_fence_comes_through() {
    expires(LeftOut::Owner);
}

/// A renewal and a declaration of death at the same moment: one of them holds. Whoever is told
/// that its lease is renewed is not dead.
fn renewed_or_dead(left_out: LeftOut) {
    check(move || {
        let scene = Arc::new(Scene::new(left_out));
        // Late by the observer's clock, and not by the holder's own: no two clocks are compared.
        let faster = ModelClock::default();
        let holder = scene.keeper();
        let observer = Arc::new(keeper(&scene.table, &faster, &scene.random));
        future::block_on(async {
            holder.beat().await.expect("registers");
            assert_eq!(observer.look().await.expect("looks"), []);
        });
        let renewing = spawn({
            let holder = Arc::clone(&holder);
            move || {
                let before = holder.lease().instance();
                let beat = future::block_on(holder.beat()).expect("beats");
                (before, beat)
            }
        });
        let looking = spawn({
            let observer = Arc::clone(&observer);
            move || {
                faster.advance(TTL);
                future::block_on(observer.look()).expect("looks")
            }
        });
        let ((before, beat), dead) = (joined(renewing), joined(looking));
        let Some(before) = before else { return };
        let declared = dead.contains(&before);
        if beat == Beat::Renewed {
            assert!(!declared, "renewed, and dead");
        }
        let alive = future::block_on(observer.is_alive(Some(&before))).expect("reads");
        assert_eq!(alive, !declared, "dead by one's word and not by the record");
    });
}

#[test]
fn r10_a_lease_is_renewed_or_declared_dead_never_both() {
    renewed_or_dead(LeftOut::Nothing);
}

/// The twin that must fail: a declaration that does not look whether the lease was renewed.
#[test]
#[should_panic(expected = "renewed, and dead")]
fn r10_planted_a_declaration_without_its_guard_kills_who_lives() {
    renewed_or_dead(LeftOut::LeaseGuards);
}

/// Two observers find the same dead at once: it is declared once, and its scope has one successor.
#[test]
fn r10_the_dead_are_declared_and_succeeded_once() {
    check(|| {
        let scene = Arc::new(Scene::new(LeftOut::Nothing));
        let holder = scene.keeper();
        let observers = [scene.keeper(), scene.keeper()];
        future::block_on(async {
            holder.beat().await.expect("registers");
            scene.open(&holder, None).await.expect("is first");
            for observer in &observers {
                observer.look().await.expect("looks");
            }
        });
        scene.clock.advance(TTL);
        let successors = observers.map(|observer| {
            let scene = Arc::clone(&scene);
            spawn(move || {
                future::block_on(async {
                    observer.beat().await.expect("registers");
                    let mut opened = 0;
                    for dead in observer.look().await.expect("looks") {
                        let held = observer.held_by(&dead, None).await.expect("reads");
                        for scope in held.scopes {
                            let orphan = observer.is_orphan(&dead, &scope).await;
                            if orphan.expect("reads") {
                                opened +=
                                    u32::from(scene.open(&observer, Some(&dead)).await.is_some());
                            }
                        }
                        observer.bury(&dead).await.expect("buries");
                    }
                    opened
                })
            })
        });
        let opened: u32 = successors.map(joined).iter().sum();
        assert_eq!(opened, 1);
        let expired = scene.table.told(&EventKind::InstanceExpired);
        assert_eq!(future::block_on(expired), 1);
    });
}

/// Whoever watches its own lease hears of its end, whether it is given up or runs out, and what
/// has ended never comes back under the same name.
#[test]
fn r10_whoever_watches_a_lease_hears_of_its_end() {
    check(|| {
        let scene = Arc::new(Scene::new(LeftOut::Nothing));
        let holder = scene.keeper();
        future::block_on(holder.beat()).expect("registers");
        let instance = holder.lease().instance().expect("holds one");
        let watchers = [(); 2].map(|()| {
            let (lease, instance) = (holder.lease(), instance.clone());
            spawn(move || {
                future::block_on(lease.ended(Some(&instance)));
                assert!(!lease.holds(Some(&instance)), "it came back");
                choice_now();
                assert!(!lease.holds(Some(&instance)), "it came back later");
            })
        });
        let renewing = spawn({
            let holder = Arc::clone(&holder);
            move || future::block_on(holder.beat()).map(drop)
        });
        let time = spawn({
            let clock = scene.clock.clone();
            move || {
                clock.advance(TTL / 2);
                clock.advance(TTL / 2);
            }
        });
        joined(renewing).expect("beats");
        joined(time);
        // Renewed in time, it lasts: then it is given up.
        holder.fenced();
        watchers.into_iter().for_each(joined);
    });
}

fn choice_now() {
    thread::yield_now();
}

/// The twin that must fail: looking at the lease before listening for its end.
#[test]
#[should_panic(expected = "deadlock")]
fn r10_planted_looking_before_listening_misses_the_end_of_a_lease() {
    check(|| {
        let scene = Arc::new(Scene::new(LeftOut::Nothing));
        let holder = scene.keeper();
        future::block_on(holder.beat()).expect("registers");
        let instance = holder.lease().instance().expect("holds one");
        let watcher = spawn({
            let (lease, instance) = (holder.lease(), instance.clone());
            move || {
                if lease.holds(Some(&instance)) {
                    let bell = lease.listen_late(&instance);
                    future::block_on(bell.woken());
                }
            }
        });
        holder.fenced();
        joined(watcher);
    });
}

/// A zombie opens nothing: once it is declared dead, its commits that open a scope are refused.
#[test]
fn r10_who_is_declared_dead_opens_no_scope() {
    check(|| {
        let scene = Arc::new(Scene::new(LeftOut::Nothing));
        let (holder, observer) = (scene.keeper(), scene.keeper());
        future::block_on(async {
            holder.beat().await.expect("registers");
            observer.look().await.expect("looks");
        });
        let instance = holder.lease().instance().expect("holds one");
        let opening = spawn({
            let (scene, holder) = (Arc::clone(&scene), Arc::clone(&holder));
            move || future::block_on(scene.open(&holder, None)).is_some()
        });
        let looking = spawn({
            let (scene, observer) = (Arc::clone(&scene), Arc::clone(&observer));
            move || {
                scene.clock.advance(TTL);
                future::block_on(observer.look()).expect("looks")
            }
        });
        let (opened, dead) = (joined(opening), joined(looking));
        assert_eq!(dead, [instance.clone()]);
        let held = future::block_on(observer.held_by(&instance, None));
        // What it opened before it died is found by whoever takes over; nothing comes later.
        assert_eq!(held.expect("reads").scopes.len(), usize::from(opened));
    });
}
