//! Reading single events from segment files.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use runtime_store::{ReadError, StoredEvent};

use crate::frame::StoreTag;
use crate::fs::{self, File};
use crate::layout::Layout;
use crate::record::{Extent, read_event};

/// The segment files, opened as they are needed.
#[derive(Debug)]
pub(crate) struct Segments {
    layout: Layout,
    tag: StoreTag,
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
        let from = u64::from(at.offset);
        let bytes = self
            .file(at.segment)
            .and_then(|file| fs::read_range(&file, from, from + u64::from(at.bytes)))
            .map_err(|error| unavailable("read a segment", error))?;
        read_event(self.tag, at, position, &bytes).ok_or_else(|| ReadError::Corrupt {
            what: format!(
                "event at position {position} (segment {} byte {})",
                at.segment, at.offset
            ),
        })
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

pub(crate) fn unavailable(action: &str, error: io::Error) -> ReadError {
    ReadError::Unavailable {
        reason: format!("cannot {action}: {error}"),
        source: Some(Arc::new(error)),
    }
}
