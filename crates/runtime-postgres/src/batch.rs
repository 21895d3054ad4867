//! Which commits may share one call, and what each does to its rows in the end. Pure.

use std::collections::{BTreeMap, HashSet};

use runtime_core::{CommitId, EventId, ScopeId, StreamKey, Timestamp};
use runtime_store::{Commit, Guard, RowChange, RowKey};

/// What the commits of a batch look at and change.
///
/// A commit joins only if it neither looks at what an earlier one changes, nor changes what an
/// earlier one looks at or changes. Whether each happens then depends on the state before the
/// batch alone, so the server judges all of them at once and the order inside the batch shows
/// only in the positions of their events.
#[derive(Debug, Default)]
pub(crate) struct Footprint {
    ids: HashSet<CommitId>,
    events: HashSet<EventId>,
    read: HashSet<RowKey>,
    written: HashSet<RowKey>,
    /// The owners of all rows that are read or written.
    scopes: HashSet<ScopeId>,
    retired: HashSet<ScopeId>,
    appended: HashSet<StreamKey>,
    /// The streams whose end somebody looks at or closes.
    pinned: HashSet<StreamKey>,
    /// A commit of it removes events: nothing else may join.
    removes: bool,
}

impl Footprint {
    /// Adds a commit; false, and nothing added, if it must wait for the batch to be made.
    pub(crate) fn add(&mut self, commit: &Commit) -> bool {
        let one = Self::of(commit);
        if self.meets(&one) {
            return false;
        }
        self.ids.extend(one.ids);
        self.events.extend(one.events);
        self.read.extend(one.read);
        self.written.extend(one.written);
        self.scopes.extend(one.scopes);
        self.retired.extend(one.retired);
        self.appended.extend(one.appended);
        self.pinned.extend(one.pinned);
        self.removes |= one.removes;
        true
    }

    fn of(commit: &Commit) -> Self {
        let mut one = Self {
            removes: !commit.removals.is_empty(),
            ..Self::default()
        };
        one.ids.insert(commit.id);
        if let Some((scope, _)) = &commit.owner {
            one.reads(RowKey::epoch(scope.clone()));
        }
        for guard in &commit.guards {
            match guard {
                Guard::Absent(key) | Guard::Version(key, _) => one.reads(key.clone()),
                Guard::Head(stream, _) => _ = one.pinned.insert(stream.clone()),
                // A guard of another kind is refused by whoever makes the call.
                _ => {}
            }
        }
        for change in &commit.rows {
            match change {
                RowChange::Put { key, .. } | RowChange::Delete(key) => {
                    one.scopes.insert(key.scope.clone());
                    one.written.insert(key.clone());
                }
                RowChange::Retire(scope) => _ = one.retired.insert(scope.clone()),
                _ => {}
            }
        }
        for event in &commit.events {
            one.events.insert(event.id);
            one.appended.extend(event.streams.iter().cloned());
            if event.closes {
                one.pinned.extend(event.streams.first().cloned());
            }
        }
        one
    }

    fn reads(&mut self, key: RowKey) {
        self.scopes.insert(key.scope.clone());
        self.read.insert(key);
    }

    fn meets(&self, one: &Self) -> bool {
        let is_first = self.ids.is_empty();
        ((self.removes || one.removes) && !is_first)
            || !self.ids.is_disjoint(&one.ids)
            || !self.events.is_disjoint(&one.events)
            || !self.written.is_disjoint(&one.read)
            || !self.written.is_disjoint(&one.written)
            || !self.read.is_disjoint(&one.written)
            || !self.retired.is_disjoint(&one.scopes)
            || !self.retired.is_disjoint(&one.retired)
            || !self.scopes.is_disjoint(&one.retired)
            || !self.appended.is_disjoint(&one.pinned)
            || !self.pinned.is_disjoint(&one.appended)
    }
}

/// What a commit does to its rows, whatever the order in which it says so: first whole owners
/// are retired, then rows removed, then rows put.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Net<'commit> {
    pub(crate) retired: Vec<&'commit ScopeId>,
    pub(crate) removed: Vec<&'commit RowKey>,
    pub(crate) put: Vec<Put<'commit>>,
}

/// A row as a commit leaves it.
#[derive(Debug, PartialEq)]
pub(crate) struct Put<'commit> {
    pub(crate) key: &'commit RowKey,
    /// By how much its version grows, from nothing if it is removed first.
    pub(crate) puts: i64,
    pub(crate) body: &'commit [u8],
    pub(crate) event: Option<usize>,
    pub(crate) due: Option<Timestamp>,
}

/// Folds the changes of a commit.
pub(crate) fn net(changes: &[RowChange]) -> Net<'_> {
    let mut retired: Vec<&ScopeId> = Vec::new();
    // For each row whether it is removed first, and how it is put then.
    let mut rows: BTreeMap<&RowKey, (bool, Option<Put<'_>>)> = BTreeMap::new();
    for change in changes {
        match change {
            RowChange::Put {
                key,
                body,
                event,
                due,
            } => {
                let (_, put) = rows.entry(key).or_default();
                let puts = put.as_ref().map_or(0, |put| put.puts) + 1;
                *put = Some(Put {
                    key,
                    puts,
                    body,
                    event: *event,
                    due: *due,
                });
            }
            RowChange::Delete(key) => _ = rows.insert(key, (true, None)),
            RowChange::Retire(scope) => {
                rows.retain(|key, _| key.scope != *scope);
                if !retired.contains(&scope) {
                    retired.push(scope);
                }
            }
            _ => {}
        }
    }
    let removed = rows.iter().filter(|(_, (removed, _))| *removed);
    Net {
        removed: removed.map(|(key, _)| *key).collect(),
        retired,
        put: rows.into_values().filter_map(|(_, put)| put).collect(),
    }
}

#[cfg(test)]
mod tests {
    use runtime_core::Timestamp;
    use runtime_store::{Epoch, NewEvent, Position, Removal, Seq};

    use super::*;

    fn key(scope: &str, name: &str) -> RowKey {
        RowKey::new("test", ScopeId::new(scope).unwrap(), name)
    }

    fn put(scope: &str, name: &str, body: &str) -> RowChange {
        RowChange::put(key(scope, name), body.as_bytes())
    }

    fn stream(key: &str) -> StreamKey {
        StreamKey::new(key).unwrap()
    }

    fn commit(number: u8) -> Commit {
        let now = Timestamp::from_millis(1);
        Commit::new(CommitId::generate(now, [number; 10]), now)
    }

    fn event(number: u8, streams: &[&str], closes: bool) -> NewEvent {
        NewEvent {
            id: EventId::generate(Timestamp::from_millis(1), [number; 10]),
            streams: streams.iter().map(|key| stream(key)).collect(),
            closes,
            body: (*b"x").into(),
        }
    }

    fn share_a_call(first: &Commit, second: &Commit) -> bool {
        let mut footprint = Footprint::default();
        assert!(footprint.add(first));
        footprint.add(second)
    }

    #[test]
    fn commits_that_do_not_look_at_one_another_share_a_call() {
        let one = commit(1)
            .row(put("a", "x", "1"))
            .event(event(1, &["a", "all"], false));
        let two = commit(2)
            .row(put("a", "y", "1"))
            .event(event(2, &["b", "all"], true));
        assert!(share_a_call(&one, &two));
        // Both read the same epoch.
        let scope = ScopeId::new("s").unwrap();
        let owned = |number| commit(number).owned_by(scope.clone(), Epoch(1));
        assert!(share_a_call(&owned(1), &owned(2)));
    }

    #[test]
    fn a_commit_waits_for_what_it_depends_on() {
        let scope = ScopeId::new("s").unwrap();
        let writes = commit(1).row(put("s", "x", "1"));
        let epoch = RowChange::put(RowKey::epoch(scope.clone()), *b"");
        let retires = commit(3).row(RowChange::Retire(scope.clone()));
        let appends = commit(4).event(event(4, &["a", "b"], false));
        let pairs = [
            (commit(2).remove(Removal::Through(Position(1))), commit(3)),
            (commit(2).row(put("s", "x", "2")), writes.clone()),
            (
                commit(2).row(RowChange::Delete(key("s", "x"))),
                writes.clone(),
            ),
            (
                commit(2).guard(Guard::Absent(key("s", "x"))),
                writes.clone(),
            ),
            (commit(2).owned_by(scope, Epoch(1)), commit(3).row(epoch)),
            (writes.clone(), retires.clone()),
            (commit(2).guard(Guard::Absent(key("s", "y"))), retires),
            (
                commit(2).guard(Guard::Head(stream("b"), Seq(1))),
                appends.clone(),
            ),
            (commit(2).event(event(2, &["b"], true)), appends),
            (commit(1), writes),
            (
                commit(5).event(event(1, &[], false)),
                commit(6).event(event(1, &[], false)),
            ),
        ];
        for (first, second) in pairs {
            assert!(!share_a_call(&first, &second), "{first:?} {second:?}");
            assert!(!share_a_call(&second, &first), "{second:?} {first:?}");
        }
    }

    #[test]
    fn the_net_of_changes_is_what_their_order_makes() {
        let scope = ScopeId::new("r").unwrap();
        let changes = [
            put("a", "twice", "1"),
            put("r", "gone", "1"),
            put("a", "twice", "2"),
            put("a", "anew", "1"),
            RowChange::Delete(key("a", "anew")),
            put("a", "anew", "2"),
            put("a", "removed", "1"),
            RowChange::Delete(key("a", "removed")),
            RowChange::Retire(scope.clone()),
            put("r", "after", "1"),
        ];
        let net = net(&changes);
        assert_eq!(net.retired, [&scope]);
        assert_eq!(net.removed, [&key("a", "anew"), &key("a", "removed")]);
        let put: Vec<_> = net
            .put
            .iter()
            .map(|put| (&*put.key.name, put.puts, put.body))
            .collect();
        assert_eq!(
            put,
            [
                ("anew", 1, &b"2"[..]),
                ("twice", 2, b"2"),
                ("after", 1, b"1")
            ]
        );
    }
}
