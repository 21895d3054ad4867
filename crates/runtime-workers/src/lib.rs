//! The runtime entity: catalogue of workers, sessions, queues, resume.
