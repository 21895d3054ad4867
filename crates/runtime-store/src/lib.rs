//! The contract of a store: one atomic commit, reads, attachments; and a store in memory.
