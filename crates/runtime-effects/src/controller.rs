//! The contract of effects: a host opens a scope, its controller has three verbs (E1).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use runtime_core::{EffectEnvelope, EffectOutcome, EventDraft, ExecutionScope, InstanceId};
use runtime_store::Epoch;

use crate::{EffectError, Interrupt, LocalExecutor};

/// Whether a controller runs the effects of a batch side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Concurrency {
    /// One after another.
    Serial,
    /// Side by side.
    Concurrent,
}

/// How a controller finds an effect's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// By its replay key.
    Keyed,
    /// By its place in the order of calls.
    Ordinal,
}

/// Which events tell of an effect. The functions are pure; the same record gives the same events.
#[derive(Debug, Clone)]
pub struct Projection {
    /// The event that carries the outcome (or, for an intent or a wait that begins, the
    /// envelope). The controller sets its payload.
    pub carrier: EventDraft,
    /// Further events of the same commit.
    pub further: Vec<EventDraft>,
}

/// Says which events tell of effects: of outcomes, of intents, and of waits that begin.
/// `runtime-turn` gives the one for turns.
pub trait Projector: fmt::Debug + Send + Sync {
    /// The events of an outcome.
    fn outcome(&self, envelope: &EffectEnvelope, outcome: &EffectOutcome) -> Projection;

    /// The event of an intent (an effect that must not run twice is about to run), or of a wait
    /// that begins.
    fn started(&self, envelope: &EffectEnvelope) -> Projection;
}

/// A scope to open: its epoch has been put by the commit that started or resumed it (E5).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ScopeOpening {
    /// The scope.
    pub scope: ExecutionScope,
    /// Its epoch.
    pub epoch: Epoch,
    /// Which events tell of its effects.
    pub projector: Arc<dyn Projector>,
    /// An effect that is not in the record is refused (`effect_missing`) instead of run.
    pub strict_replay: bool,
    /// The instance that opened it, as [`Lease::opens`](crate::Lease::opens) said: its lease is
    /// checked before an executor starts, and executors are cancelled before it ends.
    pub instance: Option<InstanceId>,
    /// How often processes died in it since it last got further ([`crashes`](crate::crashes)).
    pub crashes: u32,
    /// How long its waits hold their task; none as [`EffectLimits`](crate::EffectLimits) say.
    pub park_after: Option<Duration>,
}

impl ScopeOpening {
    /// Opens a scope with the plain terms: no strict replay, no lease, no crash before.
    #[must_use]
    pub fn new(scope: ExecutionScope, epoch: Epoch, projector: Arc<dyn Projector>) -> Self {
        Self {
            scope,
            epoch,
            projector,
            strict_replay: false,
            instance: None,
            crashes: 0,
            park_after: None,
        }
    }

    /// Says how long its waits hold their task.
    #[must_use]
    pub const fn parking_after(mut self, park_after: Duration) -> Self {
        self.park_after = Some(park_after);
        self
    }

    /// Refuses an effect that is not in the record, instead of running it.
    #[must_use]
    pub const fn strict(mut self) -> Self {
        self.strict_replay = true;
        self
    }

    /// Names the instance whose lease guards it.
    #[must_use]
    pub fn held_by(mut self, instance: Option<InstanceId>) -> Self {
        self.instance = instance;
        self
    }

    /// Says how often processes died in it since it last got further.
    #[must_use]
    pub const fn after_crashes(mut self, crashes: u32) -> Self {
        self.crashes = crashes;
        self
    }
}

/// A wait: an [`EffectCommand::AwaitEvent`](runtime_core::EffectCommand::AwaitEvent) or
/// [`Sleep`](runtime_core::EffectCommand::Sleep) envelope.
pub type WaitRequest = EffectEnvelope;

/// Runs effects of one scope.
///
/// # Law (E4), the same on every tier
/// For the key of an envelope and the digest of its identity:
/// - unknown: it is claimed, run, recorded;
/// - same digest, recorded outcome: the outcome, without running;
/// - other digest: [`Interrupt::Conflict`], nothing runs;
/// - an intent without outcome from an earlier epoch: run again if the envelope is `retry_safe`,
///   else [`Interrupt::InDoubt`], nothing runs (E7).
///
/// # Cancel safety
/// Dropping a future of a controller drops its executors' attempts; nothing stays behind. An
/// effect that had an intent is then in doubt, as after a crash.
#[async_trait]
pub trait EffectController: fmt::Debug + Send + Sync {
    /// Whether batches run side by side.
    fn concurrency(&self) -> Concurrency;

    /// How records are found.
    fn addressing(&self) -> Addressing;

    /// Runs one effect, or answers it from the record.
    ///
    /// # Errors
    /// [`Interrupt`]: the driver must unwind.
    async fn execute_effect<'run>(
        &'run self,
        envelope: EffectEnvelope,
        executor: LocalExecutor<'run>,
    ) -> Result<EffectOutcome, Interrupt>;

    /// Runs effects in parallel, the only way to do so: all intents in one commit, each outcome
    /// committed as it ends, results in the order of the input. It is a barrier: it returns when
    /// every effect has ended.
    async fn execute_batch<'run>(
        &'run self,
        items: Vec<(EffectEnvelope, LocalExecutor<'run>)>,
    ) -> Vec<Result<EffectOutcome, Interrupt>>;

    /// Waits for the first of an envelope's sources and records which it was.
    ///
    /// # Errors
    /// [`Interrupt::Suspended`] when nothing is ready within `park_after`.
    async fn wait_any(&self, envelope: WaitRequest) -> Result<EffectOutcome, Interrupt>;
}

/// A controller of one scope that may borrow from its host.
pub type ScopedEffectController<'run> = Box<dyn EffectController + 'run>;

/// Opens scopes.
pub trait EffectHost: fmt::Debug + Send + Sync {
    /// Returns the controller of a scope. It may borrow from the host: an engine whose context is
    /// not `'static` can implement it (E1).
    ///
    /// # Errors
    /// [`EffectError`].
    fn scoped<'run>(
        &'run self,
        opening: ScopeOpening,
    ) -> Result<ScopedEffectController<'run>, EffectError>;

    /// Returns a controller that outlives its caller, for processes; none where the host cannot.
    ///
    /// # Errors
    /// [`EffectError`].
    fn scoped_static(
        &self,
        opening: ScopeOpening,
    ) -> Result<Option<ScopedEffectController<'static>>, EffectError>;
}
