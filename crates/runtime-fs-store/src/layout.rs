//! The files of a store: their names, its identity, creating it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use runtime_core::{Clock, Random, RuntimeId};
use runtime_store::StoreIdentity;
use serde::{Deserialize, Serialize};

use crate::error::OpenError;
use crate::frame::StoreTag;
use crate::fs::{self, Kind};
use crate::keys;
use crate::segment::{BASE, SEGMENT_HEADER_BYTES, SegmentHeader};

/// The version of the files that this crate writes; it reads this and every earlier one (S1).
pub const SCHEMA: u32 = 1;
pub(crate) const FORMAT: &str = "format";
pub(crate) const KEYS: &str = "keys";
pub(crate) const SEGMENTS: &str = "segments";
pub(crate) const ATTACHMENTS: &str = "attachments";
pub(crate) const INBOX: &str = "inbox";
pub(crate) const ASIDE: &str = "aside";
/// Checkpoints and sidecars; it may be missing.
pub(crate) const CHECKPOINTS: &str = "checkpoints";
pub(crate) const DURABLE: &str = "durable";
pub(crate) const LOCK: &str = "lock";
const DIRECTORIES: [&str; 4] = [SEGMENTS, ATTACHMENTS, INBOX, ASIDE];
const FILES: [&str; 4] = [FORMAT, KEYS, DURABLE, LOCK];

/// What the file `format` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Format {
    schema: u32,
    runtime: RuntimeId,
    lineage: String,
    /// Sixteen hexadecimal digits that are in all checksums of the log.
    tag: String,
}

impl Format {
    pub(crate) fn fresh(
        runtime: Option<RuntimeId>,
        clock: &dyn Clock,
        random: &dyn Random,
    ) -> Self {
        let mut tag = [0; 8];
        random.fill(&mut tag);
        Self {
            schema: SCHEMA,
            runtime: runtime.unwrap_or_else(|| RuntimeId::generate(clock.now(), random.ten())),
            lineage: hex(&random.ten()),
            tag: hex(&tag),
        }
    }

    pub(crate) fn identity(&self) -> StoreIdentity {
        StoreIdentity {
            runtime: self.runtime.clone(),
            lineage: self.lineage.clone(),
        }
    }

    pub(crate) fn renew_lineage(&mut self, random: &dyn Random) {
        self.lineage = hex(&random.ten());
    }

    pub(crate) fn tag(&self) -> Option<StoreTag> {
        u64::from_str_radix(&self.tag, 16)
            .ok()
            .map(|tag| StoreTag(tag.to_be_bytes()))
    }

    fn check(self, runtime: Option<&RuntimeId>) -> Result<Self, OpenError> {
        if self.schema > SCHEMA {
            return Err(OpenError::NewerSchema {
                found: self.schema,
                known: SCHEMA,
            });
        }
        match runtime {
            Some(expected) if *expected != self.runtime => Err(OpenError::WrongRuntime {
                expected: expected.clone(),
                found: self.runtime,
            }),
            _ => Ok(self),
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes any text");
        text
    })
}

/// Writes a value as one line of JSON and one line with its checksum.
pub(crate) fn seal(value: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec(value).expect("these values have text keys only");
    let checksum = crc32c::crc32c(&text);
    text.extend(format!("\n{checksum:08x}\n").bytes());
    text
}

/// Reads what [`seal`] wrote; `None` for anything else.
pub(crate) fn unseal<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Option<T> {
    let end = bytes.len().checked_sub(10)?;
    let (json, checksum) = bytes.split_at(end);
    let expected = format!("\n{:08x}\n", crc32c::crc32c(json));
    (checksum == expected.as_bytes()).then(|| serde_json::from_slice(json).ok())?
}

/// The directory of a store.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) directory: PathBuf,
}

impl Layout {
    pub(crate) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(crate) fn segment_name(number: u32) -> String {
        match number & BASE {
            0 => format!("{number:010}.log"),
            _ => format!("{:010}.base", number & !BASE),
        }
    }

    pub(crate) fn checkpoint_name(number: u32) -> String {
        format!("{number:010}.checkpoint")
    }

    pub(crate) fn sidecar_name(segment: u32) -> String {
        format!("{}.sidecar", Self::segment_name(segment))
    }

    pub(crate) fn segment_path(&self, number: u32) -> PathBuf {
        self.path(SEGMENTS).join(Self::segment_name(number))
    }

    /// Creates the directory itself; the lock comes into it before anything else.
    pub(crate) fn create_directory(&self) -> Result<(), OpenError> {
        self.check_no_symlink()?;
        let directory = &self.directory;
        let made = fs::create_directory(directory);
        if made.map_err(|e| OpenError::io("create", directory, e))?
            && let Some(parent) = directory.parent()
        {
            let parent = if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            };
            fs::sync_directory(parent).map_err(|e| OpenError::io("sync", parent, e))?;
        }
        Ok(())
    }

    fn check_no_symlink(&self) -> Result<(), OpenError> {
        let directory = &self.directory;
        let kind = fs::kind(directory).map_err(|e| OpenError::io("look at", directory, e))?;
        match kind {
            Some(Kind::Symlink) => Err(OpenError::Symlink {
                path: directory.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Reads the identity; creates the store if there is none. The lock must be held.
    pub(crate) fn open_or_create(
        &self,
        runtime: Option<&RuntimeId>,
        clock: &dyn Clock,
        random: &dyn Random,
    ) -> Result<(Format, bool), OpenError> {
        if let Some(format) = self.read_format()? {
            let format = format.check(runtime)?;
            self.check_directories()?;
            return Ok((format, false));
        }
        self.check_nothing_is_lost()?;
        let format = Format::fresh(runtime.cloned(), clock, random);
        self.create(&format, random)
            .map_err(|e| OpenError::io("create a store in", &self.directory, e))?;
        Ok((format, true))
    }

    /// Reads the identity of a store that must exist.
    pub(crate) fn open_existing(&self) -> Result<Format, OpenError> {
        self.check_no_symlink()?;
        let mut format = self.read_format()?;
        if format.is_none() {
            let nothing_is_lost = self.check_nothing_is_lost();
            // It may have been created in between.
            format = self.read_format()?;
            if format.is_none() {
                nothing_is_lost?;
            }
        }
        let format = format.ok_or_else(|| OpenError::NoStore {
            directory: self.directory.clone(),
        })?;
        let format = format.check(None)?;
        self.check_directories()?;
        Ok(format)
    }

    fn read_format(&self) -> Result<Option<Format>, OpenError> {
        let path = self.path(FORMAT);
        match fs::read_all(&path) {
            Ok(bytes) => unseal(&bytes)
                .filter(|format: &Format| format.tag().is_some())
                .map(Some)
                .ok_or_else(|| OpenError::Damaged {
                    file: FORMAT.to_owned(),
                }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(OpenError::io("read", &path, error)),
        }
    }

    /// Without an identity the directory must be new, or left by a creation that did not finish:
    /// then there is at most one segment, which holds nothing, and no base.
    fn check_nothing_is_lost(&self) -> Result<(), OpenError> {
        let lost = || OpenError::Missing {
            file: FORMAT.to_owned(),
        };
        if self.base()?.is_some() {
            return Err(lost());
        }
        for number in self.segments()? {
            let path = self.segment_path(number);
            let bytes = fs::open_read(&path)
                .and_then(|file| fs::length(&file))
                .map_err(|e| OpenError::io("read", &path, e))?;
            if number > 1 || bytes > SEGMENT_HEADER_BYTES as u64 {
                return Err(lost());
            }
        }
        Ok(())
    }

    fn check_directories(&self) -> Result<(), OpenError> {
        for name in DIRECTORIES {
            let path = self.path(name);
            match fs::kind(&path).map_err(|e| OpenError::io("look at", &path, e))? {
                Some(Kind::Directory) => {}
                Some(Kind::Symlink) => return Err(OpenError::Symlink { path }),
                Some(Kind::File | Kind::Other) | None => {
                    return Err(OpenError::Missing {
                        file: name.to_owned(),
                    });
                }
            }
        }
        self.check_caches()
    }

    /// The directory of the caches may be missing, but nothing else may stand there: files are
    /// removed from it.
    fn check_caches(&self) -> Result<(), OpenError> {
        let path = self.path(CHECKPOINTS);
        match fs::kind(&path).map_err(|e| OpenError::io("look at", &path, e))? {
            Some(Kind::Directory) | None => Ok(()),
            Some(Kind::Symlink) => Err(OpenError::Symlink { path }),
            Some(Kind::File | Kind::Other) => Err(OpenError::Missing {
                file: CHECKPOINTS.to_owned(),
            }),
        }
    }

    /// Creates everything but the log and the identity.
    pub(crate) fn prepare(&self, random: &dyn Random) -> std::io::Result<()> {
        for name in DIRECTORIES {
            fs::create_directory(&self.path(name))?;
        }
        fs::write_whole(&self.directory, KEYS, &keys::fresh_file(random))
    }

    /// Puts these signing keys in the place of the fresh ones.
    pub(crate) fn keep_keys(&self, keys: &runtime_store::KeyRing) -> std::io::Result<()> {
        fs::write_whole(&self.directory, KEYS, &keys::to_file(keys))
    }

    /// The identity comes last, by a rename: until then the directory holds nothing that counts.
    fn create(&self, format: &Format, random: &dyn Random) -> std::io::Result<()> {
        self.prepare(random)?;
        let header = SegmentHeader {
            number: 1,
            incarnation: 0,
            previous_bytes: 0,
            first_frame: 1,
            first_position: 1,
        };
        self.create_log(format, header)
    }

    /// Creates a log that goes on after a base.
    pub(crate) fn create_after(
        &self,
        format: &Format,
        base: &[u8],
        first_frame: u64,
        first_position: u64,
    ) -> std::io::Result<()> {
        let name = Self::segment_name(1 | BASE);
        fs::write_whole(&self.path(SEGMENTS), &name, base)?;
        let header = SegmentHeader {
            number: 2,
            incarnation: 1,
            previous_bytes: 0,
            first_frame,
            first_position,
        };
        self.create_log(format, header)
    }

    fn create_log(&self, format: &Format, header: SegmentHeader) -> std::io::Result<()> {
        let tag = format.tag().expect("a fresh format has a tag");
        let name = Self::segment_name(header.number);
        fs::write_whole(&self.path(SEGMENTS), &name, &header.to_bytes(tag))?;
        self.sync_names()?;
        self.write_format(format)
    }

    /// Makes every name durable that the store's directories have. One that was killed may have
    /// left names that only the page cache holds; nothing may rest on them, and nothing that they
    /// stand for may be removed, before this.
    pub(crate) fn sync_names(&self) -> std::io::Result<()> {
        for name in DIRECTORIES {
            fs::sync_directory(&self.path(name))?;
        }
        fs::sync_directory(&self.directory)
    }

    pub(crate) fn write_format(&self, format: &Format) -> std::io::Result<()> {
        fs::write_whole(&self.directory, FORMAT, &seal(format))
    }

    /// Returns the numbers of the segment files in order.
    pub(crate) fn segments(&self) -> Result<Vec<u32>, OpenError> {
        let names = self.log_names()?;
        let numbers = names.iter().filter_map(|name| segment_number(name));
        Ok(numbers.collect())
    }

    /// Returns the number of the base that counts, the latest, if there is one.
    pub(crate) fn base(&self) -> Result<Option<u32>, OpenError> {
        let names = self.log_names()?;
        Ok(names.iter().filter_map(|name| base_number(name)).max())
    }

    /// The files of the log; none where no log was made.
    pub(crate) fn log_names(&self) -> Result<Vec<String>, OpenError> {
        let path = self.path(SEGMENTS);
        match fs::names(&path) {
            Ok(names) => Ok(names),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(OpenError::io("read", &path, error)),
        }
    }

    /// Removes the segments and bases that a base has taken the place of.
    pub(crate) fn remove_covered(&self, base: u32) -> std::io::Result<u64> {
        let directory = self.path(SEGMENTS);
        let mut removed = 0;
        for name in fs::names(&directory)? {
            let is_segment = segment_number(&name).is_some_and(|number| number <= base);
            if is_segment || base_number(&name).is_some_and(|number| number < base) {
                fs::remove_file(&directory.join(name))?;
                removed += 1;
            }
        }
        if removed > 0 {
            fs::sync_directory(&directory)?;
        }
        Ok(removed)
    }

    /// Removes what a process that was killed left half-written beside the identity and the log;
    /// it may have what was removed or purged since. The lock must be held.
    pub(crate) fn remove_leftovers(&self) -> std::io::Result<()> {
        let remove = |directory: &Path, is_ours: fn(&str) -> bool| {
            for name in fs::names(directory)? {
                if fs::temporary_of(&name).is_some_and(is_ours) {
                    fs::remove_file(&directory.join(name))?;
                }
            }
            std::io::Result::Ok(())
        };
        remove(&self.directory, |name| FILES.contains(&name))?;
        remove(&self.path(SEGMENTS), is_of_log)
    }

    /// Returns the names in the directory of the checkpoints and sidecars.
    pub(crate) fn caches(&self) -> std::io::Result<Vec<String>> {
        match fs::names(&self.path(CHECKPOINTS)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            names => names,
        }
    }

    /// Returns the numbers of the checkpoints, the latest first.
    pub(crate) fn checkpoints(&self) -> std::io::Result<Vec<u32>> {
        let names = self.caches()?;
        Ok(names
            .iter()
            .rev()
            .filter_map(|name| checkpoint_number(name))
            .collect())
    }

    /// Removes what no opening looks at: all but the two latest checkpoints, sidecars of what a
    /// base stands for, and what was cut off while it was written.
    pub(crate) fn remove_stale_caches(&self, latest: u32, base: u32) -> std::io::Result<()> {
        let kept: Vec<u32> = self
            .checkpoints()?
            .into_iter()
            .filter(|n| *n <= latest)
            .take(2)
            .collect();
        let directory = self.path(CHECKPOINTS);
        for name in self.caches()? {
            let is_stale = match (checkpoint_number(&name), sidecar_segment(&name)) {
                (Some(number), _) => !kept.contains(&number),
                (None, Some(segment)) if segment & BASE != 0 => segment & !BASE != base,
                (None, Some(segment)) => segment <= base,
                (None, None) => is_unfinished_cache(&name),
            };
            if is_stale {
                fs::remove_file(&directory.join(name))?;
            }
        }
        Ok(())
    }

    /// Removes all checkpoints and sidecars, whole or not; nothing else that is there.
    pub(crate) fn remove_caches(&self) -> std::io::Result<()> {
        let directory = self.path(CHECKPOINTS);
        let mut names = self.caches()?;
        names.retain(|name| is_cache(name) || is_unfinished_cache(name));
        for name in &names {
            fs::remove_file(&directory.join(name))?;
        }
        match names.is_empty() {
            true => Ok(()),
            false => fs::sync_directory(&directory),
        }
    }

    /// Returns what in the directory is not the store's.
    pub(crate) fn foreign(&self) -> Result<Vec<String>, OpenError> {
        let names = |path: &Path| fs::names(path).map_err(|e| OpenError::io("read", path, e));
        let mut foreign: Vec<String> = names(&self.directory)?
            .into_iter()
            .filter(|name| !is_own(name))
            .collect();
        let segments = names(&self.path(SEGMENTS))?.into_iter();
        foreign.extend(
            segments
                .filter(|name| !is_of_log(fs::temporary_of(name).unwrap_or(name)))
                .map(|name| format!("{SEGMENTS}/{name}")),
        );
        Ok(foreign)
    }
}

fn is_own(name: &str) -> bool {
    let file = fs::temporary_of(name).unwrap_or(name);
    FILES.contains(&file) || DIRECTORIES.contains(&name) || name == CHECKPOINTS
}

fn is_of_log(name: &str) -> bool {
    segment_number(name).is_some() || base_number(name).is_some()
}

fn checkpoint_number(name: &str) -> Option<u32> {
    let number = name.strip_suffix(".checkpoint")?.parse().ok()?;
    (Layout::checkpoint_name(number) == name).then_some(number)
}

/// The segment, or the base, of a sidecar.
fn sidecar_segment(name: &str) -> Option<u32> {
    let file = name.strip_suffix(".sidecar")?;
    segment_number(file).or_else(|| base_number(file).map(|base| base | BASE))
}

fn is_cache(name: &str) -> bool {
    checkpoint_number(name).is_some() || sidecar_segment(name).is_some()
}

/// Says whether it is what was cut off while a checkpoint or sidecar was written.
fn is_unfinished_cache(name: &str) -> bool {
    fs::temporary_of(name).is_some_and(is_cache)
}

fn base_number(name: &str) -> Option<u32> {
    let number = name.strip_suffix(".base")?.parse().ok()?;
    (number > 0 && number < BASE && Layout::segment_name(number | BASE) == name).then_some(number)
}

fn segment_number(name: &str) -> Option<u32> {
    let number = name.strip_suffix(".log")?.parse().ok()?;
    (number > 0 && number < BASE && Layout::segment_name(number) == name).then_some(number)
}

#[cfg(test)]
#[cfg(not(feature = "simulation"))]
mod tests {
    use super::*;

    /// A store that has nothing but these files in its directory of caches.
    fn with_caches(names: &[&str]) -> (tempfile::TempDir, Layout) {
        let parent = tempfile::tempdir().expect("there is a place for temporary files");
        let layout = Layout::new(parent.path());
        fs::create_directory(&layout.path(CHECKPOINTS)).expect("it is new");
        for name in names {
            fs::write_whole(&layout.path(CHECKPOINTS), name, b"").expect("it is new");
        }
        (parent, layout)
    }

    /// S6: what opening may look at is kept: two checkpoints, the sidecar of the base and those of
    /// the segments after it.
    #[test]
    fn s6_only_stale_caches_are_removed() {
        let kept = [
            "0000000003.base.sidecar",
            "0000000004.checkpoint",
            "0000000004.log.sidecar",
            "0000000005.checkpoint",
            "0000000005.log.sidecar",
            "0000000006.log.sidecar",
            "notes",
        ];
        let stale = [
            "0000000002.base.sidecar",
            "0000000003.checkpoint",
            "0000000003.log.sidecar",
            "0000000005.checkpoint.1.new",
            // Of a log that was longer once.
            "0000000006.checkpoint",
        ];
        let (_parent, layout) = with_caches(&[&kept[..], &stale[..]].concat());
        layout.remove_stale_caches(5, 3).expect("they are files");
        assert_eq!(layout.caches().expect("it is a directory"), kept);
    }

    /// S1: what cannot be read is told; only what is not there is nothing.
    #[test]
    fn s1_a_directory_that_cannot_be_read_is_not_taken_for_a_missing_one() {
        let parent = tempfile::tempdir().expect("there is a place for temporary files");
        let layout = Layout::new(parent.path());
        assert_eq!(layout.segments().expect("nothing is there"), [0_u32; 0]);
        assert_eq!(layout.caches().expect("nothing is there"), [""; 0]);
        for name in [SEGMENTS, CHECKPOINTS] {
            fs::write_whole(parent.path(), name, b"a file").expect("it is new");
        }
        let told = layout.segments().expect_err("it is a file").to_string();
        assert!(told.starts_with("cannot read"), "{told}");
        layout.caches().expect_err("it is a file");
    }
}
