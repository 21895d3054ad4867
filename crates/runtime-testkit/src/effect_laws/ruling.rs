//! Rulings on effects in doubt (E7).

use runtime_core::{Classified, EffectOutcome, EffectOutput, ErrorClass, ReplayKey, WireError};
use runtime_effects::{Applied, Interrupt, Ruling, RulingAnswer, RulingError, StoreEffectHost};
use runtime_store::{Commit, Page, RowChange, Store};
use serde_json::json;

use super::world::{Runs, World, desk, failure, fresh_id, result, tool_call};
use crate::store_laws::StoreFixture;

struct Doubt<'fixture> {
    world: World<'fixture>,
    host: StoreEffectHost,
    runs: Runs,
    key: ReplayKey,
}

impl<'fixture> Doubt<'fixture> {
    /// A world with one effect in doubt, that ran once.
    async fn new(fixture: &'fixture dyn StoreFixture) -> Self {
        let world = World::new(fixture).await;
        let host = world.host();
        let doubt = Self {
            key: tool_call(&desk(), 0, "write").key().clone(),
            runs: Runs::default(),
            world,
            host,
        };
        let driven = doubt.drive().await;
        assert!(
            matches!(driven, Err(Interrupt::InDoubt { .. })),
            "{driven:?}"
        );
        doubt
    }

    /// Drives the effect; its first run is lost, later ones succeed.
    async fn drive(&self) -> Result<EffectOutcome, Interrupt> {
        let controller = self.world.open(&self.host, &desk()).await;
        let executor = self.runs.answers(|run| match run {
            1 => Err(failure(ErrorClass::Unavailable, Applied::Unknown)),
            _ => Ok(result("again")),
        });
        let envelope = tool_call(&desk(), 0, "write");
        controller.execute_effect(envelope, executor).await
    }

    async fn rule(&self, ruling: Ruling) -> Result<RulingAnswer, RulingError> {
        let scope = desk().scope_id();
        self.host
            .rule_in_doubt(&scope, &self.key, ruling, None)
            .await
    }

    /// Ends the process and starts the next one.
    async fn restart(&mut self) {
        self.world.restart().await;
        self.host = self.world.host();
    }

    async fn pending(&self) -> usize {
        let page = self.host.pending(Page::after(None, 8)).await;
        page.expect("reads").items.len()
    }
}

/// E7: run again runs once more.
pub async fn e7_run_again_runs_once_more(fixture: &dyn StoreFixture) {
    let mut doubt = Doubt::new(fixture).await;
    doubt.restart().await;
    assert_eq!(doubt.pending().await, 1);
    let ruled = doubt.rule(Ruling::RunAgain).await.expect("rules");
    assert_eq!((ruled, doubt.pending().await), (RulingAnswer::Ruled, 0));
    for _ in 0..2 {
        doubt.restart().await;
        let again = Ok(EffectOutcome::Completed(result("again")));
        assert_eq!(doubt.drive().await, again);
    }
    assert_eq!(doubt.runs.count(), 2);
}

/// E7: a ruled outcome is answered and told.
pub async fn e7_a_ruled_outcome_is_answered_and_told(fixture: &dyn StoreFixture) {
    let mut doubt = Doubt::new(fixture).await;
    let outcome = EffectOutcome::Completed(result("it was there"));
    let ruling = Ruling::RecordOutcome(outcome.clone());
    doubt.rule(ruling).await.expect("rules");
    for _ in 0..2 {
        doubt.restart().await;
        assert_eq!(doubt.drive().await, Ok(outcome.clone()));
    }
    assert_eq!(doubt.runs.count(), 1);
    let kinds = doubt.world.kinds().await;
    // The projector tells of the outcome as of any other, once.
    let expected = [
        "effect_started",
        "effect_in_doubt",
        "in_doubt_ruled",
        "effect_finished",
    ];
    assert_eq!(kinds, expected);
}

/// E7: a ruled failure is answered.
pub async fn e7_a_ruled_failure_is_answered(fixture: &dyn StoreFixture) {
    let doubt = Doubt::new(fixture).await;
    let error = WireError::new("ledger_closed", ErrorClass::Terminal, "nobody wrote it");
    doubt
        .rule(Ruling::Fail(error.clone()))
        .await
        .expect("rules");
    assert_eq!(doubt.drive().await, Ok(EffectOutcome::Failed(error)));
    assert_eq!(doubt.runs.count(), 1);
}

/// E7: repeating a ruling does nothing.
pub async fn e7_repeating_a_ruling_does_nothing(fixture: &dyn StoreFixture) {
    let mut doubt = Doubt::new(fixture).await;
    let scope = desk().scope_id();
    let command = Some(fresh_id());
    for expected in [RulingAnswer::Ruled, RulingAnswer::AlreadyRuled] {
        let ruled = doubt
            .host
            .rule_in_doubt(&scope, &doubt.key, Ruling::RunAgain, command)
            .await;
        assert_eq!(ruled.expect("rules"), expected);
    }
    doubt.restart().await;
    // The same without the identity of the request, before and after the effect has ended.
    assert_eq!(
        doubt.rule(Ruling::RunAgain).await.expect("rules"),
        RulingAnswer::AlreadyRuled
    );
    doubt.drive().await.expect("runs");
    assert_eq!(
        doubt.rule(Ruling::RunAgain).await.expect("rules"),
        RulingAnswer::AlreadyRuled
    );
    let kinds = doubt.world.kinds().await;
    let ruled = kinds
        .iter()
        .filter(|kind| *kind == "in_doubt_ruled")
        .count();
    assert_eq!((ruled, doubt.runs.count()), (1, 2));
}

/// E7: another ruling comes too late.
pub async fn e7_another_ruling_comes_too_late(fixture: &dyn StoreFixture) {
    let doubt = Doubt::new(fixture).await;
    doubt.rule(Ruling::RunAgain).await.expect("rules");
    let error = WireError::new("ledger_closed", ErrorClass::Terminal, "nobody wrote it");
    let late = doubt.rule(Ruling::Fail(error)).await.expect_err("is late");
    assert_eq!(late.code(), "ruling_contradicted");
}

/// E7: what is not in doubt is not ruled.
pub async fn e7_what_is_not_in_doubt_is_not_ruled(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let (scope, host) = (desk(), world.host());
    let controller = world.open(&host, &scope).await;
    let envelope = tool_call(&scope, 0, "write");
    let key = envelope.key().clone();
    controller
        .execute_effect(envelope, Runs::default().succeeds("done"))
        .await
        .expect("runs");
    let id = scope.scope_id();
    let refused = host.rule_in_doubt(&id, &key, Ruling::RunAgain, None).await;
    assert_eq!(refused.expect_err("is done").code(), "ruling_not_in_doubt");
    let unknown = tool_call(&scope, 7, "write").key().clone();
    let refused = host
        .rule_in_doubt(&id, &unknown, Ruling::RunAgain, None)
        .await;
    assert_eq!(
        refused.expect_err("is unknown").code(),
        "ruling_effect_not_found"
    );
}

/// E7: a ruled outcome must fit.
pub async fn e7_a_ruled_outcome_must_fit(fixture: &dyn StoreFixture) {
    let doubt = Doubt::new(fixture).await;
    let step = EffectOutput::DurableStep { value: json!(1) };
    let ruling = Ruling::RecordOutcome(EffectOutcome::Completed(step));
    let refused = doubt.rule(ruling).await.expect_err("does not fit");
    assert_eq!(refused.code(), "ruling_wrong_outcome");
    assert_eq!(doubt.pending().await, 1);
}

/// E7: doubt after run again is ruled anew.
pub async fn e7_doubt_after_run_again_is_ruled_anew(fixture: &dyn StoreFixture) {
    let doubt = Doubt::new(fixture).await;
    doubt.rule(Ruling::RunAgain).await.expect("rules");
    let controller = doubt.world.open(&doubt.host, &desk()).await;
    let lost = doubt
        .runs
        .answers(|_| Err(failure(ErrorClass::Unavailable, Applied::Unknown)));
    let driven = controller
        .execute_effect(tool_call(&desk(), 0, "write"), lost)
        .await;
    drop(controller);
    assert!(
        matches!(driven, Err(Interrupt::InDoubt { .. })),
        "{driven:?}"
    );
    assert_eq!(
        doubt.rule(Ruling::RunAgain).await.expect("rules"),
        RulingAnswer::Ruled
    );
    let again = Ok(EffectOutcome::Completed(result("again")));
    assert_eq!((doubt.drive().await, doubt.runs.count()), (again, 3));
}

/// E16: a retired scope has nothing to rule.
pub async fn e16_a_retired_scope_has_nothing_to_rule(fixture: &dyn StoreFixture) {
    let doubt = Doubt::new(fixture).await;
    let retire = Commit::new(fresh_id(), runtime_core::Timestamp::from_millis(2))
        .row(RowChange::Retire(desk().scope_id()));
    doubt.world.store.commit(retire).await.expect("commits");
    assert_eq!(doubt.pending().await, 0);
    let refused = doubt.rule(Ruling::RunAgain).await.expect_err("is retired");
    assert_eq!(refused.code(), "ruling_effect_not_found");
}
