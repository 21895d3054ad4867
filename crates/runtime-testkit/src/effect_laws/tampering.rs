//! Tampered tokens (X1): none is accepted, whatever happened since it was made.

use futures_util::future::join_all;
use runtime_core::{ExecutionScope, Timestamp};
use runtime_effects::{AwaitEvents, EffectLimits, Revocation, StoreEffectHost, TokenRights};
use runtime_store::{Commit, MemoryStore, Page, RowChange, RowQuery, Store};

use super::Tally;
use super::world::{World, custom, desk, fresh_id, turn};
use crate::store_laws::StoreFixture;
use crate::{SeededRandom, SimulatedClock};

/// How many owners are revoked after the first one: more than any list of them would hold.
const LATER_REVOCATIONS: usize = 5_000;

/// A fault planted into the check of tokens, which the row must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenFault {
    /// The last bytes of a signature are not looked at.
    ShortSignature,
    /// The first revocation is forgotten after many others.
    RevocationWearsOff,
}

/// The tokens of a phase: good ones, and some that must not be taken.
struct Tokens {
    genuine: Vec<String>,
    refused: Vec<String>,
}

impl Tokens {
    /// Makes everything that is nearly a genuine token.
    fn tampered(&self) -> Vec<String> {
        let mut tampered = self.refused.clone();
        for (at, token) in self.genuine.iter().enumerate() {
            for place in 0..token.len() {
                for bit in 0..7 {
                    let mut bytes = token.clone().into_bytes();
                    bytes[place] ^= 1 << bit;
                    tampered.push(String::from_utf8(bytes).expect("seven bits stay ASCII"));
                }
                tampered.push(token[..place].to_owned());
                tampered.push(token[place + 1..].to_owned());
            }
            // The claims of one with the signature of another.
            for (_, other) in self.genuine.iter().enumerate().filter(|(o, _)| *o != at) {
                let signature = other.len() - SIGNATURE_CHARACTERS;
                let claims = token.len() - SIGNATURE_CHARACTERS;
                tampered.push(format!("{}{}", &token[..claims], &other[signature..]));
                tampered.push(format!("{}{}", &other[..signature], &token[claims..]));
            }
        }
        // A splice of two tokens with equal ends is the genuine one again.
        tampered.retain(|text| !self.genuine.contains(text));
        tampered
    }
}

/// The last characters of a token are its signature, as far as they carry nothing else.
const SIGNATURE_CHARACTERS: usize = 42;

async fn mint(promises: &AwaitEvents, scope: &ExecutionScope, rights: TokenRights) -> String {
    let token = promises.mint(scope, &custom("answer"), rights, None).await;
    token.expect("mints").expose().to_owned()
}

/// Mints in another runtime, with a key ring of its own.
async fn foreign(scope: &ExecutionScope) -> String {
    let host = StoreEffectHost::new(
        std::sync::Arc::new(MemoryStore::new("another".parse().expect("legal"))),
        std::sync::Arc::new(SimulatedClock::new(Timestamp::from_millis(1))),
        std::sync::Arc::new(SeededRandom::new(1)),
        EffectLimits::default(),
    );
    let promises = host.await_events().await.expect("loads");
    mint(&promises, scope, TokenRights::ALL).await
}

/// X1: offers tampered tokens when they are new, after more than 4,096 further revocations, after
/// a rotation of the keys, and after a restart. Tokens of a revoked owner, of a revoked session,
/// of another runtime and expired ones are among them.
///
/// # Panics
/// When a genuine token is refused.
pub async fn tampered_tokens(fixture: &dyn StoreFixture, fault: Option<TokenFault>) -> Tally {
    let mut world = World::new(fixture).await;
    let mut tally = Tally::default();
    let promises = world.promises().await;
    let mut tokens = first_tokens(&promises, &world).await;
    offer(&promises, &tokens, fault, &mut tally).await;

    revoke_others(&promises).await;
    if fault == Some(TokenFault::RevocationWearsOff) {
        forget_revocations(&world).await;
    }
    offer(&promises, &tokens, fault, &mut tally).await;

    promises.rotate_keys().await.expect("rotates");
    tokens
        .genuine
        .push(mint(&promises, &desk(), TokenRights::ALL).await);
    offer(&promises, &tokens, fault, &mut tally).await;

    world.restart().await;
    offer(&world.promises().await, &tokens, fault, &mut tally).await;
    tally
}

async fn first_tokens(promises: &AwaitEvents, world: &World<'_>) -> Tokens {
    let (revoked, ended) = (turn("shop", "1"), turn("closed", "1"));
    let genuine = vec![
        mint(promises, &desk(), TokenRights::ALL).await,
        mint(promises, &desk(), TokenRights::RESOLVE).await,
        mint(promises, &turn("desk", "2"), TokenRights::ALL).await,
        mint(promises, &turn("shop", "2"), TokenRights::WAIT).await,
    ];
    let now = runtime_core::Clock::now(&world.clock);
    let expired = promises
        .mint(&desk(), &custom("answer"), TokenRights::ALL, Some(now))
        .await;
    let refused = vec![
        mint(promises, &revoked, TokenRights::ALL).await,
        mint(promises, &ended, TokenRights::ALL).await,
        foreign(&desk()).await,
        expired.expect("mints").expose().to_owned(),
    ];
    let session = Revocation::Session("closed".parse().expect("legal"));
    for revocation in [Revocation::Scope(revoked), session] {
        let revoked = promises.revoke(revocation, None).await;
        assert!(revoked.expect("revokes"), "is new");
    }
    Tokens { genuine, refused }
}

async fn revoke_others(promises: &AwaitEvents) {
    let owners: Vec<usize> = (0..LATER_REVOCATIONS).collect();
    for some in owners.chunks(256) {
        let revocations = some.iter().map(|owner| {
            let scope = turn("others", &owner.to_string());
            promises.revoke(Revocation::Scope(scope), None)
        });
        for revoked in join_all(revocations).await {
            assert!(revoked.expect("revokes"), "is new");
        }
    }
}

/// Plants the fault that early revocations wear off.
async fn forget_revocations(world: &World<'_>) {
    let first = turn("shop", "1").scope_id();
    let query = RowQuery::scope("promise_revoked", first);
    let rows = world.store.rows(query, Page::after(None, 8)).await;
    for row in rows.expect("reads").rows {
        let forget = Commit::new(fresh_id(), Timestamp::from_millis(2));
        let forget = forget.row(RowChange::Delete(row.key));
        world.store.commit(forget).await.expect("commits");
    }
}

async fn offer(
    promises: &AwaitEvents,
    tokens: &Tokens,
    fault: Option<TokenFault>,
    tally: &mut Tally,
) {
    for token in &tokens.genuine {
        promises.verify(token).await.expect("is genuine");
    }
    for text in tokens.tampered() {
        let accepted = promises.verify(&text).await.is_ok()
            || fault == Some(TokenFault::ShortSignature) && is_nearly(&text, &tokens.genuine);
        tally.count(!accepted, || format!("accepted: {text}"));
    }
}

/// Says whether all but the last characters are those of a genuine token.
fn is_nearly(text: &str, genuine: &[String]) -> bool {
    let cut = |token: &str| {
        token
            .get(..token.len().saturating_sub(4))
            .map(str::to_owned)
    };
    let near = |token: &String| token.len() == text.len() && cut(token) == cut(text);
    genuine.iter().any(near)
}
