//! Reading single events from segment files.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use runtime_store::{Payload, ReadError, RowKey, StoredEvent};

use crate::frame::StoreTag;
use crate::fs::{self, File};
use crate::layout::Layout;
use crate::record::{Extent, read_event, read_row_body};

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
        let bytes = self.bytes(at)?;
        read_event(self.tag, at, position, &bytes).ok_or_else(|| ReadError::Corrupt {
            what: format!("event at position {position} ({})", place(at)),
        })
    }

    /// Reads the body of a row and checks it against its own checksum.
    pub(crate) fn read_row(&self, key: &RowKey, at: Extent) -> Result<Payload, ReadError> {
        let bytes = self.bytes(at)?;
        read_row_body(self.tag, at, key, &bytes).ok_or_else(|| ReadError::Corrupt {
            what: format!(
                "row {} {} {} ({})",
                key.space,
                key.scope,
                key.name,
                place(at)
            ),
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

fn place(at: Extent) -> String {
    format!("{} byte {}", Layout::segment_name(at.segment), at.offset)
}

/// Says whether a file is not there that the index has just named.
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
