//! Sorted tables and other blocks in files that are made of the log and can be made again. Every
//! block has a checksum of its own, so that a page is read, and checked, without the rest.

use std::io;
use std::path::Path;

use crate::bytes::Bytes;
use crate::frame::{Place, StoreTag};
use crate::fs::{self, File, Temporary};

/// Room for the header of such a file; blocks follow.
pub(crate) const CACHE_HEADER_BYTES: usize = 128;
/// A block of a table is closed once it holds so much.
const BLOCK_BYTES: usize = 4096;
const CHECKSUM_BYTES: usize = 4;
/// Written at once.
const BUFFER_BYTES: usize = 256 * 1024;

/// What makes the checksums of one such file differ from those of all others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seed(u32);

impl Seed {
    pub(crate) fn new(tag: StoreTag, magic: [u8; 8], number: u32) -> Self {
        let place = Place {
            segment: number,
            offset: 0,
        };
        Self(crc32c::crc32c_append(tag.salt(place), &magic))
    }

    pub(crate) fn checksum(self, offset: u64, bytes: &[u8]) -> u32 {
        let placed = crc32c::crc32c_append(self.0, &offset.to_le_bytes());
        crc32c::crc32c_append(placed, bytes)
    }
}

/// Bytes of such a file that are not what was written there.
pub(crate) fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} is damaged"))
}

/// Where a block is; its checksum follows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct BlockAt {
    pub(crate) offset: u64,
    pub(crate) bytes: u32,
}

impl BlockAt {
    pub(crate) const fn end(self) -> u64 {
        self.offset + self.bytes as u64 + CHECKSUM_BYTES as u64
    }

    pub(crate) fn write(self, out: &mut Vec<u8>) {
        out.extend(self.offset.to_le_bytes());
        out.extend(self.bytes.to_le_bytes());
    }

    pub(crate) fn read(fields: &mut Bytes<'_>) -> Option<Self> {
        Some(Self {
            offset: fields.u64()?,
            bytes: fields.u32()?,
        })
    }
}

/// Such a file being written; it has no name before it is whole.
#[derive(Debug)]
pub(crate) struct CacheWriter {
    /// None for one that stays in memory.
    target: Option<Temporary>,
    seed: Seed,
    /// What is written, without what waits in the buffer.
    written: u64,
    buffer: Vec<u8>,
}

impl CacheWriter {
    pub(crate) fn create(directory: &Path, name: &str, seed: Seed) -> io::Result<Self> {
        Ok(Self {
            target: Some(Temporary::create(directory, name)?),
            ..Self::in_memory(seed)
        })
    }

    pub(crate) fn in_memory(seed: Seed) -> Self {
        Self {
            target: None,
            seed,
            written: 0,
            buffer: vec![0; CACHE_HEADER_BYTES],
        }
    }

    pub(crate) fn block(&mut self, bytes: &[u8]) -> io::Result<BlockAt> {
        let at = BlockAt {
            offset: self.written + self.buffer.len() as u64,
            bytes: u32::try_from(bytes.len()).map_err(io::Error::other)?,
        };
        let checksum = self.seed.checksum(at.offset, bytes);
        self.buffer.extend(bytes);
        self.buffer.extend(checksum.to_le_bytes());
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()?;
        }
        Ok(at)
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(target) = &self.target {
            target.write_all_at(&self.buffer, self.written)?;
            self.written += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Writes the header, and gives the file its name; one in memory is returned.
    pub(crate) fn finish(mut self, fields: Vec<u8>) -> io::Result<Vec<u8>> {
        self.flush()?;
        let header = seal_header(self.seed, fields);
        let Some(target) = self.target else {
            self.buffer[..CACHE_HEADER_BYTES].copy_from_slice(&header);
            return Ok(self.buffer);
        };
        target.write_all_at(&header, 0)?;
        match is_named_unsynced() {
            true => target.name_unsynced()?,
            false => target.name_whole()?,
        }
        Ok(Vec::new())
    }
}

fn seal_header(seed: Seed, mut fields: Vec<u8>) -> Vec<u8> {
    assert!(
        fields.len() <= CACHE_HEADER_BYTES - CHECKSUM_BYTES,
        "a header has room for its fields"
    );
    fields.resize(CACHE_HEADER_BYTES - CHECKSUM_BYTES, 0);
    let checksum = seed.checksum(0, &fields);
    fields.extend(checksum.to_le_bytes());
    fields
}

/// Such a file being read.
#[derive(Debug)]
pub(crate) struct CacheFile {
    source: Source,
    seed: Seed,
    pub(crate) bytes: u64,
}

#[derive(Debug)]
enum Source {
    File(File),
    Memory(Vec<u8>),
}

impl CacheFile {
    pub(crate) fn open(path: &Path, seed: Seed) -> io::Result<Self> {
        let file = fs::open_read(path)?;
        Ok(Self {
            bytes: fs::length(&file)?,
            source: Source::File(file),
            seed,
        })
    }

    pub(crate) fn in_memory(bytes: Vec<u8>, seed: Seed) -> Self {
        Self {
            bytes: bytes.len() as u64,
            source: Source::Memory(bytes),
            seed,
        }
    }

    fn range(&self, from: u64, to: u64) -> io::Result<Vec<u8>> {
        match &self.source {
            Source::File(file) => fs::read_range(file, from, to),
            Source::Memory(bytes) => {
                let place = |at: u64| usize::try_from(at).map_err(io::Error::other);
                let bytes = bytes.get(place(from)?..place(to)?);
                bytes.map(<[u8]>::to_vec).ok_or_else(|| damaged("a block"))
            }
        }
    }

    /// Reads the fields of the header.
    pub(crate) fn header(&self) -> io::Result<Vec<u8>> {
        if self.bytes < CACHE_HEADER_BYTES as u64 {
            return Err(damaged("a header"));
        }
        let mut header = self.range(0, CACHE_HEADER_BYTES as u64)?;
        let checksum = header.split_off(CACHE_HEADER_BYTES - CHECKSUM_BYTES);
        let is_whole = self.seed.checksum(0, &header).to_le_bytes() == *checksum;
        match is_whole || is_unchecked() {
            true => Ok(header),
            false => Err(damaged("a header")),
        }
    }

    pub(crate) fn block(&self, at: BlockAt) -> io::Result<Vec<u8>> {
        if at.end() > self.bytes {
            return Err(damaged("a block"));
        }
        let mut bytes = self.range(at.offset, at.end())?;
        let checksum = bytes.split_off(at.bytes as usize);
        let is_whole = self.seed.checksum(at.offset, &bytes).to_le_bytes() == *checksum;
        match is_whole || is_unchecked() {
            true => Ok(bytes),
            false => Err(damaged("a block")),
        }
    }
}

/// A sorted table being written.
#[derive(Debug, Default)]
pub(crate) struct TableWriter {
    block: Vec<u8>,
    first_key: Vec<u8>,
    index: Vec<u8>,
    blocks: u32,
}

impl TableWriter {
    /// Adds an entry; keys come in order.
    pub(crate) fn push(
        &mut self,
        out: &mut CacheWriter,
        key: &[u8],
        value: &[u8],
    ) -> io::Result<()> {
        if self.block.is_empty() {
            self.first_key = key.to_vec();
        }
        put_bytes(&mut self.block, key);
        put_bytes(&mut self.block, value);
        match self.block.len() >= BLOCK_BYTES {
            true => self.end_block(out),
            false => Ok(()),
        }
    }

    fn end_block(&mut self, out: &mut CacheWriter) -> io::Result<()> {
        let at = out.block(&self.block)?;
        at.write(&mut self.index);
        put_bytes(&mut self.index, &self.first_key);
        self.blocks += 1;
        self.block.clear();
        Ok(())
    }

    /// Writes what tells the blocks; a reader begins there.
    pub(crate) fn finish(mut self, out: &mut CacheWriter) -> io::Result<BlockAt> {
        if !self.block.is_empty() {
            self.end_block(out)?;
        }
        let mut index = self.blocks.to_le_bytes().to_vec();
        index.append(&mut self.index);
        out.block(&index)
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(crate::bytes::length_u32(bytes.len()).to_le_bytes());
    out.extend(bytes);
}

fn read_bytes<'a>(fields: &mut Bytes<'a>) -> Option<&'a [u8]> {
    let length = fields.u32()?;
    fields.take(length as usize)
}

/// A sorted table: in memory only where its blocks are.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// The first key of each block.
    blocks: Vec<(Box<[u8]>, BlockAt)>,
}

/// An entry: its key and its value.
pub(crate) type Entry = (Vec<u8>, Vec<u8>);

impl Table {
    pub(crate) fn read(file: &CacheFile, index: BlockAt) -> io::Result<Self> {
        let bytes = file.block(index)?;
        Self::decode(&bytes).ok_or_else(|| damaged("a table"))
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Bytes(bytes);
        let count = fields.u32()? as usize;
        // Each takes at least 16 bytes, so no number that was made up takes memory.
        let mut blocks = Vec::with_capacity(count.min(bytes.len() / 16));
        for _ in 0..count {
            let at = BlockAt::read(&mut fields)?;
            blocks.push((read_bytes(&mut fields)?.into(), at));
        }
        fields.0.is_empty().then_some(Self { blocks })
    }

    fn entries(file: &CacheFile, at: BlockAt) -> io::Result<Vec<Entry>> {
        let bytes = file.block(at)?;
        let mut fields = Bytes(&bytes);
        let mut entries = Vec::new();
        while !fields.0.is_empty() {
            let entry = read_bytes(&mut fields).zip(read_bytes(&mut fields));
            let (key, value) = entry.ok_or_else(|| damaged("a block"))?;
            entries.push((key.to_vec(), value.to_vec()));
        }
        Ok(entries)
    }

    /// The block in which a key is, if it is anywhere.
    fn block_of(&self, key: &[u8]) -> Option<usize> {
        let after = self.blocks.partition_point(|(first, _)| **first <= *key);
        after.checked_sub(1)
    }

    pub(crate) fn get(&self, file: &CacheFile, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let Some(block) = self.block_of(key) else {
            return Ok(None);
        };
        let bytes = file.block(self.blocks[block].1)?;
        let mut fields = Bytes(&bytes);
        while !fields.0.is_empty() {
            let entry = read_bytes(&mut fields).zip(read_bytes(&mut fields));
            let (found, value) = entry.ok_or_else(|| damaged("a block"))?;
            if found >= key {
                return Ok((found == key).then(|| value.to_vec()));
            }
        }
        Ok(None)
    }

    /// Goes through the entries from the greatest key at or before `key`, in order.
    pub(crate) fn entries_from<'a>(&'a self, file: &'a CacheFile, key: &[u8]) -> Entries<'a> {
        Entries {
            table: self,
            file,
            block: self.block_of(key).unwrap_or(0),
            entries: Vec::new().into_iter(),
        }
    }

    pub(crate) fn all<'a>(&'a self, file: &'a CacheFile) -> Entries<'a> {
        self.entries_from(file, &[])
    }

    /// Reads every block, to see that it is whole.
    pub(crate) fn check(&self, file: &CacheFile) -> io::Result<()> {
        for (_, at) in &self.blocks {
            file.block(*at)?;
        }
        Ok(())
    }
}

/// Entries of a table in order, from the beginning of a block.
#[derive(Debug)]
pub(crate) struct Entries<'a> {
    table: &'a Table,
    file: &'a CacheFile,
    block: usize,
    entries: std::vec::IntoIter<Entry>,
}

impl Iterator for Entries<'_> {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.entries.next() {
                return Some(Ok(entry));
            }
            let (_, at) = self.table.blocks.get(self.block)?;
            self.block += 1;
            match Table::entries(self.file, *at) {
                Ok(entries) => self.entries = entries.into_iter(),
                Err(error) => {
                    self.block = usize::MAX;
                    return Some(Err(error));
                }
            }
        }
    }
}

/// Only under a planted fault a cache is named before it is synced, or believed as it is.
#[cfg(feature = "simulation")]
fn is_named_unsynced() -> bool {
    fs::fault::is(fs::fault::Fault::NoCacheSync) || is_unchecked()
}

#[cfg(feature = "simulation")]
fn is_unchecked() -> bool {
    fs::fault::is(fs::fault::Fault::UncheckedCaches)
}

#[cfg(not(feature = "simulation"))]
const fn is_named_unsynced() -> bool {
    false
}

#[cfg(not(feature = "simulation"))]
const fn is_unchecked() -> bool {
    false
}
