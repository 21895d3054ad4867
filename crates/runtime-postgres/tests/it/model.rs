//! R12: the store beside a naive model of it.

use std::time::Instant;

use crate::support::{Database, or_skip};

/// How many sequences; more by `AGENT_RUNTIME_POSTGRES_SEQUENCES`.
fn sequences() -> u32 {
    let named = std::env::var("AGENT_RUNTIME_POSTGRES_SEQUENCES").ok();
    named.map_or(100, |number| number.parse().expect("a number of sequences"))
}

/// R12: random sequences of commits, repetitions, reads and reopenings are answered as the model
/// answers them, which memory and files are held to as well.
#[test]
fn r12_the_store_answers_as_the_model() {
    drop(or_skip!(Database::small()));
    let started = Instant::now();
    runtime_testkit::check_against_model(sequences(), 12, || Database::small().expect("a server"));
    println!(
        "R12-postgres {} 0 {:.1}",
        sequences(),
        started.elapsed().as_secs_f64()
    );
}
