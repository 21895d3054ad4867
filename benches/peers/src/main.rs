//! What this repository claims about speed, as a command: each group runs the alternatives side by
//! side in the same rounds and holds their ratios against targets. Run by `cargo xtask bench`;
//! `docs/performance.md` says how to read it.
//!
//! It is no timed test: nothing of the ordinary checks depends on it.

mod engines;
mod groups;
mod rounds;

use std::alloc::System;
use std::process::ExitCode;

use clap::Parser;
use groups::Group;
use harness::{Outcome, Plan, Ruled};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

/// Counts allocations, for whichever contender runs: all of them pay for it alike.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[derive(Parser)]
struct Arguments {
    /// What to measure; everything if none is named.
    groups: Vec<Group>,
    /// A few short rounds, to see that it runs: no verdict counts.
    #[arg(long)]
    quick: bool,
}

fn main() -> ExitCode {
    // A copy of this program that fills a store until it is killed.
    if let Some(filled) = groups::open::fill_if_asked() {
        return exit(filled.map(|()| true));
    }
    // A contender would install one of its own that prints. There is only one per process, so it
    // cannot be there already.
    let _ = tracing::subscriber::set_global_default(tracing::subscriber::NoSubscriber::new());
    let arguments = Arguments::parse();
    let plan = Plan::new(arguments.quick);
    exit(run(&arguments.groups, plan))
}

fn run(groups: &[Group], plan: Plan) -> Outcome<bool> {
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let mut ruled = Vec::new();
    for group in Group::or_all(groups) {
        let tables = tokio.block_on(group.tables(plan))?;
        ruled.extend(harness::run(group.name(), tables, plan, &tokio)?);
    }
    if !ruled.is_empty() {
        println!("\n{}", harness::summary(&ruled));
    }
    // What a quick run says of targets is by chance.
    Ok(ruled.iter().all(Ruled::is_met) || plan.is_quick)
}

fn exit(done: Outcome<bool>) -> ExitCode {
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("a target is missed, or there is no result");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
