//! Tokens: what is about two runtimes, and about any text (E12, X1, R13).

use std::sync::Arc;

use proptest::prelude::{any, proptest};
use runtime_core::{Classified, Timestamp};
use runtime_effects::{AwaitEvents, EffectLimits, StoreEffectHost, TokenRights};
use runtime_store::{Limits, MemoryStore, Store};
use runtime_testkit::effect_laws::{custom, desk};
use runtime_testkit::{SeededRandom, SimulatedClock};

fn store(runtime: &str) -> Arc<dyn Store> {
    Arc::new(MemoryStore::with_parts(
        runtime.parse().expect("legal"),
        Arc::new(SimulatedClock::new(Timestamp::from_millis(1))),
        Arc::new(SeededRandom::new(3)),
        Limits::default(),
    ))
}

async fn promises(store: Arc<dyn Store>) -> AwaitEvents {
    let host = StoreEffectHost::new(
        store,
        Arc::new(SimulatedClock::new(Timestamp::from_millis(1))),
        Arc::new(SeededRandom::new(7)),
        EffectLimits::default(),
    );
    host.await_events().await.expect("loads")
}

async fn refused(promises: &AwaitEvents, token: &str) -> bool {
    let verified = promises.verify(token).await;
    verified.is_err_and(|error| error.code() == "token_refused")
}

/// The key ring is the same byte for byte, the runtime is not.
#[tokio::test]
async fn e12_two_runtimes_with_one_key_ring_share_no_token() {
    let (mine, other) = (store("test"), store("other"));
    let rings = (mine.key_ring().await, other.key_ring().await);
    assert_eq!(rings.0.expect("reads"), rings.1.expect("reads"));
    let token = promises(mine)
        .await
        .mint(&desk(), &custom("answer"), TokenRights::ALL, None)
        .await
        .expect("mints");
    let same = promises(store("test")).await;
    same.verify(token.expose())
        .await
        .expect("is the same runtime");
    assert!(refused(&promises(other).await, token.expose()).await);
}

/// E12: rights are joined; what is printed says what may be done, and gives nobody the right.
#[tokio::test]
async fn e12_rights_are_joined_and_what_is_printed_gives_none() {
    let (resolve, wait) = (TokenRights::RESOLVE, TokenRights::WAIT);
    let both = resolve.and(wait);
    assert!(both.include(resolve) && both.include(wait) && !both.include(TokenRights::CANCEL));
    assert_eq!(both.and(wait), both, "a right that is held is kept");
    assert_eq!(format!("{both:?}"), r#"{"resolve", "wait"}"#);
    let store = store("test");
    let promises = promises(Arc::clone(&store)).await;
    let token = promises.mint(&desk(), &custom("answer"), both, None).await;
    assert_eq!(format!("{:?}", token.expect("mints")), "[token]");
    let (ring, printed) = (store.key_ring().await, format!("{promises:?}"));
    let key = ring.expect("reads").keys.remove(0);
    assert!(printed.contains("TokenKey { id: 1, .. }"), "{printed}");
    assert!(!printed.contains(&format!("{:?}", key.secret.expose())));
}

proptest! {
    /// X1: no text is a token by chance, and none makes the decoder fail.
    #[test]
    fn x1_any_text_is_refused(text in any::<String>(), bytes in any::<Vec<u8>>()) {
        use base64::Engine as _;
        let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("builds");
        runtime.block_on(async {
            let promises = promises(store("test")).await;
            assert!(refused(&promises, &text).await);
            assert!(refused(&promises, &encoded).await);
        });
    }
}
