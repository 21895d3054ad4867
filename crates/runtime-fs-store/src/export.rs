//! Writing everything of a store as lines of JSON, beside its writer or without one (S7).

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use runtime_store::{
    AttachmentError, EXPORT_SCHEMA, ExportLine, ExportReport, ExportedBytes, ExportedEvent, Page,
    Position, Progress, ReadError, RowQuery,
};

use crate::config::FsStoreOptions;
use crate::index::CommitListing;
use crate::layout::ATTACHMENTS;
use crate::maintenance::MaintenanceError;
use crate::segments::is_gone;
use crate::store::FsStore;

const PAGE: usize = 256;

/// Writes a store as lines of JSON: its identity, the commits that are remembered, events, rows,
/// streams and attachments; the signing keys are left out. It takes no lock and changes nothing.
///
/// `progress` is told of events. It blocks on the disk for as long as reading the store takes;
/// what the store holds when it begins is what is written.
///
/// # Errors
/// [`MaintenanceError`]; a store with damaged events or rows cannot be exported whole and is not.
/// [`ReadError::Unavailable`] where a cleaning beside has taken what was to be written.
pub fn export(
    directory: &Path,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(Progress),
) -> Result<ExportReport, MaintenanceError> {
    let store = FsStore::open_read_only(&FsStoreOptions::new(directory))?;
    let mut export = Export {
        store: &store,
        out,
        report: ExportReport::default(),
    };
    match export.run(progress) {
        Err(MaintenanceError::Read(error)) if is_gone(&error) => Err(cleaned(error).into()),
        result => result.map(|()| export.report),
    }
}

/// Says what to do where the moment that was to be written is gone.
fn cleaned(error: ReadError) -> ReadError {
    ReadError::Unavailable {
        reason: "a cleaning has taken what was to be exported; export again".to_owned(),
        source: Some(Arc::new(io::Error::other(error))),
    }
}

struct Export<'a> {
    store: &'a FsStore,
    out: &'a mut dyn Write,
    report: ExportReport,
}

impl Export<'_> {
    fn line(&mut self, line: &ExportLine) -> Result<(), MaintenanceError> {
        self.report.lines += 1;
        Ok(line.write(self.out)?)
    }

    fn run(&mut self, progress: &mut dyn FnMut(Progress)) -> Result<(), MaintenanceError> {
        let view = self.store.freeze()?;
        let identity = view.identity.clone();
        self.line(&ExportLine::Store {
            schema: EXPORT_SCHEMA,
            runtime: identity.runtime,
            lineage: identity.lineage,
            head: view.head,
            pruned: view.pruned,
            forgotten: view.has_forgotten,
        })?;
        let total = view.head - view.pruned;
        let mut commits = view.commits.into_iter().peekable();
        let mut after = view.pruned;
        while after < view.head {
            let limit = PAGE.min(usize::try_from(view.head - after).unwrap_or(PAGE));
            let page = self
                .store
                .events_now(None, &Page::after(Position(after), limit))?;
            for event in &page.events {
                while let Some(commit) =
                    commits.next_if(|commit| commit.first_position <= event.position.0)
                {
                    self.commit(&commit)?;
                }
                self.line(&ExportLine::Event(ExportedEvent::from(event)))?;
                self.report.events += 1;
            }
            let Some(last) = page.events.last() else {
                break;
            };
            after = last.position.0;
            let done = after - view.pruned;
            progress(Progress { done, total });
        }
        for commit in commits {
            self.commit(&commit)?;
        }
        for end in view.streams {
            self.line(&ExportLine::Stream {
                stream: end.stream,
                head: end.head,
                last: end.last,
                closed: end.closed,
            })?;
        }
        self.rows(view.spaces)?;
        self.attachments()?;
        self.line(&ExportLine::End {
            lines: self.report.lines,
        })?;
        let flushed = self.out.flush();
        flushed.map_err(|error| MaintenanceError::io("write", Path::new("the export"), error))
    }

    /// Writes a commit, and the places of its events that are not served.
    fn commit(&mut self, commit: &CommitListing) -> Result<(), MaintenanceError> {
        self.line(&ExportLine::Commit {
            id: commit.id,
            content: commit.content,
            first_position: commit.first_position,
            events: u32::try_from(commit.events).unwrap_or(u32::MAX),
            following: u32::try_from(commit.events).unwrap_or(u32::MAX),
            remembered: commit.remembered,
            attachments: commit.attachments.clone(),
            scopes: commit.scopes.clone(),
        })?;
        for (position, at) in &commit.stubs {
            let mut event = self.store.event_at(*position, *at)?;
            event.erased = true;
            event.body = [].into();
            self.line(&ExportLine::Event(ExportedEvent::from(&event)))?;
        }
        Ok(())
    }

    fn rows(&mut self, spaces: Vec<Arc<str>>) -> Result<(), MaintenanceError> {
        for space in spaces {
            let mut after = None;
            loop {
                let query = RowQuery::space(&space);
                let page = self.store.rows_now(&query, &Page::after(after, PAGE))?;
                for row in page.rows {
                    self.line(&ExportLine::Row {
                        space: row.key.space.to_string(),
                        scope: row.key.scope.clone(),
                        name: row.key.name.to_string(),
                        version: row.version,
                        due: row.due,
                        body: ExportedBytes::of(&row.body),
                        event: row.event.as_ref().map(ExportedEvent::from),
                    })?;
                    self.report.rows += 1;
                }
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    fn attachments(&mut self) -> Result<(), MaintenanceError> {
        let root = self.store.directory().join(ATTACHMENTS);
        let digests = self.store.attachments.digests();
        let digests = digests.map_err(|error| MaintenanceError::io("read", &root, error))?;
        for digest in digests {
            let bytes = match self.store.attachments.get(&digest) {
                Ok(bytes) => bytes,
                // Swept since.
                Err(AttachmentError::NotFound { .. }) => continue,
                Err(AttachmentError::Unavailable { reason, source }) => {
                    return Err(ReadError::Unavailable { reason, source }.into());
                }
                Err(error) => {
                    let what = error.to_string();
                    return Err(ReadError::Corrupt { what }.into());
                }
            };
            self.line(&ExportLine::Attachment {
                digest,
                bytes: ExportedBytes::of(&bytes),
            })?;
            self.report.attachments += 1;
        }
        Ok(())
    }
}
