//! Making a store of an export: positions, versions and what is remembered are kept (S7).

use std::io::BufRead;
use std::path::Path;

use runtime_core::{Digest, Timestamp};
use runtime_store::{
    EXPORT_SCHEMA, ExportLine, ExportReader, ExportedEvent, ImportReport, KeyRing, Progress,
    RowKey, StoredEvent,
};

use crate::attachments::Attachments;
use crate::base::{BaseWriter, FramePlace, Origins};
use crate::config::FsStoreOptions;
use crate::fs;
use crate::layout::{Format, Layout};
use crate::maintenance::MaintenanceError;
use crate::open::lock;
use crate::record::{Kept, KeptPut, StreamEnd};
use crate::segment::BaseHeader;

const BASE_BYTES_MAX: usize = 1 << 31;

/// Makes a store of what [`export`](crate::export) wrote, in a directory that does not exist yet.
/// It is the same runtime with a new lineage: cursors of the exported store are not valid there.
/// Nor are its tokens, unless its signing keys are given too.
///
/// Its log, at most 2 GiB, is in memory until it is written. When it fails there is no store;
/// what it left in the directory can be removed.
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
    let Some(ExportLine::Store {
        schema: EXPORT_SCHEMA,
        runtime,
        head,
        pruned,
        ..
    }) = lines.next_line()?
    else {
        return Err(lines.bad("it is no export of this version").into());
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
        attachments: Attachments::new(&layout, std::sync::Arc::clone(&options.clock)),
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
        let before = lines.number();
        let Some(line) = lines.next_line()? else {
            return Err(lines.bad("it ends before its last line").into());
        };
        match line {
            ExportLine::Store { .. } => return Err(lines.bad("a second export begins").into()),
            ExportLine::End { lines: count } => {
                if count != before {
                    let reason = format!("{count} lines were written, {before} are here");
                    return Err(lines.bad(&reason).into());
                }
                return Ok(false);
            }
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
                let mut events = Vec::new();
                for _ in 0..following {
                    match lines.next_line()? {
                        Some(ExportLine::Event(event)) => events.push(self.event(event, lines)?),
                        _ => {
                            return Err(lines
                                .bad("an event of the commit before is missing")
                                .into());
                        }
                    }
                }
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
                let kept = Kept {
                    streams: vec![StreamEnd {
                        stream,
                        head,
                        last,
                        closed,
                    }],
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
        if event.position.0 > self.head {
            return Err(lines.bad("an event comes after the head").into());
        }
        self.report.events += u64::from(event.position.0 > self.pruned);
        Ok(event)
    }

    fn row_event(
        &self,
        event: ExportedEvent,
        lines: &ExportReader<'_>,
    ) -> Result<StoredEvent, MaintenanceError> {
        let event = event.event();
        Ok(event.ok_or_else(|| lines.bad("the body of the row's event is damaged"))?)
    }

    fn keep_row(
        &mut self,
        put: KeptPut,
        event: Option<StoredEvent>,
        lines: &ExportReader<'_>,
    ) -> Result<(), MaintenanceError> {
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
