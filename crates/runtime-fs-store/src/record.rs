//! Records: what a payload says. Each has a kind, a schema, a critical bit and its own checksum,
//! so that one event is read and checked without the rest of its frame.

use std::sync::Arc;

use runtime_core::{CommitId, Digest, EventId, ScopeId, StreamKey, Timestamp};
use runtime_store::{
    Commit, EventPlace, NewEvent, Payload, Position, Removal, RowChange, RowKey, Seq, StoredEvent,
};

use crate::bytes::{Bytes, length_u32, pad, put_text};
use crate::frame::{Place, StoreTag};

const RECORD_HEADER_BYTES: usize = 12;
const SCHEMA: u8 = 1;
/// A reader that does not know this kind must not write to the store.
const CRITICAL: u8 = 1;

mod kind {
    pub(super) const PADDING: u8 = 0;
    pub(super) const COMMIT: u8 = 1;
    pub(super) const PUT: u8 = 2;
    pub(super) const DELETE: u8 = 3;
    pub(super) const RETIRE: u8 = 4;
    pub(super) const EVENT: u8 = 5;
    pub(super) const ATTACHMENTS: u8 = 6;
    pub(super) const THROUGH: u8 = 7;
    pub(super) const ERASE: u8 = 8;
}

/// One commit as the index takes it: everything decided, nothing left to check.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) id: CommitId,
    pub(crate) content: Digest,
    pub(crate) time: Timestamp,
    pub(crate) first_position: u64,
    pub(crate) rows: Vec<RowEdit>,
    pub(crate) events: Vec<AppliedEvent>,
    pub(crate) attachments: Vec<Digest>,
    pub(crate) removals: Vec<Removal>,
}

#[derive(Debug)]
pub(crate) enum RowEdit {
    Put {
        key: RowKey,
        body: Payload,
        event: Option<u64>,
        due: Option<Timestamp>,
    },
    Delete(RowKey),
    Retire(ScopeId),
}

#[derive(Debug)]
pub(crate) struct AppliedEvent {
    pub(crate) id: EventId,
    pub(crate) closes: bool,
    pub(crate) places: Vec<EventPlace>,
    pub(crate) at: Extent,
}

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    /// Zero for an event that is damaged.
    pub(crate) bytes: u32,
}

/// Why a payload cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BadPayload {
    /// It breaks its own format.
    Malformed,
    /// It holds a critical record of a kind or schema that this version does not know.
    Unknown { kind: u8, schema: u8 },
}

/// Writes the payload of a commit; `places` are those of its events, `at` is where it will stand.
pub(crate) fn write_commit(
    tag: StoreTag,
    at: Place,
    commit: Commit,
    content: Digest,
    first_position: u64,
    places: Vec<Vec<EventPlace>>,
) -> (Vec<u8>, Applied) {
    let mut out = Writer {
        tag,
        at,
        out: Vec::with_capacity(commit.bytes() + 256),
    };
    out.record(kind::COMMIT, |out| {
        out.extend(commit.id.as_uuid().as_bytes());
        out.extend(commit.time.as_millis().to_le_bytes());
        out.extend(content.as_bytes());
    });
    let time = commit.time;
    let events = commit.events.into_iter().zip(places);
    let events = events
        .map(|(event, places)| out.event(event, commit.time, places))
        .collect();
    let rows = commit.rows.into_iter();
    let rows = rows.map(|row| out.row(row, first_position)).collect();
    if !commit.attachments.is_empty() {
        out.record(kind::ATTACHMENTS, |out| {
            for digest in &commit.attachments {
                out.extend(digest.as_bytes());
            }
        });
    }
    for removal in &commit.removals {
        out.removal(removal);
    }
    pad(&mut out.out, 0);
    let applied = Applied {
        id: commit.id,
        content,
        time,
        first_position,
        rows,
        events,
        attachments: commit.attachments,
        removals: commit.removals,
    };
    (out.out, applied)
}

struct Writer {
    tag: StoreTag,
    at: Place,
    out: Vec<u8>,
}

impl Writer {
    fn record(&mut self, kind: u8, body: impl FnOnce(&mut Vec<u8>)) -> Extent {
        let start = self.out.len();
        self.out.extend([kind, SCHEMA, CRITICAL, 0]);
        self.out.extend([0; 8]);
        body(&mut self.out);
        let bytes = length_u32(self.out.len() - start - RECORD_HEADER_BYTES);
        self.out[start + 4..start + 8].copy_from_slice(&bytes.to_le_bytes());
        let place = Place {
            segment: self.at.segment,
            offset: self.at.offset + start as u64,
        };
        let checksum = record_checksum(self.tag, place, &self.out[start..]);
        self.out[start + 8..start + 12].copy_from_slice(&checksum.to_le_bytes());
        extent(place, self.out.len() - start)
    }

    fn event(&mut self, event: NewEvent, time: Timestamp, places: Vec<EventPlace>) -> AppliedEvent {
        let at = self.record(kind::EVENT, |out| {
            out.extend(event.id.as_uuid().as_bytes());
            out.extend(time.as_millis().to_le_bytes());
            let count = u8::try_from(places.len()).expect("an event has at most 8 streams");
            out.extend([u8::from(event.closes), count]);
            for place in &places {
                put_text(out, place.stream.as_str());
                out.extend(place.seq.0.to_le_bytes());
                out.extend(place.previous.0.to_le_bytes());
            }
            out.extend(&*event.body);
        });
        AppliedEvent {
            id: event.id,
            closes: event.closes,
            places,
            at,
        }
    }

    fn removal(&mut self, removal: &Removal) {
        match removal {
            Removal::Through(position) => {
                self.record(kind::THROUGH, |out| out.extend(position.0.to_le_bytes()));
            }
            Removal::Stream(stream) => {
                self.record(kind::ERASE, |out| put_text(out, stream.as_str()));
            }
            // `Removal` may grow; a kind that cannot be written must not be accepted.
            other => unreachable!("{other:?} was refused before"),
        }
    }

    fn row(&mut self, change: RowChange, first_position: u64) -> RowEdit {
        match change {
            RowChange::Put {
                key,
                body,
                event,
                due,
            } => {
                self.record(kind::PUT, |out| {
                    put_key(out, &key);
                    put_option(out, event.map(|index| index as u64));
                    put_option(out, due.map(Timestamp::as_millis));
                    out.extend(&*body);
                });
                RowEdit::Put {
                    key,
                    body,
                    event: event.map(|index| first_position + index as u64),
                    due,
                }
            }
            RowChange::Delete(key) => {
                self.record(kind::DELETE, |out| put_key(out, &key));
                RowEdit::Delete(key)
            }
            RowChange::Retire(scope) => {
                self.record(kind::RETIRE, |out| put_text(out, scope.as_str()));
                RowEdit::Retire(scope)
            }
            // `RowChange` may grow; a kind that cannot be written must not be accepted.
            other => unreachable!("{other:?} was refused before"),
        }
    }
}

/// Says whether the change is of a kind that this format can hold.
pub(crate) const fn is_known(change: &RowChange) -> bool {
    matches!(
        change,
        RowChange::Put { .. } | RowChange::Delete(_) | RowChange::Retire(_)
    )
}

/// Says whether the removal is of a kind that this format can hold.
pub(crate) const fn is_known_removal(removal: &Removal) -> bool {
    matches!(removal, Removal::Through(_) | Removal::Stream(_))
}

fn put_key(out: &mut Vec<u8>, key: &RowKey) {
    put_text(out, &key.space);
    put_text(out, key.scope.as_str());
    put_text(out, &key.name);
}

/// Writes one more than the number; zero is none.
fn put_option(out: &mut Vec<u8>, value: Option<u64>) {
    out.push(u8::from(value.is_some()));
    out.extend(value.unwrap_or_default().to_le_bytes());
}

fn extent(place: Place, bytes: usize) -> Extent {
    Extent {
        segment: place.segment,
        offset: u32::try_from(place.offset).expect("a segment is below 4 GiB"),
        bytes: length_u32(bytes),
    }
}

/// The checksum of a record; its own field is left out.
fn record_checksum(tag: StoreTag, place: Place, record: &[u8]) -> u32 {
    let head = crc32c::crc32c_append(tag.salt(place), &record[..8]);
    crc32c::crc32c_append(head, &record[RECORD_HEADER_BYTES..])
}

/// One record as it is found.
struct Record<'a> {
    kind: u8,
    schema: u8,
    is_critical: bool,
    at: Extent,
    body: &'a [u8],
}

fn next_record<'a>(tag: StoreTag, place: Place, bytes: &'a [u8]) -> Option<Record<'a>> {
    let mut fields = Bytes(bytes);
    let [kind, schema, flags, _] = fields.array()?;
    let body_bytes = fields.u32()? as usize;
    let checksum = fields.u32()?;
    let whole = bytes.get(..RECORD_HEADER_BYTES.checked_add(body_bytes)?)?;
    (record_checksum(tag, place, whole) == checksum).then(|| Record {
        kind,
        schema,
        is_critical: flags & CRITICAL != 0,
        at: extent(place, whole.len()),
        body: &whole[RECORD_HEADER_BYTES..],
    })
}

/// Reads the payload of a commit that stands at `at`.
pub(crate) fn read_commit(
    tag: StoreTag,
    at: Place,
    payload: &[u8],
    first_position: u64,
) -> Result<Applied, BadPayload> {
    let mut applied = None;
    let mut offset = 0;
    while payload
        .get(offset)
        .is_some_and(|kind| *kind != kind::PADDING)
    {
        let place = Place {
            segment: at.segment,
            offset: at.offset + offset as u64,
        };
        let record = next_record(tag, place, &payload[offset..]).ok_or(BadPayload::Malformed)?;
        offset += record.at.bytes as usize;
        read_record(&record, first_position, &mut applied)?;
    }
    applied.ok_or(BadPayload::Malformed)
}

fn read_record(
    record: &Record<'_>,
    first_position: u64,
    applied: &mut Option<Applied>,
) -> Result<(), BadPayload> {
    let known = record.schema == SCHEMA && (kind::COMMIT..=kind::ERASE).contains(&record.kind);
    if !known {
        return if record.is_critical {
            Err(BadPayload::Unknown {
                kind: record.kind,
                schema: record.schema,
            })
        } else {
            Ok(())
        };
    }
    if record.kind == kind::COMMIT {
        *applied = read_commit_record(record.body, first_position);
        return applied.as_ref().map(|_| ()).ok_or(BadPayload::Malformed);
    }
    let applied = applied.as_mut().ok_or(BadPayload::Malformed)?;
    read_change(record, applied).ok_or(BadPayload::Malformed)
}

fn read_commit_record(body: &[u8], first_position: u64) -> Option<Applied> {
    let mut fields = Bytes(body);
    let id = CommitId::from_uuid(uuid::Uuid::from_bytes(fields.array()?));
    let time = Timestamp::from_millis(fields.u64()?);
    Some(Applied {
        id,
        content: Digest::from_bytes(fields.array()?),
        time,
        first_position,
        rows: Vec::new(),
        events: Vec::new(),
        attachments: Vec::new(),
        removals: Vec::new(),
    })
}

fn read_change(record: &Record<'_>, applied: &mut Applied) -> Option<()> {
    let mut fields = Bytes(record.body);
    match record.kind {
        kind::PUT => {
            let key = read_key(&mut fields)?;
            let event = read_option(&mut fields)?;
            let due = read_option(&mut fields)?;
            applied.rows.push(RowEdit::Put {
                key,
                event: event.map(|index| applied.first_position.saturating_add(index)),
                due: due.map(Timestamp::from_millis),
                body: fields.0.into(),
            });
        }
        kind::DELETE => applied.rows.push(RowEdit::Delete(read_key(&mut fields)?)),
        kind::RETIRE => {
            let scope = ScopeId::new(fields.text()?).ok()?;
            applied.rows.push(RowEdit::Retire(scope));
        }
        kind::EVENT => {
            let event = read_event_fields(&mut fields)?;
            applied.events.push(AppliedEvent {
                id: event.id,
                closes: event.closes,
                places: event.places,
                at: record.at,
            });
        }
        kind::ATTACHMENTS => {
            while !fields.0.is_empty() {
                applied
                    .attachments
                    .push(Digest::from_bytes(fields.array()?));
            }
        }
        kind::THROUGH => {
            let position = Position(fields.u64()?);
            applied.removals.push(Removal::Through(position));
        }
        kind::ERASE => {
            let stream = StreamKey::new(fields.text()?).ok()?;
            applied.removals.push(Removal::Stream(stream));
        }
        _ => {}
    }
    Some(())
}

fn read_key(fields: &mut Bytes<'_>) -> Option<RowKey> {
    Some(RowKey {
        space: Arc::from(fields.text()?),
        scope: ScopeId::new(fields.text()?).ok()?,
        name: Arc::from(fields.text()?),
    })
}

/// `None` when the bytes end; the inner option is what was written.
#[expect(
    clippy::option_option,
    reason = "the outer one is the end of the bytes"
)]
fn read_option(fields: &mut Bytes<'_>) -> Option<Option<u64>> {
    let is_there = fields.byte()? != 0;
    let value = fields.u64()?;
    Some(is_there.then_some(value))
}

struct EventFields {
    id: EventId,
    time: Timestamp,
    closes: bool,
    places: Vec<EventPlace>,
}

fn read_event_fields(fields: &mut Bytes<'_>) -> Option<EventFields> {
    let id = EventId::from_uuid(uuid::Uuid::from_bytes(fields.array()?));
    let time = Timestamp::from_millis(fields.u64()?);
    let closes = fields.byte()? != 0;
    let count = fields.byte()?;
    let mut places = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        places.push(EventPlace {
            stream: StreamKey::new(fields.text()?).ok()?,
            seq: Seq(fields.u64()?),
            previous: Position(fields.u64()?),
        });
    }
    Some(EventFields {
        id,
        time,
        closes,
        places,
    })
}

/// Reads one event from the bytes at its extent; `None` when they are not what was written there.
pub(crate) fn read_event(
    tag: StoreTag,
    at: Extent,
    position: u64,
    bytes: &[u8],
) -> Option<StoredEvent> {
    let place = Place {
        segment: at.segment,
        offset: u64::from(at.offset),
    };
    let record = next_record(tag, place, bytes).filter(|record| record.kind == kind::EVENT)?;
    let mut fields = Bytes(record.body);
    let event = read_event_fields(&mut fields)?;
    Some(StoredEvent {
        position: Position(position),
        id: event.id,
        time: event.time,
        closes: event.closes && !event.places.is_empty(),
        places: event.places,
        erased: false,
        body: fields.0.into(),
    })
}

/// Writes one record of any kind and body behind a right checksum.
#[cfg(test)]
pub(crate) fn sealed_record(tag: StoreTag, at: Place, kind: u8, body: &[u8]) -> Vec<u8> {
    let mut writer = Writer {
        tag,
        at,
        out: Vec::new(),
    };
    writer.record(kind, |out| out.extend(body));
    writer.out
}
