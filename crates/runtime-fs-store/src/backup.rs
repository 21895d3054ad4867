//! Copying a store while it is written to (S7).

use std::path::Path;
use std::time::{Duration, Instant};

use runtime_core::Random;
use runtime_store::Progress;
use serde::Serialize;

use crate::error::OpenError;
use crate::fs::{self, Kind};
use crate::hint::{self, Hint};
use crate::layout::{ATTACHMENTS, KEYS, Layout, SEGMENTS};
use crate::lock::{self, Holder};
use crate::maintenance::MaintenanceError;
use crate::segment::{BASE, SEGMENT_HEADER_BYTES};

/// How often a copy begins again because a cleaning removed what it was about to copy.
const ATTEMPTS_MAX: usize = 8;
/// How long a writer that is still opening the store is waited for.
const OPENING_MAX: Duration = Duration::from_secs(10);
const OPENING_POLL: Duration = Duration::from_millis(10);

/// What a backup copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BackupReport {
    /// Files of the log.
    pub segments: u64,
    /// Attachments.
    pub attachments: u64,
    /// Bytes in all.
    pub bytes: u64,
}

/// Copies a store, also one that is written to, into a directory that does not exist yet. The copy
/// is a store of one moment, with everything that was durable when the copying began, signing keys
/// included; it has its own
/// lineage, since its log goes on differently from that of the original (V6). It is on stable
/// storage when this returns, and before that has no identity, so that half of it is no store.
///
/// It takes no lock and blocks on the disk for as long as copying takes.
///
/// # Errors
/// [`MaintenanceError`]; the target can be removed then.
pub fn backup(
    directory: &Path,
    target: &Path,
    random: &dyn Random,
    progress: &mut dyn FnMut(Progress),
) -> Result<BackupReport, MaintenanceError> {
    let from = Layout::new(directory);
    let mut format = from.open_existing()?;
    let to = Layout::new(target);
    let there = fs::kind(target).map_err(|e| MaintenanceError::io("look at", target, e))?;
    if there.is_some() {
        return Err(MaintenanceError::TargetExists {
            directory: target.to_owned(),
        });
    }
    to.create_directory()?;
    let create = to.prepare(random);
    create.map_err(|e| MaintenanceError::io("create", target, e))?;
    let mut copy = Copy {
        from: &from,
        to: &to,
        report: BackupReport::default(),
        total: 0,
        progress,
    };
    // Before the log, since what is swept meanwhile may be named in what is copied of it, and once
    // more for what was put since.
    copy.attachments()?;
    copy.log_again_while_it_moves()?;
    copy.attachments()?;
    copy.file(&from.path(KEYS), &to.directory, KEYS)?;
    format.renew_lineage(random);
    let written = to.write_format(&format);
    written.map_err(|e| MaintenanceError::io("write", target, e))?;
    Ok(copy.report)
}

struct Copy<'a> {
    from: &'a Layout,
    to: &'a Layout,
    report: BackupReport,
    total: u64,
    progress: &'a mut dyn FnMut(Progress),
}

impl Copy<'_> {
    /// A cleaning replaces files while they are listed and copied; then the copy begins again.
    fn log_again_while_it_moves(&mut self) -> Result<(), MaintenanceError> {
        let before = self.report;
        for _ in 1..ATTEMPTS_MAX {
            match self.log() {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(MaintenanceError::Io { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            self.empty_log()?;
            self.report = before;
        }
        match self.log()? {
            true => Ok(()),
            false => Err(MaintenanceError::io(
                "copy all of",
                &self.from.path(SEGMENTS),
                std::io::Error::other("its files are not complete, or change all the time"),
            )),
        }
    }

    fn empty_log(&self) -> Result<(), MaintenanceError> {
        let directory = self.to.path(SEGMENTS);
        let failed = |e| MaintenanceError::io("clear", &directory, e);
        for name in fs::names(&directory).map_err(failed)? {
            fs::remove_file(&directory.join(name)).map_err(failed)?;
        }
        Ok(())
    }

    /// Copies the log up to what is durable; says whether that is all of it. It is not if a base
    /// was made or a writer has come meanwhile.
    ///
    /// A cleaning writes over what is dead by its time. So the end of the copy is looked up only
    /// once everything before the last segment is copied: what was dead there is dead in the copy.
    fn log(&mut self) -> Result<bool, MaintenanceError> {
        // A writer that is still opening is waited for.
        self.published()?;
        // Segments first: a base that is made in between then leaves a gap that is seen.
        let numbers = self.from.segments()?;
        let base = self.from.base()?;
        let mut next = base.map_or(1, |base| base + 1);
        let base = base.map(|base| base | BASE);
        let left = numbers.into_iter().filter(|number| *number >= next);
        self.total = self.report.bytes;
        for number in base.into_iter().chain(left) {
            let path = self.from.segment_path(number);
            let length = fs::open_read(&path).and_then(|file| fs::length(&file));
            self.total += length.map_err(|e| MaintenanceError::io("read", &path, e))?;
        }
        if let Some(base) = base {
            self.segment(base)?;
        }
        for _ in 0..ATTEMPTS_MAX {
            let mut numbers = self.from.segments()?;
            numbers.retain(|number| *number >= next);
            let Some(last) = numbers.pop() else {
                return Ok(false);
            };
            if !numbers.iter().copied().eq(next..last) {
                return Ok(false);
            }
            // Opened before its end is looked up: a cleaning puts another file in its place.
            let path = self.from.segment_path(last);
            let file = fs::open_read(&path);
            let file = file.map_err(|e| MaintenanceError::io("read", &path, e))?;
            for number in numbers {
                self.segment(number)?;
            }
            next = last;
            let published = self.published()?;
            let end = match published {
                Some(Hint { end, .. }) if end.segment > last => continue,
                Some(Hint { end, .. }) if end.segment == last => end.offset,
                // Nothing is published of it yet.
                Some(_) => SEGMENT_HEADER_BYTES as u64,
                None => u64::MAX,
            };
            let length = fs::length(&file).map(|length| length.min(end));
            let bytes = length.and_then(|length| fs::read_range(&file, 0, length));
            let bytes = bytes.map_err(|e| MaintenanceError::io("read", &path, e))?;
            let name = Layout::segment_name(last);
            self.write(&self.to.path(SEGMENTS), &name, &bytes)?;
            self.report.segments += 1;
            return Ok(published.is_some() || self.is_still_last(last)?);
        }
        Ok(false)
    }

    /// Says whether no writer is there, and none came and went.
    fn is_still_last(&self, segment: u32) -> Result<bool, MaintenanceError> {
        Ok(self.from.segments()?.last() == Some(&segment) && self.holder()?.is_none())
    }

    fn segment(&mut self, number: u32) -> Result<(), MaintenanceError> {
        let path = self.from.segment_path(number);
        let name = Layout::segment_name(number);
        self.file(&path, &self.to.path(SEGMENTS), &name)?;
        self.report.segments += 1;
        Ok(())
    }

    /// Returns up to where the log is durable beside a writer; none without one: then everything
    /// that is there is what the next one goes on from.
    ///
    /// What a writer before published proves nothing: the hint is never synced, so after a loss of
    /// power it is older than the log. It is the writer's if it is younger than its lock.
    fn published(&self) -> Result<Option<Hint>, MaintenanceError> {
        let until = Instant::now() + OPENING_MAX;
        loop {
            let holder = self.holder()?;
            if holder.is_none() {
                return Ok(None);
            }
            if hint::is_younger_than_lock(self.from)
                && let Some(hint) = hint::read(self.from)
            {
                return Ok(Some(hint));
            }
            if Instant::now() > until {
                return Err(MaintenanceError::Open(OpenError::Busy {
                    directory: self.from.directory.clone(),
                    holder,
                }));
            }
            std::thread::sleep(OPENING_POLL);
        }
    }

    fn holder(&self) -> Result<Option<Holder>, MaintenanceError> {
        Ok(lock::holder(&self.from.directory)?)
    }

    /// Copies the attachments that are not in the copy yet.
    fn attachments(&mut self) -> Result<(), MaintenanceError> {
        let root = self.from.path(ATTACHMENTS);
        let failed = |e| MaintenanceError::io("read", &root, e);
        for name in fs::names(&root).map_err(failed)? {
            let directory = root.join(&name);
            if fs::kind(&directory).map_err(failed)? != Some(Kind::Directory) {
                continue;
            }
            let target = self.to.path(ATTACHMENTS).join(&name);
            fs::create_directory(&target).map_err(failed)?;
            for file in fs::names(&directory).map_err(failed)? {
                let is_there = fs::kind(&target.join(&file)).map_err(failed)?.is_some();
                if is_there || file.parse::<runtime_core::Digest>().is_err() {
                    continue;
                }
                match self.file(&directory.join(&file), &target, &file) {
                    // Swept since; nothing that is copied names it.
                    Err(MaintenanceError::Io { source, .. })
                        if source.kind() == std::io::ErrorKind::NotFound => {}
                    copied => {
                        copied?;
                        self.report.attachments += 1;
                    }
                }
            }
        }
        fs::sync_directory(&self.to.path(ATTACHMENTS)).map_err(failed)
    }

    fn file(&mut self, from: &Path, directory: &Path, name: &str) -> Result<(), MaintenanceError> {
        let bytes = fs::read_all(from).map_err(|e| MaintenanceError::io("read", from, e))?;
        self.write(directory, name, &bytes)
    }

    fn write(
        &mut self,
        directory: &Path,
        name: &str,
        bytes: &[u8],
    ) -> Result<(), MaintenanceError> {
        let written = fs::write_whole(directory, name, bytes);
        written.map_err(|e| MaintenanceError::io("write", &directory.join(name), e))?;
        self.report.bytes += bytes.len() as u64;
        (self.progress)(Progress {
            done: self.report.bytes,
            total: self.total.max(self.report.bytes),
        });
        Ok(())
    }
}
