//! Attachments: one file each, named by its SHA-256 (E18).

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use runtime_core::{Clock, Digest};
use runtime_store::{AttachmentError, Payload};

use crate::fs;
use crate::layout::{ATTACHMENTS, Layout};

/// The directory of the attachments.
#[derive(Debug)]
pub(crate) struct Attachments {
    root: PathBuf,
    clock: Arc<dyn Clock>,
    /// Many put at once; while nobody does, what is old is removed.
    removal: RwLock<()>,
}

impl Attachments {
    pub(crate) fn new(layout: &Layout, clock: Arc<dyn Clock>) -> Self {
        Self {
            root: layout.path(ATTACHMENTS),
            clock,
            removal: RwLock::default(),
        }
    }

    /// The first two digits make the directory, all of them the name.
    fn place(&self, digest: &Digest) -> (PathBuf, String) {
        let name = digest.to_string();
        (self.root.join(&name[..2]), name)
    }

    pub(crate) fn has(&self, digest: &Digest) -> io::Result<bool> {
        let (directory, name) = self.place(digest);
        Ok(fs::kind(&directory.join(name))? == Some(fs::Kind::File))
    }

    pub(crate) fn put(&self, bytes: &Payload) -> io::Result<Digest> {
        let digest = Digest::of_bytes(bytes);
        let (directory, name) = self.place(&digest);
        let path = directory.join(&name);
        let _putting = self.removal.read().unwrap_or_else(PoisonError::into_inner);
        if self.has(&digest)? {
            // Whoever put it may have been killed before its name was durable.
            fs::sync_directory(&directory)?;
        } else {
            fs::create_directory(&directory)?;
            fs::write_whole(&directory, &name, bytes)?;
        }
        fs::sync_directory(&self.root)?;
        // Put again it is young again, since the commit that names it is still to come. The time
        // is the clock's, not the file system's: the sweep compares with the same clock.
        let now = Duration::from_millis(self.clock.now().as_millis());
        fs::set_modified(&fs::open_write(&path)?, now)?;
        Ok(digest)
    }

    pub(crate) fn get(&self, digest: &Digest) -> Result<Payload, AttachmentError> {
        let (directory, name) = self.place(digest);
        let bytes = match fs::read_all(&directory.join(name)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(AttachmentError::NotFound { digest: *digest });
            }
            Err(error) => return Err(unavailable("read", error)),
        };
        if Digest::of_bytes(&bytes) != *digest {
            return Err(AttachmentError::Corrupt { digest: *digest });
        }
        Ok(bytes.into())
    }

    /// Returns all names.
    pub(crate) fn digests(&self) -> io::Result<Vec<Digest>> {
        let files = files(&self.root)?;
        let names = files.iter().map(|(_, name)| name);
        Ok(names.filter_map(|name| name.parse().ok()).collect())
    }

    /// Returns those that were put so long ago.
    pub(crate) fn aged(&self, min_age: Duration) -> io::Result<Vec<Digest>> {
        let mut aged = Vec::new();
        for (directory, name) in files(&self.root)? {
            let Ok(digest) = name.parse() else {
                continue;
            };
            match self.is_aged(&directory.join(name), min_age) {
                Ok(true) => aged.push(digest),
                Ok(false) => {}
                // Another sweep was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(aged)
    }

    /// Removes what puts that were killed left half-written.
    pub(crate) fn remove_leftovers(&self) -> io::Result<()> {
        for (directory, name) in files(&self.root)? {
            let target = fs::temporary_of(&name);
            if target.is_none_or(|name| name.parse::<Digest>().is_err()) {
                continue;
            }
            let path = directory.join(name);
            let _alone = self.alone();
            // Its put may have ended meanwhile.
            if fs::kind(&path)?.is_some() {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Removes those of them that nobody has put again since; returns which.
    pub(crate) fn remove(
        &self,
        digests: Vec<Digest>,
        min_age: Duration,
    ) -> io::Result<HashSet<Digest>> {
        let mut removed = HashSet::new();
        for digest in digests {
            let (directory, name) = self.place(&digest);
            let path = directory.join(name);
            let _alone = self.alone();
            if fs::kind(&path)?.is_some() && self.is_aged(&path, min_age)? {
                fs::remove_file(&path)?;
                removed.insert(digest);
            }
        }
        Ok(removed)
    }

    fn is_aged(&self, path: &Path, min_age: Duration) -> io::Result<bool> {
        let now = Duration::from_millis(self.clock.now().as_millis());
        Ok(now.saturating_sub(fs::modified(path)?) >= min_age)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, ()> {
        self.removal.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every file in the directories of the attachments, with where it is.
fn files(root: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    for directory in fs::names(root)? {
        let directory = root.join(directory);
        if fs::kind(&directory)? == Some(fs::Kind::Directory) {
            let names = fs::names(&directory)?.into_iter();
            files.extend(names.map(|name| (directory.clone(), name)));
        }
    }
    Ok(files)
}

/// Reads every attachment and returns the files whose bytes are not those of their name, or cannot
/// be read at all.
pub(crate) fn damaged(layout: &Layout) -> io::Result<Vec<String>> {
    let mut damaged = Vec::new();
    for (directory, name) in files(&layout.path(ATTACHMENTS))? {
        let Ok(digest) = name.parse::<Digest>() else {
            continue;
        };
        if !is_whole(&directory.join(&name), digest)? {
            damaged.push(file_of(&digest));
        }
    }
    Ok(damaged)
}

/// The file of an attachment, inside the store.
fn file_of(digest: &Digest) -> String {
    let name = digest.to_string();
    format!("{ATTACHMENTS}/{}/{name}", &name[..2])
}

/// Returns the files of those that are not there.
pub(crate) fn missing(layout: &Layout, named: &HashSet<Digest>) -> io::Result<Vec<String>> {
    let names = files(&layout.path(ATTACHMENTS))?;
    let there: HashSet<Digest> = names
        .iter()
        .filter_map(|(_, name)| name.parse().ok())
        .collect();
    let mut missing: Vec<String> = named.difference(&there).map(file_of).collect();
    missing.sort_unstable();
    Ok(missing)
}

fn is_whole(path: &Path, digest: Digest) -> io::Result<bool> {
    match fs::kind(path)? {
        Some(fs::Kind::File) => {}
        // Swept since it was listed.
        None => return Ok(true),
        Some(_) => return Ok(false),
    }
    match fs::read_all(path) {
        Ok(bytes) => Ok(Digest::of_bytes(&bytes) == digest),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) if fs::is_lost(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

pub(crate) fn unavailable(action: &str, error: io::Error) -> AttachmentError {
    AttachmentError::Unavailable {
        reason: format!("cannot {action} an attachment: {error}"),
        source: Some(Arc::new(error)),
    }
}
