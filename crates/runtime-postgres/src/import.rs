//! Making a runtime in the database of an export: positions, versions and what is remembered are
//! kept (S7).

use std::io::BufRead;

use futures_util::future::try_join_all;
use runtime_core::{CommitId, Digest, ScopeId, StreamKey, Timestamp};
use runtime_store::{
    ExportLine, ExportReader, ExportedBytes, ExportedEvent, ImportReport, KeyRing, Payload,
    Position, Progress, Seq, StoredEvent,
};
use tokio::sync::watch;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Statement, Transaction};

use crate::call::signed;
use crate::connect::Connector;
use crate::open::fresh_lineage;
use crate::transfer::TransferError;
use crate::{OpenError, PostgresOptions, schema};

/// How many statements are on their way at once, and how many bytes of theirs.
const PENDING_MAX: usize = 256;
const PENDING_BYTES_MAX: usize = 4 << 20;

const RUNTIME: &str = "INSERT INTO runtime (id, lineage, position, pruned) VALUES ($1, $2, $3, $4) \
     ON CONFLICT (id) DO NOTHING RETURNING key";
const RUNTIME_COMMITS: &str = "UPDATE runtime SET commits = $2, forgotten = $3, earliest = \
     (SELECT min(made) FROM made WHERE runtime = $1) WHERE key = $1";
/// An event that a row refers to may come twice.
const EVENT: &str = "INSERT INTO event \
     (runtime, position, id, at, closes, erased, streams, seqs, previous, body) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (runtime, position) DO NOTHING";
const PLACES: &str = "INSERT INTO place (runtime, stream, position) \
     SELECT $1, s.stream, $3 FROM unnest($2::text[]) AS s(stream)";
const TAKEN: &str = "INSERT INTO taken (runtime, id, position) VALUES ($1, $2, $3) \
     ON CONFLICT DO NOTHING";
const MADE: &str = "INSERT INTO made \
     (runtime, id, number, submission, content, made, first, widths, streams, seqs, previous) \
     VALUES ($1, $2, $3, 0, $4, $5, $6, $7, $8, $9, $10)";
const NAMING: &str = "INSERT INTO naming (runtime, digest, first, last, scopes) \
     VALUES ($1, $2, $3, $4, $5)";
const ENTRY: &str = "INSERT INTO entry (runtime, space, scope, name, version, body, event, due) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
const STREAM: &str = "INSERT INTO stream (runtime, stream, seq, position, closed) \
     VALUES ($1, $2, $3, $4, $5)";
const ATTACHMENT: &str = "INSERT INTO attachment (runtime, digest, body) VALUES ($1, $2, $3)";
const KEY: &str = "INSERT INTO signing_key (runtime, id, secret) VALUES ($1, $2, $3)";

/// Makes a runtime of what an export wrote, in a database that does not have it yet; its tables
/// are made when they are not there, unless told otherwise. It is the same runtime with a new
/// lineage: cursors of the exported store are not valid there, nor are its tokens, unless its
/// signing keys are given too.
///
/// All of it is one transaction. Reading the lines blocks the thread for as long as they take to
/// come; at most some megabytes of them are in memory at once.
///
/// # Errors
/// [`TransferError`]; then nothing was made.
///
/// # Cancel safety
/// Dropping the future makes nothing, unless it was about to return.
pub async fn import(
    lines: &mut (dyn BufRead + Send),
    options: &PostgresOptions,
    keys: Option<&KeyRing>,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<ImportReport, TransferError> {
    let mut lines = ExportReader::new(lines);
    let ExportLine::Store {
        runtime: exported,
        head,
        pruned,
        forgotten,
        ..
    } = lines.next_line()?
    else {
        return Err(lines.bad("it is no export").into());
    };
    if let Some(named) = options.runtime.clone().filter(|named| *named != exported) {
        return Err(TransferError::OtherRuntime { named, exported });
    }
    let connector = Connector::new(options)?;
    let session = connector.connect(watch::Sender::default()).await;
    let mut session = session.map_err(|failure| OpenError::Unreachable {
        reason: failure.reason(),
    })?;
    schema::prepare(&mut session.client, &options.schema, options.create).await?;
    let transaction = session.client.transaction().await?;
    let arguments: [&(dyn ToSql + Sync); 4] = [
        &exported.as_str(),
        &fresh_lineage(),
        &signed(head),
        &signed(pruned),
    ];
    let Some(made) = transaction.query_opt(RUNTIME, &arguments).await? else {
        return Err(TransferError::TargetExists {
            runtime: exported,
            schema: options.schema.clone(),
        });
    };
    let mut import = Import {
        statements: Statements::prepare(&transaction).await?,
        transaction: &transaction,
        runtime: made.try_get(0)?,
        head,
        pruned,
        forgotten,
        pending: Vec::new(),
        pending_bytes: 0,
        commits: 0,
        remembered_events: 0,
        report: ImportReport::default(),
    };
    while import.take(&mut lines).await? {
        progress(Progress {
            done: import.report.events,
            total: head - pruned,
        });
    }
    import.finish(keys).await?;
    let report = import.report;
    transaction.commit().await?;
    session.close().await;
    Ok(report)
}

struct Statements {
    event: Statement,
    places: Statement,
    taken: Statement,
    made: Statement,
    naming: Statement,
    entry: Statement,
    stream: Statement,
    attachment: Statement,
}

impl Statements {
    async fn prepare(transaction: &Transaction<'_>) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            event: transaction.prepare(EVENT).await?,
            places: transaction.prepare(PLACES).await?,
            taken: transaction.prepare(TAKEN).await?,
            made: transaction.prepare(MADE).await?,
            naming: transaction.prepare(NAMING).await?,
            entry: transaction.prepare(ENTRY).await?,
            stream: transaction.prepare(STREAM).await?,
            attachment: transaction.prepare(ATTACHMENT).await?,
        })
    }
}

/// What is inserted next.
type Insert = (Statement, Vec<Box<dyn ToSql + Sync + Send>>);

struct Import<'a> {
    transaction: &'a Transaction<'a>,
    statements: Statements,
    runtime: i32,
    head: u64,
    pruned: u64,
    forgotten: bool,
    pending: Vec<Insert>,
    pending_bytes: usize,
    /// How many commits are remembered, and how many events they have.
    commits: u64,
    remembered_events: u64,
    report: ImportReport,
}

macro_rules! insert {
    ($self:ident, $statement:ident, $bytes:expr; $($value:expr),*) => {{
        let runtime = $self.runtime;
        let values: Vec<Box<dyn ToSql + Sync + Send>> = vec![Box::new(runtime), $(Box::new($value)),*];
        $self.pending.push(($self.statements.$statement.clone(), values));
        $self.pending_bytes += $bytes;
    }};
}

impl Import<'_> {
    /// Takes a line and what follows from it; false after the last one.
    async fn take(&mut self, lines: &mut ExportReader<'_>) -> Result<bool, TransferError> {
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
                let mut events = Vec::new();
                for _ in 0..following {
                    let ExportLine::Event(event) = lines.next_line()? else {
                        return Err(lines.bad("it is no event of the commit before").into());
                    };
                    events.push(self.event(event, lines)?);
                }
                if remembered && count != following {
                    return Err(lines.bad("a remembered commit is not whole").into());
                }
                self.name(&attachments, first_position, count, &scopes);
                if remembered {
                    self.remember(id, content, first_position, &events);
                }
            }
            ExportLine::Event(event) => {
                self.event(event, lines)?;
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
                let body = bytes(&body, lines)?;
                let event = match event {
                    None => None,
                    Some(event) => Some(self.keep(event, lines)?.position),
                };
                let event = event.map(|position| signed(position.0));
                let due = due.map(|due| signed(due.as_millis()));
                insert!(self, entry, body.len(); space, scope.as_str().to_owned(), name, signed(version), body.to_vec(), event, due);
                self.report.rows += 1;
            }
            ExportLine::Stream {
                stream,
                head,
                last,
                closed,
            } => {
                let Seq(head) = head;
                insert!(self, stream, 64; stream.as_str().to_owned(), signed(head), signed(last.0), closed);
            }
            ExportLine::Attachment {
                digest,
                bytes: body,
            } => {
                let body = bytes(&body, lines)?;
                if Digest::of_bytes(&body) != digest {
                    return Err(lines.bad("the bytes are not those of the digest").into());
                }
                insert!(self, attachment, body.len(); digest.as_bytes().to_vec(), body.to_vec());
                self.report.attachments += 1;
            }
        }
        if self.pending.len() >= PENDING_MAX || self.pending_bytes >= PENDING_BYTES_MAX {
            self.flush().await?;
        }
        Ok(true)
    }

    /// Takes an event of the log: one that retention has removed keeps its id and its place.
    fn event(
        &mut self,
        event: ExportedEvent,
        lines: &ExportReader<'_>,
    ) -> Result<StoredEvent, TransferError> {
        if event.position.0 <= self.pruned {
            let event = read(event, lines)?;
            insert!(self, taken, 64; event.id.as_uuid(), signed(event.position.0));
            return Ok(event);
        }
        self.report.events += 1;
        let event = self.keep(event, lines)?;
        let streams = streams(&event);
        insert!(self, places, 64; streams, signed(event.position.0));
        Ok(event)
    }

    /// Keeps an event with its body.
    fn keep(
        &mut self,
        event: ExportedEvent,
        lines: &ExportReader<'_>,
    ) -> Result<StoredEvent, TransferError> {
        let event = read(event, lines)?;
        let (seqs, previous) = places(&event);
        insert!(
            self, event, event.body.len();
            signed(event.position.0), event.id.as_uuid(), signed(event.time.as_millis()),
            event.closes, event.erased, streams(&event), seqs, previous, event.body.to_vec()
        );
        Ok(event)
    }

    fn name(&mut self, attachments: &[Digest], first: u64, events: u32, scopes: &[ScopeId]) {
        let last = first + u64::from(events);
        let scopes: Vec<String> = scopes
            .iter()
            .map(|scope| scope.as_str().to_owned())
            .collect();
        for digest in attachments {
            insert!(self, naming, 64; digest.as_bytes().to_vec(), signed(first), signed(last), scopes.clone());
        }
    }

    fn remember(&mut self, id: CommitId, content: Digest, first: u64, events: &[StoredEvent]) {
        self.commits += 1;
        self.remembered_events += events.len() as u64;
        let made = id.timestamp().map(Timestamp::as_millis).map(signed);
        let width = |event: &StoredEvent| i16::try_from(event.places.len()).unwrap_or(i16::MAX);
        let widths: Vec<i16> = events.iter().map(width).collect();
        let all = || events.iter().flat_map(|event| &event.places);
        let streams: Vec<String> = all().map(|place| text(&place.stream)).collect();
        let seqs: Vec<i64> = all().map(|place| signed(place.seq.0)).collect();
        let previous: Vec<i64> = all().map(|place| signed(place.previous.0)).collect();
        insert!(
            self, made, 256;
            id.as_uuid(), signed(self.commits), content.as_bytes().to_vec(), made, signed(first),
            widths, streams, seqs, previous
        );
    }

    async fn flush(&mut self) -> Result<(), TransferError> {
        self.pending_bytes = 0;
        let inserts = std::mem::take(&mut self.pending);
        let transaction = self.transaction;
        // All on their way at once; the connection keeps their order.
        try_join_all(inserts.iter().map(async |(statement, values)| {
            let values: Vec<&(dyn ToSql + Sync)> =
                values.iter().map(|value| &**value as _).collect();
            transaction.execute(statement, &values).await
        }))
        .await?;
        Ok(())
    }

    async fn finish(&mut self, keys: Option<&KeyRing>) -> Result<(), TransferError> {
        self.flush().await?;
        // Events that no remembered commit has are of commits that were forgotten.
        let forgotten = u64::from(self.forgotten || self.head > self.remembered_events);
        if forgotten > 0 {
            let shift = "UPDATE made SET number = number + 1 WHERE runtime = $1";
            self.transaction.execute(shift, &[&self.runtime]).await?;
        }
        let commits = self.commits + forgotten;
        let arguments: [&(dyn ToSql + Sync); 3] =
            [&self.runtime, &signed(commits), &signed(forgotten)];
        self.transaction
            .execute(RUNTIME_COMMITS, &arguments)
            .await?;
        for key in keys.into_iter().flat_map(|ring| &ring.keys) {
            let id = i32::try_from(key.id).unwrap_or(i32::MAX);
            let arguments: [&(dyn ToSql + Sync); 3] = [&self.runtime, &id, &key.secret.expose()];
            self.transaction.execute(KEY, &arguments).await?;
        }
        Ok(())
    }
}

fn read(event: ExportedEvent, lines: &ExportReader<'_>) -> Result<StoredEvent, TransferError> {
    let event = event.event();
    Ok(event.ok_or_else(|| lines.bad("the body of the event is damaged"))?)
}

fn bytes(body: &ExportedBytes, lines: &ExportReader<'_>) -> Result<Payload, TransferError> {
    Ok(body
        .bytes()
        .ok_or_else(|| lines.bad("the bytes are damaged"))?)
}

fn text(stream: &StreamKey) -> String {
    stream.as_str().to_owned()
}

fn streams(event: &StoredEvent) -> Vec<String> {
    event
        .places
        .iter()
        .map(|place| text(&place.stream))
        .collect()
}

fn places(event: &StoredEvent) -> (Vec<i64>, Vec<i64>) {
    let both = event.places.iter().map(|place| {
        let Position(previous) = place.previous;
        (signed(place.seq.0), signed(previous))
    });
    both.unzip()
}
