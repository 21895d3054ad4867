//! What can be said of a commit without looking at a store: its size and form.

use std::collections::HashSet;

use crate::{Commit, CommitError, Limits, NewEvent, RowChange};

const EVENT_STREAMS_MAX: usize = 8;
const ROW_NAME_BYTES_MAX: usize = 1024;
const SPACE_BYTES_MAX: usize = 64;

/// Checks what needs no state.
pub(crate) fn check(commit: &Commit, limits: &Limits) -> Result<(), CommitError> {
    let bytes = commit.bytes();
    if bytes > limits.commit_bytes_max {
        let max = limits.commit_bytes_max;
        return Err(CommitError::TooLarge { bytes, max });
    }
    let mut ids = HashSet::new();
    for event in &commit.events {
        check_event(event)?;
        if commit.events.len() > 1 && !ids.insert(event.id) {
            return malformed(format!("event {} is there twice", event.id));
        }
    }
    for change in &commit.rows {
        check_row(change, commit.events.len())?;
    }
    Ok(())
}

fn check_event(event: &NewEvent) -> Result<(), CommitError> {
    let streams = &event.streams;
    if streams.len() > EVENT_STREAMS_MAX {
        return malformed(format!(
            "event {} has {} streams; give at most {EVENT_STREAMS_MAX}",
            event.id,
            streams.len()
        ));
    }
    let twice = |(index, stream)| streams[..index].contains(stream);
    if streams.iter().enumerate().any(twice) {
        return malformed(format!("event {} names a stream twice", event.id));
    }
    Ok(())
}

fn check_row(change: &RowChange, events: usize) -> Result<(), CommitError> {
    let key = match change {
        RowChange::Put { key, event, .. } => {
            if let Some(index) = event.filter(|&index| index >= events) {
                return malformed(format!(
                    "a row names event {index} of a commit of {events}; count from 0"
                ));
            }
            key
        }
        RowChange::Delete(key) => key,
        RowChange::Retire(_) => return Ok(()),
    };
    if key.space.trim().is_empty() || key.space.len() > SPACE_BYTES_MAX {
        return malformed(format!(
            "a row has a blank space or one over {SPACE_BYTES_MAX} bytes; name a short one"
        ));
    }
    if key.name.len() > ROW_NAME_BYTES_MAX {
        return malformed(format!(
            "a row name has {} bytes; give at most {ROW_NAME_BYTES_MAX}",
            key.name.len()
        ));
    }
    if key.name.contains('\0') || key.space.contains('\0') {
        return malformed("a row name or space holds NUL; leave it out".to_owned());
    }
    Ok(())
}

fn malformed<T>(reason: String) -> Result<T, CommitError> {
    Err(CommitError::Malformed { reason })
}
