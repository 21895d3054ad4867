//! Batches: claims, fences, cancellation, and what a later owner finds (E1, E5, E7).

use super::*;
use crate::Interrupt;

/// Two drivers of one opening ask for the same batch at once: each effect runs once, and whoever
/// comes second is told so, or reads what the first has recorded.
fn asked_twice(
    hosts: impl Fn(&Table, &ModelClock) -> [StoreEffectHost; 2] + Send + Sync + 'static,
) {
    check(move || {
        let (table, clock) = (Table::new(), ModelClock::default());
        let epoch = future::block_on(next_epoch(&table, 1));
        let runs: [Runs; 2] = Default::default();
        let drivers = hosts(&table, &clock).map(|host| {
            let runs = runs.clone();
            spawn(move || future::block_on(drive(&host, opening(epoch), &runs)))
        });
        let driven = drivers.map(joined);
        assert_eq!([runs[0].count(), runs[1].count()], [1, 1], "ran once each");
        for (index, expected) in [(0, value(1)), (1, value(2))] {
            let answers = driven.iter().map(|results| &results[index]);
            let right = answers
                .clone()
                .filter(|answer| **answer == Ok(expected.clone()));
            assert!(right.count() >= 1, "{driven:?}");
            for answer in answers {
                let told = matches!(answer, Err(Interrupt::Terminal(error)) if error.code == "effect_duplicate");
                assert!(told || *answer == Ok(expected.clone()), "{answer:?}");
            }
        }
        assert_eq!(future::block_on(ended(&table)), 2);
    });
}

#[test]
fn r10_a_batch_that_is_asked_for_twice_runs_once() {
    asked_twice(|table, clock| {
        let host = host_over(table, clock);
        [host.clone(), host]
    });
}

/// The twin that must fail: two hosts in one epoch, so that neither sees the other's claims.
#[test]
#[should_panic(expected = "ran once each")]
fn r10_planted_claims_that_are_not_shared_run_a_batch_twice() {
    asked_twice(|table, clock| [host_over(table, clock), host_over(table, clock)]);
}

/// A later owner takes the scope over while the earlier drives the batch: what must not run twice
/// does not, and each outcome is recorded once.
fn taken_over(left_out: LeftOut) {
    check(move || {
        let (table, clock) = (Table::leaving_out(left_out), ModelClock::default());
        let runs: [Runs; 2] = Default::default();
        let epoch = future::block_on(next_epoch(&table, 1));
        let earlier = {
            let (host, runs) = (host_over(&table, &clock), runs.clone());
            spawn(move || future::block_on(drive(&host, opening(epoch), &runs)))
        };
        let later = {
            let (table, clock, runs) = (table.clone(), clock.clone(), runs.clone());
            spawn(move || {
                future::block_on(async {
                    let host = host_over(&table, &clock);
                    choice().await;
                    let epoch = next_epoch(&table, 2).await;
                    drive(&host, opening(epoch), &runs).await
                })
            })
        };
        let (earlier, later) = (joined(earlier), joined(later));
        assert!(runs[0].count() <= 1, "ran twice: {earlier:?} {later:?}");
        // What the later owner is not told as done is in doubt, and so recorded.
        let answered = match &later[0] {
            Ok(outcome) => *outcome == value(1),
            Err(Interrupt::InDoubt { .. }) => true,
            Err(_) => false,
        };
        let answered = answered && later[1] == Ok(value(2));
        assert!(answered, "the later owner is refused: {later:?}");
        for result in &earlier {
            let fits = match result {
                Ok(_) | Err(Interrupt::Fenced) => true,
                // It read what the later owner had recorded already.
                Err(Interrupt::InDoubt { .. }) => true,
                Err(_) => false,
            };
            assert!(fits, "{earlier:?}");
        }
        let finished = future::block_on(table.told(&EventKind::EffectFinished));
        assert_eq!(finished, future::block_on(ended(&table)), "told once each");
    });
}

#[test]
fn r10_a_batch_that_is_taken_over_runs_nothing_twice() {
    taken_over(LeftOut::Nothing);
}

/// The twin that must fail: commits without their fence.
#[test]
#[should_panic(expected = "the later owner is refused")]
fn r10_planted_commits_without_a_fence_stand_in_the_later_owners_way() {
    taken_over(LeftOut::Owner);
}

/// A batch is cancelled while it runs: what the driver is told is what is recorded, and a later
/// drive runs nothing that must not run twice.
#[test]
fn r10_a_cancelled_batch_tells_what_is_recorded() {
    check(|| {
        let (table, clock) = (Table::new(), ModelClock::default());
        let host = host_over(&table, &clock);
        let runs: [Runs; 2] = Default::default();
        let epoch = future::block_on(next_epoch(&table, 1));
        let driver = {
            let (host, runs) = (host.clone(), runs.clone());
            spawn(move || future::block_on(drive(&host, opening(epoch), &runs)))
        };
        let canceller = {
            let host = host.clone();
            spawn(move || host.cancel_scope(&scope().scope_id()))
        };
        let (driven, _) = (joined(driver), joined(canceller));
        let recorded = future::block_on(table.effects(&scope()));
        let state = |key: &str| {
            let of_key = recorded.iter().find(|row| row.identity()["key"] == key);
            of_key.map(|row| row.row.state.clone())
        };
        let once = state("step.durable_step.0.once");
        match &driven[0] {
            Ok(_) => assert_eq!(once, Some(EffectState::Done)),
            Err(Interrupt::InDoubt { .. }) => assert_eq!(once, Some(EffectState::InDoubt)),
            Err(Interrupt::Cancelled) => assert_eq!(once, None, "{driven:?}"),
            other => panic!("{other:?}"),
        }
        let often = state("step.durable_step.0.often");
        match &driven[1] {
            Ok(_) => assert_eq!(often, Some(EffectState::Done)),
            Err(Interrupt::Cancelled) => assert_eq!(often, None, "{driven:?}"),
            other => panic!("{other:?}"),
        }
        let ran = runs[0].count();
        let again = future::block_on(async {
            let epoch = next_epoch(&table, 2).await;
            drive(&host_over(&table, &clock), opening(epoch), &runs).await
        });
        assert!(runs[0].count() == ran || once.is_none(), "{again:?}");
        assert!(runs[0].count() <= 1 && again[1] == Ok(value(2)));
    });
}

/// All intents of a batch are durable, in one commit, before any of its bodies runs.
#[test]
fn r10_no_body_of_a_batch_runs_before_the_intents_are_durable() {
    check(|| {
        let (table, clock) = (Table::new(), ModelClock::default());
        let epoch = future::block_on(next_epoch(&table, 1));
        let driver = {
            let (host, table) = (host_over(&table, &clock), table.clone());
            spawn(move || {
                future::block_on(async {
                    let controller = host.scoped(opening(epoch)).expect("opens");
                    let early = Runs::default();
                    let item = |name: &str| {
                        let (table, early) = (table.clone(), early.clone());
                        let executor = LocalExecutor::new(EffectKind::DurableStep, move |_| {
                            let (table, early) = (table.clone(), early.clone());
                            async move {
                                if table.effects(&scope()).await.len() < 2 {
                                    early.0.fetch_add(1, Ordering::SeqCst);
                                }
                                Ok(EffectOutput::DurableStep { value: 1.into() })
                            }
                        });
                        (step(name), executor)
                    };
                    let items = vec![item("a"), item("b")];
                    let driven = controller.execute_batch(items).await;
                    (driven, early.count())
                })
            })
        };
        // Somebody who reads meanwhile sees none of the intents, or both.
        let reader = {
            let table = table.clone();
            spawn(move || {
                future::block_on(async {
                    for _ in 0..4 {
                        let seen = table.effects(&scope()).await.len();
                        assert!(seen == 0 || seen == 2, "half of the intents");
                        choice().await;
                    }
                });
            })
        };
        let ((driven, early), ()) = (joined(driver), joined(reader));
        assert_eq!((driven, early), (vec![Ok(value(1)), Ok(value(1))], 0));
    });
}
