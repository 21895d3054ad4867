//! What the laws leave out of what an instance finds in the store: when it opens, when others write
//! to it, when it looks after it (E5, E9, E14, E16).

use std::sync::Arc;
use std::time::Duration;

use runtime_core::{
    Classified, ExecutionScope, ProcessRegistration, ProcessStatus, RecoveryDisposition, WireError,
};
use runtime_effects::{
    Beat, Failure, Functions, LeaseConfig, LeaseKeeper, ProcessLimits, StoreEffectHost,
    WorkflowConfig, WorkflowContext,
};
use runtime_store::{Commit, Page, RowChange, RowKey, Store};
use runtime_testkit::effect_laws::{World, fresh_id};
use runtime_testkit::{Fault, ProcessStore, SeededRandom};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::laws::Memory;
use crate::workflow_edges::{Notes, Office, asking, asks, id, idle, quiet};

/// An office whose instance drives under a lease.
async fn leased(fixture: &Memory) -> (Office<'_>, LeaseKeeper) {
    let world = World::new(fixture).await;
    let (clock, random) = (
        Arc::new(world.clock.clone()),
        Arc::new(SeededRandom::new(99)),
    );
    let store = Arc::clone(&world.store);
    let config = LeaseConfig::default();
    let keeper = LeaseKeeper::new(store.clone(), clock.clone(), random.clone(), config);
    let keeper = keeper.expect("the terms fit");
    assert_eq!(keeper.beat().await.expect("registers"), Beat::Registered);
    let host = StoreEffectHost::leased(store, clock, random, world.limits, keeper.lease());
    (Office::at(world, host).await, keeper)
}

/// Overwrites the row of a process, as a damaged disk does.
async fn damage(office: &Office<'_>, process: &str) {
    let process = id(process);
    let scope = ExecutionScope::Process { process }.scope_id();
    let row = RowChange::put(RowKey::new("process", scope, ""), b"damaged".to_vec());
    let commit = Commit::new(fresh_id(), office.world.now()).row(row);
    office.world.store.commit(commit).await.expect("commits");
}

/// Functions that wait in each way there is: for a time, a process, a signal, a ruling.
fn waiting(notes: &Notes) -> Functions {
    let (sleeps, joins, pays) = (notes.clone(), notes.clone(), notes.clone());
    asks(notes)
        .function("sleeps", move |context: WorkflowContext, (): ()| {
            sleeps.add(context.process().as_str());
            async move {
                context.sleep(Duration::from_secs(60)).await;
                Ok::<_, Failure>(())
            }
        })
        .function("joins", move |context: WorkflowContext, (): ()| {
            joins.add(context.process().as_str());
            async move {
                let child = context.spawn("asks", &()).await?;
                context.join::<u32>(&child).await
            }
        })
        .function("pays", move |context: WorkflowContext, (): ()| {
            pays.add(context.process().as_str());
            async move {
                let pays = context.step("pays", std::future::pending::<Result<(), Failure>>);
                pays.await
            }
        })
}

/// E9: what only waits, for whatever it is, costs the next instance no drive and no write; it goes
/// on when that comes.
#[tokio::test]
async fn e9_what_only_waits_is_not_driven_when_an_instance_opens() {
    let fixture = Memory::new();
    let mut office = Office::new(&fixture).await;
    let before = Notes::default();
    let instance = office.instance(waiting(&before), quiet()).await;
    for name in ["asks", "sleeps", "joins", "pays"] {
        let registration = ProcessRegistration::function(id(name), name, Value::Null);
        office.start(&registration).await;
    }
    office.rest().await;
    drop(instance);
    office = office.restart().await;
    // Whether the payment happened is unknown; that is found by driving it once.
    let instance = office.instance(waiting(&before), quiet()).await;
    office.work(instance.settled()).await;
    assert_eq!(office.status("pays").await, ProcessStatus::Parked);
    drop(instance);
    office = office.restart().await;
    let (notes, commits) = (Notes::default(), office.world.store.commits());
    let instance = office.instance(waiting(&notes), quiet()).await;
    office.rest().await;
    assert_eq!(notes.all(), [""; 0]);
    assert_eq!(office.world.store.commits(), commits);
    let children = office.processes.children(&id("joins")).await;
    let child = children.expect("reads").remove(0);
    office.go(child.as_str()).await;
    let joined = office.work(instance.run(&id("joins")).value::<u32>()).await;
    assert_eq!(joined.expect("ends"), 7);
    office.pass(Duration::from_secs(60)).await;
    assert_eq!(office.status("sleeps").await, ProcessStatus::Succeeded);
    assert_eq!(office.status("asks").await, ProcessStatus::Running);
}

/// E9: what became due while no instance was there goes on when one opens.
#[tokio::test]
async fn e9_what_is_due_is_driven_when_an_instance_opens() {
    let fixture = Memory::new();
    let mut office = Office::new(&fixture).await;
    let notes = Notes::default();
    let instance = office.instance(waiting(&notes), quiet()).await;
    let sleeps = ProcessRegistration::function(id("sleeps"), "sleeps", Value::Null);
    office.start(&sleeps).await;
    office.work(instance.settled()).await;
    drop(instance);
    office = office.restart().await;
    office.world.clock.advance(Duration::from_secs(60));
    let _instance = office.instance(waiting(&notes), quiet()).await;
    office.rest().await;
    assert_eq!(office.status("sleeps").await, ProcessStatus::Succeeded);
}

/// E9: what something else takes further costs an instance that opens no look of its own: it is
/// listed, no more.
#[tokio::test]
async fn e9_what_is_done_outside_is_only_listed_when_an_instance_opens() {
    let fixture = Memory::new();
    let office = Office::new(&fixture).await;
    for process in ["one", "two", "three"] {
        let external = asking(process).with_disposition(RecoveryDisposition::External);
        office.start(&external).await;
    }
    let store = &office.world.store;
    let before = store.reads();
    for status in [ProcessStatus::Running, ProcessStatus::Parked] {
        let listed = office.processes.list(status, Page::after(None, 256));
        listed.await.expect("reads");
    }
    let (listing, before) = (store.reads() - before, store.reads());
    let _instance = office.instance(Functions::default(), quiet()).await;
    office.rest().await;
    assert_eq!(store.reads() - before, listing);
}

/// E5: a process that another owner took over is let go: its end is refused, and that is no failure
/// of this instance.
#[tokio::test]
async fn e5_a_process_that_was_taken_over_is_let_go() {
    let fixture = Memory::new();
    let office = Office::new(&fixture).await;
    let gate = Arc::new(Notify::new());
    let opened = Arc::clone(&gate);
    let functions = Functions::default().function("works", move |_, (): ()| {
        let gate = Arc::clone(&opened);
        async move {
            gate.notified().await;
            Ok::<_, Failure>(1)
        }
    });
    let instance = office.instance(functions, quiet()).await;
    let works = ProcessRegistration::function(id("p"), "works", Value::Null);
    office.start(&works).await;
    office.rest().await;
    office.take_over("p").await;
    gate.notify_one();
    office.work(instance.settled()).await;
    // It does not try to get it back either.
    office.pass(Duration::from_secs(60 * 60)).await;
    assert_eq!(
        office.told("p").await,
        ["process_registered", "process_started", "process_resumed"]
    );
    let report = office.work(instance.close()).await;
    assert_eq!(report.failures, []);
}

/// E5: an instance goes on with what it holds under the epoch it has, with a lease and without:
/// it takes nothing over from itself.
#[tokio::test]
async fn e5_an_instance_takes_nothing_over_from_itself() {
    let fixtures = [Memory::new(), Memory::new()];
    let (with_lease, _keeper) = leased(&fixtures[0]).await;
    for (office, is_leased) in [(with_lease, true), (Office::new(&fixtures[1]).await, false)] {
        let notes = Notes::default();
        let mut instance = office.instance(asks(&notes), quiet()).await;
        office.start(&asking("p")).await;
        office.work(instance.settled()).await;
        if is_leased {
            // Another one under the same lease does not know the epoch.
            drop(instance);
            office.rest().await;
            instance = office.instance(asks(&notes), quiet()).await;
        }
        office.go("p").await;
        office.work(instance.settled()).await;
        assert_eq!(notes.all(), ["p", "p"]);
        let told = office.told("p").await;
        assert_eq!(told.last().expect("some"), "process_succeeded");
        assert!(!told.contains(&"process_resumed".to_owned()), "{told:?}");
    }
}

/// E5: an instance whose lease ran out drives nothing, also not what it began under it.
#[tokio::test]
async fn e5_an_instance_without_a_lease_drives_nothing() {
    let fixture = Memory::new();
    let (office, keeper) = leased(&fixture).await;
    let notes = Notes::default();
    let instance = office.instance(asks(&notes), quiet()).await;
    office.start(&asking("p")).await;
    office.work(instance.settled()).await;
    office.world.clock.advance(keeper.config().ttl);
    office.go("p").await;
    office.rest().await;
    assert_eq!(notes.all(), ["p"]);
    assert_eq!(office.status("p").await, ProcessStatus::Running);
}

/// C3, E15: a drive that failed in a way that may pass is tried again after a pause that doubles;
/// when it went well, that is counted anew.
#[tokio::test]
async fn c3_a_drive_that_may_pass_is_tried_again_after_a_longer_pause() {
    let fixture = Memory::new();
    let office = Office::new(&fixture).await;
    office.start(&asking("p")).await;
    let notes = Notes::default();
    let config = WorkflowConfig {
        failures_max: 3,
        failure_pause: Duration::from_millis(100),
        ..idle()
    };
    let instance = office.instance(asks(&notes), config).await;
    for drives in 1..=2 {
        office.world.store.fail_reads(3);
        instance.heard(&id("p"));
        office.rest().await;
        for pause in [100, 200, 400] {
            let reads = office.world.store.reads();
            office.pass(Duration::from_millis(pause - 1)).await;
            assert_eq!(office.world.store.reads(), reads, "is tried too early");
            office.pass(Duration::from_millis(1)).await;
            assert!(office.world.store.reads() > reads, "is not tried");
        }
        assert_eq!(notes.all().len(), drives);
    }
    office.go("p").await;
    office.work(instance.settled()).await;
    assert_eq!(office.status("p").await, ProcessStatus::Succeeded);
    let report = office.work(instance.close()).await;
    assert_eq!((report.interrupted, report.failures), (0, Vec::new()));
}

/// C3, E15: a drive that failed too often, or in a way that does not pass, is reported and left
/// until somebody wakes it.
#[tokio::test]
async fn c3_a_drive_that_does_not_pass_is_reported_and_left() {
    let fixture = Memory::new();
    let office = Office::new(&fixture).await;
    for process in ["p", "damaged"] {
        office.start(&asking(process)).await;
    }
    damage(&office, "damaged").await;
    let notes = Notes::default();
    let config = WorkflowConfig {
        failures_max: 3,
        ..idle()
    };
    let instance = office.instance(asks(&notes), config).await;
    office.world.store.fail_reads(4);
    instance.heard(&id("p"));
    office.work(instance.settled()).await;
    for _ in 0..4 {
        office.pass(Duration::from_secs(60 * 60)).await;
    }
    assert_eq!(notes.all(), [""; 0]);
    instance.heard(&id("damaged"));
    office.work(instance.settled()).await;
    let reads = office.world.store.reads();
    office.pass(Duration::from_secs(60 * 60)).await;
    assert_eq!(office.world.store.reads(), reads);
    instance.heard(&id("p"));
    office.work(instance.settled()).await;
    assert_eq!(notes.all(), ["p"]);
    let report = office.work(instance.close()).await;
    let codes = report.failures.iter().map(|failure| failure.code.as_str());
    assert_eq!(
        codes.collect::<Vec<_>>(),
        ["store_read_unavailable", "process_record_corrupt"]
    );
}

/// C3: a workflow that could not write is driven again; it is not parked.
#[tokio::test]
async fn c3_a_workflow_whose_commit_may_pass_is_not_parked() {
    let fixture = Memory::new();
    let mut world = World::new(&fixture).await;
    world.limits.commit_tries_max = 1;
    let office = Office::of(world).await;
    let begins_wait = |commit: &Commit| {
        let mut events = commit.events.iter();
        events.any(|event| String::from_utf8_lossy(&event.body).contains("wait_started"))
    };
    let store = &office.world.store;
    store.fault_when(begins_wait, 1, Fault::FailBefore);
    let notes = Notes::default();
    let instance = office.instance(asks(&notes), quiet()).await;
    office.start(&asking("p")).await;
    office.rest().await;
    office.pass(Duration::from_secs(1)).await;
    office.go("p").await;
    office.work(instance.settled()).await;
    assert_eq!(
        office.told("p").await,
        [
            "process_registered",
            "process_started",
            "wait_started",
            "promise_resolved",
            "wait_ended",
            "process_succeeded"
        ]
    );
    assert_eq!(notes.all().len(), 3, "the failed drive, and two more");
}

/// E14, E9: what another process of the operating system settled is found by looking, as it rings
/// no bell here; while nothing changes, what waits costs nothing.
#[tokio::test]
async fn e14_what_another_process_settled_is_found_by_looking() {
    let fixture = Memory::new();
    let world = World::new(&fixture).await;
    let elsewhere = world.host().processes(ProcessLimits::default()).await;
    let elsewhere = elsewhere.expect("opens");
    let host = world.host_over(ProcessStore::over(Arc::clone(&world.store) as _));
    let office = Office::at(world, host).await;
    let notes = Notes::default();
    let second = Duration::from_secs(1);
    let config = WorkflowConfig {
        housekeeping_interval: second,
        ..WorkflowConfig::default()
    };
    let instance = office.instance(asks(&notes), config).await;
    let waiting = 32;
    for number in 0..waiting {
        office.start(&asking(&format!("p{number}"))).await;
    }
    office.work(instance.settled()).await;
    let signalled = elsewhere.signal(&id("p7"), "go", 1, json!(7), None).await;
    signalled.expect("signals");
    office.rest().await;
    assert_eq!(office.status("p7").await, ProcessStatus::Running);
    office.pass(second).await;
    assert_eq!(office.status("p7").await, ProcessStatus::Succeeded);
    // It looks at what it wrote itself, then rests.
    office.pass(second).await;
    let reads = office.world.store.reads();
    office.pass(second).await;
    let reads = office.world.store.reads() - reads;
    assert!((1..waiting).contains(&reads), "{reads}");
    assert_eq!(notes.all().len(), waiting + 1);
}

/// E16: what ended long ago is retired, and not before.
#[tokio::test]
async fn e16_what_ended_long_ago_is_retired() {
    let fixture = Memory::new();
    let office = Office::new(&fixture).await;
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let config = WorkflowConfig {
        retire_after: Some(minutes(60)),
        housekeeping_interval: minutes(20),
        ..WorkflowConfig::default()
    };
    let instance = office.instance(asks(&Notes::default()), config).await;
    office.start(&asking("p")).await;
    office.go("p").await;
    office.work(instance.settled()).await;
    for _ in 0..2 {
        office.pass(minutes(20)).await;
        assert_eq!(office.status("p").await, ProcessStatus::Succeeded);
    }
    office.pass(minutes(20)).await;
    let gone = office.processes.get(&id("p")).await;
    assert_eq!(gone.expect_err("is retired").code(), "process_not_found");
}

/// E15: a failure of what is done now and then is reported once, however long it lasts; another one
/// is reported too.
#[tokio::test]
async fn e15_a_failure_that_lasts_is_reported_once() {
    let fixture = Memory::new();
    let office = Office::new(&fixture).await;
    let second = Duration::from_secs(1);
    let config = WorkflowConfig {
        housekeeping_interval: second,
        ..WorkflowConfig::default()
    };
    let instance = office.instance(Functions::default(), config).await;
    office.rest().await;
    office.world.store.fail_reads(usize::MAX);
    for _ in 0..3 {
        office.pass(second).await;
    }
    office.world.store.fail_reads(0);
    office.world.store.crash();
    for _ in 0..3 {
        office.pass(second).await;
    }
    let report = office.work(instance.close()).await;
    let is_crash = |failure: &WireError| failure.message.contains("crashed");
    let reported = report.failures.iter().map(is_crash);
    assert_eq!(reported.collect::<Vec<_>>(), [false, true]);
}

/// E15: of many failures the newest are kept, the newest last.
#[tokio::test]
async fn e15_the_newest_failures_are_kept() {
    let fixture = Memory::new();
    let office = Office::new(&fixture).await;
    office.start(&asking("p")).await;
    let config = WorkflowConfig {
        failures_max: 0,
        resume: false,
        ..quiet()
    };
    let notes = Notes::default();
    let instance = office.instance(asks(&notes), config).await;
    let fails = async |reads| {
        office.world.store.fail_reads(reads);
        instance.heard(&id("p"));
        office.rest().await;
    };
    for _ in 0..70 {
        fails(1).await;
    }
    assert_eq!(notes.all(), [""; 0]);
    office.world.store.crash();
    fails(0).await;
    let report = office.work(instance.close()).await;
    assert_eq!(report.failures.len(), 64);
    let newest = |failure: &WireError| failure.message.contains("crashed");
    assert_eq!(report.failures.iter().position(newest), Some(63));
}
