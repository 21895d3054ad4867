//! A world with processes.

use runtime_core::{ProcessEventType, ProcessId, ProcessOutcome, ProcessRegistration, SessionId};
use runtime_effects::{EndAnswer, ProcessLimits, Processes, StoreEffectHost};
use serde_json::Value;

use crate::effect_laws::World;
use crate::store_laws::StoreFixture;

/// A world, a host in it, and the processes of that host.
pub(super) struct Desk<'fixture> {
    pub(super) world: World<'fixture>,
    pub(super) host: StoreEffectHost,
    pub(super) processes: Processes,
}

impl<'fixture> Desk<'fixture> {
    pub(super) async fn new(fixture: &'fixture dyn StoreFixture) -> Self {
        let world = World::new(fixture).await;
        let host = world.host();
        let processes = host
            .processes(ProcessLimits::default())
            .await
            .expect("opens");
        Self {
            world,
            host,
            processes,
        }
    }

    /// Ends the process of the operating system, and starts the next one.
    pub(super) async fn restart(&mut self) {
        self.world.restart().await;
        self.reopen(ProcessLimits::default()).await;
    }

    /// Another host beside the others.
    pub(super) async fn reopen(&mut self, limits: ProcessLimits) {
        self.host = self.world.host();
        self.processes = self.host.processes(limits).await.expect("opens");
    }

    /// Ends a process with a value.
    pub(super) async fn end(&self, id: &str, value: Value) -> EndAnswer {
        let claim = self.processes.claim(&process(id)).await.expect("is there");
        let outcome = ProcessOutcome::Success { value };
        self.processes.end(&claim, &outcome).await.expect("ends")
    }
}

/// Names a process.
pub(super) fn process(id: &str) -> ProcessId {
    ProcessId::new(id).expect("legal")
}

/// Names a session.
pub(super) fn session(id: &str) -> SessionId {
    SessionId::new(id).expect("legal")
}

/// A process that runs function `order`.
pub(super) fn function(id: &str, input: Value) -> ProcessRegistration {
    ProcessRegistration::function(process(id), "order", input)
}

/// Declares a kind of event.
pub(super) fn event_type(name: &str, schema: Option<Value>) -> ProcessEventType {
    ProcessEventType {
        name: name.to_owned(),
        schema,
        wakes: false,
    }
}
