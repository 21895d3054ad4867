//! Promises: one winner, early resolutions, revocation, retirement (E10, E12, E13).

use std::pin::pin;
use std::time::Duration;

use runtime_core::{
    Classified, EffectOutcome, EffectOutput, ErrorClass, ExecutionScope, Resolution, Timestamp,
    WaitIdentity, WaitOutput,
};
use runtime_effects::{
    AwaitEvents, Interrupt, PromiseDeadline, ResolveAnswer, Revocation, TokenRights,
};
use runtime_store::{Commit, RowChange, Store};
use serde_json::json;

use super::world::{World, custom, desk, fresh_id, turn, wait_for};
use crate::store_laws::StoreFixture;

fn yes() -> Resolution {
    Resolution::Ok {
        value: json!("yes"),
    }
}

fn no() -> Resolution {
    Resolution::Err {
        code: "refused".to_owned(),
        message: "no".to_owned(),
        raw: None,
    }
}

async fn token(promises: &AwaitEvents, rights: TokenRights) -> String {
    let token = promises
        .mint(&desk(), &custom("answer"), rights, None)
        .await;
    token.expect("mints").expose().to_owned()
}

/// A world in which the turns are open, and its promises.
async fn opened<'fixture>(
    fixture: &'fixture dyn StoreFixture,
    scopes: &[ExecutionScope],
) -> (World<'fixture>, AwaitEvents) {
    let mut world = World::new(fixture).await;
    world.limits.early_resolutions_max = 3;
    world.limits.resolution_bytes_max = 1024;
    for scope in scopes {
        world.next_epoch(scope).await;
    }
    let promises = world.promises().await;
    (world, promises)
}

/// E10: the first resolution wins.
pub async fn e10_the_first_resolution_wins(fixture: &dyn StoreFixture) {
    let (mut world, promises) = opened(fixture, &[desk()]).await;
    let token = token(&promises, TokenRights::ALL).await;
    let first = promises.resolve(&token, yes(), None).await;
    assert_eq!(first.expect("decides"), ResolveAnswer::Accepted);
    // From the next process as well.
    world.restart().await;
    let elsewhere = world.promises().await;
    for late in [no(), yes(), Resolution::Cancelled] {
        let answer = elsewhere.resolve(&token, late, None).await;
        let winner = Some(yes());
        assert_eq!(
            answer.expect("decides"),
            ResolveAnswer::AlreadyResolved { winner }
        );
    }
    assert_eq!(world.kinds().await, ["promise_resolved"]);
}

/// E10: a resolve only token does not see the winner.
pub async fn e10_a_resolve_only_token_does_not_see_the_winner(fixture: &dyn StoreFixture) {
    let (_, promises) = opened(fixture, &[desk()]).await;
    let token = token(&promises, TokenRights::RESOLVE).await;
    promises
        .resolve(&token, yes(), None)
        .await
        .expect("decides");
    let answer = promises.resolve(&token, no(), None).await;
    assert_eq!(
        answer.expect("decides"),
        ResolveAnswer::AlreadyResolved { winner: None }
    );
}

/// E10: rights are apart.
pub async fn e10_rights_are_apart(fixture: &dyn StoreFixture) {
    let (world, promises) = opened(fixture, &[desk()]).await;
    let waits = token(&promises, TokenRights::WAIT).await;
    let resolves = token(&promises, TokenRights::RESOLVE).await;
    let cancels = token(&promises, TokenRights::CANCEL).await;
    for (token, resolution) in [
        (&waits, yes()),
        (&waits, Resolution::Cancelled),
        (&resolves, Resolution::Cancelled),
        (&cancels, yes()),
    ] {
        let answer = promises.resolve(token, resolution, None).await;
        assert_eq!(answer.expect("decides"), ResolveAnswer::UnknownOrRevoked);
    }
    assert!(world.events().await.is_empty());
    let answer = promises
        .resolve(&cancels, Resolution::Cancelled, None)
        .await;
    assert_eq!(answer.expect("decides"), ResolveAnswer::Accepted);
}

/// E10: a repeated command is accepted again.
pub async fn e10_a_repeated_command_is_accepted_again(fixture: &dyn StoreFixture) {
    let (mut world, promises) = opened(fixture, &[desk()]).await;
    let token = token(&promises, TokenRights::ALL).await;
    let command = Some(fresh_id());
    drop(promises);
    for _ in 0..2 {
        world.restart().await;
        let promises = world.promises().await;
        let answer = promises.resolve(&token, yes(), command).await;
        assert_eq!(answer.expect("decides"), ResolveAnswer::Accepted);
    }
    let events = world.events().await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].draft.caused_by, command.map(|id| id.to_string()));
}

/// E10: resolving at once has one winner.
pub async fn e10_resolving_at_once_has_one_winner(fixture: &dyn StoreFixture) {
    let (world, promises) = opened(fixture, &[desk()]).await;
    let token = token(&promises, TokenRights::ALL).await;
    let racers = (0..16).map(|racer| {
        let resolution = Resolution::Ok {
            value: json!(racer),
        };
        promises.resolve(&token, resolution, None)
    });
    let answers = futures_util::future::join_all(racers).await;
    let accepted = answers
        .iter()
        .filter(|answer| matches!(answer, Ok(ResolveAnswer::Accepted)));
    assert_eq!(accepted.count(), 1);
    assert_eq!(world.kinds().await, ["promise_resolved"]);
}

/// E10: early resolutions have a quota.
pub async fn e10_early_resolutions_have_a_quota(fixture: &dyn StoreFixture) {
    let (world, promises) = opened(fixture, &[desk()]).await;
    let host = world.host();
    let resolve = |key: &'static str| {
        let promises = promises.clone();
        async move {
            promises
                .resolve_identity(&desk(), &custom(key), yes(), None)
                .await
        }
    };
    for key in ["a", "b", "c"] {
        assert_eq!(
            resolve(key).await.expect("decides"),
            ResolveAnswer::Accepted
        );
    }
    let full = resolve("d").await.expect_err("is over the quota");
    assert_eq!(
        (full.code(), full.class()),
        ("promise_quota_reached", ErrorClass::Busy)
    );
    // A promise that is waited for is not early; a wait that took one makes room.
    let controller = world.open(&host, &desk()).await;
    let wait = wait_for(&desk(), &custom("a"), None);
    controller.wait_any(wait).await.expect("is resolved");
    assert_eq!(
        resolve("d").await.expect("decides"),
        ResolveAnswer::Accepted
    );
}

/// E10: a resolution has a limit.
pub async fn e10_a_resolution_has_a_limit(fixture: &dyn StoreFixture) {
    let (world, promises) = opened(fixture, &[desk()]).await;
    let long = Resolution::Ok {
        value: json!("x".repeat(2000)),
    };
    let refused = promises
        .resolve_identity(&desk(), &custom("answer"), long, None)
        .await;
    assert_eq!(refused.expect_err("is long").code(), "resolution_too_large");
    assert!(world.events().await.is_empty());
}

/// E10: the public name gives no rights.
pub async fn e10_the_public_name_gives_no_rights(fixture: &dyn StoreFixture) {
    let (_, promises) = opened(fixture, &[desk()]).await;
    let name = promises.public_name(&desk(), &custom("answer"));
    assert_eq!(name, promises.public_name(&desk(), &custom("answer")));
    assert_ne!(
        name,
        promises.public_name(&turn("desk", "2"), &custom("answer"))
    );
    let answer = promises.resolve(&name, yes(), None).await;
    assert_eq!(answer.expect("decides"), ResolveAnswer::UnknownOrRevoked);
    assert!(!token(&promises, TokenRights::ALL).await.contains(&name));
}

/// E13: a scope that is not there or retired is unknown.
pub async fn e13_a_scope_that_is_not_there_or_retired_is_unknown(fixture: &dyn StoreFixture) {
    let (world, promises) = opened(fixture, &[desk()]).await;
    let later = turn("desk", "2");
    let answer = promises
        .resolve_identity(&later, &custom("answer"), yes(), None)
        .await;
    assert_eq!(answer.expect("decides"), ResolveAnswer::UnknownOrRevoked);
    let token = token(&promises, TokenRights::ALL).await;
    promises
        .resolve(&token, yes(), None)
        .await
        .expect("decides");
    let retire = Commit::new(fresh_id(), Timestamp::from_millis(2))
        .row(RowChange::Retire(desk().scope_id()));
    world.store.commit(retire).await.expect("commits");
    let answer = promises.resolve(&token, yes(), None).await;
    assert_eq!(answer.expect("decides"), ResolveAnswer::UnknownOrRevoked);
}

/// E13: revoking one promise leaves the others.
pub async fn e13_revoking_one_promise_leaves_the_others(fixture: &dyn StoreFixture) {
    let (_, promises) = opened(fixture, &[desk()]).await;
    let revoked = token(&promises, TokenRights::ALL).await;
    let other = promises
        .mint(&desk(), &custom("other"), TokenRights::ALL, None)
        .await
        .expect("mints");
    let revocation = Revocation::Promise {
        scope: desk(),
        identity: custom("answer"),
    };
    assert!(
        promises
            .revoke(revocation.clone(), None)
            .await
            .expect("revokes")
    );
    assert!(!promises.revoke(revocation, None).await.expect("is revoked"));
    let answer = promises.resolve(&revoked, yes(), None).await;
    assert_eq!(answer.expect("decides"), ResolveAnswer::UnknownOrRevoked);
    let again = promises
        .mint(&desk(), &custom("answer"), TokenRights::ALL, None)
        .await;
    assert_eq!(
        again.expect_err("is revoked").code(),
        "promise_owner_revoked"
    );
    let answer = promises.resolve(other.expose(), yes(), None).await;
    assert_eq!(answer.expect("decides"), ResolveAnswer::Accepted);
}

/// E13: revoking a scope wakes its waiters and only those.
pub async fn e13_revoking_a_scope_wakes_its_waiters_and_only_those(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let host = world.host();
    let promises = host.await_events().await.expect("loads");
    let (mine, other) = (desk(), turn("desk", "2"));
    let controller = world.open(&host, &mine).await;
    let bystander = world.open(&host, &other).await;
    let mut waiting = pin!(controller.wait_any(wait_for(&mine, &custom("answer"), None)));
    let mut standing = pin!(bystander.wait_any(wait_for(&other, &custom("answer"), None)));
    assert!(world.stands_still(waiting.as_mut()).await);
    assert!(world.stands_still(standing.as_mut()).await);
    let revocation = Revocation::Scope(mine);
    assert!(promises.revoke(revocation, None).await.expect("revokes"));
    let seen = EffectOutput::AwaitEvent(WaitOutput::Resolved {
        source: 0,
        resolution: Resolution::Cancelled,
    });
    assert_eq!(waiting.await, Ok(EffectOutcome::Completed(seen)));
    assert!(world.stands_still(standing.as_mut()).await);
    world.clock.advance(Duration::from_secs(1));
    assert!(matches!(standing.await, Err(Interrupt::Suspended { .. })));
}

/// E13: revoking a session covers its later turns.
pub async fn e13_revoking_a_session_covers_its_later_turns(fixture: &dyn StoreFixture) {
    let (later, elsewhere) = (turn("desk", "2"), turn("shop", "1"));
    let (mut world, promises) = opened(fixture, &[desk(), elsewhere.clone()]).await;
    let token = token(&promises, TokenRights::ALL).await;
    let session = Revocation::Session("desk".parse().expect("legal"));
    assert!(promises.revoke(session, None).await.expect("revokes"));
    world.restart().await;
    let promises = world.promises().await;
    world.next_epoch(&later).await;
    let refused = promises.verify(&token).await.expect_err("is revoked");
    assert_eq!(refused.code(), "token_refused");
    for (scope, expected) in [
        (later, ResolveAnswer::UnknownOrRevoked),
        (elsewhere, ResolveAnswer::Accepted),
    ] {
        let answer = promises
            .resolve_identity(&scope, &custom("answer"), yes(), None)
            .await;
        assert_eq!(answer.expect("decides"), expected);
    }
}

/// E13: a settled promise is not revoked.
pub async fn e13_a_settled_promise_is_not_revoked(fixture: &dyn StoreFixture) {
    let (world, promises) = opened(fixture, &[desk()]).await;
    let token = token(&promises, TokenRights::ALL).await;
    promises
        .resolve(&token, yes(), None)
        .await
        .expect("decides");
    let revocation = Revocation::Promise {
        scope: desk(),
        identity: custom("answer"),
    };
    assert!(!promises.revoke(revocation, None).await.expect("answers"));
    assert_eq!(world.kinds().await, ["promise_resolved"]);
}

/// E1: identities are bounded.
pub async fn e1_identities_are_bounded(fixture: &dyn StoreFixture) {
    let (_, promises) = opened(fixture, &[desk()]).await;
    let signal = |name: &str, ordinal| WaitIdentity::ProcessSignal {
        process: "p".parse().expect("legal"),
        name: name.to_owned(),
        ordinal,
    };
    for identity in [
        custom(""),
        custom(&"x".repeat(513)),
        custom("line\nbreak"),
        signal("go!", 1),
        signal("", 1),
        signal("go", 0),
    ] {
        let refused = promises
            .mint(&desk(), &identity, TokenRights::ALL, None)
            .await;
        assert_eq!(
            refused.expect_err("is out of bounds").code(),
            "wait_identity_invalid"
        );
    }
}

fn timeout_at(world: &World<'_>, after: u64) -> PromiseDeadline {
    PromiseDeadline {
        at: world.now().after(Duration::from_secs(after)),
        resolution: Resolution::Timeout,
    }
}

fn timed_out() -> EffectOutcome {
    EffectOutcome::Completed(EffectOutput::AwaitEvent(WaitOutput::Resolved {
        source: 0,
        resolution: Resolution::Timeout,
    }))
}

/// E11: a deadline that a promise carries itself settles it, for whoever waits and whoever
/// resolves too late; a waiter's own deadline does not.
pub async fn e11_a_promise_settles_at_its_own_deadline(fixture: &dyn StoreFixture) {
    let mut world = World::new(fixture).await;
    let (scope, identity) = (desk(), custom("answer"));
    world.next_epoch(&scope).await;
    let promises = world.promises().await;
    let deadline = timeout_at(&world, 60);
    for first in [true, false] {
        let set = promises.settle_at(&scope, &identity, &deadline).await;
        assert_eq!(set.expect("sets"), first, "the first deadline stands");
    }
    // It is durable, and a waiter whose patience ends before it settles nothing.
    world.restart().await;
    let host = world.host();
    let controller = world.open(&host, &scope).await;
    let impatient = wait_for(&scope, &identity, Some(Duration::from_millis(1)));
    let seen = world.drive(controller.wait_any(impatient)).await;
    assert!(seen.is_ok(), "{seen:?}");
    let promises = host.await_events().await.expect("loads");
    assert!(!promises.is_settled(&scope, &identity).await.expect("looks"));
    world.clock.advance(Duration::from_secs(60));
    let late = promises
        .resolve_identity(&scope, &identity, yes(), None)
        .await;
    let winner = Some(Resolution::Timeout);
    assert_eq!(
        late.expect("decides"),
        ResolveAnswer::AlreadyResolved { winner }
    );
    let told = world.kinds().await;
    let told = told.iter().filter(|kind| *kind == "promise_resolved");
    assert_eq!(told.count(), 1);
}

/// E11: whoever waits sees a promise settle at its own deadline, live or parked, and again when it
/// is driven again; who resolves before it wins.
pub async fn e11_waiters_see_a_promise_settle_by_itself(fixture: &dyn StoreFixture) {
    let mut world = World::new(fixture).await;
    let scopes = ["1", "2", "3"].map(|number| turn("desk", number));
    let identity = custom("answer");
    let host = world.host();
    let promises = host.await_events().await.expect("loads");
    // Live: it parks only after a second.
    let live = world.open(&host, &scopes[0]).await;
    let soon = PromiseDeadline {
        at: world.now().after(Duration::from_millis(500)),
        resolution: Resolution::Timeout,
    };
    promises
        .settle_at(&scopes[0], &identity, &soon)
        .await
        .expect("sets");
    let seen = world
        .drive(live.wait_any(wait_for(&scopes[0], &identity, None)))
        .await;
    assert_eq!(seen, Ok(timed_out()));
    drop(live);
    // Parked before it had a deadline: whoever sweeps settles it.
    let parked = world.open(&host, &scopes[1]).await;
    let waiting = world
        .drive(parked.wait_any(wait_for(&scopes[1], &identity, None)))
        .await;
    assert!(
        matches!(waiting, Err(Interrupt::Suspended { due: None, .. })),
        "{waiting:?}"
    );
    drop(parked);
    let deadline = timeout_at(&world, 60);
    promises
        .settle_at(&scopes[1], &identity, &deadline)
        .await
        .expect("sets");
    // Resolved in time, it settles no more.
    world.next_epoch(&scopes[2]).await;
    promises
        .settle_at(&scopes[2], &identity, &deadline)
        .await
        .expect("sets");
    let answer = promises
        .resolve_identity(&scopes[2], &identity, yes(), None)
        .await;
    assert_eq!(answer.expect("decides"), ResolveAnswer::Accepted);
    let early = promises.settle_due(world.now(), 8).await;
    assert_eq!(early.expect("sweeps"), 0);
    world.clock.advance(Duration::from_secs(60));
    let due = promises.settle_due(world.now(), 8).await;
    assert_eq!(due.expect("sweeps"), 1);
    assert_eq!(
        promises.settle_due(world.now(), 8).await.expect("sweeps"),
        0
    );
    for _ in 0..2 {
        world.restart().await;
        let host = world.host();
        for (scope, expected) in scopes.iter().zip([timed_out(), timed_out()]) {
            let controller = world.open(&host, scope).await;
            let seen = controller.wait_any(wait_for(scope, &identity, None)).await;
            assert_eq!(seen, Ok(expected));
        }
    }
    let gone = world.promises().await;
    let refused = gone
        .settle_at(&turn("desk", "9"), &identity, &deadline)
        .await;
    assert_eq!(refused.expect_err("is not there").code(), "promise_unknown");
    let refused = gone.settle_at(&scopes[2], &identity, &deadline).await;
    assert_eq!(refused.expect_err("is resolved").code(), "promise_unknown");
}

/// E11, E13: what is revoked settles no more by itself.
pub async fn e11_a_revoked_promise_settles_as_cancelled(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let (scope, identity) = (desk(), custom("answer"));
    let host = world.host();
    let promises = host.await_events().await.expect("loads");
    world.next_epoch(&scope).await;
    let deadline = timeout_at(&world, 1);
    promises
        .settle_at(&scope, &identity, &deadline)
        .await
        .expect("sets");
    let session = Revocation::Session("desk".parse().expect("legal"));
    assert!(promises.revoke(session, None).await.expect("revokes"));
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(
        promises.settle_due(world.now(), 8).await.expect("sweeps"),
        0
    );
    let controller = world.open(&host, &scope).await;
    let seen = controller.wait_any(wait_for(&scope, &identity, None)).await;
    let cancelled = EffectOutput::AwaitEvent(WaitOutput::Resolved {
        source: 0,
        resolution: Resolution::Cancelled,
    });
    assert_eq!(seen, Ok(EffectOutcome::Completed(cancelled)));
}
