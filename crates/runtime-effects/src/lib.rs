//! Durable effects: replay, in-doubt reports, signed promises, over any store.
