//! Faults that a simulation plants on its own thread, to see that its checks find them.

use std::cell::Cell;
use std::io;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A file is never synced, though that is reported.
    NoFileSync,
    /// A directory is never synced, though that is reported.
    NoDirectorySync,
    /// A file that gets its name by a rename is synced neither before nor after it.
    NoRenameSync,
    /// No checksum holds an incarnation, and after a cut the same segment goes on.
    NoIncarnation,
    /// A cleaning removes files before the base that stands for them has its name.
    RemovesFirst,
    /// After a cleaning that failed the next one begins from whatever base has a name.
    CleansOn,
    /// A segment is sealed, and so handed to a checkpoint, before it is synced.
    SealsUnsynced,
    /// A checkpoint or sidecar gets its name before it is synced. It is a cache: nothing is
    /// lost.
    NoCacheSync,
    /// The same, and its blocks are believed without their checksums.
    UncheckedCaches,
    /// A checkpoint is believed without a look at the log that it stands on.
    AnyCheckpoint,
    /// An operation fails.
    Fails(Failure),
}

/// An operation that fails once; those after it go well again, which a store must not try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// Which one.
    pub operation: Operation,
    /// How many go well before it.
    pub after: u32,
    /// The number of the error, such as that of EIO.
    pub error: i32,
}

/// What can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A write of one sector.
    Write,
    /// A write of one sector of which a part is written.
    ShortWrite,
    /// A sync of a file or directory.
    Sync,
    /// A rename.
    Rename,
    /// Opening or creating a file.
    Open,
}

thread_local! {
    static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
    static FAILURE: Cell<Option<Failure>> = const { Cell::new(None) };
    static FAILED: Cell<bool> = const { Cell::new(false) };
    static SYNCS: Cell<u64> = const { Cell::new(0) };
    static TEMPORARIES: Cell<u64> = const { Cell::new(0) };
}

pub(super) fn next_temporary() -> u64 {
    TEMPORARIES.replace(TEMPORARIES.get() + 1)
}

/// Plants a fault on this thread, or removes it.
pub fn plant(fault: Option<Fault>) {
    let failure = match fault {
        Some(Fault::Fails(failure)) => Some(failure),
        _ => None,
    };
    PLANTED.set(fault);
    FAILURE.set(failure);
    FAILED.set(false);
}

/// Lets an operation fail beside the fault that is planted.
pub fn plant_failure(failure: Failure) {
    FAILURE.set(Some(failure));
    FAILED.set(false);
}

/// Says whether the planted failure has come.
#[must_use]
pub fn has_failed() -> bool {
    FAILED.get()
}

/// Returns how many syncs were asked for on this thread.
#[must_use]
pub fn syncs() -> u64 {
    SYNCS.get()
}

pub(crate) fn is(fault: Fault) -> bool {
    PLANTED.get() == Some(fault)
}

pub(super) fn before(operation: Operation) -> io::Result<()> {
    if operation == Operation::Sync {
        SYNCS.set(SYNCS.get() + 1);
    }
    let Some(mut failure) = FAILURE.get() else {
        return Ok(());
    };
    if failure.operation != operation || FAILED.get() {
        return Ok(());
    }
    if failure.after == 0 {
        FAILED.set(true);
        return Err(io::Error::from_raw_os_error(failure.error));
    }
    failure.after -= 1;
    FAILURE.set(Some(failure));
    Ok(())
}
