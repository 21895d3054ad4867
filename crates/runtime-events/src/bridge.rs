//! The bridge for programs that have their own broadcast of agent events (V10).

use std::any::Any;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, Stream, StreamExt};
use runtime_core::{Classified, Clock, ErrorClass, EventDraft, EventKind};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::{AppendError, BridgeError, EventBatch, EventHub, EventLog, LogEvent};

/// What comes from the program's own broadcast.
#[derive(Debug, Clone, PartialEq)]
pub enum BridgeInput {
    /// An event. Its id makes appending it again harmless.
    Event(LogEvent),
    /// The source itself lost so many events: an ordinary durable event tells of it (V4).
    Lagged {
        /// How many.
        skipped: u64,
    },
}

/// Bounds of a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeConfig {
    /// The name of the source, as gap events show it.
    pub source: String,
    /// How many events wait in the channel of [`EventHub::bridge_channel`].
    pub input_events_max: usize,
    /// How many events `close` still takes from a source that does not end.
    pub drain_events_max: usize,
    /// How often an append that may succeed later is tried.
    pub attempts_max: u32,
    /// The pause between two attempts.
    pub retry_pause: Duration,
}

impl Default for BridgeConfig {
    fn default() -> Self {
        Self {
            source: "bridge".to_owned(),
            input_events_max: 256,
            drain_events_max: 65_536,
            attempts_max: 5,
            retry_pause: Duration::from_millis(200),
        }
    }
}

/// What a bridge has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BridgeCounts {
    /// Events that were appended, and so published.
    pub appended: u64,
    /// Events that had been appended before.
    pub repeated: u64,
    /// Gaps that the source reported.
    pub gaps: u64,
    /// Attempts that failed and were repeated.
    pub retries: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Run,
    /// Take what is there, then end.
    Drain,
    /// End after the append under way.
    Stop,
}

/// The running bridge. Dropping it is [`abort`](Self::abort).
#[derive(Debug)]
pub struct BridgeHandle {
    mode: watch::Sender<Mode>,
    task: JoinHandle<Result<BridgeCounts, BridgeError>>,
}

/// The input of a bridge: waits while the log is slower than its producer.
#[derive(Debug, Clone)]
pub struct BridgeSender {
    input: mpsc::Sender<BridgeInput>,
}

impl BridgeSender {
    /// Hands over an event. It is stored later: [`BridgeHandle::close`] says so.
    ///
    /// # Errors
    /// [`BridgeError::Cancelled`] when the bridge has ended; its `join` says why.
    ///
    /// # Cancel safety
    /// Dropping the future hands over nothing.
    pub async fn send(&self, input: BridgeInput) -> Result<(), BridgeError> {
        let sent = self.input.send(input).await;
        sent.map_err(|_| BridgeError::Cancelled)
    }
}

impl BridgeHandle {
    /// Appends what the source has ready now, ends, and counts.
    ///
    /// # Errors
    /// [`BridgeError`]: how the bridge ended instead.
    pub async fn close(self) -> Result<BridgeCounts, BridgeError> {
        self.mode.send_if_modified(|mode| {
            let runs = *mode == Mode::Run;
            if runs {
                *mode = Mode::Drain;
            }
            runs
        });
        self.join().await
    }

    /// Ends the bridge after the append and publication under way; twice is once.
    pub fn abort(&self) {
        self.mode.send_replace(Mode::Stop);
    }

    /// Says whether the bridge has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits for the end: of the source, or by `abort`.
    ///
    /// # Errors
    /// [`BridgeError`].
    pub async fn join(self) -> Result<BridgeCounts, BridgeError> {
        let Self { mode, task } = self;
        let ended = task.await;
        drop(mode);
        match ended {
            Ok(ended) => ended,
            Err(error) => Err(match error.try_into_panic() {
                Ok(panic) => BridgeError::Panicked {
                    text: panic_text(&*panic),
                },
                Err(_) => BridgeError::Cancelled,
            }),
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a text".to_owned())
}

impl EventHub {
    /// Attaches a program's own broadcast: each of its events is appended, then published, and
    /// the next is taken only after that.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn bridge(
        &self,
        source: impl Stream<Item = BridgeInput> + Send + 'static,
        config: BridgeConfig,
    ) -> BridgeHandle {
        let (mode, modes) = watch::channel(Mode::Run);
        let bridge = Bridge {
            log: self.log(),
            clock: Arc::clone(&self.shared.clock),
            config,
            modes,
            counts: BridgeCounts::default(),
        };
        let task = tokio::spawn(bridge.run(source));
        BridgeHandle { mode, task }
    }

    /// Attaches a program by a bounded channel. The bridge ends when every sender is gone.
    ///
    /// # Panics
    /// Outside of a tokio runtime, or if the channel is to hold no event.
    #[must_use]
    pub fn bridge_channel(&self, config: BridgeConfig) -> (BridgeSender, BridgeHandle) {
        let (input, output) = mpsc::channel(config.input_events_max);
        let source = futures_util::stream::unfold(output, |mut output| async {
            let input = output.recv().await?;
            Some((input, output))
        });
        (BridgeSender { input }, self.bridge(source, config))
    }
}

struct Bridge {
    log: EventLog,
    clock: Arc<dyn Clock>,
    config: BridgeConfig,
    modes: watch::Receiver<Mode>,
    counts: BridgeCounts,
}

impl Bridge {
    async fn run(
        mut self,
        source: impl Stream<Item = BridgeInput> + Send,
    ) -> Result<BridgeCounts, BridgeError> {
        let mut source = pin!(source);
        loop {
            let next = tokio::select! {
                biased;
                mode = stopped(&mut self.modes) => match mode {
                    Mode::Drain => break,
                    Mode::Run | Mode::Stop => return Err(BridgeError::Cancelled),
                },
                next = source.next() => next,
            };
            // Outside of the select: an append under way is never given up in the middle.
            match next {
                Some(input) => self.take(input).await?,
                None => return Ok(self.counts),
            }
        }
        for _ in 0..self.config.drain_events_max {
            // Unconstrained: a used-up budget of the task must not look like an empty source.
            let ready = tokio::task::unconstrained(source.next()).now_or_never();
            let Some(Some(input)) = ready else {
                break;
            };
            if *self.modes.borrow() == Mode::Stop {
                return Err(BridgeError::Cancelled);
            }
            self.take(input).await?;
        }
        Ok(self.counts)
    }

    async fn take(&mut self, input: BridgeInput) -> Result<(), BridgeError> {
        let event = match input {
            BridgeInput::Event(event) => event,
            BridgeInput::Lagged { skipped } => {
                self.counts.gaps += 1;
                self.log.event(gap(&self.config.source, skipped))
            }
        };
        let id = event.id;
        let batch = EventBatch::new([event]);
        for attempt in 1.. {
            let error = match self.log.append(batch.clone()).await {
                Ok(appended) => {
                    let counts = &mut self.counts;
                    let count = if appended.repeated {
                        &mut counts.repeated
                    } else {
                        &mut counts.appended
                    };
                    *count += 1;
                    return Ok(());
                }
                Err(error) => error,
            };
            let stopped = *self.modes.borrow() == Mode::Stop;
            if stopped || attempt >= self.config.attempts_max || !may_succeed_later(&error) {
                return Err(BridgeError::Append { id, error });
            }
            self.counts.retries += 1;
            self.clock.sleep(self.config.retry_pause).await;
        }
        Ok(())
    }
}

/// Waits until the bridge is to end.
async fn stopped(modes: &mut watch::Receiver<Mode>) -> Mode {
    match modes.wait_for(|mode| *mode != Mode::Run).await {
        Ok(mode) => *mode,
        // The handle was dropped.
        Err(_) => Mode::Stop,
    }
}

/// Appending the same event again is harmless, so an unknown outcome is tried again as well.
fn may_succeed_later(error: &AppendError) -> bool {
    let class = error.class();
    class.is_retryable() || class == ErrorClass::Indeterminate
}

fn gap(source: &str, skipped: u64) -> EventDraft {
    EventDraft::new(EventKind::Diagnostic)
        .with_message(format!(
            "{source} lost {skipped} events before they were stored"
        ))
        .with_payload(json!({
            "code": "bridge.source_lagged",
            "severity": "warning",
            "source": source,
            "skipped": skipped,
        }))
}
