//! Ctrl-C, heard from when the listening begins on: one that comes while something else is being
//! done is not missed.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens for Ctrl-C; from its first listener on, the signal no longer ends this process by
/// itself.
#[derive(Debug)]
pub(crate) struct Interrupts(Signal);

impl Interrupts {
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::interrupt())?))
    }

    /// Waits for the next one. Dropping the future loses none.
    pub(crate) async fn next(&mut self) {
        // The stream of a signal does not end.
        let _ = self.0.recv().await;
    }
}
