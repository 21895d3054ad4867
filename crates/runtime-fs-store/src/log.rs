//! The log core: a plain struct that takes groups of commits. A thread runs it in production, the
//! caller itself in simulation.

use std::io::ErrorKind;
use std::sync::Arc;

use runtime_core::{CommitId, Digest, Tier};
use runtime_store::{Commit, CommitError, Committed, Position, Removal};

use crate::config::FsLimits;
use crate::fill;
use crate::frame::{FRAME_BYTES_MAX, Header, Place, StoreTag, flag};
use crate::fs::{self, File};
use crate::hint::{Hint, HintFile};
use crate::layout::{Layout, SEGMENTS};
use crate::lock::Lock;
use crate::overlay::{Overlay, Verdict, names_of};
use crate::record::{Applied, Taken, write_commit};
use crate::segment::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::shared::Shared;

/// A commit on its way to the log.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) commit: Commit,
    pub(crate) content: Digest,
    /// Whether its form is right.
    pub(crate) form: Result<(), CommitError>,
    /// Whether its attachments exist.
    pub(crate) attachments: Result<(), CommitError>,
}

/// What became of a submission.
#[derive(Debug)]
pub(crate) enum Answer {
    Committed(Committed),
    /// It happened before.
    Repeated,
}

/// What was written before a new segment began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sealed {
    /// The segment that is written to now.
    pub(crate) current: u32,
    pub(crate) buffered: bool,
}

/// The end of the log and everything that writes to it.
#[derive(Debug)]
pub(crate) struct Log {
    layout: Layout,
    tag: StoreTag,
    tier: Tier,
    limits: FsLimits,
    remembered_max: usize,
    shared: Arc<Shared>,
    hint: HintFile,
    file: File,
    end: Place,
    /// Up to here the segment is known to be synced.
    synced: u64,
    /// The file is at least as long as this.
    filled: u64,
    /// The number of the last frame.
    number: u64,
    incarnation: u64,
    /// Why nothing more may be written.
    stopped: Option<String>,
    /// Something was written after the last mark.
    unmarked: bool,
    /// The last segment that was sealed, for a checkpoint.
    sealed: Option<u32>,
    _lock: Lock,
}

/// What a log starts from.
#[derive(Debug)]
pub(crate) struct LogStart {
    pub(crate) layout: Layout,
    pub(crate) tag: StoreTag,
    pub(crate) tier: Tier,
    pub(crate) limits: FsLimits,
    pub(crate) remembered_max: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) lock: Lock,
    pub(crate) end: Place,
    /// Up to here the segment is known to be synced.
    pub(crate) synced: u64,
    pub(crate) number: u64,
    pub(crate) incarnation: u64,
    pub(crate) read_only: Option<String>,
    /// The segment has bytes that do not count, so a new one begins.
    pub(crate) was_cut: bool,
}

/// Commits that are written and synced together.
#[derive(Default)]
struct Part {
    bytes: Vec<u8>,
    applied: Vec<Applied>,
    overlay: Overlay,
    answers: Vec<Result<Answer, CommitError>>,
    /// The answers that stand for something that is not durable yet, with their commits.
    pending: Vec<(usize, CommitId)>,
}

impl Part {
    /// The answer to a submission that repeats an earlier one.
    fn repeated(&self, number: usize) -> Result<Answer, CommitError> {
        match &self.answers[number] {
            Ok(Answer::Committed(committed)) => Ok(Answer::Committed(Committed {
                repeated: true,
                ..committed.clone()
            })),
            Ok(Answer::Repeated) => Ok(Answer::Repeated),
            Err(error) => Err(error.clone()),
        }
    }
}

impl Log {
    /// Goes on where the log ended: syncs it, begins a new segment after a cut, and writes the
    /// first frame of this incarnation.
    pub(crate) fn start(start: LogStart) -> std::io::Result<Self> {
        let file = fs::open_write(&start.layout.segment_path(start.end.segment))?;
        // What was cut stays where it is.
        let filled = match start.was_cut {
            true => start.end.offset,
            false => fs::length(&file)?,
        };
        let mut log = Self {
            hint: HintFile::create(&start.layout)?,
            file,
            layout: start.layout,
            tag: start.tag,
            tier: start.tier,
            limits: start.limits,
            remembered_max: start.remembered_max,
            shared: start.shared,
            end: start.end,
            synced: start.end.offset,
            filled,
            number: start.number,
            incarnation: start.incarnation + 1,
            stopped: start.read_only,
            unmarked: false,
            sealed: start.end.segment.checked_sub(1),
            _lock: start.lock,
        };
        if log.stopped.is_some() {
            return Ok(log);
        }
        #[cfg(feature = "simulation")]
        if fs::fault::is(fs::fault::Fault::NoIncarnation) {
            log.incarnation = 1;
        }
        log.make_durable(start.synced)?;
        if start.was_cut && !overwrites_cut_tails() {
            log.begin_segment()?;
        }
        let buffered = match log.tier {
            Tier::Power => 0,
            _ => flag::BUFFERED,
        };
        log.write_mark(flag::OPENED | buffered)?;
        Ok(log)
    }

    /// Makes what was read durable. A predecessor that was killed may have left whole frames that
    /// only the page cache holds; and after a sync that failed the cache may hold frames as written
    /// that the disk never got, so that to sync them again would do nothing. So they are written
    /// again first.
    fn make_durable(&self, synced: u64) -> std::io::Result<()> {
        let from = synced.max(SEGMENT_HEADER_BYTES as u64);
        if from < self.end.offset {
            let bytes = fs::read_range(&self.file, from, self.end.offset)?;
            self.shared.written.add_bytes(bytes.len());
            fs::write_all_at(&self.file, &bytes, from)?;
        }
        self.sync_file()
    }

    /// Says why nothing more is written.
    pub(crate) fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    /// Something has been written that no mark covers yet.
    pub(crate) const fn needs_mark(&self) -> bool {
        self.unmarked && self.stopped.is_none()
    }

    /// Returns the last segment that was sealed since this was last asked.
    pub(crate) fn take_sealed(&mut self) -> Option<u32> {
        self.sealed.take().filter(|number| *number > 0)
    }

    /// Takes commits in order; the answers are in the same order.
    pub(crate) fn run(&mut self, group: Vec<Submission>) -> Vec<Result<Answer, CommitError>> {
        let mut answers = Vec::with_capacity(group.len());
        let mut group = group.into_iter();
        while group.len() > 0 {
            if self.stopped.is_none()
                && let Err(error) = self.roll_if_full()
            {
                self.stop(&error);
            }
            if let Some(reason) = &self.stopped {
                let reason = reason.clone();
                answers.extend(group.map(|_| {
                    Err(CommitError::ReadOnly {
                        reason: reason.clone(),
                    })
                }));
                return answers;
            }
            let part = self.prepare(&mut group);
            answers.extend(self.finish(part));
        }
        answers
    }

    fn prepare(&self, group: &mut impl Iterator<Item = Submission>) -> Part {
        let index = self.shared.read_index();
        let mut part = Part::default();
        while part.bytes.len() < self.limits.group_bytes_max
            && let Some(submission) = group.next()
        {
            let verdict = part.overlay.decide(&index, &submission, part.answers.len());
            let Submission {
                commit, content, ..
            } = submission;
            let id = commit.id;
            let answer = match verdict {
                Ok(Verdict::New(committed, versions)) => {
                    part.pending.push((part.answers.len(), id));
                    self.add_frame(&mut part, commit, content, &committed, versions);
                    Ok(Answer::Committed(committed))
                }
                Ok(Verdict::RepeatedHere(number)) => {
                    part.pending.push((part.answers.len(), id));
                    part.repeated(number)
                }
                Ok(Verdict::RepeatedBefore) => Ok(Answer::Repeated),
                Err(error) => Err(error),
            };
            part.answers.push(answer);
        }
        part
    }

    fn add_frame(
        &self,
        part: &mut Part,
        commit: Commit,
        content: Digest,
        committed: &Committed,
        versions: Vec<u64>,
    ) {
        let at = Place {
            segment: self.end.segment,
            offset: self.end.offset + part.bytes.len() as u64,
        };
        let number = self.number + part.applied.len() as u64 + 1;
        let first = committed.positions.start;
        let mut header = Header::new(0, self.incarnation, number, first);
        header.names = names_of(&commit).collect();
        header.fit_names();
        let prunes = |removal: &Removal| matches!(removal, Removal::Through(_));
        if commit.removals.iter().any(prunes) {
            // It touches the whole log.
            header.leave_out_names();
        }
        header.durable_mark = self.synced;
        header.events = crate::bytes::length_u32(commit.events.len());
        let payload_at = Place {
            offset: at.offset + header.encoded_bytes() as u64,
            ..at
        };
        let taken = Taken {
            places: committed.places.clone(),
            versions,
        };
        let (payload, applied) = write_commit(self.tag, payload_at, commit, content, first, taken);
        debug_assert!(payload.len() < FRAME_BYTES_MAX, "checked with the form");
        header.write(self.tag, at, &payload, &mut part.bytes);
        part.applied.push(applied);
    }

    fn finish(&mut self, part: Part) -> Vec<Result<Answer, CommitError>> {
        let mut answers = part.answers;
        if part.bytes.is_empty() {
            return answers;
        }
        if let Err(error) = self.append(&part.bytes) {
            self.stop(&error);
            let source = Arc::new(error);
            let reason = format!(
                "segments/{}: {source}",
                Layout::segment_name(self.end.segment)
            );
            for (index, id) in part.pending {
                answers[index] = Err(CommitError::Indeterminate {
                    id,
                    reason: reason.clone(),
                    source: Some(Arc::clone(&source)),
                });
            }
            return answers;
        }
        self.number += part.applied.len() as u64;
        self.unmarked = true;
        self.shared.written.add_group(part.applied.len());
        self.publish(part.applied);
        answers
    }

    /// Writes at the end, and syncs if the tier asks for it.
    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.write(bytes)?;
        self.end.offset += bytes.len() as u64;
        if self.tier == Tier::Power {
            self.fill_ahead(bytes.len())?;
            self.sync_file()?;
            self.synced = self.end.offset;
        }
        Ok(())
    }

    /// Lets the file be longer than it must be, so that the syncs after the next one find its
    /// length as it was. Where many commits share a sync that gains nothing.
    fn fill_ahead(&mut self, written: usize) -> std::io::Result<()> {
        let is_long_enough = self.end.offset <= self.filled;
        if is_long_enough || written as u64 > self.limits.fill_bytes / 16 {
            return Ok(());
        }
        let to = self.end.offset.saturating_add(self.limits.fill_bytes);
        let fill = fill::bytes(self.tag, self.end, to.min(self.full_at()));
        self.filled = self.end.offset + fill.len() as u64;
        match fs::write_all_at(&self.file, &fill, self.end.offset) {
            // There may be room for what has to be written.
            Err(error) if is_no_room(error.kind()) => fs::cut(&self.file, self.end.offset),
            result => result,
        }
    }

    /// Gives back what the file is longer than it must be.
    fn cut_fill(&mut self) -> std::io::Result<()> {
        if self.filled > self.end.offset {
            fs::cut(&self.file, self.end.offset)?;
            self.filled = self.end.offset;
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        self.shared.written.add_bytes(bytes.len());
        fs::write_all_at(&self.file, bytes, self.end.offset)
    }

    fn sync_file(&self) -> std::io::Result<()> {
        self.shared.written.add_sync();
        fs::sync_data(&self.file)
    }

    /// Shows readers what is durable now.
    fn publish(&mut self, applied: Vec<Applied>) {
        let head = {
            let mut index = self.shared.write_index();
            for commit in applied {
                let end = commit.first_position + commit.events.len() as u64;
                index.apply(commit, end, self.remembered_max);
            }
            index.head()
        };
        self.publish_hint(head);
        self.shared.announce(Position(head));
    }

    fn publish_hint(&self, head: u64) {
        let hint = Hint {
            end: self.end,
            head,
        };
        // Readers beside the writer then see less, never anything wrong; the next one repairs it.
        if let Err(error) = self.hint.publish(hint) {
            tracing::warn!(%error, "the durable hint could not be written");
        }
    }

    /// Begins a new segment, so that all that was written so far can be cleaned.
    pub(crate) fn seal(&mut self) -> Result<Sealed, String> {
        if self.stopped.is_none()
            && self.end.offset > SEGMENT_HEADER_BYTES as u64
            && let Err(error) = self.sync().and_then(|()| self.begin_segment())
        {
            self.stop(&error);
        }
        if let Some(reason) = &self.stopped {
            return Err(reason.clone());
        }
        // Nothing is in the new segment that a mark would have to cover.
        self.unmarked = false;
        Ok(Sealed {
            current: self.end.segment,
            buffered: self.tier != Tier::Power,
        })
    }

    /// Writes the mark that makes everything before it certain (S4).
    pub(crate) fn mark(&mut self) {
        self.mark_or_stop(0);
    }

    fn mark_or_stop(&mut self, flags: u8) {
        if self.stopped.is_some() {
            return;
        }
        if let Err(error) = self.sync().and_then(|()| self.write_mark(flags)) {
            self.stop(&error);
        }
    }

    fn sync(&mut self) -> std::io::Result<()> {
        if self.synced < self.end.offset && !seals_unsynced() {
            self.sync_file()?;
            self.synced = self.end.offset;
        }
        Ok(())
    }

    fn write_mark(&mut self, flags: u8) -> std::io::Result<()> {
        let head = self.shared.read_index().head();
        let mut header = Header::new(
            flag::MARK | flags,
            self.incarnation,
            self.number + 1,
            head + 1,
        );
        header.durable_mark = self.synced;
        let mut bytes = Vec::new();
        header.write(self.tag, self.end, &[], &mut bytes);
        self.write(&bytes)?;
        self.sync_file()?;
        self.end.offset += bytes.len() as u64;
        self.synced = self.end.offset;
        self.number += 1;
        self.unmarked = false;
        self.publish_hint(head);
        Ok(())
    }

    /// Writes the last mark; nothing is written after it.
    pub(crate) fn close(&mut self) -> Result<(), String> {
        let failed = self.stopped.clone();
        self.mark_or_stop(flag::CLOSED);
        if self.stopped.is_none()
            && let Err(error) = self.cut_fill()
        {
            self.stop(&error);
        }
        let result = match (&failed, &self.stopped) {
            (None, Some(reason)) => Err(reason.clone()),
            _ => Ok(()),
        };
        self.stopped.get_or_insert_with(|| "closed".to_owned());
        result
    }

    /// After a failed write or sync nothing may be written: what reached the disk is not known,
    /// and a second sync would report success for pages that the first one lost (S5).
    fn stop(&mut self, error: &std::io::Error) {
        tracing::error!(%error, "the log stops; reopen the store");
        self.stopped
            .get_or_insert_with(|| format!("writing failed ({error}); reopen the store"));
    }

    fn roll_if_full(&mut self) -> std::io::Result<()> {
        if self.end.offset < self.full_at() {
            return Ok(());
        }
        // The new segment says that all of the old one counts, so that must be synced before.
        self.sync()?;
        self.begin_segment()
    }

    fn full_at(&self) -> u64 {
        let doublings = self.end.segment.saturating_sub(1).min(32);
        (self.limits.segment_bytes_first << doublings).min(self.limits.segment_bytes_max)
    }

    /// A new segment says where the one before ends; what was cut there must never count again.
    fn begin_segment(&mut self) -> std::io::Result<()> {
        self.cut_fill()?;
        let number = self.end.segment + 1;
        let header = SegmentHeader {
            number,
            incarnation: self.incarnation,
            previous_bytes: self.end.offset,
            first_frame: self.number + 1,
            first_position: self.shared.read_index().head() + 1,
        };
        let directory = self.layout.path(SEGMENTS);
        let name = Layout::segment_name(number);
        fs::write_whole(&directory, &name, &header.to_bytes(self.tag))?;
        self.file = fs::open_write(&self.layout.segment_path(number))?;
        self.end = Place {
            segment: number,
            offset: SEGMENT_HEADER_BYTES as u64,
        };
        self.synced = self.end.offset;
        self.filled = self.end.offset;
        self.sealed = Some(number - 1);
        Ok(())
    }
}

/// Says whether the disk, the user's share of it, or the file is full.
fn is_no_room(error: ErrorKind) -> bool {
    use ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error, StorageFull | QuotaExceeded | FileTooLarge)
}

/// Only under a planted fault a cut tail is written over in place.
#[cfg(feature = "simulation")]
fn overwrites_cut_tails() -> bool {
    fs::fault::is(fs::fault::Fault::NoIncarnation)
}

#[cfg(not(feature = "simulation"))]
const fn overwrites_cut_tails() -> bool {
    false
}

/// Only under a planted fault a segment is sealed before it is synced.
#[cfg(feature = "simulation")]
fn seals_unsynced() -> bool {
    fs::fault::is(fs::fault::Fault::SealsUnsynced)
}

#[cfg(not(feature = "simulation"))]
const fn seals_unsynced() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::io::Error;

    use rustix::io::Errno;

    use super::*;

    #[test]
    fn s5_a_full_disk_quota_or_file_is_no_room() {
        for (error, expected) in [
            (Errno::NOSPC, true),
            (Errno::DQUOT, true),
            (Errno::FBIG, true),
            (Errno::IO, false),
        ] {
            let error = Error::from(error);
            assert_eq!(is_no_room(error.kind()), expected, "{error}");
        }
    }
}

#[cfg(test)]
#[cfg(not(feature = "simulation"))]
mod tests_on_files {
    use runtime_core::{EventId, ScopeId, StreamKey, Timestamp};
    use runtime_store::{Guard, NewEvent, RowChange, RowKey};
    use runtime_testkit::{SeededRandom, SimulatedClock};

    use super::*;
    use crate::config::FsStoreOptions;
    use crate::open::{self, Opened};

    fn opened(parent: &tempfile::TempDir) -> Opened {
        let options = FsStoreOptions::new(parent.path().join("store")).world(
            Arc::new(SimulatedClock::new(Timestamp::from_millis(1_000))),
            Arc::new(SeededRandom::new(1)),
        );
        open::open(&options).expect("it is new")
    }

    fn temporary() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .expect("there is a place for temporary files")
    }

    fn submission(commit: Commit) -> Submission {
        Submission {
            content: commit.content_digest(),
            form: Ok(()),
            attachments: Ok(()),
            commit,
        }
    }

    fn new_commit(number: u8) -> Commit {
        let time = Timestamp::from_millis(number.into());
        Commit::new(CommitId::generate(time, [number; 10]), time)
    }

    fn key(scope: &str, name: &str) -> RowKey {
        RowKey::new("state", ScopeId::new(scope).expect("a scope"), name)
    }

    fn put(scope: &str, name: &str) -> RowChange {
        RowChange::put(key(scope, name), *b"body")
    }

    fn retire(scope: &str) -> RowChange {
        RowChange::Retire(ScopeId::new(scope).expect("a scope"))
    }

    fn event(number: u8, closes: bool, streams: &[&str]) -> NewEvent {
        let streams = streams.iter();
        let streams = streams.map(|name| StreamKey::new(*name).expect("a stream"));
        NewEvent {
            id: EventId::generate(Timestamp::from_millis(number.into()), [number; 10]),
            streams: streams.collect(),
            closes,
            body: [].into(),
        }
    }

    /// Commits of which each depends on those before.
    fn commits() -> Vec<Commit> {
        let version = |scope, name, version| Guard::Version(key(scope, name), version);
        let mut commits = vec![
            new_commit(1)
                .row(put("turn/a/1", "x"))
                .row(put("worker/b", "y")),
            new_commit(2).row(retire("turn/a/1")),
            // What is retired is gone.
            new_commit(3).guard(version("turn/a/1", "x", 1)),
            new_commit(4)
                .row(put("worker/b", "y"))
                .row(put("turn/a/1", "z")),
            new_commit(5).row(retire("turn/a/1")),
            // What is not retired stays.
            new_commit(6).guard(version("worker/b", "y", 9)),
            new_commit(7)
                .guard(Guard::Absent(key("turn/a/1", "z")))
                .row(put("turn/a/1", "z")),
            // An event closes the first of its streams.
            new_commit(8).event(event(8, true, &["turn/a/1", "session/a"])),
            new_commit(9).event(event(9, false, &["session/a"])),
            new_commit(10).event(event(10, false, &["turn/a/1"])),
            // Nothing is removed that comes after: neither the event nor that its stream is closed.
            new_commit(11).event(event(11, true, &["turn/a/2"])),
            new_commit(12).event(event(12, false, &["turn/a/2"])),
            // The other stream was forgotten with its last event.
            new_commit(13).event(event(13, false, &["turn/a/1", "session/a"])),
        ];
        commits[10].removals = vec![Removal::Through(Position(1_000))];
        commits
    }

    /// V1, V5: commits that share a sync are decided as if each had come alone.
    #[test]
    fn v1_a_group_is_decided_as_its_commits_would_be_one_by_one() {
        let (first, second) = (temporary(), temporary());
        let (mut alone, mut together) = (opened(&first).log, opened(&second).log);
        // The first is durable before, so that something is known below the group.
        let mut group: Vec<_> = commits().into_iter().map(submission).collect();
        let rest = group.split_off(1);
        let mut answers = together.run(group);
        answers.extend(together.run(rest));
        let expected = commits().into_iter().map(submission);
        let expected = expected.flat_map(|submission| alone.run(vec![submission]));
        let expected: Vec<_> = expected.collect();
        for (number, (answer, expected)) in (1..).zip(answers.iter().zip(&expected)) {
            assert_eq!(
                format!("{answer:?}"),
                format!("{expected:?}"),
                "commit {number}"
            );
        }
        let refused = (1..).zip(&expected).filter(|(_, answer)| answer.is_err());
        let refused: Vec<u32> = refused.map(|(number, _)| number).collect();
        assert_eq!(refused, [3, 6, 10, 12]);
    }

    /// S5: whoever closes a store is told that its last mark could not be written.
    #[test]
    fn s5_closing_tells_of_a_write_that_failed() {
        let parent = temporary();
        let Opened {
            mut log, layout, ..
        } = opened(&parent);
        log.run(vec![submission(new_commit(1))]);
        log.file = fs::open_read(&layout.segment_path(1)).expect("it is there");
        let failed = log.close().expect_err("nothing can be written to it");
        assert!(failed.contains("reopen the store"), "{failed}");
    }

    /// S5: whoever cleans a store is told that nothing is written any more, and what to do.
    #[test]
    fn s5_sealing_tells_of_a_write_that_failed() {
        let parent = temporary();
        let Opened {
            mut log, layout, ..
        } = opened(&parent);
        std::fs::create_dir(layout.segment_path(2)).expect("it is not there");
        let failed = log.seal().expect_err("its name is taken");
        assert!(failed.contains("reopen the store"), "{failed}");
        assert_eq!(log.stopped(), Some(failed.as_str()));
    }

    /// S6: a checkpoint is asked for up to the segment before the one that is written to.
    #[test]
    fn s6_the_segment_that_was_sealed_is_told_once() {
        let parent = temporary();
        let mut log = opened(&parent).log;
        assert_eq!(log.take_sealed(), None, "nothing came before");
        log.run(vec![submission(new_commit(1))]);
        let sealed = log.seal().expect("it can be written to");
        assert_eq!((sealed.current, log.end.segment), (2, 2));
        assert_eq!((log.take_sealed(), log.take_sealed()), (Some(1), None));
        log.close().expect("it can be written to");
        drop(log);
        assert_eq!(opened(&parent).log.take_sealed(), Some(1), "as before");
    }
}
