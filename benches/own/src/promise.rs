//! A promise of a turn: whoever waits for it, and whoever resolves it.

use std::time::{Duration, Instant};

use runtime::core::{
    EffectCommand, EffectEnvelope, EffectKind, ReplayKey, Resolution, WaitIdentity, WaitSource,
};
use runtime::effects::{EffectHost as _, StoreEffectHost};

use crate::{Outcome, opening, scope};

/// Nobody parks before: what is measured is a wake-up, not a resumption.
const WAIT_MAX: Duration = Duration::from_secs(600);

fn identity() -> WaitIdentity {
    WaitIdentity::Custom {
        key: "answer".to_owned(),
    }
}

/// Waits for the promise of a turn; says when it was woken.
pub async fn wait(host: &StoreEffectHost, turn: usize) -> Outcome<Instant> {
    let scope = scope(turn)?;
    let controller = host.scoped(opening(&scope).parking_after(WAIT_MAX))?;
    let sources = vec![WaitSource::Promise {
        identity: identity(),
        call: None,
        tool: None,
        asks: None,
    }];
    let key = ReplayKey::turn(1, EffectKind::AwaitEvent, 0);
    let command = EffectCommand::AwaitEvent { sources };
    controller
        .wait_any(EffectEnvelope::new(scope, key, command)?)
        .await?;
    Ok(Instant::now())
}

/// Resolves the promise of a turn.
pub async fn resolve(host: &StoreEffectHost, turn: usize) -> Outcome<()> {
    let value = serde_json::json!("yes");
    let promises = host.await_events().await?;
    let resolution = Resolution::Ok { value };
    promises
        .resolve_identity(&scope(turn)?, &identity(), resolution, None)
        .await?;
    Ok(())
}
