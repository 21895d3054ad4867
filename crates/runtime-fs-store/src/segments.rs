//! Reading events and rows from segment files.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use runtime_store::{Payload, Position, ReadError, RowKey, StoredEvent};

use crate::frame::StoreTag;
use crate::fs::{self, File};
use crate::layout::Layout;
use crate::record::{Extent, is_dead_put, read_event, read_row_body};

/// Between two events that are read at once there are at most so many bytes that nobody asked for.
const GAP_BYTES_MAX: u32 = 4 * 1024;

/// The segment files, opened as they are needed.
#[derive(Debug)]
pub(crate) struct Segments {
    layout: Layout,
    pub(crate) tag: StoreTag,
    open_max: usize,
    open: Mutex<BTreeMap<u32, Arc<File>>>,
}

impl Segments {
    pub(crate) fn new(layout: Layout, tag: StoreTag, open_max: usize) -> Self {
        Self {
            layout,
            tag,
            open_max,
            open: Mutex::default(),
        }
    }

    /// Reads one event and checks it against its own checksum, so damage that came after opening
    /// is not served either.
    pub(crate) fn read(&self, position: u64, at: Extent) -> Result<StoredEvent, ReadError> {
        self.event(position, at, &self.bytes(at)?)
    }

    /// Reads the events of a page up to the first that is damaged, each checked as
    /// [`read`](Self::read) does; an error if that is the first. Neighbours in a file are read at
    /// once.
    pub(crate) fn read_page(&self, page: &[(u64, Extent)]) -> Result<Vec<StoredEvent>, ReadError> {
        let mut events = Vec::with_capacity(page.len());
        for run in page.chunk_by(|(_, one), (_, next)| are_neighbours(*one, *next)) {
            let (first, last) = (run[0].1, run[run.len() - 1].1);
            let bytes = self.bytes(Extent {
                bytes: last.offset + last.bytes - first.offset,
                ..first
            })?;
            for &(position, at) in run {
                let from = (at.offset - first.offset) as usize;
                let bytes = &bytes[from..from + at.bytes as usize];
                match self.event(position, at, bytes) {
                    // What is whole before it is served; the next page begins with it.
                    Err(_) if !events.is_empty() => return Ok(events),
                    event => events.push(event?),
                }
            }
        }
        Ok(events)
    }

    fn event(&self, position: u64, at: Extent, bytes: &[u8]) -> Result<StoredEvent, ReadError> {
        read_event(self.tag, at, position, bytes).ok_or_else(|| ReadError::CorruptEvents {
            from: Position(position),
            to: Position(position),
            place: Some(place(at)),
        })
    }

    /// Reads the body of a row and checks it against its own checksum.
    pub(crate) fn read_row(&self, key: &RowKey, at: Extent) -> Result<Payload, ReadError> {
        self.row_body(key, at, &self.bytes(at)?)
    }

    /// Reads the body of a row and the event it refers to, at once if they are neighbours, as they
    /// are when one commit wrote both.
    pub(crate) fn read_row_with_event(
        &self,
        key: &RowKey,
        at: Extent,
        (position, event_at): (u64, Extent),
    ) -> Result<(Payload, StoredEvent), ReadError> {
        let Some(both) = together(at, event_at) else {
            return Ok((self.read_row(key, at)?, self.read(position, event_at)?));
        };
        let bytes = self.bytes(both)?;
        let of = |one: Extent| &bytes[(one.offset - both.offset) as usize..][..one.bytes as usize];
        let row = self.row_body(key, at, of(at))?;
        Ok((row, self.event(position, event_at, of(event_at))?))
    }

    fn row_body(&self, key: &RowKey, at: Extent, bytes: &[u8]) -> Result<Payload, ReadError> {
        let body = read_row_body(self.tag, at, key, bytes);
        body.ok_or_else(|| match is_dead_put(self.tag, at, bytes) {
            // It is another put's by now, which whoever looks again finds.
            true => {
                let gone =
                    io::Error::new(io::ErrorKind::NotFound, "a cleaning has written over it");
                unavailable("read a row", gone)
            }
            false => ReadError::Corrupt {
                what: format!(
                    "row {} {} {} ({})",
                    key.space,
                    key.scope,
                    key.name,
                    place(at)
                ),
            },
        })
    }

    fn bytes(&self, at: Extent) -> Result<Vec<u8>, ReadError> {
        let from = u64::from(at.offset);
        self.file(at.segment)
            .and_then(|file| fs::read_range(&file, from, from + u64::from(at.bytes)))
            .map_err(|error| unavailable("read a segment", error))
    }

    /// Lets go of files that a cleaning has replaced or removed.
    pub(crate) fn forget_files(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.clear();
    }

    fn file(&self, number: u32) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&number) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(fs::open_read(&self.layout.segment_path(number))?);
        if open.len() >= self.open_max {
            // Readers are mostly at the end of the log, so the oldest goes.
            open.pop_first();
        }
        open.insert(number, Arc::clone(&file));
        Ok(file)
    }
}

/// Says whether the second lies in the same file, behind the first and near it.
fn are_neighbours(one: Extent, next: Extent) -> bool {
    let end = one.offset.saturating_add(one.bytes);
    one.segment == next.segment && (end..=end.saturating_add(GAP_BYTES_MAX)).contains(&next.offset)
}

/// Returns what holds both, if they are neighbours, whichever of them comes first: a commit writes
/// its events before its rows.
fn together(one: Extent, other: Extent) -> Option<Extent> {
    let (first, last) = match one.offset <= other.offset {
        true => (one, other),
        false => (other, one),
    };
    are_neighbours(first, last).then(|| Extent {
        bytes: last.offset + last.bytes - first.offset,
        ..first
    })
}

fn place(at: Extent) -> String {
    format!("{} byte {}", Layout::segment_name(at.segment), at.offset)
}

/// Says whether a file, or a row in it, is not there that the index has just named.
pub(crate) fn is_gone(error: &ReadError) -> bool {
    let ReadError::Unavailable {
        source: Some(source),
        ..
    } = error
    else {
        return false;
    };
    source.kind() == io::ErrorKind::NotFound
}

pub(crate) fn unavailable(action: &str, error: io::Error) -> ReadError {
    ReadError::Unavailable {
        reason: format!("cannot {action}: {error}"),
        source: Some(Arc::new(error)),
    }
}

#[cfg(test)]
mod tests {
    use runtime_core::{CommitId, EventId, ScopeId, Timestamp};
    use runtime_store::{Commit, NewEvent, Position, RowChange};

    use super::*;
    use crate::frame::Place;
    use crate::record::{Kept, KeptPut, RowEdit, Taken, write_commit, write_kept};
    use crate::segment::BASE;

    #[test]
    fn neighbours_lie_behind_each_other_and_near_in_one_file() {
        let at = |segment, offset| Extent {
            segment,
            offset,
            bytes: 100,
        };
        let one = at(1, 1_000);
        for (next, expected) in [
            (at(1, 1_100), true),
            (at(1, 1_100 + GAP_BYTES_MAX), true),
            (at(1, 1_101 + GAP_BYTES_MAX), false),
            // A base has its events in another order than the log.
            (at(1, 900), false),
            (at(1, 1_050), false),
            (at(2, 1_100), false),
        ] {
            assert_eq!(are_neighbours(one, next), expected, "{next:?}");
        }
    }
    /// S6: one read serves a row and its event where one commit wrote both, in a segment and in a
    /// base.
    #[test]
    fn s6_a_row_and_its_event_are_read_at_once() {
        let tag = StoreTag([7; 8]);
        let at = |segment| Place {
            segment,
            offset: 128,
        };
        let key = || RowKey::new("state", ScopeId::new("worker/1").unwrap(), "row");
        let time = Timestamp::from_millis(5);
        let event = NewEvent {
            id: EventId::generate(time, [1; 10]),
            streams: Vec::new(),
            closes: false,
            body: [3; 900].into(),
        };
        let put = RowChange::Put {
            key: key(),
            body: [4; 50].into(),
            event: Some(0),
            due: None,
        };
        let id = CommitId::generate(time, [2; 10]);
        let commit = Commit::new(id, time).event(event).row(put);
        let taken = Taken {
            places: vec![Vec::new()],
            versions: vec![1],
        };
        let content = commit.content_digest();
        let (_, applied) = write_commit(tag, at(1), commit, content, 9, taken);
        let [RowEdit::Put { at: row_at, .. }] = applied.rows[..] else {
            panic!("{applied:?}");
        };
        let in_segment = (row_at, applied.events[0].at);

        let event = StoredEvent {
            position: Position(9),
            id: applied.events[0].id,
            time,
            places: Vec::new(),
            closes: false,
            erased: false,
            body: [3; 900].into(),
        };
        let put = KeptPut {
            key: key(),
            version: 1,
            event: Some(9),
            due: None,
            body: [4; 50].into(),
        };
        let kept = Kept {
            rows: vec![put],
            events: vec![event],
            ..Kept::nothing()
        };
        let (_, rows, events) = write_kept(tag, at(1 | BASE), &kept);
        for (row_at, event_at) in [in_segment, (rows[0], events[0])] {
            let both = together(row_at, event_at).expect("one read holds both");
            assert_eq!(together(event_at, row_at), Some(both));
            assert_eq!(both.offset, row_at.offset.min(event_at.offset));
            assert_eq!(both.bytes, row_at.bytes + event_at.bytes);
        }
    }

    /// S6: only where a file is gone, as after a cleaning, is it worth looking where things are
    /// now; damage and a failing disk stay what they are.
    #[test]
    fn only_a_file_that_is_not_there_is_gone() {
        let failed = |kind: io::ErrorKind| unavailable("read a segment", kind.into());
        assert!(is_gone(&failed(io::ErrorKind::NotFound)));
        assert!(!is_gone(&failed(io::ErrorKind::PermissionDenied)));
        assert!(!is_gone(&ReadError::LimitZero));
        let what = "event at position 3".to_owned();
        assert!(!is_gone(&ReadError::Corrupt { what }));
    }
}
