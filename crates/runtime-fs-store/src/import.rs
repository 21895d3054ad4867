//! Making a store of an export: positions, versions and what is remembered are kept (S7).

use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

use runtime_core::{Digest, Timestamp};
use runtime_store::{
    Commit, ExportLine, ExportReader, ExportedEvent, ImportReport, KeyRing, Limits, NewEvent,
    Progress, RowChange, RowKey, StoredEvent,
};

use crate::attachments::Attachments;
use crate::base::{BaseWriter, FramePlace, Origins};
use crate::config::FsStoreOptions;
use crate::frame::FRAME_BYTES_MAX;
use crate::fs;
use crate::layout::{Format, Layout};
use crate::maintenance::MaintenanceError;
use crate::open::lock;
use crate::record::{Kept, KeptPut, StreamEnd};
use crate::segment::BaseHeader;

const BASE_BYTES_MAX: usize = 1 << 31;
/// Every event takes more than this beside its body.
const EVENT_BYTES_MIN: usize = 32;

/// Makes a store of what [`export`](crate::export) wrote, in a directory that does not exist yet.
/// It is the same runtime with a new lineage: cursors of the exported store are not valid there.
/// Nor are its tokens, unless its signing keys are given too.
///
/// Its log, at most 2 GiB, is in memory until it is written. No line is believed: names, places
/// and positions are checked, and that no event is missing. When it fails there is no store; what
/// it left in the directory can be removed.
///
/// # Errors
/// [`MaintenanceError`]; [`ExportError::Bad`](runtime_store::ExportError::Bad) names the line, also when the
/// last one is missing.
pub fn import(
    lines: &mut (dyn BufRead + Send),
    options: &FsStoreOptions,
    keys: Option<&KeyRing>,
    progress: &mut dyn FnMut(Progress),
) -> Result<ImportReport, MaintenanceError> {
    let directory = &options.directory;
    let layout = Layout::new(directory);
    let exists = fs::kind(directory).map_err(|e| MaintenanceError::io("look at", directory, e))?;
    let is_empty = |path: &Path| fs::names(path).is_ok_and(|names| names.is_empty());
    if exists.is_some() && !is_empty(directory) {
        return Err(MaintenanceError::TargetExists {
            directory: directory.clone(),
        });
    }
    let mut lines = ExportReader::new(lines);
    let ExportLine::Store {
        runtime,
        head,
        pruned,
        forgotten,
        ..
    } = lines.next_line()?
    else {
        return Err(lines.bad("it is no export").into());
    };
    layout.create_directory()?;
    let _lock = lock(options, &layout)?;
    let format = Format::fresh(Some(runtime), &*options.clock, &*options.random);
    layout
        .prepare(&*options.random)
        .map_err(|e| MaintenanceError::io("create", directory, e))?;
    if let Some(keys) = keys {
        layout
            .keep_keys(keys)
            .map_err(|e| MaintenanceError::io("create", directory, e))?;
    }
    let tag = format.tag().expect("a fresh format has a tag");
    let mut import = Import {
        writer: BaseWriter::new(tag, 1, 1),
        attachments: Attachments::new(&layout, Arc::clone(&options.clock)),
        head,
        pruned,
        frames: 0,
        report: ImportReport::default(),
    };
    while import.take(&mut lines)? {
        progress(Progress {
            done: import.report.events,
            total: head - pruned,
        });
    }
    let report = import.report;
    let last_frame = import.frames;
    let (bytes, _) = import.writer.finish(BaseHeader {
        number: 1,
        incarnation: 1,
        bytes: 0,
        last_frame,
        last_position: head,
        pruned,
        buffered: false,
        forgotten,
    });
    layout
        .create_after(&format, &bytes, last_frame + 1, head + 1)
        .map_err(|e| MaintenanceError::io("write", directory, e))?;
    Ok(report)
}

struct Import {
    writer: BaseWriter,
    attachments: Attachments,
    head: u64,
    pruned: u64,
    frames: u64,
    report: ImportReport,
}

impl Import {
    /// Takes a line and what follows from it; false after the last one.
    fn take(&mut self, lines: &mut ExportReader<'_>) -> Result<bool, MaintenanceError> {
        match lines.next_line()? {
            ExportLine::Store { .. } => return Err(lines.bad("a second export begins").into()),
            ExportLine::End { .. } => return Ok(false),
            ExportLine::Commit {
                id,
                content,
                first_position,
                events: count,
                following,
                remembered,
                attachments,
                scopes,
            } => {
                if scopes.len() > usize::from(u16::MAX) {
                    return Err(lines.bad("a commit names too many scopes").into());
                }
                let events = self.following(following, lines)?;
                let time = events.first().map(|event| event.time);
                let kept = Kept {
                    id,
                    time: time.unwrap_or_default(),
                    content,
                    is_remembered: remembered,
                    events,
                    attachments,
                    named_for: scopes,
                    ..Kept::nothing()
                };
                self.keep(first_position, count, &kept, lines)?;
            }
            ExportLine::Event(event) => {
                let event = self.event(event, lines)?;
                let kept = Kept {
                    time: event.time,
                    events: vec![event],
                    ..Kept::nothing()
                };
                self.keep(kept.events[0].position.0, 1, &kept, lines)?;
            }
            ExportLine::Row {
                space,
                scope,
                name,
                version,
                due,
                body,
                event,
            } => {
                let body = body
                    .bytes()
                    .ok_or_else(|| lines.bad("the body is damaged"))?;
                let event = event
                    .map(|event| self.row_event(event, lines))
                    .transpose()?;
                let put = KeptPut {
                    key: RowKey::new(&space, scope, name),
                    version,
                    event: event.as_ref().map(|event| event.position.0),
                    due,
                    body,
                };
                self.keep_row(put, event, lines)?;
            }
            ExportLine::Stream {
                stream,
                head,
                last,
                closed,
            } => {
                let end = StreamEnd {
                    stream,
                    head,
                    last,
                    closed,
                };
                let kept = Kept {
                    streams: vec![end],
                    ..Kept::nothing()
                };
                self.keep(self.head + 1, 0, &kept, lines)?;
            }
            ExportLine::Attachment { digest, bytes } => {
                let bytes = bytes
                    .bytes()
                    .ok_or_else(|| lines.bad("the bytes are damaged"))?;
                if Digest::of_bytes(&bytes) != digest {
                    return Err(lines.bad("the bytes are not those of the digest").into());
                }
                let put = self.attachments.put(&bytes);
                put.map_err(|e| MaintenanceError::io("write", Path::new("an attachment"), e))?;
                self.report.attachments += 1;
            }
        }
        Ok(true)
    }

    fn event(
        &mut self,
        event: ExportedEvent,
        lines: &ExportReader<'_>,
    ) -> Result<StoredEvent, MaintenanceError> {
        let event = event.event();
        let event = event.ok_or_else(|| lines.bad("the body of the event is damaged"))?;
        check_event(&event).map_err(|reason| lines.bad(&reason))?;
        self.report.events += u64::from(event.position.0 > self.pruned);
        Ok(event)
    }

    /// Takes the events that follow a commit.
    fn following(
        &mut self,
        count: u32,
        lines: &mut ExportReader<'_>,
    ) -> Result<Vec<StoredEvent>, MaintenanceError> {
        let mut events = Vec::new();
        let mut bytes = 0;
        for _ in 0..count {
            let ExportLine::Event(event) = lines.next_line()? else {
                return Err(lines.bad("it is no event of the commit before").into());
            };
            let event = self.event(event, lines)?;
            bytes += EVENT_BYTES_MIN + event.body.len();
            if bytes > FRAME_BYTES_MAX {
                return Err(lines.bad("a commit has over 4 MiB").into());
            }
            events.push(event);
        }
        Ok(events)
    }

    fn row_event(
        &self,
        event: ExportedEvent,
        lines: &ExportReader<'_>,
    ) -> Result<StoredEvent, MaintenanceError> {
        let event = event.event();
        let event = event.ok_or_else(|| lines.bad("the body of the row's event is damaged"))?;
        check_event(&event).map_err(|reason| lines.bad(&reason))?;
        Ok(event)
    }

    fn keep_row(
        &mut self,
        put: KeptPut,
        event: Option<StoredEvent>,
        lines: &ExportReader<'_>,
    ) -> Result<(), MaintenanceError> {
        check_row(&put).map_err(|reason| lines.bad(&reason))?;
        let first = event
            .as_ref()
            .map_or(self.head + 1, |event| event.position.0);
        let time = event
            .as_ref()
            .map_or(Timestamp::default(), |event| event.time);
        let kept = Kept {
            time,
            rows: vec![put],
            events: event.into_iter().collect(),
            ..Kept::nothing()
        };
        self.keep(first, 0, &kept, lines)?;
        self.report.rows += 1;
        Ok(())
    }

    fn keep(
        &mut self,
        first_position: u64,
        events: u32,
        kept: &Kept,
        lines: &ExportReader<'_>,
    ) -> Result<(), MaintenanceError> {
        self.frames += 1;
        let frame = FramePlace {
            number: self.frames,
            first_position,
            events,
        };
        self.writer.keep(frame, kept, &Origins::default());
        if self.writer.len() > BASE_BYTES_MAX {
            return Err(lines
                .bad("the log is over 2 GiB, more than an import takes")
                .into());
        }
        Ok(())
    }
}

/// Checks what every store asks of a row.
fn check_row(put: &KeptPut) -> Result<(), String> {
    check(nothing_committed().row(RowChange::put(put.key.clone(), Arc::clone(&put.body))))
}

/// Checks what every store asks of an event.
fn check_event(event: &StoredEvent) -> Result<(), String> {
    let streams = event.places.iter().map(|place| place.stream.clone());
    check(nothing_committed().event(NewEvent {
        id: event.id,
        streams: streams.collect(),
        closes: event.closes,
        body: Arc::clone(&event.body),
    }))
}

fn nothing_committed() -> Commit {
    let nothing = Kept::nothing();
    Commit::new(nothing.id, nothing.time)
}

/// Whatever the limits of the store that was exported were, a frame holds no more.
fn check(commit: Commit) -> Result<(), String> {
    let limits = Limits {
        commit_bytes_max: FRAME_BYTES_MAX,
        ..Limits::default()
    };
    let checked = commit.check(&limits);
    checked.map_err(|error| error.to_string())
}
