//! A durable effect with an outcome of 200 bytes of JSON. One that may be repeated costs one
//! durable write, any other two: before it runs, and after.

use std::sync::Arc;

use runtime::core::Tier;
use runtime::store::Store as _;

use super::duroxide_steps;
use crate::engines::{self, Kind};
use crate::rounds;
use harness::Table;

const OURS: &str = "this runtime, Power, 1 write";
const DUROXIDE: &str = "duroxide 0.1 (SQLite, flushes 1 of 60)";

pub(super) fn tables() -> Vec<Table> {
    // The share of the floor that is to be reached, and how many times duroxide.
    vec![
        table("step, one after another", 1, 0.6, None),
        table("step, 16 turns at once", 16, 0.55, None),
        table("step, 64 turns at once", 64, 0.45, Some(500.0)),
    ]
}

fn table(name: &str, turns: usize, of_floor: f64, of_duroxide: Option<f64>) -> Table {
    let mut table = Table::new(name);
    for kind in [Kind::Floor, Kind::SqliteSteps] {
        table = table.contender(kind.name(), move |plan, directory| async move {
            engines::run(plan, &directory, turns, kind).await
        });
    }
    table = table.contender(DUROXIDE, move |plan, directory| async move {
        duroxide_steps::run(plan, &directory, turns).await
    });
    for (name, tier, retry_safe) in [
        (OURS, Tier::Power, true),
        ("this runtime, Power, 2 writes", Tier::Power, false),
        ("this runtime, Crash, 1 write", Tier::Crash, true),
    ] {
        table = table.contender(name, move |plan, directory| async move {
            let store = own::open(&directory, tier)?;
            let shared = Arc::clone(&store) as _;
            let written = || rounds::written(&store);
            let figures = rounds::steps(plan, shared, turns, retry_safe, written).await?;
            store.close().await?;
            Ok(figures)
        });
    }
    table = table.target(OURS, of_floor, Kind::Floor.name());
    match of_duroxide {
        Some(factor) => table.target(OURS, factor, DUROXIDE),
        None => table,
    }
}
