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
