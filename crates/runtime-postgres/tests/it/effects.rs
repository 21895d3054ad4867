//! The laws of effects, promises (E1–E14) and processes (E15) on PostgreSQL: between two processes
//! the store is closed and opened again.

use runtime_testkit::effect_laws::{
    TokenFault, a_long_effect_under_a_short_lease, broken_stores, replay_of_damaged_journals, run,
    tampered_tokens,
};
use runtime_testkit::process_laws::killed_at_every_commit;

use crate::support::{Database, or_skip};

runtime_testkit::effect_laws!(or_skip!(Database::new()));

mod processes {
    use super::*;

    runtime_testkit::process_laws!(or_skip!(Database::new()));
}

/// R17: a damaged journal gives a typed error and never an execution.
#[test]
fn r17_a_damaged_journal_never_runs_anything() {
    let fixture = or_skip!(Database::new());
    let tally = run(|| replay_of_damaged_journals(&fixture, false));
    println!("R17-postgres {tally}");
    assert!(tally.cases() >= 30, "{} cases", tally.cases());
    assert!(tally.failures().is_empty(), "{:#?}", tally.failures());
}

/// X1: no tampered, foreign, expired or revoked token is accepted, after 5,000 further revocations,
/// a rotation and another connection too.
#[test]
fn x1_no_tampered_token_is_accepted() {
    let fixture = or_skip!(Database::new());
    let tally = run(|| tampered_tokens(&fixture, None));
    println!("X1-postgres {tally}");
    assert!(tally.cases() >= 20_000, "{} cases", tally.cases());
    assert!(tally.failures().is_empty(), "{:#?}", tally.failures());
}

/// X1, planted: a revocation that wears off.
#[test]
fn x1_a_revocation_that_wears_off_is_found() {
    let fixture = or_skip!(Database::new());
    let fault = Some(TokenFault::RevocationWearsOff);
    let tally = run(|| tampered_tokens(&fixture, fault));
    assert!(!tally.failures().is_empty());
}

/// R18: each store that breaks what effects rely on breaks a law of effects.
#[test]
fn r18_every_store_that_effects_cannot_rely_on_is_caught() {
    drop(or_skip!(Database::new()));
    let tally = broken_stores(|| Database::new().expect("a server"));
    println!("R18-effects-postgres {tally}");
    assert!(tally.failures().is_empty(), "{:#?}", tally.failures());
}

/// E5, planted: without renewal a 60-second effect under a 3-second lease runs twice.
#[test]
fn e5_a_long_effect_without_renewal_runs_twice() {
    let fixture = or_skip!(Database::new());
    let runs = run(|| a_long_effect_under_a_short_lease(&fixture, false));
    assert_eq!(runs, 2);
}

/// R4, E15: a workflow that is killed at any of its commits ends as it would have.
#[test]
fn r4_a_workflow_killed_at_every_commit_ends_as_it_would_have() {
    let fixture = or_skip!(Database::new());
    let tally = run(|| killed_at_every_commit(&fixture, None));
    println!("R4-workflow-postgres {tally}");
    assert!(tally.cases() >= 80, "{} cases", tally.cases());
    assert!(tally.failures().is_empty(), "{:#?}", tally.failures());
}
