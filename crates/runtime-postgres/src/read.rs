//! Reading rows, events and remembered commits: the statements and what they give.

use std::sync::Arc;

use runtime_core::{CommitId, EventId, ScopeId, StreamKey, Timestamp};
use runtime_store::{
    Committed, EventPage, EventPlace, Limits, Page, Position, ReadError, RetentionUnit, RowKey,
    RowPage, RowQuery, Seq, StoredEvent,
};
use tokio_postgres::{Client, Row, Statement};
use uuid::Uuid;

use crate::call::{signed, unsigned};
use crate::error::Failure;
use crate::readers::Reader;

macro_rules! event_columns {
    () => {
        "e.position, e.id, e.at, e.streams, e.seqs, e.previous, e.body, e.closes, e.erased"
    };
}

pub(crate) use event_columns;

macro_rules! select_rows {
    ($condition:literal) => {
        concat!(
            "SELECT ",
            event_columns!(),
            ", r.space, r.scope, r.name, r.version, r.body, r.due FROM (SELECT * FROM entry r ",
            "WHERE r.runtime = $1 AND r.space = $2 AND ",
            $condition,
            ") r LEFT JOIN LATERAL (SELECT * FROM event e WHERE e.runtime = r.runtime ",
            "AND e.position = r.event OFFSET 0) e ON true"
        )
    };
}

const ONE_ROW: &str = select_rows!("r.scope = $3 AND r.name = $4");
const ROWS_OF_SPACE: &str = concat!(
    select_rows!("(r.scope, r.name) > ($3, $4) ORDER BY r.scope, r.name LIMIT $5"),
    " ORDER BY r.scope, r.name"
);
const ROWS_OF_SCOPE: &str = concat!(
    select_rows!(
        "r.scope = $3 AND r.name >= $4 AND r.name < $5 AND ($6 OR r.name > $7) ORDER BY r.name LIMIT $8"
    ),
    " ORDER BY r.name"
);
const ROWS_DUE: &str = concat!(
    select_rows!(
        "r.due <= $3 AND (r.due, r.scope, r.name) > ($4, $5, $6) ORDER BY r.due, r.scope, r.name LIMIT $7"
    ),
    " ORDER BY r.due, r.scope, r.name"
);
const EVENTS: &str = concat!(
    "SELECT ",
    event_columns!(),
    ", h.position, h.pruned FROM runtime h LEFT JOIN LATERAL (SELECT * FROM event e ",
    "WHERE e.runtime = h.key AND e.position > greatest($2, h.pruned) ORDER BY e.position LIMIT $3) e ON true ",
    "WHERE h.key = $1 ORDER BY e.position"
);
const EVENTS_OF_STREAM: &str = concat!(
    "SELECT ",
    event_columns!(),
    ", h.position, h.pruned FROM runtime h LEFT JOIN LATERAL (",
    "SELECT e.* FROM (SELECT p.position FROM place p WHERE p.runtime = h.key AND p.stream = $4 ",
    "AND p.position > greatest($2, h.pruned) ORDER BY p.position LIMIT $3) p CROSS JOIN LATERAL ",
    "(SELECT * FROM event e WHERE e.runtime = h.key AND e.position = p.position OFFSET 0) e",
    ") e ON true WHERE h.key = $1 ORDER BY e.position"
);
const RETENTION_UNITS: &str = "SELECT max(u.position), max(u.at), count(*), \
     sum(u.bytes)::bigint FROM (SELECT e.position, e.at, octet_length(e.body) AS bytes, \
     (row_number() OVER (ORDER BY e.position) - 1) / $4 AS unit FROM event e \
     WHERE e.runtime = $1 AND e.position > greatest($2, \
     (SELECT h.pruned FROM runtime h WHERE h.key = $1)) ORDER BY e.position LIMIT $3) u \
     GROUP BY u.unit ORDER BY u.unit";
/// How many events a unit of retention has.
const RETENTION_UNIT_EVENTS: i64 = 256;
const HEAD: &str = "SELECT position FROM runtime WHERE key = $1";
/// The latest time in the id of a commit that is remembered.
pub(crate) const LATEST: &str = "SELECT coalesce(max(made), 0) FROM made WHERE runtime = $1";
pub(crate) const COMMITTED: &str = "SELECT id, first, widths, streams, seqs, previous FROM made \
     WHERE runtime = $1 AND id = ANY ($2)";

/// Above every name: names have at most 1,024 bytes.
fn above_all_names() -> String {
    "\u{10FFFF}".repeat(257)
}

/// The first text that comes after all that begin so, by the bytes.
fn after_prefix(prefix: &str) -> String {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        // The code points of surrogates are no characters.
        let next = match last {
            '\u{D7FF}' => Some('\u{E000}'),
            other => char::from_u32(u32::from(other) + 1),
        };
        if let Some(next) = next {
            text.push(next);
            return text;
        }
    }
    above_all_names()
}

/// How many entries a page gets.
pub(crate) fn effective_limit(limit: usize, limits: &Limits) -> Result<usize, ReadError> {
    match limit {
        0 => Err(ReadError::LimitZero),
        limit => Ok(limit.min(limits.page_entries_max)),
    }
}

/// One more than asked for says whether more follow.
fn fetched(limit: usize) -> i64 {
    i64::try_from(limit + 1).unwrap_or(i64::MAX)
}

pub(crate) async fn head(reader: &Reader, runtime: i32) -> Result<u64, Failure> {
    let statement = reader.prepared(HEAD).await?;
    let row = reader.client().query_one(&statement, &[&runtime]).await?;
    Ok(unsigned(row.try_get(0)?))
}

/// The latest time in the id of a commit that is remembered, in milliseconds.
pub(crate) async fn latest_id(reader: &Reader, runtime: i32) -> Result<u64, Failure> {
    let statement = reader.prepared(LATEST).await?;
    let row = reader.client().query_one(&statement, &[&runtime]).await?;
    Ok(unsigned(row.try_get(0)?))
}

pub(crate) async fn row(
    reader: &Reader,
    runtime: i32,
    key: &RowKey,
) -> Result<Option<runtime_store::Row>, Failure> {
    let statement = reader.prepared(ONE_ROW).await?;
    let found = reader
        .client()
        .query_opt(
            &statement,
            &[&runtime, &&*key.space, &key.scope.as_str(), &&*key.name],
        )
        .await?;
    found.as_ref().map(stored_row).transpose()
}

pub(crate) async fn rows(
    reader: &Reader,
    runtime: i32,
    query: &RowQuery,
    page: &Page<Option<RowKey>>,
    limit: usize,
) -> Result<RowPage, Failure> {
    let found = match query {
        RowQuery::Prefix {
            space, scope: None, ..
        } => rows_of_space(reader, runtime, space, page, limit).await?,
        RowQuery::Prefix {
            space,
            scope: Some(scope),
            name,
        } => {
            rows_of_scope(
                reader,
                runtime,
                &RowKey::new(space, scope.clone(), name),
                page,
                limit,
            )
            .await?
        }
        RowQuery::Due { space, until } => {
            rows_due(reader, runtime, space, *until, page, limit).await?
        }
        _ => Vec::new(),
    };
    let has_more = found.len() > limit;
    let rows: Result<Vec<_>, Failure> = found.iter().take(limit).map(stored_row).collect();
    let rows = rows?;
    let next = rows.last().filter(|_| has_more).map(|row| row.key.clone());
    Ok(RowPage { rows, next })
}

async fn rows_of_space(
    reader: &Reader,
    runtime: i32,
    space: &str,
    page: &Page<Option<RowKey>>,
    limit: usize,
) -> Result<Vec<Row>, Failure> {
    let after = match &page.after {
        Some(after) if &*after.space > space => return Ok(Vec::new()),
        Some(after) if &*after.space == space => (after.scope.as_str(), &*after.name),
        // No scope has an empty name.
        _ => ("", ""),
    };
    let statement = reader.prepared(ROWS_OF_SPACE).await?;
    let arguments: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
        [&runtime, &space, &after.0, &after.1, &fetched(limit)];
    Ok(reader.client().query(&statement, &arguments).await?)
}

/// The rows whose key begins with `first`: same space, same scope, and a name that begins so.
async fn rows_of_scope(
    reader: &Reader,
    runtime: i32,
    first: &RowKey,
    page: &Page<Option<RowKey>>,
    limit: usize,
) -> Result<Vec<Row>, Failure> {
    let after = match &page.after {
        Some(after) if *after >= *first => {
            if (&after.space, &after.scope) != (&first.space, &first.scope) {
                return Ok(Vec::new());
            }
            Some(&*after.name)
        }
        _ => None,
    };
    let statement = reader.prepared(ROWS_OF_SCOPE).await?;
    let end = after_prefix(&first.name);
    let arguments: [&(dyn tokio_postgres::types::ToSql + Sync); 8] = [
        &runtime,
        &&*first.space,
        &first.scope.as_str(),
        &&*first.name,
        &end,
        &after.is_none(),
        &after.unwrap_or(""),
        &fetched(limit),
    ];
    Ok(reader.client().query(&statement, &arguments).await?)
}

async fn rows_due(
    reader: &Reader,
    runtime: i32,
    space: &str,
    until: Timestamp,
    page: &Page<Option<RowKey>>,
    limit: usize,
) -> Result<Vec<Row>, Failure> {
    let mut after = (-1, String::new(), String::new());
    if let Some(key) = &page.after {
        if &*key.space > space {
            return Ok(Vec::new());
        }
        let due = match &*key.space == space {
            true => row(reader, runtime, key).await?.and_then(|row| row.due),
            false => None,
        };
        if let Some(due) = due {
            let due = signed(due.as_millis());
            after = (due, key.scope.as_str().to_owned(), key.name.to_string());
        }
    }
    let statement = reader.prepared(ROWS_DUE).await?;
    let until = signed(until.as_millis());
    let arguments: [&(dyn tokio_postgres::types::ToSql + Sync); 7] = [
        &runtime,
        &space,
        &until,
        &after.0,
        &after.1,
        &after.2,
        &fetched(limit),
    ];
    Ok(reader.client().query(&statement, &arguments).await?)
}

pub(crate) async fn events(
    reader: &Reader,
    runtime: i32,
    stream: Option<&StreamKey>,
    after: Position,
    limit: usize,
) -> Result<EventPage, Failure> {
    let from = signed(after.0);
    let found = match stream {
        None => {
            let statement = reader.prepared(EVENTS).await?;
            let arguments: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
                [&runtime, &from, &fetched(limit)];
            reader.client().query(&statement, &arguments).await?
        }
        Some(stream) => {
            let statement = reader.prepared(EVENTS_OF_STREAM).await?;
            let arguments: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
                [&runtime, &from, &fetched(limit), &stream.as_str()];
            reader.client().query(&statement, &arguments).await?
        }
    };
    let Some(first) = found.first() else {
        return Err(Failure::Lost(
            "the runtime is not in the database".to_owned(),
        ));
    };
    let head = Position(unsigned(first.try_get(9)?));
    let pruned = Position(unsigned(first.try_get(10)?));
    let events: Result<Vec<Option<StoredEvent>>, Failure> =
        found.iter().take(limit).map(stored_event).collect();
    let events: Vec<StoredEvent> = events?.into_iter().flatten().collect();
    let has_more = found.len() > limit;
    let next = match events.last() {
        Some(last) if has_more => last.position,
        _ => after.max(head),
    };
    Ok(EventPage {
        events,
        next,
        has_more,
        head,
        pruned,
    })
}

pub(crate) async fn retention_units(
    reader: &Reader,
    runtime: i32,
    after: Position,
    limit: usize,
) -> Result<Vec<RetentionUnit>, Failure> {
    let statement = reader.prepared(RETENTION_UNITS).await?;
    let events = i64::try_from(limit).unwrap_or(i64::MAX);
    let events = events.saturating_mul(RETENTION_UNIT_EVENTS);
    let after = signed(after.0);
    let arguments: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
        [&runtime, &after, &events, &RETENTION_UNIT_EVENTS];
    let rows = reader.client().query(&statement, &arguments).await?;
    let unit = |row: &Row| {
        Ok(RetentionUnit {
            last: Position(unsigned(row.try_get(0)?)),
            newest: Timestamp::from_millis(unsigned(row.try_get(1)?)),
            events: unsigned(row.try_get(2)?),
            bytes: unsigned(row.try_get(3)?),
        })
    };
    rows.iter().map(unit).collect()
}

pub(crate) async fn committed(
    client: &Client,
    statement: &Statement,
    runtime: i32,
    ids: &[CommitId],
) -> Result<Vec<(CommitId, Committed)>, Failure> {
    let ids: Vec<Uuid> = ids.iter().map(CommitId::as_uuid).collect();
    let rows = client.query(statement, &[&runtime, &ids]).await?;
    rows.iter().map(remembered).collect()
}

fn remembered(row: &Row) -> Result<(CommitId, Committed), Failure> {
    let id = CommitId::from_uuid(row.try_get(0)?);
    let first = unsigned(row.try_get(1)?);
    let widths: Vec<i16> = row.try_get(2)?;
    let mut all = event_places(row, 3)?.into_iter();
    let width = |width: &i16| usize::try_from(*width).unwrap_or(0);
    let places = widths
        .iter()
        .map(|one| all.by_ref().take(width(one)).collect())
        .collect();
    let committed = Committed {
        positions: first..first + widths.len() as u64,
        places,
        repeated: false,
    };
    Ok((id, committed))
}

/// Reads the event that the first nine columns give, if there is one.
pub(crate) fn stored_event(row: &Row) -> Result<Option<StoredEvent>, Failure> {
    let Some(position) = row.try_get::<_, Option<i64>>(0)? else {
        return Ok(None);
    };
    Ok(Some(StoredEvent {
        position: Position(unsigned(position)),
        id: EventId::from_uuid(row.try_get(1)?),
        time: Timestamp::from_millis(unsigned(row.try_get(2)?)),
        places: event_places(row, 3)?,
        closes: row.try_get(7)?,
        erased: row.try_get(8)?,
        body: row.try_get::<_, &[u8]>(6)?.into(),
    }))
}

/// Reads places from three columns: streams, places, positions before.
pub(crate) fn event_places(row: &Row, from: usize) -> Result<Vec<EventPlace>, Failure> {
    let streams: Vec<&str> = row.try_get(from)?;
    let seqs: Vec<i64> = row.try_get(from + 1)?;
    let previous: Vec<i64> = row.try_get(from + 2)?;
    let places = streams.into_iter().zip(seqs.into_iter().zip(previous));
    places
        .map(|(stream, (seq, previous))| {
            Ok(EventPlace {
                stream: StreamKey::new(stream).map_err(damaged)?,
                seq: Seq(unsigned(seq)),
                previous: Position(unsigned(previous)),
            })
        })
        .collect()
}

fn stored_row(row: &Row) -> Result<runtime_store::Row, Failure> {
    let key = RowKey {
        space: Arc::from(row.try_get::<_, &str>(9)?),
        scope: ScopeId::new(row.try_get::<_, &str>(10)?).map_err(damaged)?,
        name: Arc::from(row.try_get::<_, &str>(11)?),
    };
    let due: Option<i64> = row.try_get(14)?;
    Ok(runtime_store::Row {
        key,
        version: unsigned(row.try_get(12)?),
        body: row.try_get::<_, &[u8]>(13)?.into(),
        event: stored_event(row)?,
        due: due.map(|due| Timestamp::from_millis(unsigned(due))),
    })
}

/// Somebody else has written to our tables.
pub(crate) fn damaged(error: runtime_core::IdError) -> Failure {
    Failure::Damaged(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_begins_so_lies_before_the_end() {
        for (prefix, end) in [
            ("a", "b"),
            ("a/", "a0"),
            ("\u{D7FF}", "\u{E000}"),
            ("a\u{10FFFF}", "b"),
        ] {
            assert_eq!(after_prefix(prefix), end);
            assert!(*format!("{prefix}\u{10FFFF}") < *after_prefix(prefix));
        }
        assert!(*"\u{10FFFF}".repeat(256) < *after_prefix(""));
    }
}
