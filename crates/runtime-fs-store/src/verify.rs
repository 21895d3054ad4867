//! Reading everything and saying what is wrong, without changing anything.

use std::path::Path;

use runtime_store::{Limits, Progress};

use crate::checkpoint::Checkpoint;
use crate::error::OpenError;
use crate::frame::StoreTag;
use crate::hint;
use crate::layout::{ATTACHMENTS, CHECKPOINTS, KEYS, Layout};
use crate::open::{check_keys, report_of, torn_tail};
use crate::replay::{Reader, Replay, Start, replay_with_progress};
use crate::report::{Damage, OpenReport};
use crate::sidecar::Sidecar;
use crate::{attachments, fs, keys};

/// Reads the whole log of a store, its checkpoints and its attachments, and checks every checksum.
/// It changes nothing and takes no lock; beside a writer it may report the tail that is just being
/// written as torn, but not as damage.
///
/// It blocks on the disk for as long as reading the log takes.
///
/// # Errors
/// [`OpenError`]: what would refuse opening.
pub fn verify(directory: &Path) -> Result<OpenReport, OpenError> {
    verify_with_progress(directory, &mut |_| ())
}

/// As [`verify`], and tells how much of the log has been read.
///
/// # Errors
/// As for [`verify`].
pub fn verify_with_progress(
    directory: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<OpenReport, OpenError> {
    let layout = Layout::new(directory);
    let format = layout.open_existing()?;
    check_keys(&layout)?;
    let path = layout.path(KEYS);
    let bytes = fs::read_all(&path).map_err(|e| OpenError::io("read", &path, e))?;
    if keys::from_file(&bytes).is_none() {
        return Err(OpenError::Damaged {
            file: KEYS.to_owned(),
        });
    }
    let tag = format.tag().expect("a format without tag is not read");
    let hint = hint::read(&layout);
    let remembered_max = Limits::default().remembered_commits;
    let how = (Start::Beginning, Reader::Owner);
    let mut read_log =
        |hint| replay_with_progress(&layout, tag, remembered_max, how, hint, progress);
    let replay = read_log(hint)?;
    let mut report = report_of(&layout, &replay, hint)?;
    report.cut = torn_tail(&replay);
    let damaged = attachments::damaged(&layout);
    let damaged = damaged.map_err(|e| OpenError::io("read", &layout.path(ATTACHMENTS), e))?;
    report
        .damage
        .extend(damaged.into_iter().map(|file| Damage::Attachment { file }));
    let mut missing = missing_attachments(&layout, &replay)?;
    if !missing.is_empty() {
        // A writer may have let them go since, and swept them.
        let again = read_log(hint::read(&layout))?;
        let still = missing_attachments(&layout, &again)?;
        missing.retain(|file| still.contains(file));
    }
    let missing = missing.into_iter();
    report
        .damage
        .extend(missing.map(|file| Damage::MissingAttachment { file }));
    let caches = damaged_caches(&layout, tag, &replay);
    report
        .damage
        .extend(caches.into_iter().map(|file| Damage::Cache { file }));
    Ok(report)
}

/// Returns the files of attachments that are named by what is alive, and are not there.
fn missing_attachments(layout: &Layout, replay: &Replay) -> Result<Vec<String>, OpenError> {
    let named = replay.fold.index.snapshot().named_attachments();
    let missing = named.and_then(|named| attachments::missing(layout, &named));
    missing.map_err(|e| OpenError::io("read", &layout.path(ATTACHMENTS), e))
}

/// Reads all checkpoints and sidecars; returns those that are not whole. A sidecar of the last
/// segment was made by a writer that went on meanwhile, and is of more than has been read.
fn damaged_caches(layout: &Layout, tag: StoreTag, replay: &Replay) -> Vec<String> {
    let directory = layout.path(CHECKPOINTS);
    let mut damaged = Vec::new();
    for number in layout.checkpoints().unwrap_or_default() {
        let checkpoint = Checkpoint::open(&directory, tag, number);
        let checked = checkpoint.and_then(|checkpoint| {
            checkpoint.check()?;
            checkpoint.remembered(usize::MAX)
        });
        if checked.is_err_and(|error| error.kind() != std::io::ErrorKind::NotFound) {
            damaged.push(Layout::checkpoint_name(number));
        }
    }
    for name in layout.caches().unwrap_or_default() {
        let unit = replay.fold.index.all_units();
        let unit = unit
            .into_iter()
            .filter(|unit| unit.segment != replay.end.segment)
            .find(|unit| Layout::sidecar_name(unit.segment) == name);
        let Some(unit) = unit else {
            continue;
        };
        let checked = Sidecar::open(&directory, tag, &unit).and_then(|sidecar| sidecar.check());
        if checked.is_err_and(|error| error.kind() != std::io::ErrorKind::NotFound) {
            damaged.push(name);
        }
    }
    damaged
        .into_iter()
        .map(|name| format!("{CHECKPOINTS}/{name}"))
        .collect()
}
