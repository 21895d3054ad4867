//! Limits of a runtime, with their defaults.

use std::time::Duration;

use runtime_effects::{LeaseConfig, ProcessLimits, WorkflowConfig};
use runtime_events::RetentionPolicy;
use runtime_turn::TurnBudgets;
use serde::{Deserialize, Serialize};

use crate::{OtherDeployment, RuntimeError};

/// What a runtime accepts. Kept with the runtime: opening it again keeps what is stored unless
/// other limits are given (W1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RuntimeLimits {
    /// The largest input, in bytes.
    pub input_bytes_max: usize,
    /// The longest reason of a stop, a cancel or a capability, in bytes.
    pub reason_bytes_max: usize,
    /// The longest name or reference in a request for a worker, in bytes.
    pub reference_bytes_max: usize,
    /// The most capabilities, workspaces or mounts of one worker.
    pub references_max: usize,
    /// How many inputs may wait for one worker; one more is answered Busy.
    pub queue_max: u32,
    /// How many turns run at once in the whole runtime, over all of its instances; further ones
    /// wait until there is room, whatever an instance could drive. A parked turn is none of them.
    /// No limit if none.
    pub turns_running_max: Option<u32>,
}

impl Default for RuntimeLimits {
    fn default() -> Self {
        Self {
            input_bytes_max: 1024 * 1024,
            reason_bytes_max: 4096,
            reference_bytes_max: 4096,
            references_max: 64,
            queue_max: 1024,
            turns_running_max: None,
        }
    }
}

impl RuntimeLimits {
    /// Names the limits that allow nothing: each is at least 1 (W4).
    pub(crate) fn zeros(&self) -> impl Iterator<Item = &'static str> {
        let limits = [
            ("input_bytes_max", self.input_bytes_max),
            ("reason_bytes_max", self.reason_bytes_max),
            ("reference_bytes_max", self.reference_bytes_max),
            ("references_max", self.references_max),
            ("queue_max", self.queue_max as usize),
            (
                "turns_running_max",
                self.turns_running_max.map_or(1, |max| max as usize),
            ),
        ];
        let zeros = limits.into_iter().filter(|(_, value)| *value == 0);
        zeros.map(|(limit, _)| limit)
    }

    /// Checks a text that must say something.
    pub(crate) fn check_text(
        &self,
        what: &'static str,
        text: &str,
        max: usize,
    ) -> Result<(), RuntimeError> {
        if text.trim().is_empty() {
            return Err(RuntimeError::Blank { what });
        }
        if text.len() > max {
            return Err(RuntimeError::TooLong {
                what,
                bytes: text.len(),
                max,
            });
        }
        Ok(())
    }

    pub(crate) fn check_count(&self, what: &'static str, count: usize) -> Result<(), RuntimeError> {
        if count > self.references_max {
            return Err(RuntimeError::TooMany {
                what,
                count,
                max: self.references_max,
            });
        }
        Ok(())
    }
}

/// How this instance works. Nothing of it is stored.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// How many turns this instance drives at once; further ones wait until there is room. A
    /// parked turn takes none. Each instance of a shared runtime has its own bound, and
    /// [`RuntimeLimits::turns_running_max`] is that of all together; of one worker there is one
    /// turn at a time.
    pub turns_max: usize,
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
    /// How long the lease of this instance lasts, where the store is shared by processes (E5).
    pub lease: LeaseConfig,
    /// What becomes of an unfinished turn that started under another deployment (E17).
    pub other_deployment: OtherDeployment,
    /// How processes are driven. One that nothing here runs stays as it is, unless told otherwise:
    /// another instance, or a later one, may know its function.
    pub workflows: WorkflowConfig,
    /// The bounds of processes.
    pub processes: ProcessLimits,
    /// How deep sub-agents may start sub-agents.
    pub sub_agent_depth_max: u32,
    /// What is kept of the log; all of it if none (V9). Live workers forget nothing by it.
    pub retention: Option<RetentionPolicy>,
    /// How often it is looked at what may go.
    pub retention_interval: Duration,
    /// The conversations kept in memory; others are read from the store when needed.
    pub resident_sessions_max: usize,
}

impl RuntimeConfig {
    /// Names the settings with which nothing would ever go on.
    pub(crate) fn zeros(&self) -> impl Iterator<Item = &'static str> {
        let settings = [
            ("contention_attempts", self.contention_attempts as usize),
            ("commit_attempts_max", self.commit_attempts_max as usize),
            ("drive_attempts_max", self.drive_attempts_max as usize),
            ("workflows.running_max", self.workflows.running_max),
            (
                "processes.contention_tries_max",
                self.processes.contention_tries_max as usize,
            ),
        ];
        let zeros = settings.into_iter().filter(|(_, value)| *value == 0);
        zeros.map(|(setting, _)| setting)
    }
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            turns_max: 1024,
            housekeeping_interval: Duration::from_millis(100),
            park_after: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(5),
            contention_attempts: 64,
            turn_budgets: TurnBudgets::default(),
            commit_attempts_max: 5,
            commit_pause: Duration::from_millis(20),
            drive_attempts_max: 6,
            drive_pause: Duration::from_millis(100),
            lease: LeaseConfig::default(),
            other_deployment: OtherDeployment::default(),
            workflows: WorkflowConfig {
                park_unknown: false,
                ..WorkflowConfig::default()
            },
            processes: ProcessLimits::default(),
            sub_agent_depth_max: 4,
            retention: None,
            retention_interval: Duration::from_secs(60),
            resident_sessions_max: 256,
        }
    }
}
