//! What can be said of a commit without looking at the state.

use runtime_store::{Commit, CommitError, Limits};

use crate::frame::FRAME_BYTES_MAX;
use crate::record;

/// What the header of a frame may take at most.
const HEADER_BYTES_MAX: usize = 2048;
/// Fields of a record beside its texts and body, the largest of all kinds.
const RECORD_BYTES_MAX: usize = 96;
/// Fields beside the name of each stream of an event.
const STREAM_BYTES: usize = 18;

/// Checks what every store does, and what this format asks for beyond that.
pub(crate) fn check(commit: &Commit, limits: &Limits) -> Result<(), CommitError> {
    commit.check(limits)?;
    check_frame(commit)?;
    let removals = &mut commit.removals.iter();
    if let Some(removal) = removals.find(|removal| !record::is_known_removal(removal)) {
        return Err(CommitError::Malformed {
            reason: format!("removal {removal:?} is not known to this store"),
        });
    }
    match commit.rows.iter().find(|change| !record::is_known(change)) {
        None => Ok(()),
        Some(change) => Err(CommitError::Malformed {
            reason: format!("row change {change:?} is not known to this store"),
        }),
    }
}

/// Many small rows take more room in the frame than their bytes.
fn check_frame(commit: &Commit) -> Result<(), CommitError> {
    let records = 2 + commit.rows.len() + commit.events.len() + commit.removals.len();
    let streams: usize = commit.events.iter().map(|event| event.streams.len()).sum();
    let fields = HEADER_BYTES_MAX + records * RECORD_BYTES_MAX + streams * STREAM_BYTES;
    let bytes = fields + commit.bytes();
    if bytes > FRAME_BYTES_MAX {
        return Err(CommitError::TooLarge {
            bytes,
            max: FRAME_BYTES_MAX,
        });
    }
    Ok(())
}
