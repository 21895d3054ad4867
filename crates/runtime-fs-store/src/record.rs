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
/// Where a kept event says that it is a stub: after its position.
const KEPT_ERASED_AT: usize = RECORD_HEADER_BYTES + 8;
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
    /// A put with the version that it gives the row; what is written now.
    pub(super) const VERSIONED_PUT: u8 = 9;
    /// An event with its position, in a base.
    pub(super) const KEPT_EVENT: u8 = 10;
    /// Where a stream ends, in a base.
    pub(super) const STREAM: u8 = 11;
    /// An event whose body has been written over.
    pub(super) const STUB: u8 = 12;
    /// A versioned put whose body has been written over.
    pub(super) const DEAD_PUT: u8 = 13;
    /// A commit that is not remembered any more, in a base.
    pub(super) const KEPT_COMMIT: u8 = 14;
    /// Attachments and the scopes that they are named for, in a base.
    pub(super) const NAMING: u8 = 15;
    pub(super) const LAST: u8 = NAMING;
}

/// One commit as the index takes it: everything decided, nothing left to check.
#[derive(Debug)]
pub(crate) struct Applied {
    /// Its first record.
    pub(crate) at: Extent,
    pub(crate) id: CommitId,
    pub(crate) content: Digest,
    pub(crate) time: Timestamp,
    pub(crate) first_position: u64,
    pub(crate) rows: Vec<RowEdit>,
    pub(crate) events: Vec<AppliedEvent>,
    pub(crate) attachments: Vec<Digest>,
    /// The scopes for which the attachments are named, beside those of the rows put.
    pub(crate) named_for: Vec<ScopeId>,
    pub(crate) removals: Vec<Removal>,
    pub(crate) streams: Vec<StreamEnd>,
    /// It counts among the last commits (V1).
    pub(crate) is_remembered: bool,
}

/// Where a stream ends that has no event in what follows.
#[derive(Debug, Clone)]
pub(crate) struct StreamEnd {
    pub(crate) stream: StreamKey,
    pub(crate) head: Seq,
    pub(crate) last: Position,
    pub(crate) closed: bool,
}

#[derive(Debug)]
pub(crate) enum RowEdit {
    Put {
        key: RowKey,
        /// None where the format did not say: one more than before.
        version: Option<u64>,
        /// The record that holds its body.
        at: Extent,
        event: Option<u64>,
        due: Option<Timestamp>,
    },
    Delete(RowKey),
    Retire(ScopeId),
}

#[derive(Debug)]
pub(crate) struct AppliedEvent {
    pub(crate) position: u64,
    pub(crate) id: EventId,
    pub(crate) closes: bool,
    pub(crate) places: Vec<EventPlace>,
    pub(crate) at: Extent,
}

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Extent {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    /// Zero for an event that is damaged.
    pub(crate) bytes: u32,
}

impl Extent {
    /// Of an event that is damaged.
    pub(crate) const MISSING: Self = Self {
        segment: 0,
        offset: 0,
        bytes: 0,
    };

    pub(crate) fn write(self, out: &mut Vec<u8>) {
        out.extend(self.segment.to_le_bytes());
        out.extend(self.offset.to_le_bytes());
        out.extend(self.bytes.to_le_bytes());
    }

    pub(crate) fn read(fields: &mut Bytes<'_>) -> Option<Self> {
        Some(Self {
            segment: fields.u32()?,
            offset: fields.u32()?,
            bytes: fields.u32()?,
        })
    }

    pub(crate) fn place(self) -> Place {
        Place {
            segment: self.segment,
            offset: u64::from(self.offset),
        }
    }
}

/// Why a payload cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BadPayload {
    /// It breaks its own format.
    Malformed,
    /// It holds a critical record of a kind or schema that this version does not know.
    Unknown { kind: u8, schema: u8 },
}

/// What was decided on a commit beside its content.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// The places of its events.
    pub(crate) places: Vec<Vec<EventPlace>>,
    /// The version that each of its puts gives its row.
    pub(crate) versions: Vec<u64>,
}

/// Writes the payload of a commit; `at` is where it will stand.
pub(crate) fn write_commit(
    tag: StoreTag,
    at: Place,
    commit: Commit,
    content: Digest,
    first_position: u64,
    verdict: Taken,
) -> (Vec<u8>, Applied) {
    let Taken { places, versions } = verdict;
    let mut out = Writer {
        tag,
        at,
        out: Vec::with_capacity(commit.bytes() + 256),
    };
    let at = out.record(kind::COMMIT, |out| {
        out.extend(commit.id.as_uuid().as_bytes());
        out.extend(commit.time.as_millis().to_le_bytes());
        out.extend(content.as_bytes());
    });
    let time = commit.time;
    let events = commit.events.into_iter().zip(places);
    let events = events.zip(first_position..);
    let events = events
        .map(|((event, places), position)| out.event(event, commit.time, position, places))
        .collect();
    let mut versions = versions.into_iter();
    let rows = commit.rows.into_iter();
    let rows = rows
        .map(|row| out.row(row, first_position, &mut versions))
        .collect();
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
        at,
        id: commit.id,
        content,
        time,
        first_position,
        rows,
        events,
        attachments: commit.attachments,
        named_for: Vec::new(),
        removals: commit.removals,
        streams: Vec::new(),
        is_remembered: true,
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

    fn event(
        &mut self,
        event: NewEvent,
        time: Timestamp,
        position: u64,
        places: Vec<EventPlace>,
    ) -> AppliedEvent {
        let at = self.record(kind::EVENT, |out| {
            put_event_fields(out, event.id, time, event.closes, &places);
            out.extend(&*event.body);
        });
        AppliedEvent {
            position,
            id: event.id,
            closes: event.closes,
            places,
            at,
        }
    }

    fn put(&mut self, put: &KeptPut) -> Extent {
        self.record(kind::VERSIONED_PUT, |out| {
            out.extend(put.version.to_le_bytes());
            put_key(out, &put.key);
            put_option(out, put.event);
            put_option(out, put.due.map(Timestamp::as_millis));
            out.extend(&*put.body);
        })
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

    fn row(
        &mut self,
        change: RowChange,
        first_position: u64,
        versions: &mut impl Iterator<Item = u64>,
    ) -> RowEdit {
        match change {
            RowChange::Put {
                key,
                body,
                event,
                due,
            } => {
                let put = KeptPut {
                    key,
                    version: versions.next().expect("each put was given a version"),
                    event: event.map(|index| first_position + index as u64),
                    due,
                    body,
                };
                let at = self.put(&put);
                RowEdit::Put {
                    key: put.key,
                    version: Some(put.version),
                    at,
                    event: put.event,
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

fn put_event_fields(
    out: &mut Vec<u8>,
    id: EventId,
    time: Timestamp,
    closes: bool,
    places: &[EventPlace],
) {
    out.extend(id.as_uuid().as_bytes());
    out.extend(time.as_millis().to_le_bytes());
    let count = u8::try_from(places.len()).expect("an event has at most 8 streams");
    out.extend([u8::from(closes), count]);
    for place in places {
        put_text(out, place.stream.as_str());
        out.extend(place.seq.0.to_le_bytes());
        out.extend(place.previous.0.to_le_bytes());
    }
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
    let known = record.schema == SCHEMA && (kind::COMMIT..=kind::LAST).contains(&record.kind);
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
    if matches!(record.kind, kind::COMMIT | kind::KEPT_COMMIT) {
        *applied = read_commit_record(record, first_position);
        for applied in applied.iter_mut() {
            applied.is_remembered = record.kind == kind::COMMIT;
        }
        return applied.as_ref().map(|_| ()).ok_or(BadPayload::Malformed);
    }
    let applied = applied.as_mut().ok_or(BadPayload::Malformed)?;
    read_change(record, applied).ok_or(BadPayload::Malformed)
}

fn read_commit_record(record: &Record<'_>, first_position: u64) -> Option<Applied> {
    let mut fields = Bytes(record.body);
    let id = CommitId::from_uuid(uuid::Uuid::from_bytes(fields.array()?));
    let time = Timestamp::from_millis(fields.u64()?);
    Some(Applied {
        at: record.at,
        id,
        content: Digest::from_bytes(fields.array()?),
        time,
        first_position,
        rows: Vec::new(),
        events: Vec::new(),
        attachments: Vec::new(),
        named_for: Vec::new(),
        removals: Vec::new(),
        streams: Vec::new(),
        is_remembered: true,
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
                version: None,
                at: record.at,
                event: event.map(|index| applied.first_position.saturating_add(index)),
                due: due.map(Timestamp::from_millis),
            });
        }
        // A later commit put or removed it; if that one is lost, nothing is left of the row.
        kind::DEAD_PUT => applied
            .rows
            .push(RowEdit::Delete(read_put(&mut fields)?.key)),
        kind::VERSIONED_PUT => {
            let put = read_put(&mut fields)?;
            applied.rows.push(RowEdit::Put {
                key: put.key,
                version: Some(put.version),
                at: record.at,
                event: put.event,
                due: put.due,
            });
        }
        kind::DELETE => applied.rows.push(RowEdit::Delete(read_key(&mut fields)?)),
        kind::RETIRE => {
            let scope = ScopeId::new(fields.text()?).ok()?;
            applied.rows.push(RowEdit::Retire(scope));
        }
        kind::EVENT | kind::STUB | kind::KEPT_EVENT => {
            let next = applied.events.last().map(|event| event.position);
            let next = next.map_or(applied.first_position, |last| last.saturating_add(1));
            let position = match record.kind {
                kind::KEPT_EVENT => read_kept_event(&mut fields)?.0,
                _ => next,
            };
            // In a base events may be missing, but they never go back.
            (position >= next).then_some(())?;
            let event = read_event_fields(&mut fields)?;
            applied.events.push(AppliedEvent {
                position,
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
        kind::NAMING => {
            for _ in 0..fields.u16()? {
                applied.named_for.push(ScopeId::new(fields.text()?).ok()?);
            }
            while !fields.0.is_empty() {
                applied
                    .attachments
                    .push(Digest::from_bytes(fields.array()?));
            }
        }
        kind::STREAM => applied.streams.push(StreamEnd {
            stream: StreamKey::new(fields.text()?).ok()?,
            head: Seq(fields.u64()?),
            last: Position(fields.u64()?),
            closed: fields.byte()? != 0,
        }),
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

fn read_kept_event(fields: &mut Bytes<'_>) -> Option<(u64, bool)> {
    Some((fields.u64()?, fields.byte()? != 0))
}

/// A row as it was put, and what a base keeps of it.
#[derive(Debug, Clone)]
pub(crate) struct KeptPut {
    pub(crate) key: RowKey,
    pub(crate) version: u64,
    /// The position of its event.
    pub(crate) event: Option<u64>,
    pub(crate) due: Option<Timestamp>,
    pub(crate) body: Payload,
}

fn read_put(fields: &mut Bytes<'_>) -> Option<KeptPut> {
    Some(KeptPut {
        version: fields.u64()?,
        key: read_key(fields)?,
        event: read_option(fields)?,
        due: read_option(fields)?.map(Timestamp::from_millis),
        body: fields.0.into(),
    })
}

/// Reads the body of a row from the bytes at the extent of its put; `None` when they are not what
/// was written there, or have been written over.
pub(crate) fn read_row_body(
    tag: StoreTag,
    at: Extent,
    key: &RowKey,
    bytes: &[u8],
) -> Option<Payload> {
    let record = next_record(tag, at.place(), bytes)?;
    let mut fields = Bytes(record.body);
    match record.kind {
        kind::PUT => {
            let found = read_key(&mut fields)?;
            read_option(&mut fields)?;
            read_option(&mut fields)?;
            (found == *key).then(|| fields.0.into())
        }
        kind::VERSIONED_PUT => {
            let put = read_put(&mut fields)?;
            (put.key == *key).then_some(put.body)
        }
        _ => None,
    }
}

/// Says whether it is a put whose body has been written over.
pub(crate) fn is_dead_put(tag: StoreTag, at: Extent, bytes: &[u8]) -> bool {
    next_record(tag, at.place(), bytes).is_some_and(|record| record.kind == kind::DEAD_PUT)
}

/// Reads which commit a record begins: its id and the digest of its content.
pub(crate) fn read_commit_id(
    tag: StoreTag,
    at: Extent,
    bytes: &[u8],
) -> Option<(CommitId, Digest)> {
    let record = next_record(tag, at.place(), bytes)?;
    let applied = read_commit_record(&record, 0)?;
    (record.kind == kind::COMMIT).then_some((applied.id, applied.content))
}

/// Reads one event from the bytes at its extent; `None` when they are not what was written there.
pub(crate) fn read_event(
    tag: StoreTag,
    at: Extent,
    position: u64,
    bytes: &[u8],
) -> Option<StoredEvent> {
    let record = next_record(tag, at.place(), bytes)?;
    event_of(&record, position)
}

fn event_of(record: &Record<'_>, position: u64) -> Option<StoredEvent> {
    let mut fields = Bytes(record.body);
    let erased = match record.kind {
        kind::EVENT => false,
        kind::STUB => true,
        kind::KEPT_EVENT => {
            let (found, erased) = read_kept_event(&mut fields)?;
            (found == position).then_some(erased)?
        }
        _ => return None,
    };
    let event = read_event_fields(&mut fields)?;
    Some(StoredEvent {
        position: Position(position),
        id: event.id,
        time: event.time,
        closes: event.closes && !event.places.is_empty(),
        places: event.places,
        erased,
        body: match erased {
            true => Payload::from([]),
            false => fields.0.into(),
        },
    })
}

/// What a base keeps of one commit.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) id: CommitId,
    pub(crate) time: Timestamp,
    pub(crate) content: Digest,
    pub(crate) is_remembered: bool,
    pub(crate) rows: Vec<KeptPut>,
    pub(crate) events: Vec<StoredEvent>,
    pub(crate) streams: Vec<StreamEnd>,
    pub(crate) named_for: Vec<ScopeId>,
    pub(crate) attachments: Vec<Digest>,
}

/// Writes the payload of what is kept of a commit; returns where its rows and events are.
pub(crate) fn write_kept(
    tag: StoreTag,
    at: Place,
    kept: &Kept,
) -> (Vec<u8>, Vec<Extent>, Vec<Extent>) {
    let mut out = Writer {
        tag,
        at,
        out: Vec::new(),
    };
    let commit = match kept.is_remembered {
        true => kind::COMMIT,
        false => kind::KEPT_COMMIT,
    };
    out.record(commit, |out| {
        out.extend(kept.id.as_uuid().as_bytes());
        out.extend(kept.time.as_millis().to_le_bytes());
        out.extend(kept.content.as_bytes());
    });
    let events = kept.events.iter().map(|event| out.kept_event(event));
    let events = events.collect();
    let rows = kept.rows.iter().map(|put| out.put(put)).collect();
    for end in &kept.streams {
        out.record(kind::STREAM, |out| {
            put_text(out, end.stream.as_str());
            out.extend(end.head.0.to_le_bytes());
            out.extend(end.last.0.to_le_bytes());
            out.push(u8::from(end.closed));
        });
    }
    if !kept.attachments.is_empty() {
        out.record(kind::NAMING, |out| {
            let count = u16::try_from(kept.named_for.len()).expect("a frame has less than 64 Ki");
            out.extend(count.to_le_bytes());
            for scope in &kept.named_for {
                put_text(out, scope.as_str());
            }
            for digest in &kept.attachments {
                out.extend(digest.as_bytes());
            }
        });
    }
    pad(&mut out.out, 0);
    (out.out, rows, events)
}

impl Writer {
    fn kept_event(&mut self, event: &StoredEvent) -> Extent {
        self.record(kind::KEPT_EVENT, |out| {
            out.extend(event.position.0.to_le_bytes());
            out.push(u8::from(event.erased));
            put_event_fields(out, event.id, event.time, event.closes, &event.places);
            out.extend(&*event.body);
        })
    }
}

/// What a cleaning sees of a record.
#[derive(Debug)]
pub(crate) enum Seen {
    Put(Extent, KeptPut),
    /// A put of an earlier format, which does not say its version.
    Unversioned,
    Event(Extent, StoredEvent),
    Other,
}

/// Walks the records of a payload that was read whole.
pub(crate) fn walk(
    tag: StoreTag,
    at: Place,
    payload: &[u8],
    first_position: u64,
    mut see: impl FnMut(Seen),
) -> Option<()> {
    let mut next = first_position;
    let mut offset = 0;
    while payload
        .get(offset)
        .is_some_and(|kind| *kind != kind::PADDING)
    {
        let place = Place {
            segment: at.segment,
            offset: at.offset + offset as u64,
        };
        let record = next_record(tag, place, &payload[offset..])?;
        offset += record.at.bytes as usize;
        see(match record.kind {
            kind::PUT => Seen::Unversioned,
            kind::VERSIONED_PUT | kind::DEAD_PUT => {
                Seen::Put(record.at, read_put(&mut Bytes(record.body))?)
            }
            kind::EVENT | kind::STUB | kind::KEPT_EVENT => {
                if record.kind == kind::KEPT_EVENT {
                    next = Bytes(record.body).u64()?;
                }
                let event = event_of(&record, next)?;
                next = next.saturating_add(1);
                Seen::Event(record.at, event)
            }
            _ => Seen::Other,
        });
    }
    Some(())
}

/// Writes over the body of an event or put in place; the record stays as long as it is. Returns
/// false for what has no body, or none any more.
pub(crate) fn write_over(tag: StoreTag, at: Extent, record: &mut [u8]) -> bool {
    let Some(found) = next_record(tag, at.place(), record) else {
        return false;
    };
    let mut fields = Bytes(found.body);
    let (over, kept) = match found.kind {
        kind::EVENT => (kind::STUB, read_event_fields(&mut fields).is_some()),
        kind::KEPT_EVENT => {
            let is_read = read_kept_event(&mut fields).is_some();
            (
                kind::KEPT_EVENT,
                is_read && read_event_fields(&mut fields).is_some(),
            )
        }
        kind::VERSIONED_PUT => {
            let is_read = fields.u64().is_some() && read_key(&mut fields).is_some();
            let is_read = is_read && read_option(&mut fields).is_some();
            (
                kind::DEAD_PUT,
                is_read && read_option(&mut fields).is_some(),
            )
        }
        _ => return false,
    };
    let body = record.len() - fields.0.len();
    if !kept || record[body..].iter().all(|byte| *byte == 0) {
        return false;
    }
    record[0] = over;
    if over == kind::KEPT_EVENT {
        record[KEPT_ERASED_AT] = 1;
    }
    record[body..].fill(0);
    let checksum = record_checksum(tag, at.place(), record);
    record[8..12].copy_from_slice(&checksum.to_le_bytes());
    true
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

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: StoreTag = StoreTag(*b"store-01");
    const PLACE: Place = Place {
        segment: 1,
        offset: 128,
    };
    const TIME: Timestamp = Timestamp::from_millis(5);

    /// S1: a record of a later version that this one need not know is passed over, and one that it
    /// must know is named.
    #[test]
    fn s1_only_a_critical_record_must_be_known() {
        let commit = Commit::new(CommitId::generate(TIME, [1; 10]), TIME);
        let id = commit.id;
        let content = commit.content_digest();
        let (mut payload, applied) = write_commit(TAG, PLACE, commit, content, 1, Taken::default());
        // What follows is zeros up to a multiple of eight.
        payload.truncate(applied.at.bytes as usize);
        let place = Place {
            offset: PLACE.offset + payload.len() as u64,
            ..PLACE
        };
        let mut later = sealed_record(TAG, place, kind::LAST + 1, b"of a later version");
        let critical = [&payload[..], &later].concat();
        let unknown = BadPayload::Unknown {
            kind: kind::LAST + 1,
            schema: SCHEMA,
        };
        let read = read_commit(TAG, PLACE, &critical, 1);
        assert_eq!(read.expect_err("it must be known"), unknown);

        later[2] = 0;
        let checksum = record_checksum(TAG, place, &later);
        later[8..12].copy_from_slice(&checksum.to_le_bytes());
        payload.extend(later);
        let read = read_commit(TAG, PLACE, &payload, 1).expect("it need not be known");
        assert_eq!(read.id, id);
    }

    /// S6: a row whose body is written over keeps everything else: its key, its version, its event
    /// and when it is due.
    #[test]
    fn s6_what_is_written_over_loses_its_body_alone() {
        let mut writer = Writer {
            tag: TAG,
            at: PLACE,
            out: Vec::new(),
        };
        let put = KeptPut {
            key: RowKey::new("state", ScopeId::new("worker/1").expect("a scope"), "row"),
            version: 3,
            event: Some(9),
            due: Some(TIME),
            body: [7; 24].into(),
        };
        let at = writer.put(&put);
        let mut record = writer.out;
        assert!(write_over(TAG, at, &mut record));
        let mut seen = Vec::new();
        walk(TAG, PLACE, &record, 1, |found| seen.push(found)).expect("it is whole");
        let [Seen::Put(found_at, found)] = &seen[..] else {
            panic!("{seen:?}");
        };
        assert_eq!((*found_at, &found.key), (at, &put.key));
        let told = (found.version, found.event, found.due);
        assert_eq!(told, (put.version, put.event, put.due));
        assert_eq!(*found.body, [0; 24]);
        assert_eq!(read_row_body(TAG, at, &put.key, &record), None);
    }
}
