//! The laws of processes (E15, E16) on files, and their row of the scoreboard.

use runtime_testkit::effect_laws::run;
use runtime_testkit::process_laws::{WorkflowFault, killed_at_every_commit};

use crate::effects::Files;

runtime_testkit::process_laws!(Files::new());

/// R4, E15: a workflow that is killed at any of its commits ends as it would have.
#[test]
fn r4_a_workflow_killed_at_every_commit_ends_as_it_would_have() {
    let fixture = Files::new();
    let tally = run(|| killed_at_every_commit(&fixture, None));
    println!("R4-workflow-files {tally}");
    assert!(tally.cases() >= 80, "{} cases", tally.cases());
    assert!(tally.failures().is_empty(), "{:#?}", tally.failures());
}

/// R4, planted: a store that forgets what was recorded of effects.
#[test]
fn r4_a_workflow_whose_effects_are_forgotten_is_found() {
    let fixture = Files::new();
    let planted = Some(WorkflowFault::ForgetsEffects);
    let tally = run(|| killed_at_every_commit(&fixture, planted));
    assert!(tally.failures().len() * 2 > tally.cases(), "{tally}");
}
