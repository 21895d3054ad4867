//! The event log and its streams: replay, join and live as one unbroken sequence.
