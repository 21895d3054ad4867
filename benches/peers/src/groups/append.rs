//! Commits of guard, row and event of 300 bytes; each engine stores the same two records in one
//! transaction with one sync for all that waits.

use runtime::core::Tier;
use runtime::store::Store as _;

use crate::engines::{self, Kind};
use crate::rounds;
use harness::Table;

const OURS: &str = "this store, Power";

pub(super) fn tables() -> Vec<Table> {
    [1, 16, 64, 256].map(table).into()
}

fn table(writers: usize) -> Table {
    let mut table = Table::new(format!("append, {writers} writers"));
    for kind in [
        Kind::Floor,
        Kind::Fjall,
        Kind::Sqlite,
        Kind::Redb,
        Kind::Rewrite,
    ] {
        table = table.contender(kind.name(), move |plan, directory| async move {
            engines::run(plan, &directory, writers, kind).await
        });
    }
    for (name, tier) in [(OURS, Tier::Power), ("this store, Crash", Tier::Crash)] {
        table = table.contender(name, move |plan, directory| async move {
            let store = own::open(&directory, tier)?;
            let figures = rounds::append(plan, store.clone(), 0, writers).await?;
            store.close().await?;
            Ok(figures)
        });
    }
    match writers {
        64 => table
            .target(OURS, 1.5, Kind::Fjall.name())
            .target(OURS, 2.5, Kind::Sqlite.name())
            .target(OURS, 300.0, Kind::Rewrite.name()),
        _ => table,
    }
}
