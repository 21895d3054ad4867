//! The whole state at one moment, for work that goes through all of it: cleaning, checkpoints,
//! export, the sweep of attachments. It holds no lock.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::sync::Arc;

use runtime_core::{CommitId, Digest, ScopeId, StreamKey};
use runtime_store::{EventPlace, Position, RowKey};

use crate::checkpoint::Checkpoint;
use crate::index::{Erased, Naming, ends_of};
use crate::record::{Extent, StreamEnd};
use crate::rows::{Lookup, RowEntry, Rows};
use crate::streams::StreamTail;

/// The state at one moment: what came since a checkpoint, and the checkpoint.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) below: Option<Arc<Checkpoint>>,
    pub(crate) rows: Rows,
    pub(crate) tails: BTreeMap<StreamKey, StreamTail>,
    pub(crate) namings: Vec<Naming>,
    pub(crate) pruned: u64,
    pub(crate) erased: Erased,
}

/// What is alive, for a cleaning.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) pruned: u64,
    pub(crate) erased: Erased,
    pub(crate) rows: HashSet<Extent>,
    /// The positions of the events of rows.
    pub(crate) events: HashSet<u64>,
    pub(crate) remembered: HashSet<CommitId>,
    pub(crate) streams: Vec<StreamEnd>,
    /// Attachments, with the scopes that hold them.
    pub(crate) namings: Vec<(Vec<Digest>, Vec<ScopeId>)>,
}

impl Snapshot {
    /// Goes through all rows in order.
    pub(crate) fn rows(&self) -> impl Iterator<Item = io::Result<(RowKey, RowEntry)>> {
        let below = self.below.iter().flat_map(|below| below.all_rows());
        self.rows.over(below)
    }

    /// Goes through the ends of all streams that are not forgotten.
    fn tails(&self) -> impl Iterator<Item = io::Result<(StreamKey, StreamTail)>> {
        let below = self.below.iter().flat_map(|below| below.tails());
        let is_newer = |key: &StreamKey| self.tails.contains_key(key);
        let below = below.filter(move |tail| tail.as_ref().map_or(true, |(key, _)| !is_newer(key)));
        let above = self
            .tails
            .iter()
            .map(|(key, tail)| Ok((key.clone(), *tail)));
        let is_known = |tail: &io::Result<(StreamKey, StreamTail)>| !matches!(tail, Ok((_, tail)) if tail.is_forgotten(self.pruned));
        below.chain(above).filter(is_known)
    }

    fn has_rows(&self, scope: &ScopeId) -> io::Result<bool> {
        if self.rows.has_rows(scope) {
            return Ok(true);
        }
        let Some(below) = &self.below else {
            return Ok(false);
        };
        let keys = below.rows_of(scope)?;
        Ok(keys.iter().any(|key| self.rows.find(key) == Lookup::Below))
    }

    /// What commits named that is served whole, or for an owner that has rows.
    pub(crate) fn live_namings(&self) -> io::Result<Vec<Naming>> {
        let is_whole = |(position, places): &(Position, Vec<EventPlace>)| {
            position.0 > self.pruned && !self.erased.has(*position, places)
        };
        let mut live = Vec::new();
        let below = self.below.iter().flat_map(|below| below.namings());
        for naming in below.chain(self.namings.iter().cloned().map(Ok)) {
            let naming = naming?;
            let mut is_live = naming.events.iter().any(is_whole);
            for scope in &naming.scopes {
                is_live = is_live || self.has_rows(scope)?;
            }
            if is_live {
                live.push(naming);
            }
        }
        Ok(live)
    }

    /// Returns the attachments that something names.
    pub(crate) fn named_attachments(&self) -> io::Result<HashSet<Digest>> {
        let live = self.live_namings()?.into_iter();
        Ok(live.flat_map(|naming| naming.attachments).collect())
    }

    /// Where streams end of which no event is served.
    pub(crate) fn ended_streams(&self) -> io::Result<Vec<StreamEnd>> {
        let ended = |tail: &io::Result<(StreamKey, StreamTail)>| !matches!(tail, Ok((_, tail)) if tail.last.0 > self.pruned);
        let ended: io::Result<Vec<_>> = self.tails().filter(ended).collect();
        Ok(ends_of(ended?))
    }

    /// The scopes that have rows.
    pub(crate) fn scopes(&self) -> io::Result<BTreeSet<ScopeId>> {
        self.rows().map(|row| Ok(row?.0.scope)).collect()
    }

    /// What a cleaning must know. What is dead then stays dead.
    pub(crate) fn survey(&self, remembered: HashSet<CommitId>) -> io::Result<Survey> {
        let mut rows = HashSet::new();
        let mut events = HashSet::new();
        for row in self.rows() {
            let (_, row) = row?;
            rows.insert(row.at);
            events.extend(row.event.map(|(position, _)| position));
        }
        let open = |tail: &io::Result<(StreamKey, StreamTail)>| !matches!(tail, Ok((_, tail)) if tail.closed);
        let streams: io::Result<Vec<_>> = self.tails().filter(open).collect();
        let mut streams = ends_of(streams?);
        // The same store makes the same base.
        streams.sort_by(|a, b| a.stream.cmp(&b.stream));
        let mut namings = Vec::new();
        for naming in self.live_namings()? {
            let mut scopes = Vec::new();
            for scope in naming.scopes {
                if self.has_rows(&scope)? {
                    scopes.push(scope);
                }
            }
            namings.push((naming.attachments, scopes));
        }
        Ok(Survey {
            pruned: self.pruned,
            erased: self.erased.clone(),
            rows,
            events,
            remembered,
            streams,
            namings,
        })
    }
}
