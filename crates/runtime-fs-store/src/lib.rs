//! The embedded store: one directory, no server, a segmented log that cannot lose an acknowledged event.
