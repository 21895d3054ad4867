//! The log run by its caller, for simulations: their file system lives on one thread.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use runtime_core::Clock;
use runtime_store::CommitError;

use crate::checkpoints::{Checkpointer, Checkpoints};
use crate::config::FsLimits;
use crate::log::{Answer, Log, Sealed, Submission};

/// Stands in for the thread.
#[derive(Debug)]
pub(crate) struct Writer {
    log: Mutex<Option<Log>>,
    checkpoints: Arc<Checkpoints>,
    checkpointer: Checkpointer,
}

impl Writer {
    pub(crate) fn start(
        log: Log,
        checkpoints: Arc<Checkpoints>,
        _: Arc<dyn Clock>,
        _: FsLimits,
    ) -> io::Result<Self> {
        Ok(Self {
            log: Mutex::new(Some(log)),
            checkpointer: Checkpointer::start(Arc::clone(&checkpoints))?,
            checkpoints,
        })
    }

    #[expect(clippy::unused_async, reason = "the same signature as the thread's")]
    pub(crate) async fn submit(&self, submission: Submission) -> Result<Answer, CommitError> {
        self.submit_group(vec![submission])
            .pop()
            .expect("one answer per submission")
    }

    /// Runs commits as one group.
    pub(crate) fn submit_group(&self, group: Vec<Submission>) -> Vec<Result<Answer, CommitError>> {
        match &mut *self.lock() {
            Some(log) => {
                if let Some(number) = log.take_sealed() {
                    self.checkpointer.sealed(number);
                }
                log.run(group)
            }
            None => group.iter().map(|_| Err(closed())).collect(),
        }
    }

    /// Does what the thread does when nothing happens for a while.
    pub(crate) fn mark(&self) {
        if let Some(log) = &mut *self.lock()
            && log.needs_mark()
        {
            log.mark();
        }
    }

    #[expect(clippy::unused_async, reason = "the same signature as the thread's")]
    pub(crate) async fn seal(&self) -> Result<Sealed, String> {
        match &mut *self.lock() {
            Some(log) => log.seal(),
            None => Err("the store is closed".to_owned()),
        }
    }

    #[expect(clippy::unused_async, reason = "the same signature as the thread's")]
    pub(crate) async fn close(&self) -> Result<(), String> {
        self.checkpoints.end();
        self.lock().take().map_or(Ok(()), |mut log| log.close())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Log>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn closed() -> CommitError {
    CommitError::ReadOnly {
        reason: "the store is closed".to_owned(),
    }
}
