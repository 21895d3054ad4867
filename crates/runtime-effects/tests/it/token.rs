//! Tokens: nothing but the very token is accepted (E12, X1, R13).

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::{any, proptest};
use runtime_core::{Classified, Clock, ExecutionScope, Timestamp};
use runtime_effects::{AwaitEvents, TokenRights};
use runtime_store::{Limits, MemoryStore, Store};
use runtime_testkit::{SeededRandom, SimulatedClock};

use crate::support::{World, custom, desk, memory, turn};

laws![
    x1_every_flipped_bit_and_every_cut_is_refused,
    x1_another_alphabet_or_padding_is_refused,
    e12_minting_is_deterministic_and_registers_nothing,
    e12_tokens_of_rotated_keys_stay_valid,
    e12_a_key_that_another_process_added_is_learnt,
    e12_an_expired_token_is_refused,
    e12_what_is_verified_is_what_was_minted,
];

const KEY: &str = "answer";

async fn promises(world: &World) -> AwaitEvents {
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

async fn x1_every_flipped_bit_and_every_cut_is_refused(store: Arc<dyn Store>) {
    let world = World::new(store);
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

async fn x1_another_alphabet_or_padding_is_refused(store: Arc<dyn Store>) {
    let world = World::new(store);
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

async fn e12_minting_is_deterministic_and_registers_nothing(store: Arc<dyn Store>) {
    let world = World::new(store);
    let first = mint(&promises(&world).await, &desk(), TokenRights::ALL).await;
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

async fn e12_tokens_of_rotated_keys_stay_valid(store: Arc<dyn Store>) {
    let world = World::new(store);
    let promises_now = promises(&world).await;
    let old = mint(&promises_now, &desk(), TokenRights::ALL).await;
    promises_now.rotate_keys().await.expect("rotates");
    let new = mint(&promises_now, &desk(), TokenRights::ALL).await;
    assert_ne!(old, new);
    for promises in [promises_now, promises(&world).await] {
        promises.verify(&old).await.expect("is genuine");
        promises.verify(&new).await.expect("is genuine");
    }
}

async fn e12_a_key_that_another_process_added_is_learnt(store: Arc<dyn Store>) {
    let world = World::new(store);
    let (here, there) = (promises(&world).await, promises(&world).await);
    there.rotate_keys().await.expect("rotates");
    let token = mint(&there, &desk(), TokenRights::ALL).await;
    here.verify(&token).await.expect("is genuine");
}

async fn e12_an_expired_token_is_refused(store: Arc<dyn Store>) {
    let world = World::new(store);
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

async fn e12_what_is_verified_is_what_was_minted(store: Arc<dyn Store>) {
    let world = World::new(store);
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

/// The key ring is the same byte for byte, the runtime is not.
#[tokio::test]
async fn e12_two_runtimes_with_one_key_ring_share_no_token() {
    let store = |runtime: &str| -> Arc<dyn Store> {
        Arc::new(MemoryStore::with_parts(
            runtime.parse().expect("legal"),
            Arc::new(SimulatedClock::new(Timestamp::from_millis(1))),
            Arc::new(SeededRandom::new(3)),
            Limits::default(),
        ))
    };
    let (mine, other) = (store("test"), store("other"));
    let rings = (mine.key_ring().await, other.key_ring().await);
    assert_eq!(rings.0.expect("reads"), rings.1.expect("reads"));
    let token = mint(
        &promises(&World::new(mine)).await,
        &desk(),
        TokenRights::ALL,
    )
    .await;
    let same = promises(&World::new(store("test"))).await;
    same.verify(&token).await.expect("is the same runtime");
    assert!(refused(&promises(&World::new(other)).await, &token).await);
}

proptest! {
    /// X1: no text is a token by chance, and none makes the decoder fail.
    #[test]
    fn x1_any_text_is_refused(text in any::<String>(), bytes in any::<Vec<u8>>()) {
        use base64::Engine as _;
        let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("builds");
        runtime.block_on(async {
            let world = World::new(memory());
            let promises = promises(&world).await;
            assert!(refused(&promises, &text).await);
            assert!(refused(&promises, &encoded).await);
        });
    }
}
