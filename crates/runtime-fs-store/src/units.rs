//! The events of one segment each: for retention, and for finding positions.

use runtime_core::Timestamp;

use crate::bytes::Bytes;

/// The events of one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unit {
    /// The segment, or a base.
    pub(crate) segment: u32,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) newest: Timestamp,
    pub(crate) bytes: u64,
}

impl Unit {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.segment.to_le_bytes());
        out.extend(self.first.to_le_bytes());
        out.extend(self.last.to_le_bytes());
        out.extend(self.newest.as_millis().to_le_bytes());
        out.extend(self.bytes.to_le_bytes());
    }

    pub(crate) fn read(fields: &mut Bytes<'_>) -> Option<Self> {
        Some(Self {
            segment: fields.u32()?,
            first: fields.u64()?,
            last: fields.u64()?,
            newest: Timestamp::from_millis(fields.u64()?),
            bytes: fields.u64()?,
        })
    }
}

/// The units that hold positions after `after`, in order.
pub(crate) fn after(units: &[Unit], after: u64) -> &[Unit] {
    &units[units.partition_point(|unit| unit.last <= after)..]
}
