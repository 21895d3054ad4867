//! Stopping a worker between two effects: what is under way ends and is recorded, nothing new
//! begins, and so nothing is in doubt because somebody stopped a worker.

use async_trait::async_trait;
use runtime_core::{EffectEnvelope, EffectOutcome, WorkerId};
use runtime_effects::{
    Addressing, Concurrency, EffectController, Interrupt, LocalExecutor, ScopedEffectController,
    WaitRequest,
};

use crate::session::Sessions;

/// A controller that begins no effect once its worker was stopped.
#[derive(Debug)]
pub(crate) struct Stoppable<'a> {
    controller: ScopedEffectController<'a>,
    sessions: &'a Sessions,
    worker: &'a WorkerId,
}

impl<'a> Stoppable<'a> {
    pub(crate) const fn new(
        controller: ScopedEffectController<'a>,
        sessions: &'a Sessions,
        worker: &'a WorkerId,
    ) -> Self {
        Self {
            controller,
            sessions,
            worker,
        }
    }

    fn check(&self) -> Result<(), Interrupt> {
        match self.sessions.is_halted(self.worker) {
            true => Err(Interrupt::Cancelled),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl EffectController for Stoppable<'_> {
    fn concurrency(&self) -> Concurrency {
        self.controller.concurrency()
    }

    fn addressing(&self) -> Addressing {
        self.controller.addressing()
    }

    async fn execute_effect<'run>(
        &'run self,
        envelope: EffectEnvelope,
        executor: LocalExecutor<'run>,
    ) -> Result<EffectOutcome, Interrupt> {
        self.check()?;
        self.controller.execute_effect(envelope, executor).await
    }

    async fn execute_batch<'run>(
        &'run self,
        items: Vec<(EffectEnvelope, LocalExecutor<'run>)>,
    ) -> Vec<Result<EffectOutcome, Interrupt>> {
        if self.check().is_err() {
            return items.iter().map(|_| Err(Interrupt::Cancelled)).collect();
        }
        self.controller.execute_batch(items).await
    }

    async fn wait_any(&self, envelope: WaitRequest) -> Result<EffectOutcome, Interrupt> {
        self.check()?;
        self.controller.wait_any(envelope).await
    }
}
