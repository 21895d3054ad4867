//! The key of an entry (M3): who may share it, and exactly what it was fetched from.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use runtime_core::{CanonicalEncoder, Digest, SessionId};
use serde_json::Value;

/// Who may share an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// Every session whose connection and authorisation are the same.
    Shared,
    /// One session.
    Session(SessionId),
}

/// On whose behalf the server is asked.
///
/// There is no "unknown": whoever cannot name the account owns the entry by session instead, so
/// a private answer never crosses an authorisation context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authorisation {
    /// Without any credential besides what the connection itself holds.
    Anonymous,
    /// As this account: a stable name such as issuer and subject, never the secret itself, so
    /// that renewing a token keeps the key.
    Account(String),
}

/// What a cached value was fetched from, and for whom.
///
/// Equal only if owner, server, connection and authorisation are: a changed URL, header, command
/// or account is another key. Cheap to clone.
#[derive(Clone)]
pub struct CacheKey(Arc<Parts>);

struct Parts {
    server: String,
    owner: Owner,
    digest: Digest,
}

impl CacheKey {
    /// Makes the key. `connection` is the whole connection as JSON: type, URL, headers, or
    /// command, arguments and environment, and whether the server is trusted, since its hints are
    /// read into what is cached; only its digest is kept.
    #[must_use]
    pub fn new(
        owner: Owner,
        server: impl Into<String>,
        connection: &Value,
        authorisation: &Authorisation,
    ) -> Self {
        let server = server.into();
        let encoder = CanonicalEncoder::new("discovery-key");
        let encoder = match &owner {
            Owner::Shared => encoder.text("shared"),
            Owner::Session(session) => encoder.text("session").text(session.as_str()),
        };
        let encoder = encoder.text(&server).json(connection);
        let encoder = match authorisation {
            Authorisation::Anonymous => encoder.text("anonymous"),
            Authorisation::Account(account) => encoder.text("account").text(account),
        };
        let digest = encoder.digest();
        Self(Arc::new(Parts {
            server,
            owner,
            digest,
        }))
    }

    /// The key of an archived entry. Its connection and authorisation are in the digest only, so
    /// it meets the calls that name the same ones, and no others.
    pub(crate) fn restored(owner: Owner, server: String, digest: Digest) -> Self {
        Self(Arc::new(Parts {
            server,
            owner,
            digest,
        }))
    }

    /// Returns the name of the server.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.0.server
    }

    /// Returns who may share the entry.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.0.owner
    }

    /// Returns the digest of everything the key is made of.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.0.digest
    }
}

impl PartialEq for CacheKey {
    fn eq(&self, other: &Self) -> bool {
        // The digest covers every part.
        Arc::ptr_eq(&self.0, &other.0) || self.0.digest == other.0.digest
    }
}

impl Eq for CacheKey {}

impl Hash for CacheKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Eight bytes of a SHA-256 are spread well already; the rest decides in `eq`.
        let (head, _) = self.0.digest.as_bytes().split_at(8);
        state.write(head);
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheKey")
            .field("server", &self.0.server)
            .field("owner", &self.0.owner)
            .field("digest", &self.0.digest)
            .finish()
    }
}
