//! Commands from processes that do not hold the store (S8): one file each.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use runtime_core::{CommitId, Timestamp};
use runtime_store::{CommandInbox, InboxCommand, Payload, ReadError};

use crate::bytes::Bytes;
use crate::error::InboxError;
use crate::fs;
use crate::layout::{FORMAT, INBOX, Layout};
use crate::segments::unavailable;

/// Commands that wait at most (S8).
pub const INBOX_COMMANDS_MAX: usize = 1024;
/// The longest command: an input of 1 MiB with its envelope.
pub const INBOX_COMMAND_BYTES_MAX: usize = 2 * 1024 * 1024;
/// After this a half-written command is left over from a sender that was killed.
const LEFTOVER_AGE: Duration = Duration::from_secs(3_600);
/// One look takes no further command once it has so many bytes: four of the longest. Whoever takes
/// them forgets them and looks again.
const PAGE_BYTES: usize = 4 * INBOX_COMMAND_BYTES_MAX;
const MAGIC: [u8; 4] = *b"ARCm";

/// Leaves a command for whoever holds the store in `directory`, or opens it next. When it
/// returns, the command survives the loss of power. Leaving the same id again changes nothing.
///
/// It may be called beside a writer, by the same user: what another one leaves may not be read,
/// and is told with the files that are no commands. It blocks on the disk for a few milliseconds.
///
/// # Errors
/// [`InboxError`]; on none of them the command is waiting, except that after
/// [`InboxError::Io`] it may be.
pub fn submit_command(directory: &Path, id: CommitId, body: &[u8]) -> Result<(), InboxError> {
    if body.len() > INBOX_COMMAND_BYTES_MAX {
        return Err(InboxError::TooLarge {
            id,
            bytes: body.len(),
            max: INBOX_COMMAND_BYTES_MAX,
        });
    }
    let layout = Layout::new(directory);
    let inbox = layout.path(INBOX);
    let failed = |error: io::Error| InboxError::Io {
        path: inbox.clone(),
        source: Arc::new(error),
    };
    let is_store = fs::kind(&layout.path(FORMAT)).map_err(failed)? == Some(fs::Kind::File)
        && fs::kind(&inbox).map_err(failed)? == Some(fs::Kind::Directory);
    if !is_store {
        return Err(InboxError::NoStore {
            directory: directory.to_owned(),
        });
    }
    let names = fs::names(&inbox).map_err(failed)?;
    let waiting = names.iter().filter(|name| command_id(name).is_some());
    let name = id.to_string();
    if names.binary_search(&name).is_ok() {
        // Whoever left it may have been killed before its name was durable.
        return fs::sync_directory(&inbox).map_err(failed);
    }
    let waiting = waiting.count();
    if waiting >= INBOX_COMMANDS_MAX {
        return Err(InboxError::Full { waiting });
    }
    fs::write_whole(&inbox, &name, &seal(id, body)).map_err(failed)
}

pub(crate) fn command_id(name: &str) -> Option<CommitId> {
    let id: CommitId = name.parse().ok()?;
    (id.to_string() == name).then_some(id)
}

fn is_temporary(name: &str) -> bool {
    fs::temporary_of(name).is_some_and(|name| command_id(name).is_some())
}

pub(crate) fn seal(id: CommitId, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 8);
    out.extend(MAGIC);
    out.extend(checksum(id, body).to_le_bytes());
    out.extend(body);
    out
}

pub(crate) fn unseal(id: CommitId, bytes: &[u8]) -> Option<&[u8]> {
    let mut fields = Bytes(bytes);
    let known = fields.array()? == MAGIC;
    let expected = fields.u32()?;
    (known && checksum(id, fields.0) == expected).then_some(fields.0)
}

fn checksum(id: CommitId, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(id.as_uuid().as_bytes()), body)
}

/// The holder's side.
#[derive(Debug)]
pub(crate) struct Inbox {
    directory: PathBuf,
}

impl Inbox {
    pub(crate) fn new(layout: &Layout) -> Self {
        Self {
            directory: layout.path(INBOX),
        }
    }

    /// Returns the first waiting commands, as many as one look takes, and the names of the files
    /// before them that are none.
    pub(crate) fn page(&self) -> io::Result<(Vec<InboxCommand>, Vec<String>)> {
        let Waiting { ids, mut foreign } = self.waiting()?;
        let mut commands = Vec::new();
        let mut bytes = 0;
        for id in ids {
            if commands.len() >= INBOX_COMMANDS_MAX || bytes >= PAGE_BYTES {
                break;
            }
            match self.read(id)? {
                Found::Command(body) => {
                    bytes += body.len();
                    commands.push(InboxCommand { id, body });
                }
                Found::Damaged => foreign.push(id.to_string()),
                Found::Gone => {}
            }
        }
        Ok((commands, foreign))
    }

    /// Removes what senders that were killed left half-written, so long ago that none of them can
    /// be at it still.
    pub(crate) fn remove_leftovers(&self, now: Timestamp) -> io::Result<()> {
        let now = Duration::from_millis(now.as_millis());
        for name in fs::names(&self.directory)? {
            if !is_temporary(&name) {
                continue;
            }
            let path = self.directory.join(&name);
            match fs::modified(&path) {
                Ok(modified) if now.saturating_sub(modified) < LEFTOVER_AGE => {}
                Ok(_) => fs::remove_file(&path)?,
                // It has got its name since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads every command once; says which names are of damaged ones, and which of none.
    pub(crate) fn check(&self) -> io::Result<Checked> {
        let Waiting { ids, foreign } = self.waiting()?;
        let mut damaged = Vec::new();
        for id in ids {
            if matches!(self.read(id)?, Found::Damaged) {
                damaged.push(id.to_string());
            }
        }
        Ok(Checked { damaged, foreign })
    }

    fn waiting(&self) -> io::Result<Waiting> {
        Ok(sort_names(fs::names(&self.directory)?))
    }

    fn read(&self, id: CommitId) -> io::Result<Found> {
        let path = self.directory.join(id.to_string());
        match fs::kind(&path)? {
            Some(fs::Kind::File) => {}
            // The holder has forgotten it since it was listed.
            None => return Ok(Found::Gone),
            Some(_) => return Ok(Found::Damaged),
        }
        let file = match fs::open_read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Gone),
            // Left by another user. It must not keep the commands beside it from being taken.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Ok(Found::Damaged);
            }
            file => file?,
        };
        let bytes = fs::length(&file)?;
        if bytes > INBOX_COMMAND_BYTES_MAX as u64 + 8 {
            return Ok(Found::Damaged);
        }
        let bytes = fs::read_range(&file, 0, bytes)?;
        Ok(match unseal(id, &bytes) {
            Some(body) => Found::Command(body.into()),
            None => Found::Damaged,
        })
    }
}

/// What stands under the name of a command.
enum Found {
    Command(Payload),
    /// It is none, is not whole any more, or may not be read.
    Damaged,
    Gone,
}

/// The names in the inbox.
struct Waiting {
    /// Of commands, in the order in which they are taken.
    ids: Vec<CommitId>,
    foreign: Vec<String>,
}

/// Files of the inbox that are no commands.
#[derive(Debug)]
pub(crate) struct Checked {
    /// They have the names of commands.
    pub(crate) damaged: Vec<String>,
    pub(crate) foreign: Vec<String>,
}

fn sort_names(names: Vec<String>) -> Waiting {
    let mut ids = Vec::new();
    let mut foreign = Vec::new();
    for name in names {
        match command_id(&name) {
            Some(id) => ids.push(id),
            // Still being written, or its sender was killed.
            None if is_temporary(&name) => {}
            None => foreign.push(name),
        }
    }
    // A derived id has no time and comes first; the ids of one time are in the order made.
    ids.sort_by_key(|id: &CommitId| (id.timestamp().map(Timestamp::as_millis), *id));
    Waiting { ids, foreign }
}

#[async_trait]
impl CommandInbox for Inbox {
    async fn commands(&self) -> Result<Vec<InboxCommand>, ReadError> {
        let (commands, foreign) = self
            .page()
            .map_err(|error| unavailable("read the inbox", error))?;
        for name in foreign {
            tracing::warn!(%name, "a file in the inbox is no command; it is left there");
        }
        Ok(commands)
    }

    async fn forget(&self, id: &CommitId) -> Result<(), ReadError> {
        let path = self.directory.join(id.to_string());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(unavailable("forget a command", error))
            }
            _ => Ok(()),
        }
    }
}
