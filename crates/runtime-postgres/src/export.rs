//! Writing everything of a runtime as lines of JSON, beside those who write to it (S7).

use std::collections::BTreeMap;
use std::io::Write;

use runtime_core::{CommitId, Digest, EventId, ScopeId, StreamKey, Timestamp};
use runtime_store::{
    EXPORT_SCHEMA, EventPlace, ExportError, ExportLine, ExportReport, ExportedBytes, ExportedEvent,
    Position, Progress, Seq, StoredEvent,
};
use tokio::sync::watch;
use tokio_postgres::{IsolationLevel, Row, Transaction};
use uuid::Uuid;

use crate::call::{signed, unsigned};
use crate::connect::Connector;
use crate::read::{damaged, event_columns, event_places, stored_event};
use crate::transfer::TransferError;
use crate::{OpenError, PostgresOptions, open, schema};

/// How much is read at once.
const PAGE: i64 = 256;

const HEAD: &str = "SELECT position, pruned, forgotten > 0 FROM runtime WHERE key = $1";
const MADE: &str = "SELECT id, content, first, widths, streams, seqs, previous FROM made \
     WHERE runtime = $1 ORDER BY number";
const NAMING: &str = "SELECT first, last, scopes, array_agg(digest ORDER BY digest) FROM naming \
     WHERE runtime = $1 GROUP BY first, last, scopes ORDER BY first, last, scopes";
const TAKEN: &str = "SELECT position, id FROM taken WHERE runtime = $1";
const EVENTS: &str = concat!(
    "SELECT ",
    event_columns!(),
    " FROM event e WHERE e.runtime = $1 AND e.position > $2 ORDER BY e.position LIMIT $3"
);
const STREAMS: &str = "SELECT stream, seq, position, closed FROM stream \
     WHERE runtime = $1 AND stream > $2 ORDER BY stream LIMIT $3";
const ROWS: &str = concat!(
    "SELECT ",
    event_columns!(),
    ", r.space, r.scope, r.name, r.version, r.body, r.due FROM (SELECT * FROM entry r ",
    "WHERE r.runtime = $1 AND (r.space, r.scope, r.name) > ($2, $3, $4) ",
    "ORDER BY r.space, r.scope, r.name LIMIT $5) r LEFT JOIN LATERAL (SELECT * FROM event e ",
    "WHERE e.runtime = r.runtime AND e.position = r.event OFFSET 0) e ON true ",
    "ORDER BY r.space, r.scope, r.name"
);
const ATTACHMENTS: &str = "SELECT digest FROM attachment WHERE runtime = $1 ORDER BY digest";
const ATTACHMENT: &str = "SELECT body FROM attachment WHERE runtime = $1 AND digest = $2";

/// Writes a runtime as lines of JSON: its identity, the commits that are remembered, events,
/// streams, rows and attachments; the signing keys are left out. It holds no lock: what the
/// database has when it begins is what is written.
///
/// Writing to `out` blocks the thread. In memory are the remembered commits, and a page of the
/// rest.
///
/// # Errors
/// [`TransferError`]; what was written is then no whole export, and is refused as one.
///
/// # Cancel safety
/// As after an error.
pub async fn export(
    options: &PostgresOptions,
    out: &mut (dyn Write + Send),
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<ExportReport, TransferError> {
    let connector = Connector::new(options)?;
    let options = options.clone().create(false);
    let opened = open::open(&connector, &options).await?;
    let session = connector.connect(watch::Sender::default()).await;
    let mut session = session.map_err(|failure| OpenError::Unreachable {
        reason: failure.reason(),
    })?;
    schema::prepare(&mut session.client, &options.schema, false).await?;
    let transaction = session.client.build_transaction();
    let transaction = transaction
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await?;
    let head = transaction.query_one(HEAD, &[&opened.key]).await?;
    let mut export = Export {
        runtime: opened.key,
        head: unsigned(head.try_get(0)?),
        pruned: unsigned(head.try_get(1)?),
        transaction: &transaction,
        out,
        report: ExportReport::default(),
    };
    export.line(&ExportLine::Store {
        schema: EXPORT_SCHEMA,
        runtime: opened.identity.runtime,
        lineage: opened.identity.lineage,
        head: export.head,
        pruned: export.pruned,
        forgotten: head.try_get(2)?,
    })?;
    export.log(progress).await?;
    export.streams().await?;
    export.rows().await?;
    export.attachments().await?;
    let lines = export.report.lines;
    export.line(&ExportLine::End { lines })?;
    let report = export.report;
    let flushed = out.flush();
    flushed.map_err(|error| ExportError::Io {
        action: "write",
        source: std::sync::Arc::new(error),
    })?;
    transaction.commit().await?;
    session.close().await;
    Ok(report)
}

/// A commit, and which events it had.
struct Listing {
    id: CommitId,
    content: Digest,
    first: u64,
    /// The places of each of its events; none are known of one that is not remembered.
    places: Vec<Vec<EventPlace>>,
    events: u64,
    remembered: bool,
    attachments: Vec<Digest>,
    scopes: Vec<ScopeId>,
}

struct Export<'a> {
    runtime: i32,
    head: u64,
    pruned: u64,
    transaction: &'a Transaction<'a>,
    out: &'a mut (dyn Write + Send),
    report: ExportReport,
}

impl Export<'_> {
    fn line(&mut self, line: &ExportLine) -> Result<(), TransferError> {
        self.report.lines += 1;
        Ok(line.write(self.out)?)
    }

    /// Writes commits and events, each commit before its events.
    async fn log(
        &mut self,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), TransferError> {
        let mut commits = self.commits().await?.into_iter().peekable();
        let taken = self.taken().await?;
        let events = self.transaction.prepare(EVENTS).await?;
        let mut after = self.pruned;
        loop {
            let page = self
                .transaction
                .query(&events, &[&self.runtime, &signed(after), &PAGE])
                .await?;
            for row in &page {
                let Some(event) = stored_event(row)? else {
                    continue;
                };
                after = event.position.0;
                while let Some(commit) = commits.next_if(|commit| commit.first <= after) {
                    self.commit(&commit, &taken)?;
                }
                self.line(&ExportLine::Event(ExportedEvent::from(&event)))?;
                self.report.events += 1;
            }
            progress(Progress {
                done: after - self.pruned,
                total: self.head - self.pruned,
            });
            if page.len() < usize::try_from(PAGE).unwrap_or(usize::MAX) {
                break;
            }
        }
        for commit in commits {
            self.commit(&commit, &taken)?;
        }
        Ok(())
    }

    /// The commits that are remembered or named attachments, in their order.
    async fn commits(&self) -> Result<Vec<Listing>, TransferError> {
        let made = self.transaction.query(MADE, &[&self.runtime]).await?;
        let made: Result<Vec<Listing>, TransferError> = made.iter().map(remembered).collect();
        let mut listings = made?;
        for row in self.transaction.query(NAMING, &[&self.runtime]).await? {
            let (first, last) = (unsigned(row.try_get(0)?), unsigned(row.try_get(1)?));
            let scopes: Vec<&str> = row.try_get(2)?;
            let scopes = scopes.into_iter().map(ScopeId::new);
            let scopes = scopes.collect::<Result<_, _>>().map_err(damaged)?;
            let digests: Vec<&[u8]> = row.try_get(3)?;
            let attachments: Vec<Digest> = digests.into_iter().filter_map(digest).collect();
            let events = last - first;
            let its = listings.iter_mut().find(|listing| {
                let is_its = listing.remembered && listing.attachments.is_empty();
                is_its && listing.first == first && listing.events == events
            });
            if let Some(listing) = its {
                listing.attachments = attachments;
                listing.scopes = scopes;
                continue;
            }
            // Of a commit that is forgotten, what retention has removed is not known any more.
            let served = first.max(self.pruned + 1).min(last);
            listings.push(Listing {
                id: CommitId::from_uuid(Uuid::nil()),
                // As other stores write a commit that nothing is compared with any more.
                content: Digest::from_bytes([0; 32]),
                first: served,
                places: Vec::new(),
                events: last - served,
                remembered: false,
                attachments,
                scopes,
            });
        }
        listings.sort_by_key(|listing| listing.first);
        Ok(listings)
    }

    /// The ids of events that retention has removed.
    async fn taken(&self) -> Result<BTreeMap<u64, Uuid>, TransferError> {
        let rows = self.transaction.query(TAKEN, &[&self.runtime]).await?;
        let taken = rows
            .iter()
            .map(|row| Ok((unsigned(row.try_get(0)?), row.try_get(1)?)));
        taken.collect()
    }

    /// Writes a commit, and the places of its events that are not served.
    fn commit(
        &mut self,
        commit: &Listing,
        taken: &BTreeMap<u64, Uuid>,
    ) -> Result<(), TransferError> {
        let events = u32::try_from(commit.events).unwrap_or(u32::MAX);
        self.line(&ExportLine::Commit {
            id: commit.id,
            content: commit.content,
            first_position: commit.first,
            events,
            following: events,
            remembered: commit.remembered,
            attachments: commit.attachments.clone(),
            scopes: commit.scopes.clone(),
        })?;
        for (position, places) in (commit.first..=self.pruned).zip(&commit.places) {
            let id = taken.get(&position).copied().unwrap_or_default();
            let stub = StoredEvent {
                position: Position(position),
                id: EventId::from_uuid(id),
                time: commit.id.timestamp().unwrap_or_default(),
                places: places.clone(),
                closes: false,
                erased: true,
                body: [].into(),
            };
            self.line(&ExportLine::Event(ExportedEvent::from(&stub)))?;
        }
        Ok(())
    }

    async fn streams(&mut self) -> Result<(), TransferError> {
        let statement = self.transaction.prepare(STREAMS).await?;
        let mut after = String::new();
        loop {
            let page = self
                .transaction
                .query(&statement, &[&self.runtime, &after, &PAGE])
                .await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = last.try_get(0)?;
            for row in &page {
                self.line(&ExportLine::Stream {
                    stream: StreamKey::new(row.try_get::<_, &str>(0)?).map_err(damaged)?,
                    head: Seq(unsigned(row.try_get(1)?)),
                    last: Position(unsigned(row.try_get(2)?)),
                    closed: row.try_get(3)?,
                })?;
            }
        }
    }

    async fn rows(&mut self) -> Result<(), TransferError> {
        let statement = self.transaction.prepare(ROWS).await?;
        let mut after = (String::new(), String::new(), String::new());
        loop {
            let (space, scope, name) = &after;
            let page = self
                .transaction
                .query(&statement, &[&self.runtime, space, scope, name, &PAGE])
                .await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = (last.try_get(9)?, last.try_get(10)?, last.try_get(11)?);
            for row in &page {
                let due: Option<i64> = row.try_get(14)?;
                self.line(&ExportLine::Row {
                    space: row.try_get(9)?,
                    scope: ScopeId::new(row.try_get::<_, &str>(10)?).map_err(damaged)?,
                    name: row.try_get(11)?,
                    version: unsigned(row.try_get(12)?),
                    due: due.map(|due| Timestamp::from_millis(unsigned(due))),
                    body: ExportedBytes::of(row.try_get(13)?),
                    event: stored_event(row)?.as_ref().map(ExportedEvent::from),
                })?;
                self.report.rows += 1;
            }
        }
    }

    async fn attachments(&mut self) -> Result<(), TransferError> {
        let body = self.transaction.prepare(ATTACHMENT).await?;
        for row in self
            .transaction
            .query(ATTACHMENTS, &[&self.runtime])
            .await?
        {
            let name: &[u8] = row.try_get(0)?;
            let found = self
                .transaction
                .query_one(&body, &[&self.runtime, &name])
                .await?;
            let bytes: &[u8] = found.try_get(0)?;
            self.line(&ExportLine::Attachment {
                digest: Digest::of_bytes(bytes),
                bytes: ExportedBytes::of(bytes),
            })?;
            self.report.attachments += 1;
        }
        Ok(())
    }
}

fn digest(bytes: &[u8]) -> Option<Digest> {
    Some(Digest::from_bytes(bytes.try_into().ok()?))
}

fn remembered(row: &Row) -> Result<Listing, TransferError> {
    let widths: Vec<i16> = row.try_get(3)?;
    let mut all = event_places(row, 4)?.into_iter();
    let width = |width: &i16| usize::try_from(*width).unwrap_or(0);
    let places: Vec<Vec<EventPlace>> = widths
        .iter()
        .map(|one| all.by_ref().take(width(one)).collect())
        .collect();
    Ok(Listing {
        id: CommitId::from_uuid(row.try_get(0)?),
        content: digest(row.try_get(1)?).unwrap_or_else(|| Digest::of_bytes(b"")),
        first: unsigned(row.try_get(2)?),
        events: places.len() as u64,
        places,
        remembered: true,
        attachments: Vec::new(),
        scopes: Vec::new(),
    })
}
