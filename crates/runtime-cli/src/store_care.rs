//! Caring for a store: verify, export, import, backup, repair, retention, purge.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use runtime::core::{Clock as _, EventDraft, EventId, EventKind, Random as _, WorkerId};
use runtime::events::{HubParts, RetentionPolicy};
use runtime::fs_store::{
    self, CleanOptions, CleanReport, Damage, FsStore, OpenReport, Progress, RepairAction,
};
use runtime::store::{
    AttachmentStore as _, Commit, ExportReport, NewEvent, Store as _, SystemClock, SystemRandom,
};
use runtime::workers::{Command, event_hub, view};
use runtime::{OpenError, RuntimeError};
use serde_json::json;

use crate::answer::{self, Answered};
use crate::args::Common;
use crate::database;
use crate::exit::Exit;
use crate::open;
use crate::output::Output;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Tells how far something has come, on standard error if that is a terminal: short works say
/// nothing.
pub(crate) struct Teller {
    what: &'static str,
    told: Instant,
    is_open: bool,
}

impl Teller {
    pub(crate) fn new(what: &'static str) -> Self {
        Self {
            what,
            told: Instant::now(),
            is_open: io::stderr().is_terminal(),
        }
    }

    pub(crate) fn tell(&mut self, progress: Progress) {
        if !self.is_open || self.told.elapsed() < PROGRESS_INTERVAL || progress.total == 0 {
            return;
        }
        self.told = Instant::now();
        let percent = progress.done.saturating_mul(100) / progress.total;
        // Nobody may be reading any more.
        let _ = write!(io::stderr(), "\r{}: {percent} % ", self.what);
        let _ = io::stderr().flush();
    }
}

/// Refuses for a runtime that is in a database: these commands are about files.
fn only_files(common: &Common) -> anyhow::Result<()> {
    match common.database() {
        Some(_) => Err(database::not_files()),
        None => Ok(()),
    }
}

/// `verify`
pub(crate) fn verify(common: &Common, output: Output) -> anyhow::Result<Exit> {
    only_files(common)?;
    let mut teller = Teller::new("verifying");
    let progress = &mut |progress| teller.tell(progress);
    let report = fs_store::verify_with_progress(&common.store_dir(), progress);
    let report = report.map_err(OpenError::from)?;
    output.print(|| report_lines(&report), &json!(report));
    Ok(if report.damage.is_empty() {
        Exit::Done
    } else {
        Exit::Error
    })
}

/// `export`
pub(crate) fn export(common: &Common, output: Output, file: &Path) -> anyhow::Result<Exit> {
    only_files(common)?;
    open::existing(common)?;
    let mut teller = Teller::new("exporting");
    let progress = &mut |progress| teller.tell(progress);
    let directory = common.store_dir();
    if file == Path::new("-") {
        let mut out = BufWriter::new(io::stdout().lock());
        fs_store::export(&directory, &mut out, progress)?;
        return Ok(Exit::Done);
    }
    let opened = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .with_context(|| format!("cannot create {}", file.display()))?;
    let written = write_export(&directory, opened, file, progress);
    if written.is_err() {
        // It is ours, it is no export, and it would be in the way of the next one.
        let _ = std::fs::remove_file(file);
    }
    let report = written?;
    output.print(
        || {
            format!(
                "{} events, {} rows, {} attachments in {} lines",
                report.events, report.rows, report.attachments, report.lines
            )
        },
        &json!(report),
    );
    Ok(Exit::Done)
}

fn write_export(
    directory: &Path,
    opened: File,
    file: &Path,
    progress: &mut dyn FnMut(Progress),
) -> anyhow::Result<ExportReport> {
    let mut out = BufWriter::new(opened);
    let report = fs_store::export(directory, &mut out, progress)?;
    out.into_inner()
        .map_err(std::io::IntoInnerError::into_error)
        .and_then(|file| file.sync_all())
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(report)
}

/// `import`
pub(crate) fn import(common: &Common, output: Output, file: &Path) -> anyhow::Result<Exit> {
    only_files(common)?;
    open::create_private(&common.dir)
        .with_context(|| format!("cannot make directory {}", common.dir.display()))?;
    let mut teller = Teller::new("importing");
    let progress = &mut |progress| teller.tell(progress);
    let options = open::options(common);
    let report = if file == Path::new("-") {
        fs_store::import(&mut BufReader::new(io::stdin()), &options, None, progress)?
    } else {
        let opened = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
        fs_store::import(&mut BufReader::new(opened), &options, None, progress)?
    };
    output.print(
        || {
            format!(
                "{} events, {} rows, {} attachments",
                report.events, report.rows, report.attachments
            )
        },
        &json!(report),
    );
    Ok(Exit::Done)
}

/// `backup`
pub(crate) fn backup(common: &Common, output: Output, target: &Path) -> anyhow::Result<Exit> {
    only_files(common)?;
    open::existing(common)?;
    open::create_private(target)
        .with_context(|| format!("cannot make directory {}", target.display()))?;
    let target: PathBuf = target.join("store");
    let mut teller = Teller::new("copying");
    let progress = &mut |progress| teller.tell(progress);
    let report = fs_store::backup(&common.store_dir(), &target, &SystemRandom, progress)?;
    // A copy that cannot be read is none.
    let mut teller = Teller::new("verifying");
    let progress = &mut |progress| teller.tell(progress);
    let verified = fs_store::verify_with_progress(&target, progress).map_err(OpenError::from)?;
    let mut value = json!(report);
    value["damage"] = json!(verified.damage);
    output.print(
        || {
            format!(
                "{} bytes in {} segments and {} attachments; {} damaged places",
                report.bytes,
                report.segments,
                report.attachments,
                verified.damage.len()
            )
        },
        &value,
    );
    Ok(if verified.damage.is_empty() {
        Exit::Done
    } else {
        Exit::Error
    })
}

/// `repair`
pub(crate) fn repair(common: &Common, output: Output, apply: bool) -> anyhow::Result<Exit> {
    only_files(common)?;
    open::existing(common)?;
    let mut teller = Teller::new("reading");
    let progress = &mut |progress| teller.tell(progress);
    let report = fs_store::repair_with_progress(&open::options(common), apply, progress)?;
    let lines = || {
        let mut lines: Vec<String> = report.actions.iter().map(action_line).collect();
        lines.push(match (report.actions.is_empty(), report.applied) {
            (true, _) => "nothing is damaged".to_owned(),
            (false, true) => format!("done; kept as it was: {}", report.kept_aside.join(", ")),
            (false, false) => "nothing was changed; use --apply".to_owned(),
        });
        lines.join("\n")
    };
    output.print(lines, &json!(report));
    Ok(if report.actions.is_empty() || report.applied {
        Exit::Done
    } else {
        Exit::Error
    })
}

fn action_line(action: &RepairAction) -> String {
    match action {
        RepairAction::GiveUp {
            file,
            bytes,
            positions,
            names,
        } => {
            let touched = match names.is_empty() {
                true => "what it touched cannot be told".to_owned(),
                false => format!("it touched {}", names.join(", ")),
            };
            let events = positions.end - positions.start;
            format!(
                "give up {file} bytes {} to {}: {events} events; {touched}",
                bytes.start, bytes.end
            )
        }
        RepairAction::RenewHeader { file } => format!("make the header of {file} anew"),
        RepairAction::RenewKeys => "make new signing keys; old tokens are refused".to_owned(),
        RepairAction::DropAttachment { file } => format!("put {file} aside"),
        RepairAction::DropCommand { file } => {
            format!("put {file} aside: its sender has to leave it again")
        }
        other => format!("{}", json!(other)),
    }
}

pub(crate) fn policy(
    age_days: Option<u64>,
    events_max: Option<u64>,
    bytes_max: Option<u64>,
) -> RetentionPolicy {
    RetentionPolicy {
        age_max: age_days.map(|days| DAY.saturating_mul(u32::try_from(days).unwrap_or(u32::MAX))),
        events_max,
        bytes_max,
        ..RetentionPolicy::default()
    }
}

fn open_store(common: &Common) -> anyhow::Result<FsStore> {
    only_files(common)?;
    open::existing(common)?;
    Ok(FsStore::open(&open::options(common)).map_err(OpenError::from)?)
}

fn diagnostic(message: String) -> NewEvent {
    let now = SystemClock::new().now();
    let draft = EventDraft::new(EventKind::Diagnostic).with_message(message);
    NewEvent::from_draft(EventId::generate(now, SystemRandom.ten()), &draft)
}

/// `retention`
pub(crate) async fn retention(
    common: &Common,
    output: Output,
    policy: RetentionPolicy,
    dry_run: bool,
) -> anyhow::Result<Exit> {
    let store = Arc::new(open_store(common)?);
    // What live workers still need is carried forward, and consumers are waited for (V9).
    let hub = event_hub(
        Arc::clone(&store) as _,
        Arc::new(SystemClock::new()),
        Arc::new(SystemRandom),
        HubParts::default(),
    );
    let retained = match dry_run {
        true => hub.removable(&policy).await,
        false => hub.retain(&policy).await,
    };
    let retained = retained.map_err(|error| RuntimeError::from_part(&error))?;
    let (through, events) = (retained.removed_through, retained.events);
    let held_back = match retained.held_back {
        true => "; a consumer that is behind holds back more",
        false => "",
    };
    if dry_run {
        let value = json!({
            "through": through, "events": events, "held_back": retained.held_back,
            "applied": false,
        });
        output.print(|| format!("{events} events would go{held_back}"), &value);
        store.close().await?;
        return Ok(Exit::Done);
    }
    if events > 0 {
        let message = format!("retention removed the events up to position {through}");
        let commit = Commit::fresh(&*store, &SystemClock::new(), &SystemRandom);
        store.commit(commit.event(diagnostic(message))).await?;
    }
    let hour = Duration::from_secs(3600);
    let (swept, cleaned) = free(&store, hour, CleanOptions::default()).await?;
    store.close().await?;
    let value = json!({
        "through": through, "events": events, "held_back": retained.held_back, "applied": true,
        "attachments": swept, "cleaned": cleaned,
    });
    output.print(
        || {
            format!(
                "{events} events and {swept} attachments removed{held_back}; the log had {} bytes and has {}",
                cleaned.bytes_before, cleaned.bytes_after
            )
        },
        &value,
    );
    Ok(Exit::Done)
}

/// Frees the room of what was removed, of attachments as well that nothing names.
async fn free(
    store: &FsStore,
    attachments_older_than: Duration,
    options: CleanOptions,
) -> anyhow::Result<(usize, CleanReport)> {
    let swept = store
        .sweep_attachments(&|_| false, attachments_older_than)
        .await?;
    let mut teller = Teller::new("cleaning");
    let cleaned = store
        .clean(options, move |progress| teller.tell(progress))
        .await?;
    Ok((swept, cleaned))
}

/// `purge`
pub(crate) async fn purge(
    common: &Common,
    output: Output,
    worker: &str,
    yes: bool,
) -> anyhow::Result<Exit> {
    let worker: WorkerId = worker.parse().map_err(RuntimeError::from)?;
    if !yes {
        let record = view::worker(&*open::read_only(common).await?, &worker).await?;
        let status = record.status.as_str();
        let value = json!({ "worker": worker, "status": status, "applied": false });
        let line = || format!("what the {status} worker {worker} has said would go; use --yes");
        output.print(line, &value);
        return Ok(Exit::Done);
    }
    let command = Command::PurgeWorker {
        worker: worker.clone(),
    };
    let answered = answer::answer(common, command).await?;
    let is_left = matches!(answered, Answered::Left(_));
    // A database frees its room by itself; beside a process that has the store open nobody else
    // may.
    let store = match common.database().is_some() || is_left {
        true => None,
        false => match open_store(common) {
            Ok(store) => Some(store),
            Err(error) if open::is_busy(&error) => None,
            Err(error) => return Err(error),
        },
    };
    let Some(store) = store else {
        let value = json!({ "worker": worker, "applied": !is_left, "freed": false });
        output.print(|| answered.line(), &value);
        return Ok(if is_left { Exit::Busy } else { Exit::Done });
    };
    // Nothing else has the store open, so no commit is on its way that could name them.
    let options = CleanOptions { drop_aside: true };
    let (swept, cleaned) = free(&store, Duration::ZERO, options).await?;
    store.close().await?;
    let value = json!({
        "worker": worker, "applied": true, "freed": true,
        "attachments": swept, "cleaned": cleaned,
    });
    output.print(
        || format!("{worker} is gone, with {swept} attachments; places of events stay"),
        &value,
    );
    Ok(Exit::Done)
}

fn report_lines(report: &OpenReport) -> String {
    let mut lines = vec![format!(
        "{} frames, {} commits, {} events; {} damaged places",
        report.frames,
        report.commits,
        report.events,
        report.damage.len()
    )];
    lines.extend(report.damage.iter().map(damage_line));
    if let Some(cut) = &report.cut {
        let (bytes, segment, offset) = (cut.bytes, cut.segment, cut.offset);
        lines.push(format!(
            "an unfinished tail of {bytes} bytes in segment {segment} at {offset}"
        ));
    }
    lines.extend(
        report
            .foreign
            .iter()
            .map(|file| format!("not of this store: {file}")),
    );
    lines.join("\n")
}

fn damage_line(damage: &Damage) -> String {
    format!("damaged: {}", json!(damage))
}
