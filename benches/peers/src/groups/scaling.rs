//! The same operations with more and more history behind them: what an operation costs must not
//! grow.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use runtime::core::Tier;
use runtime::fs_store::FsStore;
use runtime::store::{Page, Position, Store as _};

use super::open::fill_ours;
use crate::rounds;
use harness::{Outcome, Plan, Table, repeat};

const PAGE: usize = 100;
const WRITERS: usize = 64;
/// Ids of writers that no filling has used, each round its own.
const FRESH: u64 = 1_000_000;

struct History {
    name: String,
    store: Arc<FsStore>,
    events: u64,
    rounds: Cell<u64>,
    _directory: tempfile::TempDir,
}

pub(super) async fn tables(plan: Plan) -> Outcome<Vec<Table>> {
    let sizes: &[u64] = match plan.is_quick {
        true => &[1_000, 10_000],
        false => &[10_000, 1_000_000, 10_000_000],
    };
    let mut histories = Vec::new();
    for events in sizes {
        let directory = harness::scratch()?;
        let store = own::open(directory.path(), Tier::Power)?;
        fill_ours(&store, *events).await?;
        histories.push(Rc::new(History {
            name: format!("after {events} events"),
            store,
            events: *events,
            rounds: Cell::new(0),
            _directory: directory,
        }));
    }
    Ok(vec![appends(&histories), pages(&histories)])
}

/// The longest history does almost as well as the shortest.
fn with_target(table: Table, histories: &[Rc<History>]) -> Table {
    let [first, .., last] = histories else {
        return table;
    };
    table.target(&last.name, 0.75, &first.name)
}

fn appends(histories: &[Rc<History>]) -> Table {
    let mut table = Table::new(format!("append, {WRITERS} writers, by history"));
    for history in histories {
        let shared = Rc::clone(history);
        table = table.contender(&*history.name, move |plan, _| {
            let history = Rc::clone(&shared);
            async move {
                let round = history.rounds.replace(history.rounds.get() + 1);
                let first = FRESH + round * WRITERS as u64;
                rounds::append(plan, Arc::clone(&history.store), first, WRITERS).await
            }
        });
    }
    with_target(table, histories)
}

fn pages(histories: &[Rc<History>]) -> Table {
    let mut table = Table::new(format!("a page of {PAGE} anywhere, by history"));
    for history in histories {
        let shared = Rc::clone(history);
        table = table.contender(&*history.name, move |plan, _| {
            let history = Rc::clone(&shared);
            async move {
                let mut place = 0;
                let act = async || {
                    place = (place + 7_919) % (history.events - PAGE as u64);
                    let page = Page::after(Position(place), PAGE);
                    let page = history.store.events(None, page).await?;
                    assert_eq!(page.events.len(), PAGE);
                    Ok(())
                };
                repeat(plan, 50, 1, act).await
            }
        });
    }
    with_target(table, histories)
}
