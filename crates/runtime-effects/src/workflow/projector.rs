//! Which events tell of the steps of a process.

use runtime_core::{EffectEnvelope, EffectKind, EffectOutcome, EventDraft, EventKind};

use crate::{Projection, Projector};

/// One event for each step. A workflow calls no tool: those are of turns.
#[derive(Debug)]
pub(super) struct ProcessProjector;

impl Projector for ProcessProjector {
    fn outcome(&self, envelope: &EffectEnvelope, _: &EffectOutcome) -> Projection {
        let kind = match envelope.kind() {
            EffectKind::AwaitEvent => EventKind::WaitEnded,
            _ => EventKind::EffectFinished,
        };
        told(envelope, kind)
    }

    fn started(&self, envelope: &EffectEnvelope) -> Projection {
        let kind = match envelope.kind() {
            EffectKind::AwaitEvent => EventKind::WaitStarted,
            _ => EventKind::EffectStarted,
        };
        told(envelope, kind)
    }
}

fn told(envelope: &EffectEnvelope, kind: EventKind) -> Projection {
    let carrier = EventDraft::new(kind)
        .in_scope(envelope.scope())
        .with_message(envelope.key().as_str());
    Projection {
        carrier,
        further: Vec::new(),
    }
}
