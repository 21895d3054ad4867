//! The lock of a directory: one instance writes at a time (S1).

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use runtime_core::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::OpenError;
use crate::fs::{self, File};

/// How long the loser of a race reads the lock file again while its winner signs it. The winner
/// needs microseconds, unless its thread has to wait for a processor.
const HOLDER_WAIT_MAX: Duration = Duration::from_secs(2);
const HOLDER_POLL: Duration = Duration::from_millis(1);

/// Who holds a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process.
    pub pid: u32,
    /// This opening of it; a random text.
    pub instance: String,
    /// Since when.
    pub opened_at: Timestamp,
    /// The start of the machine that it runs under, if that is known. What a process left in the
    /// page cache is there as long as the machine has not started again.
    #[serde(default)]
    pub boot: Option<String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.pid)
    }
}

/// Says who has a store open for writing, if anybody; a store that does not exist has nobody.
///
/// It looks and does not wait. Only where the last holder still runs is the lock tried, for as
/// long as that takes: an instance that opens the store in that very moment is told Busy.
///
/// # Errors
/// [`OpenError::Io`] when the lock file cannot be read.
pub fn holder(directory: &Path) -> Result<Option<Holder>, OpenError> {
    let path = directory.join("lock");
    let file = match fs::open_read(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::io("open", &path, error)),
    };
    let Some(holder) = read_holder(&file).filter(is_alive) else {
        return Ok(None);
    };
    let free = fs::try_lock(&file).map_err(|e| OpenError::io("lock", &path, e))?;
    if free {
        fs::unlock(&file).map_err(|e| OpenError::io("unlock", &path, e))?;
    }
    Ok((!free).then_some(holder))
}

/// A held lock; dropping it, or the end of the process, lets go.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Where this fails, closing the file lets go of it.
        let _ = fs::unlock(&self.file);
    }
}

impl Lock {
    /// Takes the lock and signs it; returns who held it before, if that can be read. The start of
    /// the machine stays that of the one before until [`sign`](Self::sign): whoever only tried to
    /// open the store has not looked at what was lost with it.
    pub(crate) fn take(
        directory: &Path,
        holder: &Holder,
    ) -> Result<(Self, Option<Holder>), OpenError> {
        let path = directory.join("lock");
        let file = fs::open_or_create(&path).map_err(|e| OpenError::io("open", &path, e))?;
        if !fs::try_lock(&file).map_err(|e| OpenError::io("lock", &path, e))? {
            return Err(OpenError::Busy {
                directory: directory.to_owned(),
                holder: read_living_holder(&file),
            });
        }
        let lock = Self { file };
        let before = read_holder(&lock.file);
        lock.sign(&Holder {
            boot: before.as_ref().and_then(|before| before.boot.clone()),
            ..holder.clone()
        })
        .map_err(|e| OpenError::io("write", &path, e))?;
        Ok((lock, before))
    }

    /// Says in the file who holds it.
    pub(crate) fn sign(&self, holder: &Holder) -> std::io::Result<()> {
        let mut text = serde_json::to_vec(holder)?;
        text.push(b'\n');
        // Cut first: a reader in between finds nothing rather than a mixture of two holders.
        self.file.set_len(0)?;
        fs::write_all_at(&self.file, &text, 0)
    }
}

/// Reads who holds the lock. Between taking and signing, the file still names an earlier holder,
/// which does not run any more, or nobody: then it is read again.
fn read_living_holder(file: &File) -> Option<Holder> {
    let until = Instant::now() + HOLDER_WAIT_MAX;
    loop {
        let found = read_holder(file);
        if found.as_ref().is_some_and(is_alive) || Instant::now() > until {
            return found;
        }
        std::thread::sleep(HOLDER_POLL);
    }
}

fn read_holder(file: &File) -> Option<Holder> {
    let bytes = fs::read_range(file, 0, fs::length(file).ok()?).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn is_alive(holder: &Holder) -> bool {
    let pid = i32::try_from(holder.pid).ok();
    let pid = pid.and_then(rustix::process::Pid::from_raw);
    // A process of somebody else answers with a refusal, and lives.
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

#[cfg(test)]
#[cfg(not(feature = "simulation"))]
mod tests {
    use super::*;

    /// S1: a child that is being started has all files of its parent open for a moment. A store
    /// that was closed, or only asked for its holder, can be opened all the same.
    #[test]
    fn s1_what_a_child_inherits_does_not_hold_the_lock() {
        let directory = tempfile::tempdir().expect("there is a place for temporary files");
        let me = Holder {
            pid: std::process::id(),
            instance: "a".to_owned(),
            opened_at: Timestamp::from_millis(1),
            boot: None,
        };
        let (lock, _) = Lock::take(directory.path(), &me).expect("it is free");
        let inherited = lock.file.try_clone().expect("it can be opened twice");
        assert!(Lock::take(directory.path(), &me).is_err(), "it is held");
        drop(lock);
        assert_eq!(holder(directory.path()).expect("it can be read"), None);
        Lock::take(directory.path(), &me).expect("it is free again");
        drop(inherited);
    }
}
