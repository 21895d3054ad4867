//! Checkpoints: what the log up to a sealed segment folds to, as sorted tables in one file (S6).
//! They are made of the log and can be made again; nothing is true because one says so. The
//! layout is drawn in `docs/adr/0015-checkpoints-and-sidecars-are-caches-of-sealed-segments.md`.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::Path;
use std::sync::Arc;

use runtime_core::{CommitId, Digest, ScopeId, StreamKey, Timestamp};
use runtime_store::{EventPlace, Position, RowKey, RowQuery, Seq};

use crate::bytes::{Bytes, length_u32, put_text};
use crate::frame::StoreTag;
use crate::index::{Erased, Index, Naming, Witness};
use crate::layout::Layout;
use crate::memory::CommitMemory;
use crate::record::Extent;
use crate::rows::{RowEntry, RowsBelow, SortKey, finds, first_key};
use crate::segment::covers;
use crate::streams::StreamTail;
use crate::table::{BlockAt, CacheFile, CacheWriter, Entry, Seed, Table, TableWriter, damaged};
use crate::units::Unit;

/// What the files mean; one of another version is made anew.
pub(crate) const FOLD_VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"ARChkpnt";
/// Blocks of what is not looked up by a key.
const PART_BYTES: usize = 64 * 1024;
const BUFFERED: u32 = 1;

/// What a checkpoint stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sealed {
    /// The last segment that it holds.
    pub(crate) number: u32,
    /// The base that its log begins with; zero for none.
    pub(crate) base: u32,
    /// The bytes of that segment that count.
    pub(crate) bytes: u64,
    pub(crate) last_frame: u64,
    pub(crate) last_position: u64,
    pub(crate) incarnation: u64,
    /// The last incarnation acknowledged what only the page cache held.
    pub(crate) buffered: bool,
}

/// The part of a checkpoint that is read into memory when a store is opened.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    pub(crate) memory: CommitMemory,
    pub(crate) pruned: u64,
    pub(crate) erased: Erased,
}

/// An open checkpoint.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub(crate) sealed: Sealed,
    /// The last commit, to see that it is of this log.
    pub(crate) witness: Option<Witness>,
    pub(crate) spaces: BTreeSet<Arc<str>>,
    pub(crate) units: Vec<Unit>,
    file: CacheFile,
    rows: Table,
    due: Table,
    streams: Table,
    memory: Vec<BlockAt>,
    namings: Vec<BlockAt>,
    removed: BlockAt,
}

fn seed(tag: StoreTag, number: u32) -> Seed {
    Seed::new(tag, MAGIC, number)
}

impl Checkpoint {
    pub(crate) fn bytes(&self) -> u64 {
        self.file.bytes
    }

    /// Opens the checkpoint of a number.
    pub(crate) fn open(directory: &Path, tag: StoreTag, number: u32) -> io::Result<Self> {
        let path = directory.join(Layout::checkpoint_name(number));
        let file = CacheFile::open(&path, seed(tag, number))?;
        let bad = || damaged("a checkpoint");
        let (sealed, directory) = read_header(&file.header()?).ok_or_else(bad)?;
        let directory = file.block(directory)?;
        let mut fields = Bytes(&directory);
        let Directory {
            witness,
            spaces,
            units,
            tables: [rows, due, streams],
            memory,
            namings,
            removed,
        } = read_directory(&mut fields).ok_or_else(bad)?;
        let is_right = fields.0.is_empty() && sealed.number == number;
        is_right.then_some(()).ok_or_else(bad)?;
        Ok(Self {
            rows: Table::read(&file, rows)?,
            due: Table::read(&file, due)?,
            streams: Table::read(&file, streams)?,
            sealed,
            witness,
            spaces,
            units,
            memory,
            namings,
            removed,
            file,
        })
    }

    /// Reads every block that is not read by opening and [`remembered`](Self::remembered).
    pub(crate) fn check(&self) -> io::Result<()> {
        for table in [&self.rows, &self.due, &self.streams] {
            table.check(&self.file)?;
        }
        for at in &self.namings {
            self.file.block(*at)?;
        }
        Ok(())
    }

    /// Reads what an instance has in memory.
    pub(crate) fn remembered(&self, remembered_max: usize) -> io::Result<Remembered> {
        let bad = || damaged("a checkpoint");
        let removed = self.file.block(self.removed)?;
        let mut remembered = read_removed(&removed).ok_or_else(bad)?;
        for at in &self.memory {
            let part = self.file.block(*at)?;
            let read = remembered.memory.read_part(&part, remembered_max);
            read.ok_or_else(bad)?;
        }
        Ok(remembered)
    }

    pub(crate) fn row(&self, key: &RowKey) -> io::Result<Option<RowEntry>> {
        let value = self.rows.get(&self.file, &row_key(key))?;
        let entry = value.map(|value| read_row(&value).ok_or_else(|| damaged("a row")));
        entry.transpose()
    }

    pub(crate) fn stream(&self, key: &StreamKey) -> io::Result<Option<(StreamTail, Vec<u32>)>> {
        let value = self.streams.get(&self.file, key.as_str().as_bytes())?;
        let stream = value.map(|value| read_stream(&value).ok_or_else(|| damaged("a stream")));
        stream.transpose()
    }

    pub(crate) fn all_rows(
        &self,
    ) -> impl Iterator<Item = io::Result<(RowKey, RowEntry)>> + use<'_> {
        self.rows.all(&self.file).map(row_of)
    }

    fn all_streams(
        &self,
    ) -> impl Iterator<Item = io::Result<(StreamKey, StreamTail, Vec<u32>)>> + use<'_> {
        self.streams.all(&self.file).map(|entry| {
            let (key, value) = entry?;
            let key = std::str::from_utf8(&key).ok();
            let key = key.and_then(|key| StreamKey::new(key).ok());
            let stream = key.zip(read_stream(&value));
            let (key, (tail, segments)) = stream.ok_or_else(|| damaged("a stream"))?;
            Ok((key, tail, segments))
        })
    }

    pub(crate) fn tails(&self) -> impl Iterator<Item = io::Result<(StreamKey, StreamTail)>> {
        let streams = self.all_streams();
        streams.map(|stream| stream.map(|(key, tail, _)| (key, tail)))
    }

    /// Reads what commits named.
    pub(crate) fn namings(&self) -> impl Iterator<Item = io::Result<Naming>> + use<'_> {
        self.namings.iter().flat_map(|at| {
            let read = self.file.block(*at).and_then(|bytes| {
                let mut fields = Bytes(&bytes);
                let mut namings = Vec::new();
                while !fields.0.is_empty() {
                    let naming = Naming::read(&mut fields);
                    namings.push(naming.ok_or_else(|| damaged("a naming"))?);
                }
                Ok(namings)
            });
            let (namings, error) = match read {
                Ok(namings) => (namings, None),
                Err(error) => (Vec::new(), Some(error)),
            };
            namings.into_iter().map(Ok).chain(error.map(Err))
        })
    }

    /// Finds `count` more rows of a query, after those that were found.
    pub(crate) fn more_rows(
        &self,
        query: &RowQuery,
        after: Option<&SortKey>,
        count: usize,
        found: &mut RowsBelow,
    ) -> io::Result<()> {
        let last = found.rows.last();
        let last = last.map(|(key, entry)| crate::rows::sort_key(query, key, entry));
        let after = last.as_ref().or(after);
        found.has_more = true;
        let wanted = found.rows.len() + count;
        match query {
            RowQuery::Due { .. } => {
                let start = due_key(
                    after.map_or(Timestamp::default(), |(time, _)| time.unwrap_or_default()),
                    after.map_or(&first_key(query), |(_, key)| key),
                );
                for entry in self.due.entries_from(&self.file, &start) {
                    let (found_key, _) = entry?;
                    let (time, key) = due_of(&found_key).ok_or_else(|| damaged("a due row"))?;
                    if found_key < start
                        || after.is_some_and(|after| (Some(time), &key) <= (after.0, &after.1))
                    {
                        continue;
                    }
                    if !finds(query, &key, Some(time)) {
                        break;
                    }
                    let row = self.row(&key)?.ok_or_else(|| damaged("a due row"))?;
                    found.rows.push((key, row));
                    if found.rows.len() >= wanted {
                        return Ok(());
                    }
                }
            }
            _ => {
                let first = first_key(query);
                let start = match after {
                    Some((_, after)) if *after >= first => after,
                    _ => &first,
                };
                for entry in self.rows.entries_from(&self.file, &row_key(start)) {
                    let (key, row) = row_of(entry)?;
                    if key < *start || after.is_some_and(|(_, after)| key <= *after) {
                        continue;
                    }
                    if !finds(query, &key, None) {
                        break;
                    }
                    found.rows.push((key, row));
                    if found.rows.len() >= wanted {
                        return Ok(());
                    }
                }
            }
        }
        found.has_more = false;
        Ok(())
    }

    /// Says whether a scope has a row in any space.
    pub(crate) fn rows_of(&self, scope: &ScopeId) -> io::Result<Vec<RowKey>> {
        let mut keys = Vec::new();
        for space in &self.spaces {
            let query = RowQuery::scope(space, scope.clone());
            let mut found = RowsBelow {
                rows: Vec::new(),
                has_more: true,
            };
            self.more_rows(&query, None, usize::MAX >> 1, &mut found)?;
            keys.extend(found.rows.into_iter().map(|(key, _)| key));
        }
        Ok(keys)
    }

    /// Writes what an index holds that was folded of sealed segments.
    pub(crate) fn write(
        directory: &Path,
        tag: StoreTag,
        sealed: Sealed,
        index: &Index,
    ) -> io::Result<()> {
        let name = Layout::checkpoint_name(sealed.number);
        let mut out = CacheWriter::create(directory, &name, seed(tag, sealed.number))?;
        let snapshot = index.snapshot();
        let mut rows = TableWriter::default();
        let mut dues = Vec::new();
        for row in snapshot.rows() {
            let (key, row) = row?;
            if let Some(time) = row.due {
                dues.push(due_key(time, &key));
            }
            rows.push(&mut out, &row_key(&key), &write_row(&row))?;
        }
        let rows = rows.finish(&mut out)?;
        dues.sort_unstable();
        let mut due = TableWriter::default();
        for key in dues {
            due.push(&mut out, &key, &[])?;
        }
        let due = due.finish(&mut out)?;
        let units: Vec<Unit> = index.all_units().collect();
        let streams = write_streams(&mut out, index, &units)?;
        let mut memory = Vec::new();
        index.memory().write(PART_BYTES, |part| {
            memory.push(out.block(part)?);
            Ok::<_, io::Error>(())
        })?;
        let mut namings = Vec::new();
        let mut part = Vec::new();
        for naming in snapshot.live_namings()? {
            naming.write(&mut part);
            if part.len() >= PART_BYTES {
                namings.push(out.block(&part)?);
                part.clear();
            }
        }
        if !part.is_empty() {
            namings.push(out.block(&part)?);
        }
        let removed = out.block(&write_removed(index))?;
        let parts = Directory {
            witness: index.witness(),
            spaces: index.spaces().into_iter().collect(),
            units,
            tables: [rows, due, streams],
            memory,
            namings,
            removed,
        };
        let directory = out.block(&parts.write())?;
        out.finish(header(sealed, directory)).map(drop)
    }
}

/// Streams with where they end and the segments that hold events of them.
fn write_streams(out: &mut CacheWriter, index: &Index, units: &[Unit]) -> io::Result<BlockAt> {
    let pruned = index.pruned();
    let served: BTreeSet<u32> = units.iter().map(|unit| unit.segment).collect();
    let mut above: Vec<_> = index.streams().collect();
    above.sort_unstable_by_key(|(key, _)| *key);
    let mut above = above.into_iter().peekable();
    let mut table = TableWriter::default();
    let mut put = |key: &StreamKey, tail: StreamTail, segments: &[u32]| {
        if tail.is_forgotten(pruned) {
            return Ok(());
        }
        let segments: Vec<u32> = segments
            .iter()
            .copied()
            .filter(|at| served.contains(at))
            .collect();
        table.push(out, key.as_str().as_bytes(), &write_stream(tail, &segments))
    };
    let grown = index.units();
    let in_grown = |stream: &crate::streams::Stream| -> Vec<u32> {
        let holds = |unit: &&Unit| stream.positions_in(unit).next().is_some();
        grown
            .iter()
            .filter(holds)
            .map(|unit| unit.segment)
            .collect()
    };
    if let Some(below) = index.below() {
        for stream in below.all_streams() {
            let (key, mut tail, mut segments) = stream?;
            while let Some((above_key, stream)) = above.next_if(|(above, _)| **above < key) {
                put(above_key, stream.tail(), &in_grown(stream))?;
            }
            if let Some((_, stream)) = above.next_if(|(above, _)| **above == key) {
                tail = stream.tail();
                segments.extend(in_grown(stream));
            }
            put(&key, tail, &segments)?;
        }
    }
    for (key, stream) in above {
        put(key, stream.tail(), &in_grown(stream))?;
    }
    table.finish(out)
}

/// What the last block says.
#[derive(Debug)]
struct Directory {
    witness: Option<Witness>,
    spaces: BTreeSet<Arc<str>>,
    units: Vec<Unit>,
    tables: [BlockAt; 3],
    memory: Vec<BlockAt>,
    namings: Vec<BlockAt>,
    removed: BlockAt,
}

impl Directory {
    fn write(&self) -> Vec<u8> {
        let mut out = vec![u8::from(self.witness.is_some())];
        if let Some(witness) = &self.witness {
            witness.at.write(&mut out);
            out.extend(witness.id.as_uuid().as_bytes());
            out.extend(witness.content.as_bytes());
        }
        out.extend(length_u32(self.spaces.len()).to_le_bytes());
        for space in &self.spaces {
            put_text(&mut out, space);
        }
        out.extend(length_u32(self.units.len()).to_le_bytes());
        for unit in &self.units {
            unit.write(&mut out);
        }
        for table in self.tables {
            table.write(&mut out);
        }
        for blocks in [&self.memory, &self.namings] {
            out.extend(length_u32(blocks.len()).to_le_bytes());
            for at in blocks {
                at.write(&mut out);
            }
        }
        self.removed.write(&mut out);
        out
    }
}

fn read_directory(fields: &mut Bytes<'_>) -> Option<Directory> {
    let witness = match fields.byte()? {
        0 => None,
        _ => Some(Witness {
            at: Extent::read(fields)?,
            id: CommitId::from_uuid(uuid::Uuid::from_bytes(fields.array()?)),
            content: Digest::from_bytes(fields.array()?),
        }),
    };
    let mut spaces = BTreeSet::new();
    for _ in 0..fields.u32()? {
        spaces.insert(Arc::from(fields.text()?));
    }
    let mut units = Vec::new();
    for _ in 0..fields.u32()? {
        units.push(Unit::read(fields)?);
    }
    let tables = [
        BlockAt::read(fields)?,
        BlockAt::read(fields)?,
        BlockAt::read(fields)?,
    ];
    let mut blocks = || {
        let mut blocks = Vec::new();
        for _ in 0..fields.u32()? {
            blocks.push(BlockAt::read(fields)?);
        }
        Some(blocks)
    };
    Some(Directory {
        witness,
        spaces,
        units,
        tables,
        memory: blocks()?,
        namings: blocks()?,
        removed: BlockAt::read(fields)?,
    })
}

fn header(sealed: Sealed, directory: BlockAt) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend(FOLD_VERSION.to_le_bytes());
    out.extend(sealed.number.to_le_bytes());
    out.extend(sealed.base.to_le_bytes());
    out.extend(if sealed.buffered { BUFFERED } else { 0 }.to_le_bytes());
    for field in [
        sealed.bytes,
        sealed.last_frame,
        sealed.last_position,
        sealed.incarnation,
    ] {
        out.extend(field.to_le_bytes());
    }
    directory.write(&mut out);
    out
}

fn read_header(fields: &[u8]) -> Option<(Sealed, BlockAt)> {
    let mut fields = Bytes(fields);
    let known = fields.array()? == MAGIC && fields.u32()? == FOLD_VERSION;
    let (number, base) = (fields.u32()?, fields.u32()?);
    let buffered = fields.u32()? & BUFFERED != 0;
    let sealed = Sealed {
        number,
        base,
        bytes: fields.u64()?,
        last_frame: fields.u64()?,
        last_position: fields.u64()?,
        incarnation: fields.u64()?,
        buffered,
    };
    let directory = BlockAt::read(&mut fields)?;
    known.then_some((sealed, directory))
}

/// Texts of a key hold no zero byte, so keys are in the order of their parts.
fn row_key(key: &RowKey) -> Vec<u8> {
    let parts = [&*key.space, key.scope.as_str(), &*key.name];
    parts.map(str::as_bytes).join(&0)
}

fn key_of(bytes: &[u8]) -> Option<RowKey> {
    let mut parts = std::str::from_utf8(bytes).ok()?.splitn(3, '\0');
    Some(RowKey {
        space: Arc::from(parts.next()?),
        scope: ScopeId::new(parts.next()?).ok()?,
        name: Arc::from(parts.next()?),
    })
}

fn row_of(entry: io::Result<Entry>) -> io::Result<(RowKey, RowEntry)> {
    let (key, value) = entry?;
    let row = key_of(&key).zip(read_row(&value));
    row.ok_or_else(|| damaged("a row"))
}

/// The space, a zero, the time, then the rest of the key.
fn due_key(time: Timestamp, key: &RowKey) -> Vec<u8> {
    let mut out = key.space.as_bytes().to_vec();
    out.push(0);
    out.extend(time.as_millis().to_be_bytes());
    out.extend(key.scope.as_str().as_bytes());
    out.push(0);
    out.extend(key.name.as_bytes());
    out
}

fn due_of(bytes: &[u8]) -> Option<(Timestamp, RowKey)> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    let (space, rest) = bytes.split_at(end);
    let (time, rest) = rest.get(1..)?.split_first_chunk::<8>()?;
    let mut parts = std::str::from_utf8(rest).ok()?.splitn(2, '\0');
    let key = RowKey {
        space: Arc::from(std::str::from_utf8(space).ok()?),
        scope: ScopeId::new(parts.next()?).ok()?,
        name: Arc::from(parts.next()?),
    };
    Some((Timestamp::from_millis(u64::from_be_bytes(*time)), key))
}

fn write_row(row: &RowEntry) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.extend(row.version.to_le_bytes());
    row.at.write(&mut out);
    out.push(u8::from(row.event.is_some()) | u8::from(row.due.is_some()) << 1);
    if let Some((position, at)) = row.event {
        out.extend(position.to_le_bytes());
        at.write(&mut out);
    }
    if let Some(due) = row.due {
        out.extend(due.as_millis().to_le_bytes());
    }
    out
}

fn read_row(value: &[u8]) -> Option<RowEntry> {
    let mut fields = Bytes(value);
    let (version, at) = (fields.u64()?, Extent::read(&mut fields)?);
    let has = fields.byte()?;
    let event = match has & 1 {
        0 => None,
        _ => Some((fields.u64()?, Extent::read(&mut fields)?)),
    };
    let due = match has & 2 {
        0 => None,
        _ => Some(Timestamp::from_millis(fields.u64()?)),
    };
    fields.0.is_empty().then_some(RowEntry {
        version,
        at,
        event,
        due,
    })
}

fn write_stream(tail: StreamTail, segments: &[u32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    out.extend(tail.head.0.to_le_bytes());
    out.extend(tail.last.0.to_le_bytes());
    out.push(u8::from(tail.closed));
    for segment in segments {
        out.extend(segment.to_le_bytes());
    }
    out
}

fn read_stream(value: &[u8]) -> Option<(StreamTail, Vec<u32>)> {
    let mut fields = Bytes(value);
    let tail = StreamTail {
        head: Seq(fields.u64()?),
        last: Position(fields.u64()?),
        closed: fields.byte()? != 0,
    };
    let mut segments = Vec::with_capacity(fields.0.len() / 4);
    while !fields.0.is_empty() {
        segments.push(fields.u32()?);
    }
    Some((tail, segments))
}

fn write_removed(index: &Index) -> Vec<u8> {
    let mut out = index.pruned().to_le_bytes().to_vec();
    out.push(u8::from(index.memory().has_forgotten));
    let mut erased: Vec<_> = index.erased().all().collect();
    erased.sort_unstable();
    out.extend(length_u32(erased.len()).to_le_bytes());
    for (stream, head) in erased {
        put_text(&mut out, &stream);
        out.extend(head.to_le_bytes());
    }
    out
}

fn read_removed(bytes: &[u8]) -> Option<Remembered> {
    let mut fields = Bytes(bytes);
    let pruned = fields.u64()?;
    let has_forgotten = fields.byte()? != 0;
    let mut erased = HashMap::new();
    for _ in 0..fields.u32()? {
        let stream = StreamKey::new(fields.text()?).ok()?;
        erased.insert(stream, fields.u64()?);
    }
    let memory = CommitMemory::empty(has_forgotten);
    fields.0.is_empty().then(|| Remembered {
        memory,
        pruned,
        erased: Erased::new(erased),
    })
}

impl Naming {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.segment.to_le_bytes());
        out.extend(self.commit.as_uuid().as_bytes());
        out.extend(self.content.as_bytes());
        out.extend(length_u32(self.attachments.len()).to_le_bytes());
        for digest in &self.attachments {
            out.extend(digest.as_bytes());
        }
        out.extend(length_u32(self.events.len()).to_le_bytes());
        for (position, places) in &self.events {
            out.extend(position.0.to_le_bytes());
            out.push(u8::try_from(places.len()).expect("an event has at most 8 streams"));
            for place in places {
                put_text(out, place.stream.as_str());
                out.extend(place.seq.0.to_le_bytes());
                out.extend(place.previous.0.to_le_bytes());
            }
        }
        out.extend(length_u32(self.scopes.len()).to_le_bytes());
        for scope in &self.scopes {
            put_text(out, scope.as_str());
        }
    }

    fn read(fields: &mut Bytes<'_>) -> Option<Self> {
        let segment = fields.u32()?;
        let commit = CommitId::from_uuid(uuid::Uuid::from_bytes(fields.array()?));
        let content = Digest::from_bytes(fields.array()?);
        let mut attachments = Vec::new();
        for _ in 0..fields.u32()? {
            attachments.push(Digest::from_bytes(fields.array()?));
        }
        let mut events = Vec::new();
        for _ in 0..fields.u32()? {
            let position = Position(fields.u64()?);
            let mut places = Vec::new();
            for _ in 0..fields.byte()? {
                places.push(EventPlace {
                    stream: StreamKey::new(fields.text()?).ok()?,
                    seq: Seq(fields.u64()?),
                    previous: Position(fields.u64()?),
                });
            }
            events.push((position, places));
        }
        let mut scopes = Vec::new();
        for _ in 0..fields.u32()? {
            scopes.push(ScopeId::new(fields.text()?).ok()?);
        }
        Some(Self {
            segment,
            commit,
            content,
            attachments,
            events,
            scopes,
        })
    }
}

impl Sealed {
    /// Says whether a segment is among those that the checkpoint holds.
    pub(crate) const fn covers(&self, segment: u32) -> bool {
        covers(self.number, segment)
    }
}

/// Gives bytes to each decoder of this file.
#[cfg(test)]
pub(crate) fn decode_everything(bytes: &[u8]) {
    let _any = read_header(bytes);
    let _any = read_directory(&mut Bytes(bytes));
    let _any = (
        key_of(bytes),
        due_of(bytes),
        read_row(bytes),
        read_stream(bytes),
    );
    let _any = (read_removed(bytes), Naming::read(&mut Bytes(bytes)));
}

/// Something whole for them.
#[cfg(test)]
pub(crate) fn parts_to_decode() -> Vec<u8> {
    let parts = Directory {
        witness: None,
        spaces: [Arc::from("state")].into(),
        units: Vec::new(),
        tables: [BlockAt::default(); 3],
        memory: vec![BlockAt::default(); 2],
        namings: Vec::new(),
        removed: BlockAt::default(),
    };
    parts.write()
}
