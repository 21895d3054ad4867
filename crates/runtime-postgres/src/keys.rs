//! The key ring, in a table of its own: whoever may read it may sign (E12).

use async_trait::async_trait;
use runtime_core::{Random, Secret};
use runtime_store::{KeyRing, KeyRingStore, ReadError, SigningKey, SystemRandom};

use crate::PostgresStore;
use crate::error::Failure;

const KEYS: &str = "SELECT id, secret FROM signing_key WHERE runtime = $1 ORDER BY id";
/// Adds a key, unless it is there; two that add at once meet at the id, and one tries again.
const ADD: &str = "INSERT INTO signing_key (runtime, id, secret) \
     SELECT $1, COALESCE(max(id), 0) + 1, $2 FROM signing_key WHERE runtime = $1 \
     HAVING bool_and(secret <> $2) IS NOT FALSE ON CONFLICT (runtime, id) DO NOTHING";
const ADD_FIRST: &str = "INSERT INTO signing_key (runtime, id, secret) VALUES ($1, 1, $2) \
     ON CONFLICT (runtime, id) DO NOTHING";

impl PostgresStore {
    async fn keys(&self) -> Result<Vec<SigningKey>, Failure> {
        let runtime = self.key();
        self.readers()
            .read(|reader| async move {
                let statement = reader.prepared(KEYS).await?;
                let rows = reader.client().query(&statement, &[&runtime]).await?;
                let key = |row: &tokio_postgres::Row| {
                    let id: i32 = row.try_get(0)?;
                    let secret: &[u8] = row.try_get(1)?;
                    Ok(SigningKey {
                        id: u32::try_from(id).unwrap_or(0),
                        secret: Secret::new(secret),
                    })
                };
                rows.iter().map(key).collect()
            })
            .await
    }

    async fn add_key(&self, statement: &'static str, secret: &[u8]) -> Result<(), Failure> {
        let runtime = self.key();
        self.readers()
            .read(|reader| async move {
                let statement = reader.prepared(statement).await?;
                reader
                    .client()
                    .execute(&statement, &[&runtime, &secret])
                    .await?;
                Ok(())
            })
            .await
    }
}

fn fresh_secret() -> [u8; 32] {
    let mut secret = [0; 32];
    SystemRandom.fill(&mut secret);
    secret
}

fn unavailable(failure: Failure) -> ReadError {
    failure.read_error()
}

#[async_trait]
impl KeyRingStore for PostgresStore {
    async fn key_ring(&self) -> Result<KeyRing, ReadError> {
        let keys = self.keys().await.map_err(unavailable)?;
        if !keys.is_empty() {
            return Ok(KeyRing { keys });
        }
        let added = self.add_key(ADD_FIRST, &fresh_secret()).await;
        added.map_err(unavailable)?;
        let keys = self.keys().await.map_err(unavailable)?;
        Ok(KeyRing { keys })
    }

    async fn rotate_key_ring(&self) -> Result<KeyRing, ReadError> {
        self.key_ring().await?;
        let secret = fresh_secret();
        loop {
            self.add_key(ADD, &secret).await.map_err(unavailable)?;
            let keys = self.keys().await.map_err(unavailable)?;
            if keys.iter().any(|key| key.secret.expose() == secret) {
                return Ok(KeyRing { keys });
            }
        }
    }
}
