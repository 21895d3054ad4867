//! Limits of a runtime, with their defaults.

use std::time::Duration;

use runtime_turn::TurnBudgets;

/// What bounds a runtime.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// The largest input, in bytes.
    pub input_bytes_max: usize,
    /// The longest reason of a stop or cancel, in bytes.
    pub reason_bytes_max: usize,
    /// How many inputs may wait for one worker; one more is answered Busy.
    pub queue_max: u32,
    /// How often the inbox and the due turns are looked at.
    pub housekeeping_interval: Duration,
    /// How long a wait holds its task before the turn parks (E9).
    pub park_after: Duration,
    /// How long `close` lets running turns go on before it drops them; they resume later.
    pub drain_timeout: Duration,
    /// How often a commit is tried again when another one came first.
    pub contention_attempts: u32,
    /// What a turn may spend; recorded with its start, so a change reaches new turns only.
    pub turn_budgets: TurnBudgets,
    /// How often a commit is submitted while the store says that it is unavailable.
    pub commit_attempts_max: u32,
    /// The pause after the first such try; it doubles each time.
    pub commit_pause: Duration,
    /// How often a turn that could not be driven is tried again before that is reported; it then
    /// stays as it is until it is resumed by hand or by the next opening.
    pub drive_attempts_max: u32,
    /// The pause after the first such failure; it doubles each time.
    pub drive_pause: Duration,
    /// The conversations kept in memory; others are read from the store when needed.
    pub resident_sessions_max: usize,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            input_bytes_max: 1024 * 1024,
            reason_bytes_max: 4096,
            queue_max: 1024,
            housekeeping_interval: Duration::from_millis(100),
            park_after: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(5),
            contention_attempts: 64,
            turn_budgets: TurnBudgets::default(),
            commit_attempts_max: 5,
            commit_pause: Duration::from_millis(20),
            drive_attempts_max: 6,
            drive_pause: Duration::from_millis(100),
            resident_sessions_max: 256,
        }
    }
}
