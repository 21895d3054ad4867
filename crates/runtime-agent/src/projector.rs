//! Which events tell of a turn's effects.

use runtime_core::{EffectEnvelope, EffectOutcome, EventDraft};
use runtime_effects::{Projection, Projector};
use runtime_turn::{project_outcome, project_started};

/// The projector of turns: give it to [`ScopeOpening`](runtime_effects::ScopeOpening).
#[derive(Debug, Clone, Copy, Default)]
pub struct TurnProjector;

impl Projector for TurnProjector {
    fn outcome(&self, envelope: &EffectEnvelope, outcome: &EffectOutcome) -> Projection {
        projection(project_outcome(envelope, outcome))
    }

    fn started(&self, envelope: &EffectEnvelope) -> Projection {
        projection(project_started(envelope))
    }
}

fn projection((carrier, further): (EventDraft, Vec<EventDraft>)) -> Projection {
    Projection { carrier, further }
}
