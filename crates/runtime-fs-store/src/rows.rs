//! The rows that changed since a checkpoint, and how they lie over those of the checkpoint. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use runtime_core::{ScopeId, Timestamp};
use runtime_store::{RowKey, RowQuery};

use crate::record::Extent;
use crate::segment::covers;

/// A row without its body, which stays on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowEntry {
    pub(crate) version: u64,
    /// The record that holds the body.
    pub(crate) at: Extent,
    /// The event that it was put with: its position, and where it is.
    pub(crate) event: Option<(u64, Extent)>,
    pub(crate) due: Option<Timestamp>,
}

/// What is known of something without looking at the checkpoint below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lookup<T> {
    Known(Option<T>),
    /// What the checkpoint says, or nothing without one.
    Below,
}

/// A row as it is since the checkpoint.
#[derive(Debug, Clone, Copy)]
struct Change {
    /// The segment of the change.
    segment: u32,
    /// None for a row that was deleted.
    entry: Option<RowEntry>,
}

/// In which order rows are asked for.
pub(crate) type SortKey = (Option<Timestamp>, RowKey);

/// Rows of the checkpoint that a query may find, from where the page begins.
#[derive(Debug, Default)]
pub(crate) struct RowsBelow {
    pub(crate) rows: Vec<(RowKey, RowEntry)>,
    /// More may follow after the last.
    pub(crate) has_more: bool,
}

/// The changes since the checkpoint.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rows {
    changes: BTreeMap<RowKey, Change>,
    /// Scopes all of whose rows were removed, and where; later puts are changes again.
    retired: HashMap<ScopeId, u32>,
    due: BTreeSet<(Arc<str>, Timestamp, RowKey)>,
    /// The spaces that ever had a row, for `Retire`: a few constant words.
    pub(crate) spaces: BTreeSet<Arc<str>>,
}

impl Rows {
    /// No change yet, over a checkpoint that has rows in these spaces.
    pub(crate) fn in_spaces(spaces: BTreeSet<Arc<str>>) -> Self {
        Self {
            spaces,
            ..Self::default()
        }
    }

    pub(crate) fn find(&self, key: &RowKey) -> Lookup<RowEntry> {
        match self.changes.get(key) {
            Some(change) => Lookup::Known(change.entry),
            None if self.retired.contains_key(&key.scope) => Lookup::Known(None),
            None => Lookup::Below,
        }
    }

    pub(crate) fn put(&mut self, key: RowKey, entry: RowEntry, segment: u32) {
        let change = Change {
            segment,
            entry: Some(entry),
        };
        if !self.spaces.contains(&key.space) {
            self.spaces.insert(Arc::clone(&key.space));
        }
        if let Some(time) = entry.due {
            self.due.insert((Arc::clone(&key.space), time, key.clone()));
        }
        // The old time goes after the new one has come: they may be the same.
        let before = self.changes.insert(key.clone(), change);
        let before = before.and_then(|change| change.entry?.due);
        if let Some(time) = before.filter(|time| entry.due != Some(*time)) {
            self.due.remove(&(Arc::clone(&key.space), time, key));
        }
    }

    pub(crate) fn delete(&mut self, key: RowKey, segment: u32) {
        let change = Change {
            segment,
            entry: None,
        };
        let before = self.changes.insert(key.clone(), change);
        if let Some(time) = before.and_then(|change| change.entry?.due) {
            self.due.remove(&(Arc::clone(&key.space), time, key));
        }
    }

    pub(crate) fn retire(&mut self, scope: ScopeId, segment: u32) {
        for key in self.changed_keys(&scope) {
            let change = self.changes.remove(&key);
            if let Some(time) = change.and_then(|change| change.entry?.due) {
                self.due.remove(&(Arc::clone(&key.space), time, key));
            }
        }
        self.retired.insert(scope, segment);
    }

    fn changed_keys(&self, scope: &ScopeId) -> Vec<RowKey> {
        let name: Arc<str> = Arc::from("");
        let keys_in = |space: &Arc<str>| {
            let start = RowKey {
                space: Arc::clone(space),
                scope: scope.clone(),
                name: Arc::clone(&name),
            };
            let keys = self.changes.range(start..).map(|(key, _)| key.clone());
            keys.take_while(|key| key.scope == *scope && *key.space == **space)
                .collect::<Vec<_>>()
        };
        self.spaces.iter().flat_map(keys_in).collect()
    }

    /// Says whether a scope has rows among the changes.
    pub(crate) fn has_rows(&self, scope: &ScopeId) -> bool {
        let keys = self.changed_keys(scope).into_iter();
        let mut entries = keys.filter_map(|key| self.changes.get(&key));
        entries.any(|change| change.entry.is_some())
    }

    /// Forgets what a checkpoint up to `number` holds.
    pub(crate) fn rebase(&mut self, number: u32) {
        self.changes
            .retain(|_, change| !covers(number, change.segment));
        self.retired.retain(|_, segment| !covers(number, *segment));
        let dues = self.changes.iter();
        self.due = dues
            .filter_map(|(key, change)| {
                let time = change.entry?.due?;
                Some((Arc::clone(&key.space), time, key.clone()))
            })
            .collect();
    }

    /// Lets rows be where a base has them now.
    pub(crate) fn move_to(&mut self, moved: impl Fn(&mut Extent)) {
        for row in self.changes.values_mut().flat_map(|row| &mut row.entry) {
            moved(&mut row.at);
            if let Some((_, at)) = &mut row.event {
                moved(at);
            }
        }
    }

    /// Says whether a row of the checkpoint is still as it was.
    fn shows(&self, key: &RowKey) -> bool {
        !self.changes.contains_key(key) && !self.retired.contains_key(&key.scope)
    }

    /// All rows in order, those of the checkpoint first in line.
    pub(crate) fn over<E>(
        &self,
        below: impl Iterator<Item = Result<(RowKey, RowEntry), E>>,
    ) -> impl Iterator<Item = Result<(RowKey, RowEntry), E>> {
        let mut below = below
            .filter(|row| row.as_ref().map_or(true, |(key, _)| self.shows(key)))
            .peekable();
        let changed = self.changes.iter();
        let mut changed = changed
            .filter_map(|(key, change)| Some((key, change.entry?)))
            .peekable();
        std::iter::from_fn(move || {
            let takes_below = match (below.peek(), changed.peek()) {
                (Some(Ok((below, _))), Some((above, _))) => below < *above,
                (below, _) => below.is_some(),
            };
            if takes_below {
                return below.next();
            }
            changed.next().map(|(key, entry)| Ok((key.clone(), entry)))
        })
    }

    /// Returns the rows of a query, and the last key if more follow; none if more rows of the
    /// checkpoint must be looked at. `after` is the key to go on after, with its time.
    #[expect(clippy::type_complexity, reason = "a page: rows and where to go on")]
    pub(crate) fn page(
        &self,
        query: &RowQuery,
        after: Option<&SortKey>,
        limit: usize,
        below: &RowsBelow,
    ) -> Option<(Vec<(RowKey, RowEntry)>, Option<RowKey>)> {
        let mut found: Vec<(SortKey, RowEntry)> = self
            .changed(query, after)
            .take(limit + 1)
            .map(|(key, entry)| (sort_key(query, key, &entry), entry))
            .collect();
        let shown = below.rows.iter().filter(|(key, _)| self.shows(key));
        found.extend(shown.map(|(key, entry)| (sort_key(query, key, entry), *entry)));
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        let known = match below.rows.last() {
            // After it the checkpoint may have any row.
            Some((last, entry)) => {
                let last = sort_key(query, last, entry);
                found.partition_point(|(key, _)| *key <= last)
            }
            None => 0,
        };
        if known <= limit && below.has_more {
            return None;
        }
        let has_more = found.len() > limit;
        found.truncate(limit);
        let rows: Vec<_> = found
            .into_iter()
            .map(|((_, key), entry)| (key, entry))
            .collect();
        let next = rows.last().filter(|_| has_more);
        let next = next.map(|(key, _)| key.clone());
        Some((rows, next))
    }

    fn changed<'a>(
        &'a self,
        query: &'a RowQuery,
        after: Option<&SortKey>,
    ) -> Box<dyn Iterator<Item = (&'a RowKey, RowEntry)> + 'a> {
        let entry = |key: &'a RowKey| Some((key, self.changes.get(key)?.entry?));
        match query {
            RowQuery::Prefix { .. } => {
                let start = first_key(query);
                let start = match after {
                    Some((_, after)) if *after >= start => Bound::Excluded(after.clone()),
                    _ => Bound::Included(start),
                };
                let range = self.changes.range((start, Bound::Unbounded));
                let keys = range.map(|(key, _)| key);
                Box::new(
                    keys.take_while(|key| finds(query, key, None))
                        .filter_map(entry),
                )
            }
            RowQuery::Due { space, until } => {
                let start = (Arc::clone(space), Timestamp::default(), first_key(query));
                let start = match after {
                    Some((Some(time), after)) => {
                        Bound::Excluded((Arc::clone(space), *time, after.clone()))
                    }
                    _ => Bound::Included(start),
                };
                let range = self.due.range((start, Bound::Unbounded));
                let range =
                    range.take_while(move |(found, time, _)| found == space && time <= until);
                Box::new(range.filter_map(move |(_, _, key)| entry(key)))
            }
            // `RowQuery` may grow; a query of an unknown kind finds nothing.
            _ => Box::new(std::iter::empty()),
        }
    }
}

pub(crate) fn sort_key(query: &RowQuery, key: &RowKey, entry: &RowEntry) -> SortKey {
    let time = matches!(query, RowQuery::Due { .. }).then_some(entry.due);
    (time.flatten(), key.clone())
}

/// Says whether a key belongs to what a query asks for.
pub(crate) fn finds(query: &RowQuery, key: &RowKey, due: Option<Timestamp>) -> bool {
    match query {
        RowQuery::Prefix { space, scope, name } => {
            let in_scope = |scope: &ScopeId| key.scope == *scope && key.name.starts_with(&**name);
            key.space == *space && scope.as_ref().is_none_or(in_scope)
        }
        RowQuery::Due { space, until } => {
            key.space == *space && due.is_some_and(|due| due <= *until)
        }
        _ => false,
    }
}

/// The key before all others that a query can find.
pub(crate) fn first_key(query: &RowQuery) -> RowKey {
    match query {
        RowQuery::Prefix {
            space,
            scope: Some(scope),
            name,
        } => RowKey {
            space: Arc::clone(space),
            scope: scope.clone(),
            name: Arc::clone(name),
        },
        RowQuery::Prefix { space, .. } | RowQuery::Due { space, .. } => RowKey {
            space: Arc::clone(space),
            // No scope id is empty or starts with a control character, so a blank is the smallest.
            scope: ScopeId::new(" ").expect("a blank is a scope id"),
            name: Arc::from(""),
        },
        _ => RowKey::new("", ScopeId::new(" ").expect("a blank is a scope id"), ""),
    }
}
