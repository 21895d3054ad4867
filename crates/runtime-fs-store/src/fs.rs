//! The one way to the file system, so that a simulated one can take its place.
//!
//! Every name is opened without following a symlink, every file is 0600, every directory 0700.
//! Only regular files are read or written, and nothing waits for who is at the other end of a pipe.

use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
#[cfg(not(feature = "simulation"))]
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(not(feature = "simulation"))]
use std::fs as alias;
#[cfg(feature = "simulation")]
use turmoil_fs::shim::std::fs as alias;

#[cfg(feature = "simulation")]
pub(crate) mod fault;

pub(crate) use alias::File;

const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
/// What a simulated disk writes at once; the simulation tears only the end of one write.
#[cfg(feature = "simulation")]
const SECTOR_BYTES: usize = 512;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    /// A pipe, a socket or a device.
    Other,
}

fn options() -> alias::OpenOptions {
    let mut options = alias::OpenOptions::new();
    options.mode(FILE_MODE).custom_flags(flags());
    options
}

/// To open a pipe waits for its other end, unless it is asked not to.
fn flags() -> i32 {
    use rustix::fs::OFlags;
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    flags.bits().cast_signed()
}

fn open(options: &mut alias::OpenOptions, path: &Path) -> io::Result<File> {
    #[cfg(feature = "simulation")]
    fault::before(fault::Operation::Open)?;
    let not_a_file = || io::Error::new(io::ErrorKind::InvalidData, "it is not a regular file");
    let file = options.open(path).map_err(|error| {
        match error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) {
            // A socket, or a device without a driver.
            true => not_a_file(),
            false => error,
        }
    })?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(not_a_file()),
    }
}

pub(crate) fn open_read(path: &Path) -> io::Result<File> {
    open(options().read(true), path)
}

pub(crate) fn open_write(path: &Path) -> io::Result<File> {
    open(options().read(true).write(true), path)
}

pub(crate) fn open_or_create(path: &Path) -> io::Result<File> {
    open(options().read(true).write(true).create(true), path)
}

/// Creates a directory unless it exists; says whether it did.
pub(crate) fn create_directory(path: &Path) -> io::Result<bool> {
    if kind(path)?.is_some() {
        return Ok(false);
    }
    match alias::DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        other => other.map(|()| true),
    }
}

pub(crate) fn kind(path: &Path) -> io::Result<Option<Kind>> {
    match alias::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => Ok(Some(Kind::Symlink)),
        Ok(metadata) if metadata.is_dir() => Ok(Some(Kind::Directory)),
        Ok(metadata) if metadata.is_file() => Ok(Some(Kind::File)),
        Ok(_) => Ok(Some(Kind::Other)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether this one file cannot be read, whatever becomes of the others: it may not be, or the disk
/// has lost it.
pub(crate) fn is_lost(error: &io::Error) -> bool {
    let from_disk = rustix::io::Errno::IO.raw_os_error();
    error.kind() == io::ErrorKind::PermissionDenied || error.raw_os_error() == Some(from_disk)
}

pub(crate) fn length(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.len())
}

pub(crate) fn read_all(path: &Path) -> io::Result<Vec<u8>> {
    let file = open_read(path)?;
    loop {
        let known = length(&file)?;
        match read_range(&file, 0, known) {
            // The writer beside has just cut off what the file was filled ahead with.
            Err(error)
                if error.kind() == io::ErrorKind::UnexpectedEof && length(&file)? < known => {}
            result => return result,
        }
    }
}

pub(crate) fn read_range(file: &File, from: u64, to: u64) -> io::Result<Vec<u8>> {
    let length = usize::try_from(to.saturating_sub(from)).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, from)?;
    Ok(bytes)
}

#[cfg(not(feature = "simulation"))]
pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

#[cfg(feature = "simulation")]
pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut at = offset;
    for sector in bytes.chunks(SECTOR_BYTES) {
        fault::before(fault::Operation::Write)?;
        if let Err(error) = fault::before(fault::Operation::ShortWrite) {
            file.write_all_at(&sector[..sector.len() / 2], at)?;
            return Err(error);
        }
        file.write_all_at(sector, at)?;
        at += sector.len() as u64;
    }
    Ok(())
}

/// Cuts a file off.
pub(crate) fn cut(file: &File, length: u64) -> io::Result<()> {
    #[cfg(feature = "simulation")]
    fault::before(fault::Operation::Write)?;
    file.set_len(length)
}

pub(crate) fn sync_data(file: &File) -> io::Result<()> {
    #[cfg(feature = "simulation")]
    {
        fault::before(fault::Operation::Sync)?;
        if fault::is(fault::Fault::NoFileSync) {
            return Ok(());
        }
    }
    file.sync_data()
}

#[cfg(not(feature = "simulation"))]
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    options().read(true).open(path)?.sync_all()
}

#[cfg(feature = "simulation")]
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    fault::before(fault::Operation::Sync)?;
    if fault::is(fault::Fault::NoDirectorySync) {
        return Ok(());
    }
    alias::sync_dir(path)
}

pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(feature = "simulation")]
    fault::before(fault::Operation::Rename)?;
    alias::rename(from, to)
}

pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    alias::remove_file(path)
}

/// Returns the names in a directory in order; a name that is not UTF-8 is shown with escapes.
pub(crate) fn names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in alias::read_dir(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// Writes a file so that its name stands for all of the bytes or for what was there before, and
/// for all of them once this has returned.
pub(crate) fn write_whole(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let file = Temporary::create(directory, name)?;
    file.write_all_at(bytes, 0)?;
    file.name_whole()
}

/// A file that gets its name once it is whole. Dropped before, it is removed; a process that is
/// killed leaves it, which [`temporary_of`] tells.
#[derive(Debug)]
pub(crate) struct Temporary {
    file: File,
    path: PathBuf,
    directory: PathBuf,
    name: String,
    is_named: bool,
}

impl Temporary {
    /// Creates it under a name that nobody else writes under, in this process or another.
    pub(crate) fn create(directory: &Path, name: &str) -> io::Result<Self> {
        loop {
            let path = directory.join(format!("{name}.{}.new", next_temporary()));
            let mut options = options();
            let options = options.read(true).write(true).create_new(true);
            let file = match open(options, &path) {
                // Left by one that was killed, or of a process of another machine.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                file => file?,
            };
            return Ok(Self {
                file,
                path,
                directory: directory.to_owned(),
                name: name.to_owned(),
                is_named: false,
            });
        }
    }

    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        write_all_at(&self.file, bytes, offset)
    }

    /// Syncs it, gives it its name, and makes that durable.
    pub(crate) fn name_whole(self) -> io::Result<()> {
        #[cfg(feature = "simulation")]
        if fault::is(fault::Fault::NoRenameSync) {
            return self.name_unsynced();
        }
        sync_data(&self.file)?;
        let directory = self.directory.clone();
        self.name_unsynced()?;
        sync_directory(&directory)
    }

    /// Gives it its name, and no more.
    pub(crate) fn name_unsynced(mut self) -> io::Result<()> {
        rename(&self.path, &self.directory.join(&self.name))?;
        self.is_named = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_named
            && let Err(error) = remove_file(&self.path)
        {
            // Whoever holds the store removes it later.
            tracing::warn!(path = %self.path.display(), %error, "a half-written file is left");
        }
    }
}

#[cfg(not(feature = "simulation"))]
fn next_temporary() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{}-{number}", std::process::id())
}

/// The simulation tells files by their paths, so no number comes twice on a thread: a file that
/// has been renamed, but not durably, would get the bytes of the next one.
#[cfg(feature = "simulation")]
fn next_temporary() -> String {
    fault::next_temporary().to_string()
}

/// Returns the name that a temporary file was to get; none for any other file.
pub(crate) fn temporary_of(name: &str) -> Option<&str> {
    let name = name.strip_suffix(".new")?;
    let is_number = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'-')
    };
    match name.rsplit_once('.') {
        Some((name, number)) if is_number(number) => Some(name),
        // Without a number, as earlier versions wrote it.
        _ => Some(name),
    }
}

/// Sets and reads the time of a file, by which attachments age.
#[cfg(not(feature = "simulation"))]
pub(crate) fn set_modified(file: &File, since_epoch: std::time::Duration) -> io::Result<()> {
    file.set_modified(std::time::UNIX_EPOCH + since_epoch)
}

#[cfg(feature = "simulation")]
#[expect(
    clippy::unnecessary_wraps,
    reason = "the real file system can fail here"
)]
pub(crate) fn set_modified(_: &File, _: std::time::Duration) -> io::Result<()> {
    Ok(())
}

pub(crate) fn modified(path: &Path) -> io::Result<std::time::Duration> {
    let modified = alias::symlink_metadata(path)?.modified()?;
    Ok(modified
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default())
}

/// Takes the lock of an open file; says whether it was free. The kernel lets go of it when the
/// process ends, however it ends.
#[cfg(not(feature = "simulation"))]
pub(crate) fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(std::fs::TryLockError::WouldBlock) => Ok(false),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(feature = "simulation")]
#[expect(
    clippy::unnecessary_wraps,
    reason = "the real file system can fail here"
)]
pub(crate) fn try_lock(_: &File) -> io::Result<bool> {
    Ok(true)
}

/// Lets go of the lock of an open file, whoever else has it open: a child that was just forked has,
/// until it becomes another program.
#[cfg(not(feature = "simulation"))]
pub(crate) fn unlock(file: &File) -> io::Result<()> {
    file.unlock()
}

#[cfg(feature = "simulation")]
#[expect(
    clippy::unnecessary_wraps,
    reason = "the real file system can fail here"
)]
pub(crate) fn unlock(_: &File) -> io::Result<()> {
    Ok(())
}

/// Names this start of the machine; none where that cannot be told.
#[cfg(not(feature = "simulation"))]
pub(crate) fn boot() -> Option<String> {
    let id = alias::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim_end().to_owned())
}

/// A simulated machine loses its power without a new name, so none is known.
#[cfg(feature = "simulation")]
pub(crate) const fn boot() -> Option<String> {
    None
}
#[cfg(test)]
#[cfg(not(feature = "simulation"))]
mod tests {
    use std::sync::Barrier;

    use super::*;

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().expect("a place"))
    }

    /// What cannot be looked at, created or synced is not taken for what is not there, or for done.
    #[test]
    fn s5_what_fails_is_told() {
        let parent = directory();
        let file = parent.path().join("file");
        std::fs::write(&file, b"x").expect("is written");
        let below = file.join("below");
        let not_a_directory = Err(io::ErrorKind::NotADirectory);
        assert_eq!(kind(&below).map_err(|error| error.kind()), not_a_directory);
        let missing = parent.path().join("missing");
        assert_eq!(kind(&missing).expect("can be looked at"), None);
        let made = create_directory(&missing.join("below"));
        assert_eq!(
            made.map_err(|error| error.kind()),
            Err(io::ErrorKind::NotFound)
        );
        let synced = sync_directory(&missing);
        assert_eq!(
            synced.map_err(|error| error.kind()),
            Err(io::ErrorKind::NotFound)
        );
        let temporary = Temporary::create(&missing, "file").map(drop);
        assert_eq!(
            temporary.map_err(|error| error.kind()),
            Err(io::ErrorKind::NotFound)
        );
    }

    /// S7: two that write under one name at once do not meet before they are whole, and whoever
    /// gives up leaves nothing.
    #[test]
    fn s7_temporary_files_of_one_name_are_apart() {
        let parent = directory();
        let create = || Temporary::create(parent.path(), "file").expect("is created");
        let (one, other, dropped) = (create(), create(), create());
        for (file, bytes) in [(&one, b"one"), (&other, b"two"), (&dropped, b"not")] {
            file.write_all_at(bytes, 0).expect("is written");
        }
        for name in names(parent.path()).expect("can be read") {
            assert_eq!(temporary_of(&name), Some("file"), "{name}");
        }
        drop(dropped);
        for (file, bytes) in [(one, b"one"), (other, b"two")] {
            file.name_whole().expect("gets its name");
            let found = read_all(&parent.path().join("file")).expect("can be read");
            assert_eq!(found, bytes);
        }
        assert_eq!(names(parent.path()).expect("can be read"), ["file"]);
    }

    /// S7: what a killed process of the same number has left is neither written over nor in the
    /// way.
    #[test]
    fn s7_a_temporary_file_of_a_killed_process_is_passed_by() {
        const LEFT: u64 = 500;
        let parent = directory();
        let next = next_temporary();
        let (process, number) = next.split_once('-').expect("two numbers");
        let number: u64 = number.parse().expect("a number");
        // Other tests of this process take numbers meanwhile.
        let left = (number + 1..=number + LEFT).map(|number| {
            let path = parent.path().join(format!("file.{process}-{number}.new"));
            std::fs::write(&path, b"left").expect("is written");
            path
        });
        let left: Vec<PathBuf> = left.collect();
        write_whole(parent.path(), "file", b"whole").expect("is written");
        let found = read_all(&parent.path().join("file")).expect("can be read");
        assert_eq!(found, b"whole");
        for path in left {
            assert_eq!(read_all(&path).expect("can be read"), b"left");
        }
    }

    /// S8: a file that its writer cuts off while it is read is read once more.
    #[test]
    fn s8_a_file_that_is_cut_while_it_is_read_is_read_again() {
        const BYTES: usize = 256 * 1024;
        const STEP: usize = 64;
        let parent = directory();
        let path = parent.path().join("file");
        std::fs::write(&path, vec![7; BYTES]).expect("is written");
        let begin = Barrier::new(2);
        std::thread::scope(|scope| {
            let cutting = scope.spawn(|| {
                let file = open_write(&path).expect("is there");
                begin.wait();
                for length in (0..BYTES).step_by(STEP).rev() {
                    cut(&file, length as u64).expect("is cut");
                }
            });
            begin.wait();
            while !cutting.is_finished() {
                let bytes = read_all(&path).expect("can be read");
                assert!(bytes.len() <= BYTES && bytes.len().is_multiple_of(STEP));
            }
        });
    }
}
