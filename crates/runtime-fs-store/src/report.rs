//! What opening or verifying a store found.

use std::ops::Range;

use serde::Serialize;

/// A tail that was cut on opening: what the crash left half-written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CutTail {
    /// The segment.
    pub segment: u32,
    /// Where it was cut.
    pub offset: u64,
    /// How many bytes were cut.
    pub bytes: u64,
    /// The file inside the store that keeps them; none when opened for verification only.
    pub kept_as: Option<String>,
    /// The cut bytes may hold a commit that was acknowledged: a crash leaves the same bytes
    /// behind as damage to the very last synced frame.
    pub possibly_acknowledged: bool,
}

/// Real damage: bytes that were synced are not what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Damage {
    /// The header of a segment file.
    SegmentHeader {
        /// The segment.
        segment: u32,
    },
    /// The header of a frame, or bytes that are missing: the store is read-only until repaired.
    Header {
        /// The segment.
        segment: u32,
        /// Where.
        bytes: Range<u64>,
    },
    /// The payload of a frame: what its header names is read-only, the rest is not touched.
    Payload {
        /// The segment.
        segment: u32,
        /// The bytes of the frame.
        bytes: Range<u64>,
        /// The positions of the events that are lost.
        positions: Range<u64>,
        /// The scopes and streams that its commit touched.
        names: Vec<String>,
    },
    /// A record of a kind that this version must know and does not: the store is read-only.
    UnknownRecord {
        /// The segment.
        segment: u32,
        /// The bytes of its frame.
        bytes: Range<u64>,
        /// Its kind.
        record: u8,
        /// Its schema.
        schema: u8,
    },
    /// The log ends before what was published as durable: somebody cut the file, or the disk
    /// lost what it had synced. At tier `Crash` a loss of power does the same.
    LostTail {
        /// The segment in which the log ends.
        segment: u32,
        /// Where it ends.
        offset: u64,
        /// The last position that was published.
        published: u64,
    },
    /// A checkpoint or a sidecar, found by [`verify`](crate::verify): nothing is lost, it is made
    /// anew when it is needed.
    Cache {
        /// The file, inside the store.
        file: String,
    },
    /// A command in the inbox, left there by another process, whose bytes are not those that were
    /// written: it cannot be taken. Repairing puts it aside; its sender has to leave it again.
    Command {
        /// The file, inside the store.
        file: String,
    },
    /// An attachment whose bytes are not those of its name.
    Attachment {
        /// The file, inside the store.
        file: String,
    },
    /// An attachment that is named by what is alive is not there, as after a repair that put a
    /// damaged one aside. Put the file back from a copy, or put the same bytes anew.
    MissingAttachment {
        /// The file, inside the store.
        file: String,
    },
}

/// What opening a store found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OpenReport {
    /// The store was created now.
    pub created: bool,
    /// The instance before closed the store; false after a crash, and for a new store true.
    pub closed_in_order: bool,
    /// The tail that was cut.
    pub cut: Option<CutTail>,
    /// The damage found.
    pub damage: Vec<Damage>,
    /// Why no commit is taken, if none is.
    pub read_only: Option<String>,
    /// Positions that readers may have seen are gone, so the lineage is a new one (V6).
    pub lineage_renewed: bool,
    /// Files in the directory that are not the store's; they are left alone.
    pub foreign: Vec<String>,
    /// Checkpoints that were not believed: damaged, or not of this log. Nothing is lost; they are
    /// made anew.
    pub unusable_checkpoints: Vec<String>,
    /// How many frames were read, marks included; those in a checkpoint are not.
    pub frames: u64,
    /// How many commits were read; those in a checkpoint are not.
    pub commits: u64,
    /// The last position.
    pub events: u64,
}
