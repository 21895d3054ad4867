//! Sidecars: where the events of one sealed segment are, by position and by stream (S6). They are
//! made of the segment and can be made again; the layout is drawn in
//! `docs/adr/0015-checkpoints-and-sidecars-are-caches-of-sealed-segments.md`.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use runtime_core::StreamKey;

use crate::bytes::Bytes;
use crate::checkpoint::FOLD_VERSION;
use crate::frame::StoreTag;
use crate::index::Index;
use crate::layout::Layout;
use crate::record::Extent;
use crate::table::{
    BlockAt, CACHE_HEADER_BYTES, CacheFile, CacheWriter, Seed, Table, TableWriter, damaged,
};
use crate::units::Unit;

const MAGIC: [u8; 8] = *b"ARSidecr";
/// Events in one block: 4 KiB.
const EVENTS_PER_BLOCK: u64 = 512;
const EVENT_BYTES: usize = 8;
/// Events of one stream in one entry of the table.
const PLACES_PER_ENTRY: usize = 256;

fn seed(tag: StoreTag, segment: u32) -> Seed {
    Seed::new(tag, MAGIC, segment)
}

/// An open sidecar.
#[derive(Debug)]
pub(crate) struct Sidecar {
    unit: Unit,
    file: CacheFile,
    streams: Table,
}

impl Sidecar {
    /// Writes the sidecar of a segment that an index has just been folded of.
    pub(crate) fn write(
        directory: &Path,
        tag: StoreTag,
        unit: &Unit,
        index: &Index,
    ) -> io::Result<()> {
        let name = Layout::sidecar_name(unit.segment);
        let out = CacheWriter::create(directory, &name, seed(tag, unit.segment))?;
        Self::write_to(out, unit, index).map(drop)
    }

    /// Makes one that is not written anywhere.
    pub(crate) fn in_memory(tag: StoreTag, unit: &Unit, index: &Index) -> io::Result<Self> {
        let seed = seed(tag, unit.segment);
        let bytes = Self::write_to(CacheWriter::in_memory(seed), unit, index)?;
        Self::read(CacheFile::in_memory(bytes, seed), unit)
    }

    fn write_to(mut out: CacheWriter, unit: &Unit, index: &Index) -> io::Result<Vec<u8>> {
        let mut block = Vec::new();
        for position in unit.first..=unit.last {
            let at = index.extent(position).unwrap_or(Extent::MISSING);
            block.extend(at.offset.to_le_bytes());
            block.extend(at.bytes.to_le_bytes());
            if block.len() == index_bytes(EVENTS_PER_BLOCK) {
                out.block(&block)?;
                block.clear();
            }
        }
        if !block.is_empty() {
            out.block(&block)?;
        }
        let streams = index.streams();
        let streams = streams.map(|(key, stream)| (key, stream.positions_in(unit).collect()));
        let mut streams: BTreeMap<&StreamKey, Vec<u64>> = streams.collect();
        for (key, last) in index.lost_ends() {
            // There is no event at it, which readers are told.
            let places = streams.entry(key).or_default();
            let is_end = places.last().is_none_or(|position| *position < last);
            if is_end && (unit.first..=unit.last).contains(&last) {
                places.push(last);
            }
        }
        let mut table = TableWriter::default();
        for (key, places) in streams {
            for places in places.chunks(PLACES_PER_ENTRY) {
                let mut value = Vec::with_capacity(places.len() * 4);
                for position in places {
                    value.extend(ordinal(unit, *position)?.to_le_bytes());
                }
                let first = ordinal(unit, places[0])?;
                table.push(&mut out, &stream_key(key, first), &value)?;
            }
        }
        let streams = table.finish(&mut out)?;
        out.finish(header(unit, streams))
    }

    /// Opens the sidecar of a segment.
    pub(crate) fn open(directory: &Path, tag: StoreTag, unit: &Unit) -> io::Result<Self> {
        let path = directory.join(Layout::sidecar_name(unit.segment));
        Self::read(CacheFile::open(&path, seed(tag, unit.segment))?, unit)
    }

    fn read(file: CacheFile, unit: &Unit) -> io::Result<Self> {
        let fields = file.header()?;
        let streams = read_header(&fields, unit).ok_or_else(|| damaged("a sidecar"))?;
        Ok(Self {
            streams: Table::read(&file, streams)?,
            unit: *unit,
            file,
        })
    }

    pub(crate) fn is_of(&self, unit: &Unit) -> bool {
        self.unit == *unit
    }

    /// Reads all of it, to see that it is whole.
    pub(crate) fn check(&self) -> io::Result<()> {
        let mut position = self.unit.first;
        while position <= self.unit.last {
            self.events_block(position)?;
            position += EVENTS_PER_BLOCK;
        }
        self.streams.check(&self.file)
    }

    fn events_block(&self, position: u64) -> io::Result<Vec<u8>> {
        let block = (position - self.unit.first) / EVENTS_PER_BLOCK;
        let full = BlockAt {
            offset: 0,
            bytes: crate::bytes::length_u32(index_bytes(EVENTS_PER_BLOCK)),
        };
        let first = self.unit.first + block * EVENTS_PER_BLOCK;
        let events = EVENTS_PER_BLOCK.min(self.unit.last - first + 1);
        self.file.block(BlockAt {
            offset: CACHE_HEADER_BYTES as u64 + block * full.end(),
            bytes: crate::bytes::length_u32(index_bytes(events)),
        })
    }

    /// Returns where events are; each of them is in this segment, and they are in order.
    pub(crate) fn extents(
        &self,
        positions: impl IntoIterator<Item = u64>,
    ) -> io::Result<Vec<(u64, Extent)>> {
        let mut extents = Vec::new();
        let mut block: (u64, Vec<u8>) = (u64::MAX, Vec::new());
        for position in positions {
            let number = (position - self.unit.first) / EVENTS_PER_BLOCK;
            if block.0 != number {
                block = (number, self.events_block(position)?);
            }
            let within = (position - self.unit.first) % EVENTS_PER_BLOCK;
            let mut fields = Bytes(block.1.get(index_bytes(within)..).unwrap_or_default());
            let at = fields.u32().zip(fields.u32());
            let (offset, bytes) = at.ok_or_else(|| damaged("a sidecar"))?;
            let at = Extent {
                segment: self.unit.segment,
                offset,
                bytes,
            };
            extents.push((position, at));
        }
        Ok(extents)
    }

    /// Returns the positions of at most `count` events of a stream after a position.
    pub(crate) fn stream(&self, key: &StreamKey, after: u64, count: usize) -> io::Result<Vec<u64>> {
        let first = after.max(self.unit.first);
        let start = stream_key(key, ordinal(&self.unit, first)?);
        let mut positions = Vec::new();
        for entry in self.streams.entries_from(&self.file, &start) {
            let (found, value) = entry?;
            match found.split_last_chunk::<4>() {
                Some((stream, _)) if stream.strip_suffix(&[0]) == Some(key.as_str().as_bytes()) => {
                }
                // Not yet there, or past it.
                _ if found < start => continue,
                _ => break,
            }
            for place in value.chunks_exact(4) {
                let place = u32::from_le_bytes(place.try_into().expect("chunks of four"));
                let position = self.unit.first + u64::from(place);
                if position > self.unit.last {
                    return Err(damaged("a sidecar"));
                }
                if position > after {
                    positions.push(position);
                }
            }
            if positions.len() >= count {
                break;
            }
        }
        positions.truncate(count);
        Ok(positions)
    }
}

const fn index_bytes(events: u64) -> usize {
    events as usize * EVENT_BYTES
}

fn ordinal(unit: &Unit, position: u64) -> io::Result<u32> {
    let ordinal = u32::try_from(position - unit.first).ok();
    ordinal.ok_or_else(|| io::Error::other("a segment holds less than 2^32 events"))
}

/// The name, a zero, the first of the events: entries of one stream follow each other.
fn stream_key(key: &StreamKey, first: u32) -> Vec<u8> {
    let mut out = key.as_str().as_bytes().to_vec();
    out.push(0);
    out.extend(first.to_be_bytes());
    out
}

fn header(unit: &Unit, streams: BlockAt) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend(FOLD_VERSION.to_le_bytes());
    unit.write(&mut out);
    streams.write(&mut out);
    out
}

/// A sidecar is believed if it is of this fold version, and of this segment as the checkpoint
/// knows it.
fn read_header(fields: &[u8], unit: &Unit) -> Option<BlockAt> {
    let mut fields = Bytes(fields);
    let known = fields.array()? == MAGIC && fields.u32()? == FOLD_VERSION;
    let found = Unit::read(&mut fields)?;
    let streams = BlockAt::read(&mut fields)?;
    (known && found == *unit).then_some(streams)
}

#[cfg(test)]
mod tests {
    use runtime_core::Timestamp;

    use super::*;

    const TAG: StoreTag = StoreTag(*b"store-01");

    const fn unit() -> Unit {
        Unit {
            segment: 2,
            first: 5,
            last: 9,
            newest: Timestamp::from_millis(7),
            bytes: 1_000,
        }
    }

    /// S6: a sidecar is of one segment as it is now, and of this version.
    #[test]
    fn s6_a_sidecar_of_anything_else_is_not_believed() {
        let streams = BlockAt {
            offset: 128,
            bytes: 4,
        };
        let whole = header(&unit(), streams);
        assert_eq!(read_header(&whole, &unit()), Some(streams));
        let mut described = Vec::new();
        streams.write(&mut described);
        for bit in 0..(whole.len() - described.len()) * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read_header(&flipped, &unit()), None, "bit {bit}");
        }
    }

    #[test]
    fn s6_an_open_sidecar_knows_which_segment_it_is_of() {
        let sidecar = Sidecar::in_memory(TAG, &unit(), &Index::default());
        let sidecar = sidecar.expect("it is whole");
        assert!(sidecar.is_of(&unit()));
        // A cleaning has kept less of it.
        let cleaned = Unit {
            bytes: 900,
            ..unit()
        };
        assert!(!sidecar.is_of(&cleaned));
    }
}
