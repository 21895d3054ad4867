//! Tokens: a promise, what its bearer may do, and a signature over both (E12). No I/O.
//!
//! ```text
//! token = base64url( body  mac:32 )                       no padding
//! body  = version:u8  key:u32  rights:u8  expiry:u64       expiry in ms + 1; 0 is never
//!         length:u16 scope  length:u16 wait-identity-json
//! mac   = HMAC-SHA256( sub-key, canonical("await-token", runtime id, body) )
//! ```

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use runtime_core::{
    CanonicalEncoder, ExecutionScope, RuntimeId, ScopeId, Secret, Timestamp, WaitIdentity,
};
use sha2::Sha256;

const TOKEN_VERSION: u8 = 1;
const MAC_BYTES: usize = 32;
/// More than the longest body can have: a scope of 512 bytes, an identity of a few kilobytes.
const TOKEN_BYTES_MAX: usize = 8192;

/// What the bearer of a token may do.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenRights(u8);

impl TokenRights {
    /// Settle the promise with a value, an error or a time-out.
    pub const RESOLVE: Self = Self(1);
    /// Learn how it was settled.
    pub const WAIT: Self = Self(2);
    /// Settle it as cancelled.
    pub const CANCEL: Self = Self(4);
    /// All of these.
    pub const ALL: Self = Self(7);

    /// Returns both rights together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Says whether these rights include those.
    #[must_use]
    pub const fn include(self, those: Self) -> bool {
        self.0 & those.0 == those.0
    }
}

impl fmt::Debug for TokenRights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [
            (Self::RESOLVE, "resolve"),
            (Self::WAIT, "wait"),
            (Self::CANCEL, "cancel"),
        ];
        let held = named.iter().filter(|(right, _)| self.include(*right));
        f.debug_set().entries(held.map(|(_, name)| name)).finish()
    }
}

/// A token as text: URL-safe. Whoever has it may use its rights, so it prints `[token]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Returns the text; the name makes each use easy to find.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[token]")
    }
}

/// What a token says, after its signature was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedToken {
    /// The scope of the promise.
    pub scope: ExecutionScope,
    /// Which promise.
    pub identity: WaitIdentity,
    /// What its bearer may do.
    pub rights: TokenRights,
    /// When it stops being valid.
    pub expiry: Option<Timestamp>,
}

/// A key for tokens of one runtime, derived from a signing key.
pub(crate) struct TokenKey {
    pub(crate) id: u32,
    runtime: RuntimeId,
    mac: Hmac<Sha256>,
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

fn keyed(secret: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(secret).expect("HMAC takes a key of any length")
}

impl TokenKey {
    /// Derives the sub-key of this use, so that no other use of the ring can sign a token.
    pub(crate) fn derive(id: u32, secret: &Secret, runtime: &RuntimeId) -> Self {
        let use_of_key = CanonicalEncoder::new("await-token-key").text(runtime.as_str());
        let mut derivation = keyed(secret.expose());
        derivation.update(&use_of_key.finish());
        Self {
            id,
            runtime: runtime.clone(),
            mac: keyed(&derivation.finalize().into_bytes()),
        }
    }

    fn signed(&self, body: &[u8]) -> Hmac<Sha256> {
        let identity = CanonicalEncoder::new("await-token")
            .text(self.runtime.as_str())
            .bytes(body);
        let mut mac = self.mac.clone();
        mac.update(&identity.finish());
        mac
    }

    /// Signs; the same claims give the same token.
    pub(crate) fn sign(&self, token: &VerifiedToken) -> Token {
        let mut bytes = encode(self.id, token);
        let mac = self.signed(&bytes).finalize().into_bytes();
        bytes.extend(mac);
        Token(URL_SAFE_NO_PAD.encode(bytes))
    }
}

/// Checks a token against the key it names; none for whatever is wrong with it.
pub(crate) fn open(text: &str, keys: &[TokenKey], now: Timestamp) -> Option<VerifiedToken> {
    if text.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (body, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC_BYTES)?)?;
    let id = key_id(body)?;
    let key = keys.iter().find(|key| key.id == id)?;
    // In constant time, and before anything of the body is believed.
    key.signed(body).verify_slice(mac).ok()?;
    let token = decode(body)?;
    let expired = token.expiry.is_some_and(|expiry| expiry <= now);
    (!expired).then_some(token)
}

/// Returns the key that a token names, so that a ring rotated elsewhere can be read again.
pub(crate) fn named_key(text: &str) -> Option<u32> {
    if text.len() > TOKEN_BYTES_MAX {
        return None;
    }
    key_id(&URL_SAFE_NO_PAD.decode(text).ok()?)
}

fn key_id(body: &[u8]) -> Option<u32> {
    let bytes = body.get(1..5)?.try_into().ok()?;
    Some(u32::from_be_bytes(bytes))
}

fn encode(key: u32, token: &VerifiedToken) -> Vec<u8> {
    let expiry = token
        .expiry
        .map_or(0, |expiry| expiry.as_millis().saturating_add(1));
    let identity = serde_json::to_vec(&token.identity).expect("an identity is plain data");
    let mut bytes = vec![TOKEN_VERSION];
    bytes.extend(key.to_be_bytes());
    bytes.push(token.rights.0);
    bytes.extend(expiry.to_be_bytes());
    for field in [token.scope.scope_id().as_str().as_bytes(), &identity] {
        let length = u16::try_from(field.len()).expect("both are bounded far below 64 KiB");
        bytes.extend(length.to_be_bytes());
        bytes.extend(field);
    }
    bytes
}

fn decode(body: &[u8]) -> Option<VerifiedToken> {
    let (&version, rest) = body.split_first()?;
    let (_key, rest) = rest.split_first_chunk::<4>()?;
    let (&rights, rest) = rest.split_first()?;
    let (expiry, rest) = rest.split_first_chunk::<8>()?;
    let (scope, rest) = field(rest)?;
    let (identity, rest) = field(rest)?;
    if version != TOKEN_VERSION || !rest.is_empty() {
        return None;
    }
    let scope = ScopeId::new(std::str::from_utf8(scope).ok()?).ok()?;
    Some(VerifiedToken {
        scope: ExecutionScope::from_scope_id(&scope).ok()?,
        identity: serde_json::from_slice(identity).ok()?,
        rights: TokenRights(rights),
        expiry: u64::from_be_bytes(*expiry)
            .checked_sub(1)
            .map(Timestamp::from_millis),
    })
}

fn field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> TokenKey {
        let runtime = "test".parse().expect("legal");
        TokenKey::derive(1, &Secret::new([7; 32]), &runtime)
    }

    fn named(name: String) -> VerifiedToken {
        VerifiedToken {
            scope: ExecutionScope::Process {
                process: "p".parse().expect("legal"),
            },
            identity: WaitIdentity::Custom { key: name },
            rights: TokenRights::ALL,
            expiry: None,
        }
    }

    fn opens(text: &str) -> bool {
        open(text, &[key()], Timestamp::from_millis(1)).is_some()
    }

    /// E12: what is longer than any token is not even decoded, though its signature is right.
    #[test]
    fn e12_a_text_that_is_longer_than_any_token_is_refused() {
        let shortest = encode(1, &named(String::new())).len() + MAC_BYTES;
        let longest = TOKEN_BYTES_MAX / 4 * 3 - shortest;
        for (name_bytes, is_read) in [(longest, true), (longest + 1, false)] {
            let token = key().sign(&named("a".repeat(name_bytes)));
            let text = token.expose();
            assert_eq!(text.len() <= TOKEN_BYTES_MAX, is_read, "{}", text.len());
            let read = (opens(text), named_key(text).is_some());
            assert_eq!(read, (is_read, is_read), "{} bytes", text.len());
        }
    }

    /// E12: a form of another version is refused, and so is one with something behind its end,
    /// though the key has signed it.
    #[test]
    fn e12_a_signed_body_of_another_form_is_refused() {
        let text = |body: &[u8]| {
            let mac = key().signed(body).finalize().into_bytes();
            URL_SAFE_NO_PAD.encode([body, &mac[..]].concat())
        };
        let body = encode(1, &named("answer".to_owned()));
        assert!(opens(&text(&body)));
        let (mut later, mut longer) = (body.clone(), body);
        later[0] = TOKEN_VERSION + 1;
        longer.push(0);
        for refused in [later, longer] {
            assert!(!opens(&text(&refused)), "{refused:?}");
        }
    }
}
