//! SIGKILL at moments that nobody chose (R3, for the demo).

use std::io::Read;
use std::time::Instant;

use crate::command_line::{Home, kinds};
use crate::crash_points::recorded_calls_were_not_repeated;

/// How many kills; each is a run of its own.
const KILLS: usize = 24;

/// Kills the demo after each of many amounts of output, and lets it go on. The amounts walk
/// through the whole turn, its streamed answers included.
#[test]
fn r3_the_demo_goes_on_after_a_kill_at_any_moment() {
    let started = Instant::now();
    let whole = Home::new().run(&["demo", "--yes"]).expect(0).stdout.len();
    let mut failures = 0;
    let mut in_doubt = 0;
    for kill in 0..KILLS {
        let after = 1 + kill * whole / KILLS;
        match std::panic::catch_unwind(|| kill_and_go_on(after)) {
            Ok(doubts) => in_doubt += doubts,
            Err(_) => failures += 1,
        }
    }
    println!(
        "R3-demo {KILLS} {failures} {:.1}",
        started.elapsed().as_secs_f64()
    );
    println!("in doubt and ruled: {in_doubt}");
    assert_eq!(failures, 0);
}

fn kill_and_go_on(after_bytes: usize) -> usize {
    let home = Home::new();
    let mut child = home.spawn(&["demo", "--yes"]);
    let mut output = vec![0; after_bytes];
    // Fewer bytes mean that the demo ended first, which is a case as well.
    let _ = child.stdout.take().expect("piped").read_exact(&mut output);
    child.kill().expect("the child is ours");
    child.wait().expect("the child is ours");

    // A reader without a writer stops where the writer last published, which may be one commit
    // before the last one on disk: so this is what was recorded at least.
    let count = |kind: &str| kinds(&home.events()).iter().filter(|k| **k == kind).count();
    let recorded = count("message_committed");
    let calls = home.model_calls();
    let again = home.run(&["demo", "--yes"]);
    let mut doubts = 0;
    if again.code == Some(3) {
        assert!(home.ledger().len() <= 1);
        doubts = home.rule_truthfully();
        assert_eq!(doubts, 1);
        home.run(&["resume"]).expect(0);
    } else {
        again.expect(0);
    }
    let started = count("turn_started");
    // Two, if the first turn had ended before the kill: then the second demo is a new turn.
    assert!((1..=2).contains(&started), "{started} turns started");
    assert_eq!(count("turn_completed"), started, "every turn ended once");
    assert_eq!(home.ledger().len(), started, "one line for each turn");
    recorded_calls_were_not_repeated(&calls, recorded, &home.model_calls());
    doubts
}
