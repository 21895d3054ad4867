//! Attachments: one file each, named by its SHA-256 (E18).

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
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
}

impl Attachments {
    pub(crate) fn new(layout: &Layout, clock: Arc<dyn Clock>) -> Self {
        Self {
            root: layout.path(ATTACHMENTS),
            clock,
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
        let mut digests = Vec::new();
        for directory in fs::names(&self.root)? {
            let directory = self.root.join(directory);
            if fs::kind(&directory)? == Some(fs::Kind::Directory) {
                let names = fs::names(&directory)?;
                digests.extend(names.iter().filter_map(|name| name.parse::<Digest>().ok()));
            }
        }
        Ok(digests)
    }

    pub(crate) fn sweep(
        &self,
        live: &(dyn for<'a> Fn(&'a Digest) -> bool + Sync),
        min_age: Duration,
    ) -> io::Result<HashSet<Digest>> {
        let mut removed = HashSet::new();
        for directory in fs::names(&self.root)? {
            let directory = self.root.join(directory);
            if fs::kind(&directory)? != Some(fs::Kind::Directory) {
                continue;
            }
            for name in fs::names(&directory)? {
                let Ok(digest) = name.parse::<Digest>() else {
                    continue;
                };
                let path = directory.join(&name);
                let put = fs::modified(&path)?;
                let now = Duration::from_millis(self.clock.now().as_millis());
                if now.saturating_sub(put) >= min_age && !live(&digest) {
                    fs::remove_file(&path)?;
                    removed.insert(digest);
                }
            }
        }
        Ok(removed)
    }
}

/// Reads every attachment and returns the files whose bytes are not those of their name.
pub(crate) fn damaged(layout: &Layout) -> io::Result<Vec<String>> {
    let root = layout.path(ATTACHMENTS);
    let mut damaged = Vec::new();
    for directory in fs::names(&root)? {
        if fs::kind(&root.join(&directory))? != Some(fs::Kind::Directory) {
            continue;
        }
        for name in fs::names(&root.join(&directory))? {
            let Ok(digest) = name.parse::<Digest>() else {
                continue;
            };
            let bytes = fs::read_all(&root.join(&directory).join(&name))?;
            if Digest::of_bytes(&bytes) != digest {
                damaged.push(format!("{ATTACHMENTS}/{directory}/{name}"));
            }
        }
    }
    Ok(damaged)
}

pub(crate) fn unavailable(action: &str, error: io::Error) -> AttachmentError {
    AttachmentError::Unavailable {
        reason: format!("cannot {action} an attachment: {error}"),
        source: Some(Arc::new(error)),
    }
}
