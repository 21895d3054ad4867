//! Tokens: nothing but the very token is accepted (E12, X1, R13).

use std::time::Duration;

use runtime_core::{Classified, Clock, ExecutionScope};
use runtime_effects::{AwaitEvents, TokenRights};

use super::world::{World, custom, desk, turn};
use crate::store_laws::StoreFixture;

const KEY: &str = "answer";

async fn promises(world: &World<'_>) -> AwaitEvents {
    world.host().await_events().await.expect("loads")
}

async fn mint(promises: &AwaitEvents, scope: &ExecutionScope, rights: TokenRights) -> String {
    let token = promises.mint(scope, &custom(KEY), rights, None).await;
    token.expect("mints").expose().to_owned()
}

async fn refused(promises: &AwaitEvents, token: &str) -> bool {
    let verified = promises.verify(token).await;
    verified.is_err_and(|error| error.code() == "token_refused")
}

/// X1: every flipped bit and every cut is refused.
pub async fn x1_every_flipped_bit_and_every_cut_is_refused(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let promises = promises(&world).await;
    let token = mint(&promises, &desk(), TokenRights::ALL).await;
    promises.verify(&token).await.expect("is genuine");
    let mut tampered = 0;
    for at in 0..token.len() {
        for bit in 0..7 {
            let mut bytes = token.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            let text = String::from_utf8(bytes).expect("seven bits stay ASCII");
            assert!(refused(&promises, &text).await, "byte {at} bit {bit}");
            tampered += 1;
        }
        assert!(refused(&promises, &token[..at]).await, "cut at {at}");
        assert!(
            refused(&promises, &token[at + 1..]).await,
            "cut before {at}"
        );
        tampered += 2;
    }
    assert!(tampered > 1000, "{tampered}");
}

/// X1: another alphabet or padding is refused.
pub async fn x1_another_alphabet_or_padding_is_refused(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let promises = promises(&world).await;
    let token = mint(&promises, &desk(), TokenRights::ALL).await;
    for text in [
        format!("{token}="),
        format!("{token}A"),
        format!(" {token}"),
        format!("{token}\n"),
        token.repeat(100),
        String::new(),
    ] {
        assert!(refused(&promises, &text).await, "{text:?}");
    }
}

/// E12: minting is deterministic and registers nothing.
pub async fn e12_minting_is_deterministic_and_registers_nothing(fixture: &dyn StoreFixture) {
    let mut world = World::new(fixture).await;
    let first = mint(&promises(&world).await, &desk(), TokenRights::ALL).await;
    world.restart().await;
    let again = mint(&promises(&world).await, &desk(), TokenRights::ALL).await;
    assert_eq!(first, again, "after a restart as well");
    assert!(world.events().await.is_empty());
    assert!(
        first
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    );
    let other = turn("desk", "2");
    assert_ne!(
        first,
        mint(&promises(&world).await, &other, TokenRights::ALL).await
    );
}

/// E12: tokens of rotated keys stay valid.
pub async fn e12_tokens_of_rotated_keys_stay_valid(fixture: &dyn StoreFixture) {
    let mut world = World::new(fixture).await;
    let promises_now = promises(&world).await;
    let old = mint(&promises_now, &desk(), TokenRights::ALL).await;
    promises_now.rotate_keys().await.expect("rotates");
    let new = mint(&promises_now, &desk(), TokenRights::ALL).await;
    assert_ne!(old, new);
    promises_now.verify(&old).await.expect("is genuine");
    promises_now.verify(&new).await.expect("is genuine");
    for _ in 0..2 {
        world.restart().await;
        let promises = promises(&world).await;
        promises.verify(&old).await.expect("is genuine");
        promises.verify(&new).await.expect("is genuine");
    }
}

/// E12: a key that another process added is learnt.
pub async fn e12_a_key_that_another_process_added_is_learnt(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let (here, there) = (promises(&world).await, promises(&world).await);
    there.rotate_keys().await.expect("rotates");
    let token = mint(&there, &desk(), TokenRights::ALL).await;
    here.verify(&token).await.expect("is genuine");
}

/// E12: an expired token is refused.
pub async fn e12_an_expired_token_is_refused(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let promises = promises(&world).await;
    let expiry = world.clock.now().after(Duration::from_secs(60));
    let token = promises
        .mint(&desk(), &custom(KEY), TokenRights::ALL, Some(expiry))
        .await
        .expect("mints");
    world.clock.advance(Duration::from_secs(59));
    promises.verify(token.expose()).await.expect("is in time");
    world.clock.advance(Duration::from_secs(1));
    assert!(refused(&promises, token.expose()).await);
}

/// E12: what is verified is what was minted.
pub async fn e12_what_is_verified_is_what_was_minted(fixture: &dyn StoreFixture) {
    let world = World::new(fixture).await;
    let promises = promises(&world).await;
    let rights = TokenRights::RESOLVE.and(TokenRights::WAIT);
    let token = mint(&promises, &desk(), rights).await;
    let verified = promises.verify(&token).await.expect("is genuine");
    assert_eq!(verified.scope, desk());
    assert_eq!(verified.identity, custom(KEY));
    assert_eq!(verified.rights, rights);
    assert!(!verified.rights.include(TokenRights::CANCEL));
    assert_eq!(verified.expiry, None);
}
