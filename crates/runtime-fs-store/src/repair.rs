//! Giving up what is damaged, so that the rest can be written to again (S4, S7).

use std::ops::Range;

use runtime_store::{Limits, Progress};
use serde::Serialize;

use crate::config::FsStoreOptions;
use crate::fold::Fold;
use crate::frame::{Header, Place, StoreTag, flag};
use crate::fs;
use crate::hint;
use crate::inbox::Inbox;
use crate::layout::{ASIDE, ATTACHMENTS, INBOX, KEYS, Layout, SEGMENTS};
use crate::maintenance::MaintenanceError;
use crate::open::lock;
use crate::record::read_commit;
use crate::replay::{Reader, Start, frames_of, replay_with_progress, sealed_end};
use crate::report::Damage;
use crate::segment::{BASE, BaseHeader, Item, SEGMENT_HEADER_BYTES, SegmentHeader, scan};
use crate::{attachments, keys};

/// One thing that a repair does, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
#[non_exhaustive]
pub enum RepairAction {
    /// Damaged frames are given up: their events are lost for good, and what they changed in
    /// rows is as if it had not been.
    GiveUp {
        /// The file, inside the store.
        file: String,
        /// The bytes.
        bytes: Range<u64>,
        /// The positions of the events that are lost.
        positions: Range<u64>,
        /// The scopes and streams that were touched; empty when that cannot be told.
        names: Vec<String>,
    },
    /// The header of a segment is made anew from what is in it.
    RenewHeader {
        /// The file, inside the store.
        file: String,
    },
    /// The signing keys are replaced: tokens given out so far are refused.
    RenewKeys,
    /// A damaged attachment is put aside; reading it answers that it does not exist.
    DropAttachment {
        /// The file, inside the store.
        file: String,
    },
    /// A damaged command is put aside: its sender has to leave it again.
    DropCommand {
        /// The file, inside the store.
        file: String,
    },
}

/// What a repair found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RepairReport {
    /// What is done, or would be.
    pub actions: Vec<RepairAction>,
    /// It was done.
    pub applied: bool,
    /// Where the files are kept as they were, inside the store.
    pub kept_aside: Vec<String>,
    /// The lineage is a new one, since positions that readers may have seen are gone (V6).
    pub lineage_renewed: bool,
}

/// Finds what is damaged and, with `apply`, gives it up, so that the store takes commits again.
/// Files that are changed are kept as they were in `aside/`. A dry run changes nothing and takes
/// no lock.
///
/// It blocks on the disk for as long as reading the log takes.
///
/// # Errors
/// [`MaintenanceError`]; [`Unrepairable`](MaintenanceError::Unrepairable) for what only a backup
/// brings back.
pub fn repair(options: &FsStoreOptions, apply: bool) -> Result<RepairReport, MaintenanceError> {
    repair_with_progress(options, apply, &mut |_| ())
}

/// As [`repair`], and tells how much of the log has been read.
///
/// # Errors
/// As for [`repair`].
pub fn repair_with_progress(
    options: &FsStoreOptions,
    apply: bool,
    progress: &mut dyn FnMut(Progress),
) -> Result<RepairReport, MaintenanceError> {
    let layout = Layout::new(&options.directory);
    let mut format = layout.open_existing()?;
    let _lock = match apply {
        true => Some(lock(options, &layout)?),
        false => None,
    };
    let tag = format.tag().expect("a format without tag is not read");
    let hint = hint::read(&layout);
    let remembered_max = Limits::default().remembered_commits;
    let how = (Start::Beginning, Reader::Owner);
    let found = replay_with_progress(&layout, tag, remembered_max, how, hint, progress)?;
    let mut repair = Repair {
        layout: &layout,
        tag,
        report: RepairReport::default(),
        files: Vec::new(),
        is_loss: false,
    };
    repair.plan_log(&found.fold, found.end)?;
    repair.plan_beside_the_log()?;
    if apply && !repair.report.actions.is_empty() {
        if repair.is_loss {
            // First, so that nothing is given out twice in one lineage if the rest is cut off.
            format.renew_lineage(&*options.random);
            let written = layout.write_format(&format);
            written.map_err(|e| MaintenanceError::io("write", &layout.directory, e))?;
            repair.report.lineage_renewed = true;
        }
        repair.apply(options)?;
        repair.report.applied = true;
    }
    Ok(repair.report)
}

struct Repair<'a> {
    layout: &'a Layout,
    tag: StoreTag,
    report: RepairReport,
    /// What each file of the log becomes.
    files: Vec<(u32, Vec<u8>)>,
    /// Positions, or places in streams, are given up that readers may have seen (V6).
    is_loss: bool,
}

/// What is known before or after something damaged.
#[derive(Debug, Clone, Copy)]
struct Known {
    number: u64,
    position: u64,
    incarnation: u64,
}

impl Repair<'_> {
    fn plan_log(&mut self, fold: &Fold, end: Place) -> Result<(), MaintenanceError> {
        let mut segments = Vec::new();
        for damage in &fold.damage {
            match damage {
                Damage::SegmentHeader { segment } if segment & BASE != 0 => {
                    return Err(MaintenanceError::Unrepairable {
                        what: file_name(*segment),
                    });
                }
                Damage::SegmentHeader { segment }
                | Damage::Header { segment, .. }
                | Damage::Payload { segment, .. } => segments.push(*segment),
                Damage::UnknownRecord { segment, .. } => {
                    return Err(MaintenanceError::Unrepairable {
                        what: format!("{} of a later version", file_name(*segment)),
                    });
                }
                Damage::LostTail { .. }
                | Damage::Attachment { .. }
                | Damage::MissingAttachment { .. }
                | Damage::Command { .. }
                | Damage::Cache { .. } => {}
            }
        }
        segments.sort_unstable();
        segments.dedup();
        for segment in segments {
            self.plan_segment(segment, end)?;
        }
        Ok(())
    }

    /// What the log was before a segment, by the segment before or the base.
    fn known_before(&self, segment: u32) -> Result<Known, MaintenanceError> {
        let nothing = Known {
            number: 0,
            position: 1,
            incarnation: 0,
        };
        if let Some(bytes) = self.bytes(segment)?
            && let Some(header) = SegmentHeader::from_bytes(self.tag, segment, &bytes)
        {
            return Ok(Known {
                number: header.first_frame - 1,
                position: header.first_position,
                incarnation: header.incarnation,
            });
        }
        if segment & BASE != 0 || segment <= 1 {
            return Ok(nothing);
        }
        let before = segment - 1;
        let Some(bytes) = self.bytes(before)? else {
            let base = self.bytes(before | BASE)?.unwrap_or_default();
            let base = BaseHeader::from_bytes(self.tag, before, &base);
            return Ok(base.map_or(nothing, |base| Known {
                number: base.last_frame,
                position: base.last_position + 1,
                incarnation: base.incarnation,
            }));
        };
        let end = as_index(sealed_end(self.layout, self.tag, before)?);
        let frames = bytes.get(SEGMENT_HEADER_BYTES..end.min(bytes.len()));
        let items = scan(self.tag, frames_of(before), frames.unwrap_or_default());
        let last = items.iter().rev().find_map(Item::header);
        Ok(last.map_or(nothing, after))
    }

    fn bytes(&self, segment: u32) -> Result<Option<Vec<u8>>, MaintenanceError> {
        let path = self.layout.segment_path(segment);
        match fs::read_all(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(MaintenanceError::io("read", &path, error)),
        }
    }

    /// What a segment begins with, by its header or else by its first frame.
    fn first_of(&self, segment: u32) -> Result<Option<Known>, MaintenanceError> {
        let Some(bytes) = self.bytes(segment)? else {
            return Ok(None);
        };
        if let Some(header) = SegmentHeader::from_bytes(self.tag, segment, &bytes) {
            return Ok(Some(Known {
                number: header.first_frame,
                position: header.first_position,
                incarnation: header.incarnation,
            }));
        }
        let frames = bytes.get(SEGMENT_HEADER_BYTES..).unwrap_or_default();
        let first = Header::read(self.tag, frames_of(segment), frames);
        Ok(first.ok().map(|(first, _)| of(&first)))
    }

    fn plan_segment(&mut self, segment: u32, end: Place) -> Result<(), MaintenanceError> {
        let path = self.layout.segment_path(segment);
        let bytes = fs::read_all(&path).map_err(|e| MaintenanceError::io("read", &path, e))?;
        let is_base = segment & BASE != 0;
        let next = match is_base {
            true => None,
            false => self.first_of(segment + 1)?,
        };
        // What counts of it: the torn tail of the last segment is not for us.
        let counted = match BaseHeader::from_bytes(self.tag, segment & !BASE, &bytes) {
            Some(header) => (SEGMENT_HEADER_BYTES as u64).saturating_add(header.bytes),
            None if next.is_none() && end.segment == segment => end.offset,
            None => sealed_end(self.layout, self.tag, segment)?,
        };
        let mut out = bytes.clone();
        let counted = as_index(counted).max(SEGMENT_HEADER_BYTES);
        let tail = out.split_off(counted.min(out.len()));
        out.resize(counted.next_multiple_of(8), 0);
        let mut known = self.known_before(segment)?;
        if !is_base && SegmentHeader::from_bytes(self.tag, segment, &bytes).is_none() {
            self.renew_header(segment, &mut out)?;
        }
        let frames = out[SEGMENT_HEADER_BYTES..].to_vec();
        let mut run: Option<Range<u64>> = None;
        let mut lost: Vec<Header> = Vec::new();
        for item in scan(self.tag, frames_of(segment), &frames) {
            match item {
                Item::Frame {
                    header,
                    payload,
                    payload_at,
                    offset,
                    ..
                } if self.is_whole(segment, &header, payload, payload_at) => {
                    if let Some(bytes) = run.take() {
                        debug_assert_eq!(bytes.end, offset, "runs end where frames begin");
                        self.give_up(segment, bytes, known, of(&header), &mut lost, &mut out);
                    }
                    known = after(&header);
                }
                Item::Frame {
                    header,
                    offset,
                    end,
                    ..
                }
                | Item::BadPayload {
                    header,
                    offset,
                    end,
                    ..
                } => {
                    extend(&mut run, offset..end);
                    lost.push(header);
                }
                Item::Hole { offset, end } => extend(&mut run, offset..end),
            }
        }
        if let Some(bytes) = run {
            let by_headers = lost.iter().map(after).max_by_key(|known| known.number);
            let next = match (next, by_headers) {
                (Some(next), _) => next,
                (None, Some(last)) => Known {
                    number: last.number + 1,
                    ..last
                },
                (None, None) => Known {
                    number: known.number + 2,
                    ..known
                },
            };
            self.give_up(segment, bytes, known, next, &mut lost, &mut out);
        }
        if next.is_none() {
            out.extend(tail);
        }
        self.files.push((segment, out));
        Ok(())
    }

    fn is_whole(&self, segment: u32, header: &Header, payload: &[u8], payload_at: u64) -> bool {
        let at = Place {
            segment,
            offset: payload_at,
        };
        header.has(flag::MARK) || read_commit(self.tag, at, payload, header.first_position).is_ok()
    }

    fn renew_header(&mut self, segment: u32, out: &mut [u8]) -> Result<(), MaintenanceError> {
        let file = file_name(segment);
        let frames = scan(self.tag, frames_of(segment), &out[SEGMENT_HEADER_BYTES..]);
        // What is given up at the beginning goes on from the segment before.
        let first = match frames.first().map(Item::header) {
            Some(Some(header)) => of(header),
            _ => {
                let before = self.known_before(segment)?;
                let next = frames.iter().find_map(Item::header).map(of);
                Known {
                    number: before.number + 1,
                    incarnation: next.unwrap_or(before).incarnation,
                    ..before
                }
            }
        };
        if !frames.is_empty() && frames.iter().all(|item| item.header().is_none()) {
            return Err(MaintenanceError::Unrepairable { what: file });
        }
        let previous_bytes = match segment {
            1 => 0,
            _ if self.bytes(segment - 1)?.is_none() => 0,
            _ => sealed_end(self.layout, self.tag, segment - 1)?,
        };
        let header = SegmentHeader {
            number: segment,
            incarnation: first.incarnation,
            previous_bytes,
            first_frame: first.number,
            first_position: first.position,
        };
        out[..SEGMENT_HEADER_BYTES].copy_from_slice(&header.to_bytes(self.tag));
        self.report.actions.push(RepairAction::RenewHeader { file });
        Ok(())
    }

    /// Puts one frame that says so in the place of damaged ones.
    fn give_up(
        &mut self,
        segment: u32,
        bytes: Range<u64>,
        before: Known,
        next: Known,
        lost: &mut Vec<Header>,
        out: &mut [u8],
    ) {
        let names = lost.iter().flat_map(|header| header.names.iter());
        let names: Vec<String> = names.map(str::to_owned).collect();
        lost.clear();
        let is_base = segment & BASE != 0;
        let kept = if is_base { flag::KEPT } else { 0 };
        let flags = flag::MARK | flag::LOST | kept;
        let number = match is_base {
            true => before.number,
            false => next.number.saturating_sub(1).max(before.number + 1),
        };
        let incarnation = before.incarnation.max(1);
        let mut header = Header::new(flags, incarnation, number, before.position);
        let positions = match is_base {
            true => before.position..before.position,
            false => before.position..next.position.max(before.position),
        };
        header.events = u32::try_from(positions.end - positions.start).unwrap_or(u32::MAX);
        let (from, to) = (as_index(bytes.start), as_index(bytes.end).min(out.len()));
        let at = Place {
            segment,
            offset: bytes.start,
        };
        let payload = vec![0; (to - from).saturating_sub(header.encoded_bytes())];
        let mut frame = Vec::with_capacity(to - from);
        header.write(self.tag, at, &payload, &mut frame);
        let length = frame.len().min(out.len() - from);
        out[from..from + length].copy_from_slice(&frame[..length]);
        // Where no header says what was lost, it may have been an event; a base says where streams
        // end.
        self.is_loss |= is_base || names.is_empty() || !positions.is_empty();
        self.report.actions.push(RepairAction::GiveUp {
            file: file_name(segment),
            bytes,
            positions,
            names,
        });
    }

    fn plan_beside_the_log(&mut self) -> Result<(), MaintenanceError> {
        let path = self.layout.path(KEYS);
        match fs::read_all(&path) {
            Ok(bytes) if keys::from_file(&bytes).is_some() => {}
            Ok(_) => self.report.actions.push(RepairAction::RenewKeys),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.report.actions.push(RepairAction::RenewKeys);
            }
            Err(error) => return Err(MaintenanceError::io("read", &path, error)),
        }
        let damaged = attachments::damaged(self.layout);
        let root = self.layout.path(ATTACHMENTS);
        let damaged = damaged.map_err(|e| MaintenanceError::io("read", &root, e))?;
        let drop = |file| RepairAction::DropAttachment { file };
        self.report.actions.extend(damaged.into_iter().map(drop));
        let checked = Inbox::new(self.layout).check();
        let inbox = self.layout.path(INBOX);
        let damaged = checked.map_err(|e| MaintenanceError::io("read", &inbox, e))?;
        let drop = |name| RepairAction::DropCommand {
            file: format!("{INBOX}/{name}"),
        };
        self.report
            .actions
            .extend(damaged.damaged.into_iter().map(drop));
        Ok(())
    }

    fn apply(&mut self, options: &FsStoreOptions) -> Result<(), MaintenanceError> {
        // They tell of the log as it was.
        let removed = self.layout.remove_caches();
        removed.map_err(|e| MaintenanceError::io("clear", &self.layout.directory, e))?;
        for (segment, bytes) in std::mem::take(&mut self.files) {
            self.keep_aside(&file_name(segment))?;
            let directory = self.layout.path(SEGMENTS);
            let written = fs::write_whole(&directory, &Layout::segment_name(segment), &bytes);
            written.map_err(|e| MaintenanceError::io("write", &directory, e))?;
        }
        for action in self.report.actions.clone() {
            match action {
                RepairAction::RenewKeys => {
                    let there = fs::kind(&self.layout.path(KEYS));
                    if matches!(there, Ok(Some(_))) {
                        self.keep_aside(KEYS)?;
                    }
                    let fresh = keys::fresh_file(&*options.random);
                    let written = fs::write_whole(&self.layout.directory, KEYS, &fresh);
                    written
                        .map_err(|e| MaintenanceError::io("write", &self.layout.directory, e))?;
                }
                RepairAction::DropAttachment { file } | RepairAction::DropCommand { file } => {
                    self.move_aside(&file)?;
                }
                RepairAction::GiveUp { .. } | RepairAction::RenewHeader { .. } => {}
            }
        }
        Ok(())
    }

    /// Whatever it is: a directory that has the name of a command as well.
    fn move_aside(&mut self, file: &str) -> Result<(), MaintenanceError> {
        let path = self.layout.path(file);
        let aside = self.layout.path(ASIDE);
        let name = self.name_aside(file)?;
        let moved = fs::rename(&path, &aside.join(&name)).and_then(|()| {
            fs::sync_directory(&aside)?;
            fs::sync_directory(path.parent().expect("it is inside the store"))
        });
        moved.map_err(|e| MaintenanceError::io("put aside", &path, e))?;
        self.report.kept_aside.push(format!("{ASIDE}/{name}"));
        Ok(())
    }

    /// What an earlier repair kept there stays.
    fn name_aside(&self, file: &str) -> Result<String, MaintenanceError> {
        let aside = self.layout.path(ASIDE);
        let known = fs::names(&aside).map_err(|e| MaintenanceError::io("read", &aside, e))?;
        let first = format!("{}.damaged", file.replace('/', "-"));
        let further = (2..).map(|number| format!("{first}.{number}"));
        let mut names = std::iter::once(first.clone()).chain(further);
        let free = names.find(|name| !known.contains(name));
        Ok(free.expect("a directory has fewer files than there are numbers"))
    }

    fn keep_aside(&mut self, file: &str) -> Result<(), MaintenanceError> {
        let path = self.layout.path(file);
        let aside = self.layout.path(ASIDE);
        let name = self.name_aside(file)?;
        let copied = fs::read_all(&path).and_then(|bytes| fs::write_whole(&aside, &name, &bytes));
        copied.map_err(|e| MaintenanceError::io("keep aside", &path, e))?;
        self.report.kept_aside.push(format!("{ASIDE}/{name}"));
        Ok(())
    }
}

fn file_name(segment: u32) -> String {
    format!("{SEGMENTS}/{}", Layout::segment_name(segment))
}

/// What is known where a frame begins.
fn of(header: &Header) -> Known {
    Known {
        number: header.number,
        position: header.first_position,
        incarnation: header.incarnation,
    }
}

fn after(header: &Header) -> Known {
    Known {
        number: header.number,
        position: header.end_position(),
        incarnation: header.incarnation,
    }
}

fn extend(run: &mut Option<Range<u64>>, bytes: Range<u64>) {
    match run {
        Some(run) => run.end = bytes.end,
        None => *run = Some(bytes),
    }
}

fn as_index(offset: u64) -> usize {
    usize::try_from(offset).expect("a segment fits in memory while it is read")
}

#[cfg(test)]
#[cfg(not(feature = "simulation"))]
mod tests {
    use std::sync::Arc;

    use runtime_core::Timestamp;
    use runtime_testkit::{SeededRandom, SimulatedClock};

    use super::*;
    use crate::record::sealed_record;
    use crate::{open, verify};

    /// S4, S7: frames that a writer with a mistake has written, behind checksums that hold, are
    /// given up like damaged ones, and the numbers of frames go on after them.
    #[test]
    fn s7_frames_that_say_nothing_are_given_up_though_their_checksums_hold() {
        const PUT: u8 = 2;
        let parent = tempfile::tempdir().expect("there is a place for temporary files");
        let options = FsStoreOptions::new(parent.path().join("store")).world(
            Arc::new(SimulatedClock::new(Timestamp::from_millis(1_000))),
            Arc::new(SeededRandom::new(1)),
        );
        let mut log = open::open(&options).expect("it is new").log;
        log.close().expect("it can be written to");
        drop(log);
        let layout = Layout::new(&options.directory);
        let tag = layout.open_existing().ok().and_then(|format| format.tag());
        let tag = tag.expect("it was created");
        let last = || {
            let bytes = fs::read_all(&layout.segment_path(1)).expect("it is there");
            let items = scan(tag, frames_of(1), &bytes[SEGMENT_HEADER_BYTES..]);
            let last = items.last().and_then(Item::header).cloned();
            (last.expect("a frame is the last"), bytes)
        };
        let (closed, mut bytes) = last();
        let lost = bytes.len() as u64;
        for ahead in 1..=2 {
            let mut at = Place {
                segment: 1,
                offset: bytes.len() as u64,
            };
            let position = closed.first_position + ahead - 1;
            let number = closed.number + ahead;
            let mut header = Header::new(0, closed.incarnation, number, position);
            header.events = 1;
            header.names = ["worker/1"].into_iter().collect();
            let place = at;
            at.offset += header.encoded_bytes() as u64;
            // A row of no commit.
            let mut payload = sealed_record(tag, at, PUT, b"12345678");
            crate::bytes::pad(&mut payload, 0);
            header.write(tag, place, &payload, &mut bytes);
        }
        let segments = layout.path(SEGMENTS);
        let written = fs::write_whole(&segments, &Layout::segment_name(1), &bytes);
        written.expect("it can be written to");
        let damage = verify(&options.directory).expect("it opens").damage;
        assert!(
            matches!(damage[..], [Damage::Payload { .. }, Damage::Payload { .. }]),
            "{damage:?}"
        );

        let done = repair(&options, true).expect("it can be repaired");
        let given_up = RepairAction::GiveUp {
            file: "segments/0000000001.log".to_owned(),
            bytes: lost..bytes.len() as u64,
            positions: closed.first_position..closed.first_position + 2,
            names: vec!["worker/1".to_owned(); 2],
        };
        assert_eq!(done.actions, [given_up]);
        assert_eq!(verify(&options.directory).expect("it opens").damage, []);
        let (given_up, _) = last();
        assert_eq!(given_up.number, closed.number + 2);
        let opened = open::open(&options).expect("it opens");
        assert_eq!(opened.report.read_only, None);
        assert_eq!(last().0.number, closed.number + 3);
    }
}
