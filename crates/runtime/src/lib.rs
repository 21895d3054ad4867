//! An embeddable, durable agent runtime: agents that survive anything.
