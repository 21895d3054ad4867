//! Rulings on conflicts: the record has another effect under the key that is asked for (E4).

use runtime_core::{
    Classified, CommitId, EffectKind, EffectOutcome, ErrorClass, EventKind, ExecutionScope,
    ReplayKey, Timestamp, WireError,
};
use runtime_effects::{
    Applied, ConflictRuling, Interrupt, PendingEffect, PendingKind, RulingAnswer, RulingError,
    StoreEffectHost, forgets_conflict,
};
use runtime_store::{Commit, Page, Store};

use super::world::{
    Runs, World, custom, desk, failure, fresh_id, result, tool_call, turn, wait_for,
};
use crate::Fault;
use crate::store_laws::StoreFixture;

type Driven = Result<EffectOutcome, Interrupt>;

/// A program that made three effects one after another, and whose next version asks for another
/// one in the second place.
struct Changed<'fixture> {
    world: World<'fixture>,
    host: StoreEffectHost,
    scope: ExecutionScope,
    runs: [Runs; 3],
}

/// The second effect, as the first version asks for it, and as the next one does.
const OLD: &str = "write";
const NEW: &str = "erase";

fn second() -> ReplayKey {
    ReplayKey::turn(1, EffectKind::ToolCall, 1)
}

fn said(text: &str) -> Driven {
    Ok(EffectOutcome::Completed(result(text)))
}

impl<'fixture> Changed<'fixture> {
    /// The first version ran to its end; the next one found the conflict.
    async fn new(fixture: &'fixture dyn StoreFixture) -> Self {
        Self::of(fixture, desk()).await
    }

    async fn of(fixture: &'fixture dyn StoreFixture, scope: ExecutionScope) -> Self {
        let world = World::new(fixture).await;
        let mut changed = Self {
            host: world.host(),
            world,
            scope,
            runs: Default::default(),
        };
        let all = [said("0"), said("1"), said("2")];
        assert_eq!(changed.drive(OLD).await, all);
        changed.restart().await;
        let found = changed.drive(NEW).await;
        assert_eq!(found[0], said("0"));
        assert!(
            matches!(&found[1], Err(Interrupt::Conflict(_))),
            "{found:?}"
        );
        assert_eq!(changed.counts(), [1, 1, 1], "nothing ran");
        changed
    }

    async fn restart(&mut self) {
        self.world.restart().await;
        self.host = self.world.host();
    }

    /// Drives a version as far as it goes: three effects, each with an executor that counts.
    async fn drive(&self, version: &str) -> Vec<Driven> {
        let controller = self.world.open(&self.host, &self.scope).await;
        let mut driven = Vec::new();
        for (runs, ordinal) in self.runs.iter().zip(0..) {
            let tool = if ordinal == 1 { version } else { "read" };
            let envelope = tool_call(&self.scope, ordinal, tool);
            let text = ["0", "1", "2"][ordinal as usize];
            let executor = runs.answers(move |run| match run {
                1 => Ok(result(text)),
                _ => Ok(result("anew")),
            });
            let ended = controller.execute_effect(envelope, executor).await;
            let stops = ended.is_err();
            driven.push(ended);
            if stops {
                break;
            }
        }
        driven
    }

    fn counts(&self) -> [u32; 3] {
        [0, 1, 2].map(|at| self.runs[at].count())
    }

    async fn rule(&self, ruling: ConflictRuling) -> Result<RulingAnswer, RulingError> {
        self.rule_as(ruling, None).await
    }

    async fn rule_as(
        &self,
        ruling: ConflictRuling,
        command: Option<CommitId>,
    ) -> Result<RulingAnswer, RulingError> {
        let scope = self.scope.scope_id();
        self.host
            .rule_conflict(&scope, &second(), ruling, command)
            .await
    }

    async fn pending(&self) -> Vec<PendingEffect> {
        let scope = self.scope.scope_id();
        let page = self.host.pending_of(&scope, Page::after(None, 8)).await;
        page.expect("reads").items
    }

    /// Drives the next version twice, in processes of their own.
    async fn drives_to(&mut self, expected: [Driven; 3]) {
        for _ in 0..2 {
            self.restart().await;
            assert_eq!(self.drive(NEW).await, expected);
        }
        assert!(self.pending().await.is_empty());
    }
}

fn rulings() -> [ConflictRuling; 3] {
    [
        ConflictRuling::AcceptRecorded,
        ConflictRuling::Fork,
        ConflictRuling::Fail(ruled_failed()),
    ]
}

fn ruled_failed() -> WireError {
    WireError::new("ledger_closed", ErrorClass::Terminal, "nobody wants it")
}

/// E4: a conflict is listed with paths and no values, once, whoever looks and in every process.
pub async fn e4_a_conflict_is_listed_with_paths_and_no_values(fixture: &dyn StoreFixture) {
    let mut changed = Changed::new(fixture).await;
    let noted = changed.pending().await;
    assert_eq!(noted.len(), 1);
    assert_eq!(
        (noted[0].kind, &noted[0].key),
        (PendingKind::Conflict, &second())
    );
    let mismatch = noted[0].mismatch.as_ref().expect("says how");
    assert_eq!(mismatch.paths, ["/command/tool"]);
    assert_ne!(mismatch.recorded, mismatch.requested);
    let told = serde_json::to_string(mismatch).expect("is JSON");
    assert!(!told.contains(OLD) && !told.contains(NEW), "{told}");
    changed.restart().await;
    // Driven again in vain, it is the same conflict, since when it was.
    changed
        .world
        .clock
        .advance(std::time::Duration::from_secs(5));
    changed.drive(NEW).await;
    assert_eq!(changed.pending().await, noted);
}

/// E4: the version that fits the record goes on, and whoever takes over forgets the conflict.
pub async fn e4_a_version_that_fits_again_goes_on(fixture: &dyn StoreFixture) {
    let mut changed = Changed::new(fixture).await;
    changed.restart().await;
    let forget = Commit::new(fresh_id(), Timestamp::from_millis(2));
    let forget = forgets_conflict(forget, &desk().scope_id(), &second());
    changed.world.store.commit(forget).await.expect("commits");
    let all = [said("0"), said("1"), said("2")];
    assert_eq!(changed.drive(OLD).await, all);
    assert!(changed.pending().await.is_empty());
    assert_eq!(changed.counts(), [1, 1, 1]);
    let refused = changed.rule(ConflictRuling::Fork).await.expect_err("fits");
    assert_eq!(refused.code(), "ruling_no_conflict");
}

/// E4: an accepted record is answered for what is asked for now; nothing runs, and a third version
/// is in conflict as before.
pub async fn e4_an_accepted_record_is_answered(fixture: &dyn StoreFixture) {
    let mut changed = Changed::new(fixture).await;
    let ruled = changed.rule(ConflictRuling::AcceptRecorded).await;
    assert_eq!(ruled.expect("rules"), RulingAnswer::Ruled);
    changed.drives_to([said("0"), said("1"), said("2")]).await;
    assert_eq!(changed.counts(), [1, 1, 1]);
    let third = changed.drive("burn").await;
    assert!(
        matches!(&third[1], Err(Interrupt::Conflict(_))),
        "{third:?}"
    );
    // And the first version still fits.
    assert_eq!(changed.drive(OLD).await[1], said("1"));
}

/// E4: a fork sets aside what is recorded from the conflict on, and runs it anew, once.
pub async fn e4_a_fork_runs_anew_from_there_on(fixture: &dyn StoreFixture) {
    let mut changed = Changed::new(fixture).await;
    let ruled = changed.rule(ConflictRuling::Fork).await;
    assert_eq!(ruled.expect("rules"), RulingAnswer::Ruled);
    changed
        .drives_to([said("0"), said("anew"), said("anew")])
        .await;
    assert_eq!(changed.counts(), [1, 2, 2]);
    let told = changed.world.events().await;
    let told = told
        .iter()
        .find(|event| *event.kind() == EventKind::ConflictRuled);
    let payload = &told.expect("is told").draft.payload;
    assert_eq!(payload["ruling"], "fork");
    let keys = [
        &payload["set_aside"][0]["key"],
        &payload["set_aside"][1]["key"],
    ];
    assert_eq!(keys, ["1.tool_call.1", "1.tool_call.2"]);
    // The version before is the one that differs now.
    let before = changed.drive(OLD).await;
    assert!(
        matches!(&before[1], Err(Interrupt::Conflict(_))),
        "{before:?}"
    );
}

/// E4: a second conflict under the same key is forked anew.
pub async fn e4_a_fork_of_a_fork_runs_anew(fixture: &dyn StoreFixture) {
    let mut changed = Changed::new(fixture).await;
    changed.rule(ConflictRuling::Fork).await.expect("rules");
    assert_eq!(changed.drive(NEW).await[2], said("anew"));
    let third = changed.drive("burn").await;
    assert!(
        matches!(&third[1], Err(Interrupt::Conflict(_))),
        "{third:?}"
    );
    let ruled = changed.rule(ConflictRuling::Fork).await;
    assert_eq!(ruled.expect("rules"), RulingAnswer::Ruled);
    for _ in 0..2 {
        changed.restart().await;
        let all = [said("0"), said("anew"), said("anew")];
        assert_eq!(changed.drive("burn").await, all);
    }
    assert_eq!(changed.counts(), [1, 3, 3]);
}

/// E4: what is ruled as failed is answered so, and told by the projector; what came after it runs
/// anew.
pub async fn e4_a_conflict_ruled_as_failed_is_answered(fixture: &dyn StoreFixture) {
    let mut changed = Changed::new(fixture).await;
    let ruled = changed.rule(ConflictRuling::Fail(ruled_failed())).await;
    assert_eq!(ruled.expect("rules"), RulingAnswer::Ruled);
    let failed = Ok(EffectOutcome::Failed(ruled_failed()));
    changed.drives_to([said("0"), failed, said("anew")]).await;
    assert_eq!(changed.counts(), [1, 1, 2]);
    let kinds = changed.world.kinds().await;
    let told = kinds.iter().skip_while(|kind| *kind != "conflict_ruled");
    assert_eq!(told.filter(|kind| *kind == "effect_finished").count(), 2);
}

/// E4: repeating a ruling does nothing, another one comes too late.
pub async fn e4_the_first_ruling_on_a_conflict_stands(fixture: &dyn StoreFixture) {
    for (ruling, name) in rulings().into_iter().zip(["1", "2", "3"]) {
        let mut changed = Changed::of(fixture, turn("desk", name)).await;
        let command = Some(fresh_id());
        let ruled = changed.rule_as(ruling.clone(), command).await;
        assert_eq!(ruled.expect("rules"), RulingAnswer::Ruled);
        let after = changed.world.events().await.len();
        for command in [command, None] {
            changed.restart().await;
            let again = changed.rule_as(ruling.clone(), command).await;
            assert_eq!(again.expect("repeats"), RulingAnswer::AlreadyRuled);
        }
        let other = match ruling {
            ConflictRuling::Fork => ConflictRuling::AcceptRecorded,
            _ => ConflictRuling::Fork,
        };
        let refused = changed.rule(other).await.expect_err("is too late");
        assert_eq!(refused.code(), "ruling_contradicted");
        assert_eq!(changed.world.events().await.len(), after);
    }
}

/// E4: there is nothing to accept of what has no outcome, and a fork of it runs.
pub async fn e4_only_an_outcome_is_accepted(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let (scope, runs, host) = (desk(), Runs::default(), world.host());
    let controller = world.open(&host, &scope).await;
    let lost = runs.answers(|run| match run {
        1 => Err(failure(ErrorClass::Unavailable, Applied::Unknown)),
        _ => Ok(result("anew")),
    });
    let first = controller
        .execute_effect(tool_call(&scope, 1, OLD), lost)
        .await;
    assert!(matches!(first, Err(Interrupt::InDoubt { .. })), "{first:?}");
    drop(controller);
    let drive = async || {
        let controller = world.open(&host, &scope).await;
        let executor = runs.answers(|_| Ok(result("anew")));
        controller
            .execute_effect(tool_call(&scope, 1, NEW), executor)
            .await
    };
    assert!(matches!(drive().await, Err(Interrupt::Conflict(_))));
    let kinds = async || {
        let page = host.pending(Page::after(None, 8)).await.expect("reads");
        page.items.iter().map(|item| item.kind).collect::<Vec<_>>()
    };
    // It is in doubt, and in conflict; the fork settles both.
    let mut both = kinds().await;
    both.sort_by_key(|kind| *kind == PendingKind::InDoubt);
    assert_eq!(both, [PendingKind::Conflict, PendingKind::InDoubt]);
    let rule = async |ruling| {
        let scope = scope.scope_id();
        host.rule_conflict(&scope, &second(), ruling, None).await
    };
    let refused = rule(ConflictRuling::AcceptRecorded).await;
    assert_eq!(
        refused.expect_err("has none").code(),
        "ruling_nothing_recorded"
    );
    rule(ConflictRuling::Fork).await.expect("rules");
    assert_eq!(kinds().await, []);
    assert_eq!((drive().await, drive().await), (said("anew"), said("anew")));
    assert_eq!(runs.count(), 2);
}

/// E4: a wait that began as another one is forked: it begins anew, and ends.
pub async fn e4_a_wait_in_conflict_is_forked(fixture: &dyn StoreFixture) {
    let mut world = World::new(fixture).await;
    world.limits.park_after = std::time::Duration::ZERO;
    let (scope, host) = (desk(), world.host());
    let wait = async |name: &str| {
        let controller = world.open(&host, &scope).await;
        controller
            .wait_any(wait_for(&scope, &custom(name), None))
            .await
    };
    assert!(matches!(
        wait("old").await,
        Err(Interrupt::Suspended { .. })
    ));
    assert!(matches!(wait("new").await, Err(Interrupt::Conflict(_))));
    let key = wait_for(&scope, &custom("new"), None).key().clone();
    host.rule_conflict(&scope.scope_id(), &key, ConflictRuling::Fork, None)
        .await
        .expect("rules");
    assert!(matches!(
        wait("new").await,
        Err(Interrupt::Suspended { .. })
    ));
    let promises = host.await_events().await.expect("loads");
    let value = serde_json::json!("come");
    let resolution = runtime_core::Resolution::Ok { value };
    promises
        .resolve_identity(&scope, &custom("new"), resolution, None)
        .await
        .expect("resolves");
    let ended = wait("new").await.expect("ends");
    assert_eq!(wait("new").await, Ok(ended));
    let page = host.pending(Page::after(None, 8)).await.expect("reads");
    assert_eq!(page.items, []);
}

/// E1, E4: a conflict in a batch is noted when the other effects have ended, so that a ruling
/// finds everything that was recorded.
pub async fn e4_a_conflict_in_a_batch_is_noted_last(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let (scope, host) = (desk(), world.host());
    let batch = async |tool: &str, runs: &[Runs; 2]| {
        let controller = world.open(&host, &scope).await;
        let items = runs.iter().zip(0..).map(|(runs, ordinal)| {
            let tool = if ordinal == 0 { tool } else { "read" };
            let executor = runs.answers(|_| Ok(result("ran")));
            (tool_call(&scope, ordinal, tool), executor)
        });
        controller.execute_batch(items.collect()).await
    };
    let runs: [Runs; 2] = Default::default();
    let controller = world.open(&host, &scope).await;
    controller
        .execute_effect(tool_call(&scope, 0, OLD), runs[0].succeeds("ran"))
        .await
        .expect("runs");
    drop(controller);
    let found = batch(NEW, &runs).await;
    assert!(
        matches!(&found[0], Err(Interrupt::Conflict(_))),
        "{found:?}"
    );
    assert_eq!(found[1], said("ran"));
    let key = ReplayKey::turn(1, EffectKind::ToolCall, 0);
    let scope_id = scope.scope_id();
    host.rule_conflict(&scope_id, &key, ConflictRuling::Fork, None)
        .await
        .expect("rules");
    assert_eq!(batch(NEW, &runs).await, [said("ran"), said("ran")]);
    assert_eq!([runs[0].count(), runs[1].count()], [2, 2]);
}

/// R4: whatever happens to the commit of a ruling, it is ruled once, and the record is whole.
pub async fn r4_a_fault_at_the_commit_of_a_ruling(fixture: &dyn StoreFixture) {
    let faults = [
        Fault::FailBefore,
        Fault::LoseResponse,
        Fault::CrashBefore,
        Fault::CrashAfter,
    ];
    let mut number = 0;
    for ruling in rulings() {
        for fault in faults {
            number += 1;
            let scope = turn("desk", &number.to_string());
            let mut changed = Changed::of(fixture, scope).await;
            let store = &changed.world.store;
            store.fault_at(store.commits() + 1, fault);
            // What a dying process is answered is nobody's business.
            let _ = changed.world.drive(changed.rule(ruling.clone())).await;
            changed.restart().await;
            changed.rule(ruling.clone()).await.expect("rules, or ruled");
            let events = changed.world.events_of(&changed.scope).await;
            let told = events.iter().filter(|kind| *kind == "conflict_ruled");
            assert_eq!(told.count(), 1, "{ruling:?} {fault:?}");
            let failed = Ok(EffectOutcome::Failed(ruled_failed()));
            let expected = match ruling {
                ConflictRuling::AcceptRecorded => [said("0"), said("1"), said("2")],
                ConflictRuling::Fork => [said("0"), said("anew"), said("anew")],
                _ => [said("0"), failed, said("anew")],
            };
            changed.drives_to(expected).await;
        }
    }
}
