//! Opening a store for writing: lock, identity, log, tail.

use std::sync::Arc;

use runtime_core::Tier;

use crate::config::FsStoreOptions;
use crate::error::OpenError;
use crate::frame::{Place, StoreTag};
use crate::fs::{self, Kind};
use crate::hint::{self, Hint};
use crate::history::History;
use crate::inbox::Inbox;
use crate::layout::{ASIDE, Format, INBOX, KEYS, LOCK, Layout, hex};
use crate::lock::{Holder, Lock};
use crate::log::{Log, LogStart};
use crate::replay::{Reader, Replay, replay};
use crate::report::{CutTail, Damage, OpenReport};
use crate::segments::Segments;
use crate::shared::Shared;

/// A store that is ready to be written to.
pub(crate) struct Opened {
    pub(crate) layout: Layout,
    pub(crate) format: Format,
    pub(crate) log: Log,
    pub(crate) shared: Arc<Shared>,
    pub(crate) report: OpenReport,
}

pub(crate) fn open(options: &FsStoreOptions) -> Result<Opened, OpenError> {
    if !matches!(options.tier, Tier::Power | Tier::Crash) {
        return Err(OpenError::Tier { tier: options.tier });
    }
    let layout = Layout::new(&options.directory);
    layout.create_directory()?;
    let holder = holder(options);
    let (lock, before) = Lock::take(&layout.directory, &holder)?;
    let (mut format, created) =
        layout.open_or_create(options.runtime.as_ref(), &*options.clock, &*options.random)?;
    check_keys(&layout)?;
    let tag = format.tag().expect("a format without tag is not read");
    let hint = hint::read(&layout);
    let remembered_max = options.limits.remembered_commits;
    let replay = replay(&layout, tag, remembered_max, Reader::Owner, hint)?;
    let mut report = report_of(&layout, &replay, hint)?;
    report.created = created;
    if report.read_only.is_none() {
        layout
            .sync_names()
            .map_err(|e| OpenError::io("sync", &layout.directory, e))?;
        layout
            .remove_leftovers()
            .and_then(|()| Inbox::new(&layout).remove_leftovers(options.clock.now()))
            .map_err(|e| OpenError::io("remove what was left in", &layout.directory, e))?;
        if let Some(base) = replay.base {
            // A cleaning was cut off before it could remove what its base stands for.
            layout
                .remove_covered(base)
                .map_err(|e| OpenError::io("clean", &layout.directory, e))?;
        }
        report.cut = keep_tail_aside(&layout, &replay)?;
        report.lineage_renewed =
            is_behind(hint, replay.end) || may_have_lost_cache(&replay, &holder, before.as_ref());
        if report.lineage_renewed {
            format.renew_lineage(&*options.random);
            layout
                .write_format(&format)
                .map_err(|e| OpenError::io("write", &layout.directory, e))?;
        }
        lock.sign(&holder)
            .map_err(|e| OpenError::io("write", &layout.path(LOCK), e))?;
    }
    let (log, shared) = start_log(options, &layout, tag, lock, replay, &report)?;
    report.read_only = log.stopped().map(str::to_owned);
    Ok(Opened {
        layout,
        format,
        log,
        shared,
        report,
    })
}

fn holder(options: &FsStoreOptions) -> Holder {
    Holder {
        pid: std::process::id(),
        instance: hex(&options.random.ten()),
        opened_at: options.clock.now(),
        boot: fs::boot(),
    }
}

/// Takes the lock of a directory that exists.
pub(crate) fn lock(options: &FsStoreOptions, layout: &Layout) -> Result<Lock, OpenError> {
    let (lock, _) = Lock::take(&layout.directory, &holder(options))?;
    Ok(lock)
}

/// Positions that were published are gone, whatever took them (V6).
fn is_behind(hint: Option<Hint>, end: Place) -> bool {
    hint.is_some_and(|hint| hint.end > end)
}

/// The instance before acknowledged what only the page cache held, did not close, and the machine
/// may have started again since. The hint may be lost with the rest, so it proves nothing (V6).
fn may_have_lost_cache(replay: &Replay, holder: &Holder, before: Option<&Holder>) -> bool {
    let same_boot =
        before.is_some_and(|before| before.boot == holder.boot && before.boot.is_some());
    replay.fold.buffered && !replay.fold.closed && !same_boot
}

pub(crate) fn check_keys(layout: &Layout) -> Result<(), OpenError> {
    let path = layout.path(KEYS);
    match fs::kind(&path).map_err(|e| OpenError::io("look at", &path, e))? {
        Some(Kind::File) => Ok(()),
        Some(Kind::Symlink) => Err(OpenError::Symlink { path }),
        Some(Kind::Directory | Kind::Other) | None => Err(OpenError::Missing {
            file: KEYS.to_owned(),
        }),
    }
}

pub(crate) fn report_of(
    layout: &Layout,
    replay: &Replay,
    hint: Option<Hint>,
) -> Result<OpenReport, OpenError> {
    let fold = &replay.fold;
    let lost = hint.filter(|hint| is_behind(Some(*hint), replay.end));
    let lost = lost.map(|hint| Damage::LostTail {
        segment: replay.end.segment,
        offset: replay.end.offset,
        published: hint.head,
    });
    let inbox = Inbox::new(layout).check();
    let inbox = inbox.map_err(|e| OpenError::io("read", &layout.path(INBOX), e))?;
    let in_inbox = |name: String| format!("{INBOX}/{name}");
    let damaged = inbox.damaged.into_iter().map(in_inbox);
    let damaged = damaged.map(|file| Damage::Command { file });
    let damage = fold.damage.iter().cloned().chain(lost);
    let mut foreign = layout.foreign()?;
    foreign.extend(inbox.foreign.into_iter().map(in_inbox));
    Ok(OpenReport {
        closed_in_order: fold.closed,
        damage: damage.chain(damaged).collect(),
        read_only: fold.read_only(),
        foreign,
        unusable_checkpoints: replay.unusable.clone(),
        frames: fold.frames,
        commits: fold.commits,
        events: fold.index.head(),
        ..OpenReport::default()
    })
}

/// Describes what is after the end of the log.
pub(crate) fn torn_tail(replay: &Replay) -> Option<CutTail> {
    let bytes = replay.file_bytes.checked_sub(replay.end.offset)?;
    (bytes > 0).then_some(CutTail {
        segment: replay.end.segment,
        offset: replay.end.offset,
        bytes,
        kept_as: None,
        possibly_acknowledged: true,
    })
}

/// Copies the torn tail before a new segment says that it does not count. The old file stays as
/// it is.
fn keep_tail_aside(layout: &Layout, replay: &Replay) -> Result<Option<CutTail>, OpenError> {
    let Some(mut cut) = torn_tail(replay) else {
        return Ok(None);
    };
    let path = layout.segment_path(cut.segment);
    let bytes = fs::open_read(&path)
        .and_then(|file| fs::read_range(&file, cut.offset, cut.offset + cut.bytes))
        .map_err(|e| OpenError::io("read", &path, e))?;
    let name = format!("{:010}-{}.tail", cut.segment, cut.offset);
    let aside = layout.path(ASIDE);
    fs::write_whole(&aside, &name, &bytes).map_err(|e| OpenError::io("write", &aside, e))?;
    cut.kept_as = Some(format!("{ASIDE}/{name}"));
    Ok(Some(cut))
}

fn start_log(
    options: &FsStoreOptions,
    layout: &Layout,
    tag: StoreTag,
    lock: Lock,
    replay: Replay,
    report: &OpenReport,
) -> Result<(Log, Arc<Shared>), OpenError> {
    let limits = options.fs_limits;
    let segments = Segments::new(layout.clone(), tag, limits.open_segments_max);
    let history = History::new(layout.clone(), tag, limits.open_segments_max, true);
    let (number, incarnation) = (replay.fold.number, replay.fold.incarnation);
    let synced = replay.synced;
    let shared = Arc::new(Shared::new(replay.fold.index, segments, history));
    let log = Log::start(LogStart {
        layout: layout.clone(),
        tag,
        tier: options.tier,
        limits,
        remembered_max: options.limits.remembered_commits,
        shared: Arc::clone(&shared),
        lock,
        end: replay.end,
        synced,
        number,
        incarnation,
        read_only: report.read_only.clone(),
        was_cut: report.cut.is_some(),
    })
    .map_err(|e| OpenError::io("write to the log in", &layout.directory, e))?;
    Ok((log, shared))
}
