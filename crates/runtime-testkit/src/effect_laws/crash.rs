//! Crashes at every commit of a batch (E7, R4): what was journaled is never executed again, what
//! must not run twice is reported in doubt.

use runtime_core::{EffectEnvelope, EffectOutcome, ErrorClass, ExecutionScope};
use runtime_effects::{Applied, Interrupt, LocalExecutor};

use super::world::{Runs, World, failure, patient, result, tool_call, turn};
use crate::Fault;
use crate::store_laws::StoreFixture;

/// The effects of the batch: whether each may run again.
const BATCHES: [[bool; 2]; 4] = [[true, true], [true, false], [false, true], [false, false]];

/// What became of one batch of two after a crash and a second drive.
struct Case {
    results: Vec<Result<EffectOutcome, Interrupt>>,
    runs: [Runs; 2],
    crashed: bool,
}

fn items<'run>(
    scope: &ExecutionScope,
    safe: [bool; 2],
    runs: &[Runs; 2],
) -> Vec<(EffectEnvelope, LocalExecutor<'run>)> {
    let item = |(ordinal, safe, runs): (u32, bool, &Runs)| {
        let envelope = tool_call(scope, ordinal, "write").retry_safe(safe);
        (envelope, runs.succeeds("done"))
    };
    vec![item((0, safe[0], &runs[0])), item((1, safe[1], &runs[1]))]
}

/// An executor that is busy once.
fn busy_once<'run>(runs: &Runs) -> LocalExecutor<'run> {
    runs.answers(|run| match run {
        1 => Err(failure(ErrorClass::Busy, Applied::No)),
        _ => Ok(result("done")),
    })
}

/// Runs a batch with a fault at one of its commits, then again as the next process.
async fn crash_and_drive(
    world: &mut World<'_>,
    safe: [bool; 2],
    scope: &ExecutionScope,
    number: usize,
    fault: Fault,
) -> Case {
    let runs = [Runs::default(), Runs::default()];
    let host = world.host();
    let controller = world.open(&host, scope).await;
    let faults = &world.store;
    faults.fault_at(faults.commits() + number, fault);
    world
        .drive(controller.execute_batch(items(scope, safe, &runs)))
        .await;
    let crashed = faults.is_crashed();
    drop(controller);

    world.restart().await;
    let host = world.host();
    let controller = world.open(&host, scope).await;
    let results = world
        .drive(controller.execute_batch(items(scope, safe, &runs)))
        .await;
    drop(controller);
    Case {
        results,
        runs,
        crashed,
    }
}

/// R4: a crash at any commit of a batch.
pub async fn r4_a_crash_at_any_commit_of_a_batch(fixture: &dyn StoreFixture) {
    let mut world = World::new(fixture).await;
    let done = Ok(EffectOutcome::Completed(result("done")));
    let mut crashes = 0;
    for (batch, safe) in BATCHES.into_iter().enumerate() {
        let intents = usize::from(safe.contains(&false));
        for number in 1..=intents + 2 {
            for fault in [Fault::CrashBefore, Fault::CrashAfter] {
                let scope = turn("desk", &format!("{batch}-{number}-{fault:?}"));
                let case = crash_and_drive(&mut world, safe, &scope, number, fault).await;
                assert!(case.crashed, "{safe:?} {number} {fault:?}");
                crashes += 1;
                for (index, (result, runs)) in case.results.iter().zip(&case.runs).enumerate() {
                    let at = format!("{safe:?} commit {number} {fault:?} effect {index}");
                    if safe[index] {
                        assert_eq!(result, &done, "{at}");
                        assert!((1..=2).contains(&runs.count()), "{at}");
                    } else {
                        assert!(runs.count() <= 1, "{at}: ran twice");
                        let doubt = matches!(result, Err(Interrupt::InDoubt { .. }));
                        assert!(doubt || result == &done, "{at}: {result:?}");
                    }
                }
                assert_exact(&case, safe, number, fault);
            }
        }
    }
    assert_eq!(crashes, (2 + 3 + 3 + 3) * 2);
}

/// The hand-ruled part of the table: both executors end at once, so the outcomes are committed
/// in the order of the batch.
fn assert_exact(case: &Case, safe: [bool; 2], number: usize, fault: Fault) {
    let at = format!("{safe:?} commit {number} {fault:?}");
    let counts = [case.runs[0].count(), case.runs[1].count()];
    let doubts = case.results.iter().map(|result| result.is_err());
    let doubts: Vec<bool> = doubts.collect();
    let intent_lost = fault == Fault::CrashBefore && number == 1 && safe.contains(&false);
    if intent_lost {
        // What had no intent did not run, so it runs now; what may repeat may have run twice.
        assert_eq!(doubts, [false, false], "{at}");
        for index in 0..2 {
            let expected = if safe[index] { 2 } else { 1 };
            assert!(counts[index] <= expected, "{at}");
        }
    }
    // An outcome that was committed is never run again.
    let outcomes_begin = 1 + usize::from(safe.contains(&false));
    if number == outcomes_begin + 1 && fault == Fault::CrashAfter {
        assert_eq!((counts, doubts), ([1, 1], vec![false, false]), "{at}");
    }
    // The outcome of one of two that must not run twice was lost: exactly that one is in doubt.
    if safe == [false, false] && number == 3 && fault == Fault::CrashBefore {
        let doubtful = case.results.iter().filter(|result| result.is_err()).count();
        assert_eq!((doubtful, counts), (1, [1, 1]), "{at}");
    }
}

/// R4: a crash at any commit of an attempt that failed.
pub async fn r4_a_crash_at_any_commit_of_an_attempt_that_failed(fixture: &dyn StoreFixture) {
    let mut world = World::new(fixture).await;
    // intent, attempt failed, intent, outcome
    for number in 1..=4 {
        for fault in [Fault::CrashBefore, Fault::CrashAfter] {
            let scope = turn("desk", &format!("{number}-{fault:?}"));
            let runs = Runs::default();
            let envelope = || tool_call(&scope, 0, "write").with_policy(patient(5));
            let host = world.host();
            let controller = world.open(&host, &scope).await;
            let faults = &world.store;
            faults.fault_at(faults.commits() + number, fault);
            let crashed = controller.execute_effect(envelope(), busy_once(&runs));
            world.drive(crashed).await.expect_err("the process died");
            drop(controller);
            world.restart().await;
            let host = world.host();
            let controller = world.open(&host, &scope).await;
            let result = controller.execute_effect(envelope(), busy_once(&runs));
            let result = world.drive(result).await;
            let at = format!(
                "commit {number} {fault:?}: {result:?}, {} runs",
                runs.count()
            );
            // In flight, or with a lost outcome: in doubt. All other points go on.
            let in_flight = matches!(
                (number, fault),
                (1 | 3, Fault::CrashAfter) | (2 | 4, Fault::CrashBefore)
            );
            assert_eq!(
                matches!(result, Err(Interrupt::InDoubt { .. })),
                in_flight,
                "{at}"
            );
            assert_eq!(result.is_ok(), !in_flight, "{at}");
            assert!(runs.count() <= 2, "{at}");
        }
    }
}

/// R4: a lost answer at any commit changes nothing.
pub async fn r4_a_lost_answer_at_any_commit_changes_nothing(fixture: &dyn StoreFixture) {
    let mut world = World::new(fixture).await;
    for (batch, safe) in BATCHES.into_iter().enumerate() {
        for number in 1..=3 {
            let scope = turn("desk", &format!("{batch}-{number}"));
            let fault = Fault::LoseResponse;
            let case = crash_and_drive(&mut world, safe, &scope, number, fault).await;
            let counts = [case.runs[0].count(), case.runs[1].count()];
            assert!(case.results.iter().all(Result::is_ok), "{safe:?} {number}");
            assert_eq!(counts, [1, 1], "{safe:?} {number}");
        }
    }
}

/// R4: an unavailable store changes nothing.
pub async fn r4_an_unavailable_store_changes_nothing(fixture: &dyn StoreFixture) {
    let mut world = World::new(fixture).await;
    for (batch, safe) in BATCHES.into_iter().enumerate() {
        for number in 1..=3 {
            let scope = turn("desk", &format!("{batch}-{number}"));
            let fault = Fault::FailBefore;
            let case = crash_and_drive(&mut world, safe, &scope, number, fault).await;
            let counts = [case.runs[0].count(), case.runs[1].count()];
            assert!(case.results.iter().all(Result::is_ok), "{safe:?} {number}");
            assert_eq!(counts, [1, 1], "{safe:?} {number}");
        }
    }
}
