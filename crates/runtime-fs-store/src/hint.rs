//! How far the log is durable, published outside of it for readers beside the writer (S8).
//!
//! It is a hint: never synced, never needed. Without it readers stop at the last mark.

use std::io;

use crate::bytes::Bytes;
use crate::frame::Place;
use crate::fs::{self, File};
use crate::layout::{DURABLE, LOCK, Layout};

const MAGIC: [u8; 4] = *b"ARDu";
const HINT_BYTES: u64 = 28;

/// What is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hint {
    /// The end of what is durable.
    pub(crate) end: Place,
    /// The last position.
    pub(crate) head: u64,
}

/// The file it is published in.
#[derive(Debug)]
pub(crate) struct HintFile(File);

impl HintFile {
    pub(crate) fn create(layout: &Layout) -> io::Result<Self> {
        fs::open_or_create(&layout.path(DURABLE))
            .map(Self)
            .map_err(|error| io::Error::new(error.kind(), format!("{DURABLE}: {error}")))
    }

    pub(crate) fn publish(&self, hint: Hint) -> io::Result<()> {
        fs::write_all_at(&self.0, &encode(hint), 0)
    }
}

/// Reads the hint; a missing, half-written or foreign one is none.
pub(crate) fn read(layout: &Layout) -> Option<Hint> {
    let file = fs::open_read(&layout.path(DURABLE)).ok()?;
    decode(&fs::read_range(&file, 0, HINT_BYTES).ok()?)
}

/// Says whether the hint was published since somebody last took the lock of the directory.
pub(crate) fn is_younger_than_lock(layout: &Layout) -> bool {
    let modified = |name| fs::modified(&layout.path(name)).ok();
    modified(DURABLE) >= modified(LOCK)
}

pub(crate) fn encode(hint: Hint) -> Vec<u8> {
    let mut out = Vec::with_capacity(28);
    out.extend(MAGIC);
    out.extend(hint.end.segment.to_le_bytes());
    out.extend(hint.end.offset.to_le_bytes());
    out.extend(hint.head.to_le_bytes());
    out.extend(crc32c::crc32c(&out).to_le_bytes());
    out
}

pub(crate) fn decode(bytes: &[u8]) -> Option<Hint> {
    let mut fields = Bytes(bytes);
    let known = fields.array()? == MAGIC;
    let end = Place {
        segment: fields.u32()?,
        offset: fields.u64()?,
    };
    let head = fields.u64()?;
    let checksum = crc32c::crc32c(&bytes[..bytes.len() - fields.0.len()]);
    (known && fields.u32()? == checksum).then_some(Hint { end, head })
}

#[cfg(test)]
#[cfg(not(feature = "simulation"))]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    /// S7: what was published before the lock was last taken is of another life; a backup must not
    /// stop where that one was.
    #[test]
    fn s7_a_hint_counts_only_if_it_is_younger_than_the_lock() {
        let parent = tempfile::tempdir().expect("a place");
        let layout = Layout::new(parent.path());
        let set = |name, second| {
            let file = std::fs::File::create(layout.path(name)).expect("is created");
            let time = UNIX_EPOCH + Duration::from_secs(second);
            file.set_modified(time).expect("is set");
        };
        set(LOCK, 10);
        assert!(!is_younger_than_lock(&layout), "nothing is published");
        for (published, expected) in [(9, false), (10, true), (11, true)] {
            set(DURABLE, published);
            assert_eq!(is_younger_than_lock(&layout), expected, "at {published}");
        }
    }
}
