//! How many turns run at once in the whole runtime, whichever instance drives them.
//!
//! A place is a row. A turn takes one in the commit that starts or resumes it, and gives it back in
//! the commit that parks or ends it, so no crash loses a place or gives it twice: who takes a turn
//! over takes its place with it. Without a limit there are no such rows.

use std::collections::HashSet;

use runtime_store::{Commit, Guard, Page, RowChange, RowKey, RowQuery};
use tokio::sync::{Semaphore, watch};

use crate::RuntimeError;
use crate::entity::runtime_scope;
use crate::instance::Instance;
use crate::turn::TurnRecord;

/// What a turn takes to run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    /// Any number of turns may run, or it has its place already.
    Needless,
    /// A place that was free when it was looked at.
    Free(u32),
}

/// Where the turns of this instance wait for a place.
#[derive(Debug)]
pub(crate) struct PlaceLine {
    /// One permit, given in order: whoever has it looks, so that a place that becomes free is
    /// looked for once in each instance.
    pub(crate) head: Semaphore,
    given_back: watch::Sender<()>,
}

impl Default for PlaceLine {
    fn default() -> Self {
        Self {
            head: Semaphore::new(1),
            given_back: watch::Sender::new(()),
        }
    }
}

impl PlaceLine {
    /// A signal of the places that become free from now on.
    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.given_back.subscribe()
    }

    /// Lets whoever waits look again; the other instances hear the event of the commit that gave a
    /// place back.
    pub(crate) fn look_again(&self) {
        self.given_back.send_replace(());
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.head.available_permits() > 0
    }
}

impl Instance {
    /// Finds a place for a turn that is to run; none while all are taken. It costs one read of the
    /// places, and nothing where there is no limit.
    pub(crate) async fn free_place(&self) -> Result<Option<Place>, RuntimeError> {
        let Some(places) = self.limits().turns_running_max else {
            return Ok(Some(Place::Needless));
        };
        let mut taken: HashSet<String> = HashSet::new();
        let mut after = None;
        loop {
            let page = Page::after(after, self.store.capabilities().limits.page_entries_max);
            let page = self.store.rows(RowQuery::space(PLACE_SPACE), page).await?;
            taken.extend(page.rows.iter().map(|row| row.key.name.to_string()));
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        // From anywhere, so that those who look at the same time seldom want the same one.
        let [a, b, c, d, ..] = self.random.ten();
        let from = u32::from_be_bytes([a, b, c, d]) % places;
        let free = (from..places)
            .chain(0..from)
            .find(|place| !taken.contains(&place_name(*place)));
        Ok(free.map(Place::Free))
    }
}

impl Place {
    /// Adds to a commit that lets a turn run what takes the place; the record names it.
    pub(crate) fn taken_by(self, commit: Commit, turn: &mut TurnRecord) -> Commit {
        let Self::Free(place) = self else {
            return commit;
        };
        turn.place = Some(place);
        let key = place_key(place);
        commit
            .guard(Guard::Absent(key.clone()))
            .row(RowChange::put(key, Vec::new()))
    }
}

impl TurnRecord {
    /// Adds to a commit after which the turn does not run what gives its place back.
    pub(crate) fn gives_place_back(&mut self, commit: Commit) -> Commit {
        match self.place.take() {
            Some(place) => commit.row(RowChange::Delete(place_key(place))),
            None => commit,
        }
    }
}

fn place_key(place: u32) -> RowKey {
    RowKey::new(PLACE_SPACE, runtime_scope(), place_name(place))
}

fn place_name(place: u32) -> String {
    format!("{place:010}")
}

/// The space of the places that are taken.
const PLACE_SPACE: &str = "place";
