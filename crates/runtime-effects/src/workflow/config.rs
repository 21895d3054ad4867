//! How an instance drives processes, and what closing it says.

use std::time::Duration;

use runtime_core::WireError;

/// How an instance drives processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkflowConfig {
    /// How many processes are driven at once; what waits does not count.
    pub running_max: usize,
    /// How often in a row driving a process may fail in a way that may pass (the store is busy),
    /// before it is left until somebody wakes it or the next instance opens.
    pub failures_max: u32,
    /// The pause after the first such failure; it doubles each time.
    pub failure_pause: Duration,
    /// Whether every unfinished process goes on when the instance opens; without it, only what is
    /// started or woken through this instance is driven.
    pub resume: bool,
    /// How long a wait holds its room before the process parks; zero holds none.
    pub park_after: Duration,
    /// Whether a process that nothing here runs is parked, so that it is seen; otherwise it stays
    /// as it is, for an instance that knows its function.
    pub park_unknown: bool,
    /// How long closing waits for what is driven.
    pub drain_timeout: Duration,
    /// What ended so long ago is retired (E16); none keeps it for ever.
    pub retire_after: Option<Duration>,
    /// How often it is looked for what is to be retired, and on a store that several processes
    /// share, for what they have settled.
    pub housekeeping_interval: Duration,
}

impl Default for WorkflowConfig {
    fn default() -> Self {
        Self {
            running_max: 64,
            failures_max: 5,
            failure_pause: Duration::from_millis(100),
            resume: true,
            park_after: Duration::ZERO,
            park_unknown: true,
            drain_timeout: Duration::from_secs(5),
            retire_after: Some(Duration::from_secs(7 * 24 * 60 * 60)),
            housekeeping_interval: Duration::from_secs(1),
        }
    }
}

/// What closing did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WorkflowCloseReport {
    /// Processes that were driven when the drain ended; they go on when the runtime opens again.
    pub interrupted: usize,
    /// What failed and no process's record tells, the newest last; at most 64.
    pub failures: Vec<WireError>,
}
