//! Rows of the scoreboard over the store in memory, each with a twin that has a fault planted.

use runtime_testkit::effect_laws::{
    TokenFault, a_long_effect_under_a_short_lease, broken_stores, replay_of_damaged_journals, run,
    tampered_tokens, zombies,
};
use runtime_testkit::process_laws::{WorkflowFault, killed_at_every_commit};

use crate::laws::Memory;

/// R17: a damaged journal gives a typed error and never an execution.
#[test]
fn r17_a_damaged_journal_never_runs_anything() {
    let fixture = Memory::new();
    let tally = run(|| replay_of_damaged_journals(&fixture, false));
    println!("R17-memory {tally}");
    assert!(tally.cases() >= 30, "{} cases", tally.cases());
    assert!(tally.failures().is_empty(), "{:#?}", tally.failures());
}

/// R17, planted: a record that cannot be read is taken for none.
#[test]
fn r17_a_journal_that_drops_damaged_records_is_found() {
    let fixture = Memory::new();
    let tally = run(|| replay_of_damaged_journals(&fixture, true));
    assert_eq!(tally.failures().len(), tally.cases(), "each is missed");
}

/// X1: no tampered, foreign, expired or revoked token is accepted.
#[test]
fn x1_no_tampered_token_is_accepted() {
    let fixture = Memory::new();
    let tally = run(|| tampered_tokens(&fixture, None));
    println!("X1-memory {tally}");
    assert!(tally.cases() >= 20_000, "{} cases", tally.cases());
    assert!(tally.failures().is_empty(), "{:#?}", tally.failures());
}

/// X1, planted: a signature that is not read to its end, a revocation that wears off.
#[test]
fn x1_each_planted_fault_is_found() {
    for fault in [TokenFault::ShortSignature, TokenFault::RevocationWearsOff] {
        let fixture = Memory::new();
        let tally = run(|| tampered_tokens(&fixture, Some(fault)));
        assert!(!tally.failures().is_empty(), "{fault:?}");
    }
}

/// R9: no stale owner writes anything, wherever it stood still.
#[test]
fn r9_every_zombie_is_fenced() {
    let fixture = Memory::new();
    let tally = run(|| zombies(&fixture, 200, true));
    println!("R9-simulated {tally}");
    assert!(tally.cases() >= 200, "{} cases", tally.cases());
    assert!(tally.failures().is_empty(), "{:#?}", tally.failures());
}

/// R9, planted: commits that name no epoch.
#[test]
fn r9_zombies_without_a_fence_are_found() {
    let fixture = Memory::new();
    let tally = run(|| zombies(&fixture, 30, false));
    assert!(tally.failures().len() >= 10, "{:#?}", tally.failures());
}

/// E5, planted: without renewal a 60-second effect under a 3-second lease runs twice.
#[test]
fn e5_a_long_effect_without_renewal_runs_twice() {
    let fixture = Memory::new();
    let runs = run(|| a_long_effect_under_a_short_lease(&fixture, false));
    assert_eq!(runs, 2);
}

/// R4, E15: a workflow that is killed at any of its commits ends as it would have.
#[test]
fn r4_a_workflow_killed_at_every_commit_ends_as_it_would_have() {
    let fixture = Memory::new();
    let tally = run(|| killed_at_every_commit(&fixture, None));
    println!("R4-workflow-memory {tally}");
    assert!(tally.cases() >= 80, "{} cases", tally.cases());
    assert!(tally.failures().is_empty(), "{:#?}", tally.failures());
}

/// R4, planted: a store that forgets what was recorded of effects.
#[test]
fn r4_a_workflow_whose_effects_are_forgotten_is_found() {
    let fixture = Memory::new();
    let planted = Some(WorkflowFault::ForgetsEffects);
    let tally = run(|| killed_at_every_commit(&fixture, planted));
    assert!(tally.failures().len() * 2 > tally.cases(), "{tally}");
}

/// R18: each store that breaks what effects rely on breaks a law of effects.
#[test]
fn r18_every_store_that_effects_cannot_rely_on_is_caught() {
    let tally = broken_stores(Memory::new);
    println!("R18-effects-memory {tally}");
    assert!(tally.failures().is_empty(), "{:#?}", tally.failures());
}
