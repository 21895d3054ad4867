//! The keys that tokens are signed with (E12).

use async_trait::async_trait;
use runtime_core::Secret;

use crate::ReadError;

/// One signing key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKey {
    /// Its name inside the ring, from 1.
    pub id: u32,
    /// 32 random bytes.
    pub secret: Secret,
}

/// The keys of a runtime: the last one signs, all verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRing {
    /// The keys, by ascending id; at least one.
    pub keys: Vec<SigningKey>,
}

impl KeyRing {
    /// Returns the key that signs.
    #[must_use]
    pub fn signing(&self) -> &SigningKey {
        self.keys.last().expect("a ring has at least one key")
    }

    /// Returns the key of that id.
    #[must_use]
    pub fn key(&self, id: u32) -> Option<&SigningKey> {
        self.keys.iter().find(|key| key.id == id)
    }
}

/// Where the key ring lives. It is never part of the log, an event or an export.
#[async_trait]
pub trait KeyRingStore: Send + Sync {
    /// Returns the ring; makes one with a fresh random key if there is none.
    ///
    /// # Errors
    /// [`ReadError`].
    async fn key_ring(&self) -> Result<KeyRing, ReadError>;

    /// Adds a fresh key that signs from now on; the old ones still verify.
    ///
    /// # Errors
    /// [`ReadError`].
    async fn rotate_key_ring(&self) -> Result<KeyRing, ReadError>;
}
