//! Reading everything and saying what is wrong, without changing anything.

use std::path::Path;

use runtime_store::{Limits, Progress};

use crate::error::OpenError;
use crate::hint;
use crate::layout::{ATTACHMENTS, KEYS, Layout};
use crate::open::{check_keys, report_of, torn_tail};
use crate::replay::{Reader, replay_with_progress};
use crate::report::{Damage, OpenReport};
use crate::{attachments, fs, keys};

/// Reads the whole log of a store, and its attachments, and checks every checksum. It changes nothing and takes no
/// lock; beside a writer it may report the tail that is just being written as torn.
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
    let replay = replay_with_progress(&layout, tag, remembered_max, Reader::Owner, hint, progress)?;
    let mut report = report_of(&layout, &replay, hint)?;
    report.cut = torn_tail(&replay);
    let damaged = attachments::damaged(&layout);
    let damaged = damaged.map_err(|e| OpenError::io("read", &layout.path(ATTACHMENTS), e))?;
    report
        .damage
        .extend(damaged.into_iter().map(|file| Damage::Attachment { file }));
    Ok(report)
}
