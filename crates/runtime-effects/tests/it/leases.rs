//! Leases at their edges, and what processes do under them (E5).

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use runtime_core::{
    Classified, ErrorClass, InstanceId, ProcessInput, ProcessRegistration, ProcessStatus,
    Timestamp, WireError,
};
use runtime_effects::{
    Beat, EffectHost, Failure, Functions, Interrupt, LeaseConfig, LeaseKeeper, ProcessError,
    ProcessLimits, Processes, StoreEffectHost, WorkflowConfig, WorkflowContext, WorkflowHost,
};
use runtime_store::{Commit, CommitError, Epoch, Guard, RowKey, Store};
use runtime_testkit::effect_laws::{Runs, World, desk, fresh_id, opening, tool_call};
use runtime_testkit::{ProcessStore, SeededRandom};
use serde_json::{Value, json};

use crate::edges::{id, keeper, order, success};
use crate::laws::Memory;

/// An instance with a lease, which it has to keep itself.
struct Instance {
    keeper: LeaseKeeper,
    host: StoreEffectHost,
    processes: Processes,
}

impl Instance {
    async fn new(world: &World<'_>, seed: u64) -> Self {
        let keeper = keeper(world, seed, LeaseConfig::default());
        assert_eq!(keeper.beat().await.expect("registers"), Beat::Registered);
        let host = StoreEffectHost::leased(
            Arc::clone(&world.store) as _,
            Arc::new(world.clock.clone()),
            Arc::new(SeededRandom::new(seed + 100)),
            world.limits,
            keeper.lease(),
        );
        let processes = host.processes(ProcessLimits::default()).await;
        Self {
            keeper,
            processes: processes.expect("opens"),
            host,
        }
    }

    fn name(&self) -> InstanceId {
        self.keeper.lease().instance().expect("holds a lease")
    }

    async fn workflows(&self, world: &World<'_>, functions: Functions) -> WorkflowHost {
        workflows(world, &self.host, &self.processes, functions).await
    }
}

/// Opens what drives processes; it looks after nothing else.
async fn workflows(
    world: &World<'_>,
    host: &StoreEffectHost,
    processes: &Processes,
    functions: Functions,
) -> WorkflowHost {
    let config = WorkflowConfig {
        housekeeping_interval: Duration::from_secs(3600),
        ..WorkflowConfig::default()
    };
    let clock = Arc::new(world.clock.clone());
    WorkflowHost::over(host.clone(), processes.clone(), clock, functions, config)
        .await
        .expect("opens")
}

/// Lets the tasks of instances go on until all of them stand still.
pub(crate) async fn rest() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

/// A function of one step, a minute, and another step, which counts.
fn order_that_sleeps(second_steps: &Arc<AtomicU32>) -> Functions {
    let counted = Arc::clone(second_steps);
    Functions::default().function("order", move |context: WorkflowContext, first: u32| {
        let counted = Arc::clone(&counted);
        async move {
            let first = context
                .step("first", || async { Ok::<_, Failure>(first) })
                .await?;
            context.sleep(Duration::from_secs(60)).await;
            let second = || {
                counted.fetch_add(1, Ordering::SeqCst);
                async { Ok::<_, Failure>(1) }
            };
            Ok::<_, Failure>(first + context.step("second", second).await?)
        }
    })
}

async fn resumed(world: &World<'_>) -> usize {
    let kinds = world.kinds().await;
    kinds
        .iter()
        .filter(|kind| *kind == "process_resumed")
        .count()
}

/// E5: terms of which one is zero are refused.
#[test]
fn e5_terms_of_nothing_are_refused() {
    let config = LeaseConfig::default();
    config.check().expect("fits");
    for zero in [
        LeaseConfig {
            renew_every: Duration::ZERO,
            ..config
        },
        LeaseConfig {
            look_every: Duration::ZERO,
            ..config
        },
    ] {
        let refused = zero.check().expect_err("is zero");
        assert_eq!(refused.code(), "lease_config_invalid", "{zero:?}");
    }
}

/// E5: a lease prints under which name it is held.
#[tokio::test]
async fn e5_a_lease_prints_who_holds_it() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let instance = Instance::new(&world, 1).await;
    let (name, printed) = (instance.name(), format!("{:?}", instance.keeper.lease()));
    assert!(printed.contains(name.as_str()), "{printed}");
}

/// E5: a renewal that arrives after the lease was over prolongs nothing, even if the store took
/// it: some executor may have looked at the clock meanwhile.
#[tokio::test]
async fn e5_a_renewal_that_arrives_too_late_prolongs_nothing() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let store = ProcessStore::over(Arc::clone(&world.store) as _);
    let keeper = LeaseKeeper::new(
        Arc::clone(&store) as _,
        Arc::new(world.clock.clone()),
        Arc::new(SeededRandom::new(1)),
        LeaseConfig::default(),
    );
    let keeper = keeper.expect("the terms fit");
    keeper.beat().await.expect("registers");
    let before = keeper.lease().instance();
    store.stop();
    let mut beat = pin!(keeper.beat());
    assert!(world.stands_still(beat.as_mut()).await);
    world.clock.advance(Duration::from_secs(10));
    store.wake();
    assert_eq!(
        world.drive(beat).await.expect("registers"),
        Beat::Registered
    );
    assert_ne!(keeper.lease().instance(), before);
}

/// E5: what was opened under a lease that is lost runs nothing, though the instance has another
/// lease by now and nobody took the scope over yet.
#[tokio::test]
async fn e5_what_was_opened_under_an_earlier_name_runs_nothing() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let (instance, scope, runs) = (Instance::new(&world, 1).await, desk(), Runs::default());
    let commit = Commit::new(fresh_id(), Timestamp::from_millis(1))
        .guard(Guard::Absent(RowKey::epoch(scope.scope_id())));
    let opened = instance.keeper.lease().opens(commit, &scope.scope_id());
    let (commit, held_by) = opened.expect("holds a lease");
    world.store.commit(commit).await.expect("commits");
    let opening = opening(&scope, Epoch(1)).held_by(held_by);
    let controller = instance.host.scoped(opening).expect("opens");
    instance.keeper.fenced();
    instance.keeper.beat().await.expect("registers anew");
    let refused = controller
        .execute_effect(tool_call(&scope, 0, "write"), runs.succeeds("stale"))
        .await;
    assert_eq!((refused, runs.count()), (Err(Interrupt::Fenced), 0));
}

/// E5: an instance that lost its lease knows its earlier name for dead without waiting, also after
/// it buried somebody else.
#[tokio::test]
async fn e5_burying_another_leaves_the_earlier_name_dead() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let (instance, other) = (
        Instance::new(&world, 1).await,
        Instance::new(&world, 2).await,
    );
    let (earlier, left) = (instance.name(), other.name());
    instance.keeper.fenced();
    instance.keeper.beat().await.expect("registers anew");
    other.keeper.give_back().await.expect("leaves");
    assert!(instance.keeper.bury(&left).await.expect("buries"));
    assert_eq!(instance.keeper.look().await.expect("looks"), [earlier]);
}

/// E5: a process is taken over from nobody who lives but oneself.
#[tokio::test]
async fn e5_a_process_is_taken_over_only_from_the_dead_and_oneself() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let (holder, other) = (
        Instance::new(&world, 1).await,
        Instance::new(&world, 2).await,
    );
    let p = id("p");
    holder
        .processes
        .start(&order("p"), None)
        .await
        .expect("starts");
    let refused = other.processes.take_over(&p).await;
    assert!(
        matches!(refused, Err(ProcessError::Commit(CommitError::Fenced))),
        "{refused:?}"
    );
    let claim = holder.processes.claim(&p).await.expect("is there");
    assert_eq!(claim.instance, Some(holder.name()));
    let why = WireError::new("test_failure", ErrorClass::Conflict, "the test wants it so");
    holder.processes.park(&claim, &why).await.expect("parks");
    let again = holder.processes.take_over(&p).await.expect("is its own");
    assert_eq!(
        (again.epoch, again.instance),
        (Epoch(2), Some(holder.name()))
    );
    holder.keeper.give_back().await.expect("leaves");
    let taken = other.processes.take_over(&p).await.expect("is free");
    assert_eq!(
        (taken.epoch, taken.instance),
        (Epoch(3), Some(other.name()))
    );
}

/// E5, E15: what is done outside is held by no instance, so that none takes it for abandoned.
#[tokio::test]
async fn e5_an_external_process_is_held_by_no_instance() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let instance = Instance::new(&world, 1).await;
    let input = ProcessInput::External {
        backend: "press".to_owned(),
        id: "7".to_owned(),
        metadata: Value::Null,
    };
    let external = ProcessRegistration::new(id("outside"), input);
    for (registration, holder) in [(external, None), (order("inside"), Some(instance.name()))] {
        let started = instance.processes.start(&registration, None).await;
        started.expect("starts");
        let claim = instance.processes.claim(&registration.process).await;
        assert_eq!(claim.expect("is there").instance, holder);
    }
}

/// E5: an instance goes on with what it drives under the epoch that it has, leased or not: it
/// resumes nothing.
#[tokio::test]
async fn e5_an_instance_goes_on_under_the_epoch_that_it_has() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let alone = world.host();
    let processes = alone.processes(ProcessLimits::default()).await;
    let steps = Arc::new(AtomicU32::new(0));
    let alone = workflows(
        &world,
        &alone,
        &processes.expect("opens"),
        order_that_sleeps(&steps),
    )
    .await;
    let leased = Instance::new(&world, 1).await;
    let shared = leased.workflows(&world, order_that_sleeps(&steps)).await;
    for (driver, name) in [(&alone, "alone"), (&shared, "shared")] {
        let run = driver.start(&id(name), "order", &6).await.expect("starts");
        rest().await;
        for _ in 0..20 {
            world.clock.advance(Duration::from_secs(3));
            leased.keeper.beat().await.expect("renews");
            rest().await;
        }
        let ended = world.drive(run.ended()).await.expect("ends");
        assert_eq!((ended, resumed(&world).await), (success(7), 0), "{name}");
    }
}

/// E5: an instance whose lease ran out drives nothing further, though nobody has noticed yet.
#[tokio::test]
async fn e5_an_instance_without_its_lease_drives_nothing_further() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let instance = Instance::new(&world, 1).await;
    let steps = Arc::new(AtomicU32::new(0));
    let driver = instance.workflows(&world, order_that_sleeps(&steps)).await;
    driver.start(&id("p"), "order", &6).await.expect("starts");
    rest().await;
    world.clock.advance(Duration::from_secs(60));
    rest().await;
    let view = driver.processes().get(&id("p")).await.expect("reads");
    assert_eq!(
        (view.record.status, steps.load(Ordering::SeqCst)),
        (ProcessStatus::Running, 0)
    );
}

/// E5: what a living instance holds is not driven elsewhere, not even a body without a step; once
/// that instance has left it is.
#[tokio::test]
async fn e5_what_a_living_instance_holds_is_driven_elsewhere_only_once_it_left() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let (holder, other) = (
        Instance::new(&world, 1).await,
        Instance::new(&world, 2).await,
    );
    let p = id("p");
    holder
        .processes
        .start(&order("p"), None)
        .await
        .expect("starts");
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let functions = Functions::default().function("order", move |_: WorkflowContext, _: u32| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, Failure>(json!(7)) }
    });
    let driver = other.workflows(&world, functions).await;
    rest().await;
    let view = driver.processes().get(&p).await.expect("reads");
    assert_eq!(
        (view.record.status, runs.load(Ordering::SeqCst)),
        (ProcessStatus::Running, 0)
    );
    holder.keeper.give_back().await.expect("leaves");
    driver.recover().await.expect("looks");
    let ended = world.drive(driver.run(&p).ended()).await.expect("ends");
    assert_eq!((ended, runs.load(Ordering::SeqCst)), (success(7), 1));
}
