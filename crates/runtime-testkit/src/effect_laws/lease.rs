//! Leases between instances: who lives drives, what a dead one drove goes on elsewhere (E5, R9).

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{Either, join, select};
use runtime_core::{
    Clock, EffectCommand, EffectEnvelope, EffectKind, EffectOutcome, EffectOutput, ExecutionScope,
    InstanceId, ReplayKey, Timestamp,
};
use runtime_effects::{
    Beat, EffectHost, Interrupt, Lease, LeaseConfig, LeaseError, LeaseKeeper, LocalExecutor,
    ScopedEffectController, StoreEffectHost, crashes, with_crashes,
};
use runtime_store::{Commit, CommitError, Epoch, Guard, Row, RowChange, RowKey, Store};
use tokio::sync::oneshot;

use super::tally::Tally;
use super::world::{
    Runs, World, assert_terminal, desk, fresh_id, opening, result, tool_call, turn,
};
use crate::store_laws::StoreFixture;
use crate::{ProcessStore, SeededRandom, SimulatedClock};

/// The bound of E5: a lease runs out and its scopes are taken over within this time.
const TAKE_OVER_MAX: Duration = Duration::from_secs(15);

/// Short terms, as in "a 60-second effect under a 3-second lease".
const SHORT: LeaseConfig = LeaseConfig {
    ttl: Duration::from_secs(3),
    renew_every: Duration::from_millis(900),
    look_every: Duration::from_millis(300),
    margin: Duration::from_millis(300),
};

/// One instance: its lease and its host.
struct Instance {
    keeper: LeaseKeeper,
    host: StoreEffectHost,
    store: Arc<dyn Store>,
}

impl Instance {
    async fn new(world: &World<'_>, config: LeaseConfig, store: Arc<dyn Store>) -> Self {
        let random = Arc::new(SeededRandom::new(world.next_seed()));
        let clock = Arc::new(world.clock.clone());
        let keeper = LeaseKeeper::new(Arc::clone(&store), clock.clone(), random.clone(), config)
            .expect("the terms fit");
        let beat = keeper.beat().await.expect("registers");
        assert_eq!(beat, Beat::Registered);
        let host = StoreEffectHost::leased(
            Arc::clone(&store),
            clock,
            random,
            world.limits,
            keeper.lease(),
        );
        Self {
            keeper,
            host,
            store,
        }
    }

    async fn of(world: &World<'_>) -> Self {
        Self::new(world, LeaseConfig::default(), Arc::clone(&world.store) as _).await
    }

    fn name(&self) -> InstanceId {
        self.keeper.lease().instance().expect("holds a lease")
    }

    /// Commits what opens a scope, as whoever starts, resumes or takes over a turn does.
    async fn try_open(
        &self,
        scope: &ExecutionScope,
        crashed: u32,
    ) -> Result<ScopedEffectController<'_>, LeaseError> {
        let key = RowKey::epoch(scope.scope_id());
        let found = self.store.row(&key).await.expect("reads");
        let guard = match &found {
            None => Guard::Absent(key),
            Some(row) => Guard::Version(key, row.version),
        };
        let epoch = Epoch(found.as_ref().map_or(0, |row| row.version)).next();
        let holder = found.as_ref().and_then(Lease::holder);
        let commit = Commit::new(fresh_id(), Timestamp::from_millis(1)).guard(guard);
        let commit = with_crashes(commit, scope, crashed);
        let (commit, instance) =
            self.keeper
                .takes_over(commit, &scope.scope_id(), holder.as_ref())?;
        self.store.commit(commit).await?;
        let opening = opening(scope, epoch)
            .held_by(instance)
            .after_crashes(crashed);
        Ok(self.host.scoped(opening).expect("opens"))
    }

    async fn open(&self, scope: &ExecutionScope) -> ScopedEffectController<'_> {
        self.try_open(scope, 0).await.expect("opens")
    }

    /// Looks, and returns the scopes of the dead.
    async fn orphans(&self) -> Vec<String> {
        let mut orphans = Vec::new();
        for dead in self.keeper.look().await.expect("looks") {
            let page = self.keeper.held_by(&dead, None).await.expect("reads");
            for scope in page.scopes {
                if self.keeper.is_orphan(&dead, &scope).await.expect("reads") {
                    orphans.push(scope.to_string());
                }
            }
        }
        orphans
    }
}

/// E5: who renews in time is never taken for dead.
pub async fn e5_a_lease_that_is_renewed_lasts(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let (first, second) = (Instance::of(&world).await, Instance::of(&world).await);
    let _held = first.open(&desk()).await;
    for second_passed in 1..=60 {
        world.clock.advance(Duration::from_secs(1));
        if second_passed % 3 == 0 {
            assert_eq!(first.keeper.beat().await.expect("renews"), Beat::Renewed);
            assert_eq!(second.keeper.beat().await.expect("renews"), Beat::Renewed);
        }
        assert_eq!(second.orphans().await, [""; 0], "second {second_passed}");
    }
    let alive = second.keeper.is_alive(Some(&first.name())).await;
    assert!(alive.expect("reads"));
}

/// E5: what a dead instance held is free within 15 s; its epoch is bumped by the take-over, and
/// it opens nothing any more.
pub async fn e5_a_dead_instance_is_taken_over_within_15_seconds(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let dead = Instance::of(&world).await;
    let zombie = dead.open(&desk()).await;
    let zombie_name = dead.name();
    // It renews once more, at the worst time: just after the look of the other one.
    let other = Instance::of(&world).await;
    other.keeper.look().await.expect("looks");
    assert_eq!(dead.keeper.beat().await.expect("renews"), Beat::Renewed);
    let died = world.clock.monotonic();
    let every = other.keeper.config().look_every;
    while other.orphans().await.is_empty() {
        world.clock.advance(every);
        // The other one goes on with its own beats.
        other.keeper.beat().await.expect("renews");
        assert!(world.clock.monotonic() - died < TAKE_OVER_MAX);
    }
    assert!(world.clock.monotonic() - died >= Duration::from_secs(10));
    let runs = Runs::default();
    let successor = other.open(&desk()).await;
    assert_eq!(other.orphans().await, [""; 0]);
    let stale = zombie
        .execute_effect(tool_call(&desk(), 0, "write"), runs.succeeds("stale"))
        .await;
    assert_eq!(stale, Err(Interrupt::Fenced));
    assert_eq!(runs.count(), 0);
    let fresh = successor
        .execute_effect(tool_call(&desk(), 0, "write"), runs.succeeds("fresh"))
        .await;
    assert_eq!(fresh, Ok(EffectOutcome::Completed(result("fresh"))));
    // Nothing is left to take over: the dead one is forgotten.
    assert!(other.keeper.bury(&zombie_name).await.expect("buries"));
    assert_eq!(other.keeper.look().await.expect("looks"), []);
}

/// E5: an instance that was declared dead and does not know it opens no scope.
pub async fn e5_a_zombie_opens_no_scope(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let (zombie, other) = (Instance::of(&world).await, Instance::of(&world).await);
    let held = turn("desk", "1");
    let _held = zombie.open(&held).await;
    other.keeper.look().await.expect("looks");
    // The clock of the zombie stands still: it believes that its lease lasts.
    let believed = zombie.keeper.lease();
    world.clock.advance(Duration::from_secs(10));
    other.keeper.beat().await.expect("renews");
    assert_eq!(other.orphans().await, [held.scope_id().to_string()]);
    assert!(believed.instance().is_none());
    let refused = zombie.try_open(&turn("desk", "2"), 0).await;
    assert!(matches!(refused, Err(LeaseError::Lost)), "{refused:?}");
    // Even a commit that was made while the lease seemed to last is refused.
    let late = Instance::of(&world).await;
    let scope = turn("desk", "3");
    let commit = Commit::new(fresh_id(), Timestamp::from_millis(1));
    let opened = late.keeper.lease().opens(commit, &scope.scope_id());
    let (commit, _) = opened.expect("holds a lease");
    other.keeper.look().await.expect("looks");
    world.clock.advance(Duration::from_secs(10));
    other.keeper.look().await.expect("looks");
    let refused = late.store.commit(commit).await;
    assert!(matches!(refused, Err(CommitError::Fenced)), "{refused:?}");
}

/// E5: who renews too late goes on under a new name, and what it held is free at once.
pub async fn e5_who_renews_too_late_registers_anew(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let instance = Instance::of(&world).await;
    let before = instance.name();
    let _held = instance.open(&desk()).await;
    world.clock.advance(Duration::from_secs(9));
    assert!(instance.keeper.lease().instance().is_none());
    assert_eq!(
        instance.keeper.beat().await.expect("registers"),
        Beat::Registered
    );
    assert_ne!(instance.name(), before);
    // It knows that nobody of the old name lives: no term to wait for.
    assert_eq!(instance.orphans().await, [desk().scope_id().to_string()]);
    let runs = Runs::default();
    let outcome = instance
        .open(&desk())
        .await
        .execute_effect(tool_call(&desk(), 0, "write"), runs.succeeds("done"))
        .await;
    assert_eq!(outcome, Ok(EffectOutcome::Completed(result("done"))));
}

/// E5: executors are cancelled before the lease ends, nothing is recorded by then, and what must
/// not run twice is in doubt for the successor.
pub async fn e5_executors_end_before_the_lease(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    for retry_safe in [true, false] {
        let scope = turn("desk", if retry_safe { "1" } else { "2" });
        let envelope = || tool_call(&scope, 0, "write").retry_safe(retry_safe);
        let instance = Instance::of(&world).await;
        let controller = instance.open(&scope).await;
        let began = world.clock.monotonic();
        let runs = Runs::default();
        let ended = world
            .drive(controller.execute_effect(envelope(), runs.hangs()))
            .await;
        assert_eq!(ended, Err(Interrupt::Fenced), "retry_safe {retry_safe}");
        assert_eq!(world.clock.monotonic() - began, Duration::from_secs(9));
        // Without a lease no executor starts, and no intent is written.
        let commits = world.store.commits();
        let again = controller
            .execute_effect(tool_call(&scope, 1, "write"), runs.succeeds("no"))
            .await;
        assert_eq!(again, Err(Interrupt::Fenced));
        assert_eq!((runs.count(), world.store.commits()), (1, commits));

        let successor = Instance::of(&world).await;
        let controller = successor.open(&scope).await;
        let outcome = controller
            .execute_effect(envelope(), runs.succeeds("again"))
            .await;
        if retry_safe {
            assert_eq!(outcome, Ok(EffectOutcome::Completed(result("again"))));
        } else {
            let in_doubt = matches!(outcome, Err(Interrupt::InDoubt { .. }));
            assert!(in_doubt, "{outcome:?}");
        }
    }
}

/// E5, E8: a take-over keeps the due time of a sleep.
pub async fn e5_a_take_over_keeps_the_due_time_of_a_sleep(fixture: &dyn StoreFixture) {
    let mut world = World::new(fixture).await;
    world.limits.park_after = Duration::ZERO;
    let key = ReplayKey::turn(1, EffectKind::Sleep, 0);
    let command = EffectCommand::Sleep {
        duration: Duration::from_secs(60),
    };
    let sleep = || EffectEnvelope::new(desk(), key.clone(), command.clone()).expect("consistent");
    let first = Instance::of(&world).await;
    let asleep = first.open(&desk()).await.wait_any(sleep()).await;
    let due = world.clock.now().after(Duration::from_secs(60));
    let suspended = Interrupt::Suspended {
        key: key.clone(),
        due: Some(due),
    };
    assert_eq!(asleep, Err(suspended.clone()));
    world.clock.advance(Duration::from_secs(30));
    let second = Instance::of(&world).await;
    let controller = second.open(&desk()).await;
    assert_eq!(controller.wait_any(sleep()).await, Err(suspended));
    world.clock.advance(Duration::from_secs(30));
    let awake = EffectOutcome::Completed(EffectOutput::Sleep { due });
    assert_eq!(controller.wait_any(sleep()).await, Ok(awake));
}

/// E5: an effect without outcome parks after as many crashes as it may have attempts; any
/// progress counts from the start again.
pub async fn e5_crashes_are_counted_and_reset_by_progress(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let instance = Instance::of(&world).await;
    let scope = desk();
    let runs = Runs::default();
    let attempts = tool_call(&scope, 0, "write").policy().max_attempts;
    let first = || tool_call(&scope, 0, "write").retry_safe(true);
    for crashed in 0..attempts {
        let controller = instance.try_open(&scope, crashed).await.expect("opens");
        let mut running = pin!(controller.execute_effect(first(), runs.hangs()));
        assert!(world.stands_still(running.as_mut()).await);
    }
    assert_eq!(runs.count(), attempts);
    let controller = instance.try_open(&scope, attempts).await.expect("opens");
    let looping = controller
        .execute_effect(first(), runs.succeeds("no"))
        .await;
    assert_terminal(looping, "crash_loop");
    assert_eq!(runs.count(), attempts);
    let counted = crashes(&*world.store, &scope).await;
    assert_eq!(counted.expect("reads"), attempts);

    // One crash fewer, and the effect ends: the count is gone with the same commit.
    let controller = instance
        .try_open(&scope, attempts - 1)
        .await
        .expect("opens");
    let commits = world.store.commits();
    let outcome = controller
        .execute_effect(first(), runs.succeeds("done"))
        .await;
    assert_eq!(outcome, Ok(EffectOutcome::Completed(result("done"))));
    assert_eq!(world.store.commits(), commits + 1);
    let counted = crashes(&*world.store, &scope).await;
    assert_eq!(counted.expect("reads"), 0);
}

/// E5: what a dead instance held and somebody else has opened since is left to that one.
pub async fn e5_a_scope_that_changed_hands_is_no_orphan(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let (dead, heir) = (Instance::of(&world).await, Instance::of(&world).await);
    let name = dead.name();
    let _held = dead.open(&desk()).await;
    // The note of the dead one stays behind, as when it was parked there and opened here.
    let key = RowKey::epoch(desk().scope_id());
    let row: Row = world
        .store
        .row(&key)
        .await
        .expect("reads")
        .expect("is there");
    let commit = Commit::new(fresh_id(), Timestamp::from_millis(1))
        .guard(Guard::Version(key.clone(), row.version))
        .row(RowChange::put(
            key,
            heir.name().as_str().as_bytes().to_vec(),
        ));
    world.store.commit(commit).await.expect("commits");
    heir.keeper.look().await.expect("looks");
    world.clock.advance(Duration::from_secs(8));
    heir.keeper.beat().await.expect("renews");
    world.clock.advance(Duration::from_secs(2));
    assert_eq!(heir.orphans().await, [""; 0]);
    assert!(heir.keeper.bury(&name).await.expect("buries"));
}

/// E5: a 60-second effect under a 3-second lease runs once.
pub async fn e5_a_long_effect_runs_once_under_a_short_lease(fixture: &dyn StoreFixture) {
    assert_eq!(a_long_effect_under_a_short_lease(fixture, true).await, 1);
}

/// Runs a 60-second effect, which may run twice, under a 3-second lease on one of two hosts, and
/// says how often it ran on both. Planted with `renewed` false: the renewals of the first host do
/// not reach the store.
pub async fn a_long_effect_under_a_short_lease(fixture: &dyn StoreFixture, renewed: bool) -> u32 {
    let world = World::new(fixture).await;
    let is_renewal = |commit: &Commit| {
        let of_lease =
            |row: &RowChange| matches!(row, RowChange::Put { key, .. } if &*key.space == "lease");
        commit.guards.is_empty() && commit.rows.len() == 1 && commit.rows.iter().all(of_lease)
    };
    let alter = move |commit: Commit| (renewed || !is_renewal(&commit)).then_some(commit);
    let store = ProcessStore::altering(Arc::clone(&world.store) as _, alter);
    let first = Instance::new(&world, SHORT, store).await;
    let second = Instance::new(&world, SHORT, Arc::clone(&world.store) as _).await;
    let runs = Runs::default();
    let (clock, scope) = (&world.clock, desk());
    let envelope = || tool_call(&scope, 0, "slow").retry_safe(true);
    let over = AtomicBool::new(false);
    let controller = first.open(&scope).await;
    let one = async {
        let ended = controller
            .execute_effect(envelope(), slow(clock, &runs))
            .await;
        over.store(true, Ordering::SeqCst);
        ended
    };
    let beats = |keeper| async move {
        let keeper: &LeaseKeeper = keeper;
        loop {
            clock.sleep(SHORT.renew_every).await;
            // A host whose lease is lost goes on under another name.
            keeper.beat().await.expect("beats");
        }
    };
    let other = async {
        while !over.load(Ordering::SeqCst) {
            clock.sleep(SHORT.look_every).await;
            if !second.orphans().await.is_empty() {
                let taken = second.open(&scope).await;
                let ended = taken.execute_effect(envelope(), slow(clock, &runs)).await;
                assert_eq!(ended, Ok(EffectOutcome::Completed(result("slow"))));
                return;
            }
        }
    };
    let beating = pin!(join(beats(&first.keeper), beats(&second.keeper)));
    let working = pin!(join(one, other));
    let ended = match world.drive(select(working, beating)).await {
        Either::Left(((ended, ()), _)) => ended,
        Either::Right(_) => unreachable!("the beats have no end"),
    };
    match renewed {
        true => assert_eq!(ended, Ok(EffectOutcome::Completed(result("slow")))),
        // Taken over: its result is refused, whichever of the two fences came first.
        false => assert_eq!(ended, Err(Interrupt::Fenced)),
    }
    runs.count()
}

/// An executor that takes a minute.
fn slow<'run>(clock: &SimulatedClock, runs: &Runs) -> LocalExecutor<'run> {
    let (clock, runs) = (clock.clone(), runs.clone());
    LocalExecutor::new(EffectKind::ToolCall, move |_| {
        let (clock, runs) = (clock.clone(), runs.clone());
        async move {
            runs.begin();
            clock.sleep(Duration::from_secs(60)).await;
            Ok(result("slow"))
        }
    })
}

/// R9: owners that stand still beyond their lease at any point of an effect, while a successor
/// takes over; each must be fenced when it wakes, and write nothing between the events of the
/// successor. Planted with `fenced` false: the commits of the first owner name no epoch.
pub async fn zombies(fixture: &dyn StoreFixture, cases: u32, fenced: bool) -> Tally {
    let mut tally = Tally::default();
    let world = World::new(fixture).await;
    for case in 0..cases {
        let (passed, seen) = zombie(&world, case, fenced).await;
        tally.count(passed, || format!("case {case}: {seen}"));
    }
    tally
}

/// One zombie: it stands still before its first look, inside its executor, or before a commit.
async fn zombie(world: &World<'_>, case: u32, fenced: bool) -> (bool, String) {
    let retry_safe = case.is_multiple_of(2);
    let scope = turn("zombies", &case.to_string());
    let envelope = || tool_call(&scope, 0, "write").retry_safe(retry_safe);
    let alter = move |mut commit: Commit| {
        let of_effect = commit
            .rows
            .iter()
            .any(|row| matches!(row, RowChange::Put { key, .. } if &*key.space == "effect"));
        if of_effect && !fenced {
            commit.owner = None;
        }
        Some(commit)
    };
    let store = ProcessStore::altering(Arc::clone(&world.store) as _, alter);
    let owner = Instance::new(world, LeaseConfig::default(), Arc::clone(&store) as _).await;
    let name = owner.name();
    let controller = owner.open(&scope).await;
    let (let_go, gate) = oneshot::channel::<()>();
    let mut gate = Some(gate);
    let runs = Runs::default();
    let ran = runs.clone();
    let sleepy = LocalExecutor::new(EffectKind::ToolCall, move |_| {
        let gate = gate.take();
        let ran = ran.clone();
        async move {
            ran.begin();
            // A second attempt does not wait.
            if let Some(gate) = gate {
                let _ = gate.await;
            }
            Ok(result("stale"))
        }
    });
    let mut let_go = Some(let_go);
    let at = (case / 2) % 3;
    if at == 0 {
        // Before the first commit: the intent of what must not run twice.
        store.stop();
    }
    let mut stale = pin!(controller.execute_effect(envelope(), sleepy));
    let mut still = world.stands_still(stale.as_mut()).await;
    if at == 1 {
        // Before the outcome.
        store.stop();
        let_go.take().map(|let_go| let_go.send(()));
        still = world.stands_still(stale.as_mut()).await;
    }
    let heir = Instance::of(world).await;
    heir.keeper.look().await.expect("looks");
    world.clock.advance(Duration::from_secs(8));
    heir.keeper.beat().await.expect("renews");
    world
        .clock
        .advance(Duration::from_millis(2_000 + u64::from(case) % 500));
    let orphans = heir.orphans().await;
    let successor = heir.open(&scope).await;
    let fresh = successor
        .execute_effect(envelope(), runs.succeeds("fresh"))
        .await;
    let before = world.events_of(&scope).await;
    store.wake();
    let_go.take().map(|let_go| let_go.send(()));
    let ended = world.drive(stale).await;
    let after = world.events_of(&scope).await;
    let replayed = successor
        .execute_effect(envelope(), runs.succeeds("later"))
        .await;
    // The scope ends, so that nothing is left for the next case.
    let end = Commit::new(fresh_id(), Timestamp::from_millis(1));
    let end = Lease::lets_go(end, Some(&heir.name()), &scope.scope_id())
        .row(RowChange::Retire(scope.scope_id()));
    world.store.commit(end).await.expect("commits");
    heir.keeper.bury(&name).await.expect("buries");
    heir.keeper.give_back().await.expect("gives back");
    let passed = still
        && orphans == [scope.scope_id().to_string()]
        && ended == Err(Interrupt::Fenced)
        && before == after
        && replayed == fresh;
    let seen = format!("{still} {orphans:?} {ended:?} {before:?} {after:?} {fresh:?} {replayed:?}");
    (passed, seen)
}
