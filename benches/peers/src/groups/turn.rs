//! A whole turn with two scripted tools, by what it is recorded in.

use std::path::PathBuf;

use own::turn::{Turns, agent};
use runtime::core::Tier;

use crate::ALLOCATOR;
use harness::{Figures, Outcome, Plan, Table, repeat};

pub(super) fn tables() -> Vec<Table> {
    let table = Table::new("a turn with two tools, turns one after another")
        .contender("memory", |plan, _| run(plan, None))
        .contender("files, Power", |plan, directory| {
            run(plan, Some((directory, Tier::Power)))
        })
        .contender("files, Crash", |plan, directory| {
            run(plan, Some((directory, Tier::Crash)))
        });
    vec![table]
}

async fn run(plan: Plan, files: Option<(PathBuf, Tier)>) -> Outcome<Figures> {
    let builder = runtime::builder().agent(agent());
    let builder = match files {
        None => builder.memory(),
        Some((directory, tier)) => builder.store(own::open(&directory, tier)?),
    };
    let runtime = builder.open().await?;
    let mut turns = Turns::of(&runtime).await?;
    let before = ALLOCATOR.stats();
    let mut figures = repeat(plan, 1, 1, async || turns.take().await).await?;
    let after = ALLOCATOR.stats();
    let each = |total: usize| total as f64 / turns.taken() as f64;
    let allocations = after.allocations - before.allocations;
    let bytes = after.bytes_allocated - before.bytes_allocated;
    figures
        .per_operation
        .push(("allocations", each(allocations)));
    figures.per_operation.push(("allocated bytes", each(bytes)));
    runtime.close().await?;
    Ok(figures)
}
