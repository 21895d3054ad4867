//! Attachments: bytes by their SHA-256, in a table of their own (E18).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use runtime_core::Digest;
use runtime_store::{AttachmentError, AttachmentStore, Payload};

use crate::PostgresStore;
use crate::error::Failure;

/// Putting again makes the bytes young again: the commit that names them is still to come.
const PUT: &str = "INSERT INTO attachment (runtime, digest, body) VALUES ($1, $2, $3) \
     ON CONFLICT (runtime, digest) DO UPDATE SET put = now()";
const GET: &str = "SELECT body FROM attachment WHERE runtime = $1 AND digest = $2";
const HAS: &str = "SELECT EXISTS (SELECT FROM attachment WHERE runtime = $1 AND digest = $2)";
const OLD: &str = "SELECT digest FROM attachment WHERE runtime = $1 \
     AND put <= now() - $2 * interval '1 second' AND digest > $3 ORDER BY digest LIMIT 1000";
/// Put again in between, it is young again and stays; so it does while an event of a commit that
/// named it is served whole, or a scope that such a commit put rows of has any.
const REMOVE: &str = "WITH gone AS (DELETE FROM attachment a WHERE a.runtime = $1 \
     AND a.digest = ANY ($2) AND a.put <= now() - $3 * interval '1 second' \
     AND NOT EXISTS (SELECT FROM naming n WHERE n.runtime = $1 AND n.digest = a.digest AND ( \
     EXISTS (SELECT FROM event e WHERE e.runtime = $1 AND e.position >= n.first \
     AND e.position < n.last AND NOT e.erased \
     AND e.position > (SELECT h.pruned FROM runtime h WHERE h.key = $1)) \
     OR EXISTS (SELECT FROM entry r WHERE r.runtime = $1 AND r.scope = ANY (n.scopes)))) \
     RETURNING a.digest), forgotten AS (DELETE FROM naming n USING gone \
     WHERE n.runtime = $1 AND n.digest = gone.digest) SELECT count(*) FROM gone";

impl PostgresStore {
    async fn old_attachments(&self, seconds: f64, after: Vec<u8>) -> Result<Vec<Vec<u8>>, Failure> {
        let (runtime, after) = (self.key(), &after);
        self.readers()
            .read(|reader| async move {
                let statement = reader.prepared(OLD).await?;
                let rows = reader
                    .client()
                    .query(&statement, &[&runtime, &seconds, after])
                    .await?;
                let digests: Result<Vec<Vec<u8>>, _> =
                    rows.iter().map(|row| row.try_get(0)).collect();
                Ok(digests?)
            })
            .await
    }

    async fn remove_attachments(
        &self,
        seconds: f64,
        digests: Vec<Vec<u8>>,
    ) -> Result<u64, Failure> {
        let (runtime, digests) = (self.key(), &digests);
        self.readers()
            .read(|reader| async move {
                let statement = reader.prepared(REMOVE).await?;
                let arguments: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
                    [&runtime, digests, &seconds];
                let row = reader.client().query_one(&statement, &arguments).await?;
                Ok(crate::call::unsigned(row.try_get(0)?))
            })
            .await
    }
}

fn unavailable(failure: Failure) -> AttachmentError {
    failure.attachment_error()
}

#[async_trait]
impl AttachmentStore for PostgresStore {
    async fn put_attachment(&self, bytes: Payload) -> Result<Digest, AttachmentError> {
        if self.is_closed() {
            return Err(AttachmentError::Unavailable {
                reason: "the store is closed".to_owned(),
                source: None,
            });
        }
        let digest = Digest::of_bytes(&bytes);
        let (runtime, bytes) = (self.key(), &bytes);
        let put = self.readers().read(|reader| async move {
            let statement = reader.prepared(PUT).await?;
            let arguments: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
                [&runtime, &digest.as_bytes().as_slice(), &&**bytes];
            Ok(reader.client().execute(&statement, &arguments).await?)
        });
        put.await.map_err(unavailable)?;
        Ok(digest)
    }

    async fn attachment(&self, digest: &Digest) -> Result<Payload, AttachmentError> {
        let runtime = self.key();
        let get = self.readers().read(|reader| async move {
            let statement = reader.prepared(GET).await?;
            let name = digest.as_bytes().as_slice();
            let row = reader
                .client()
                .query_opt(&statement, &[&runtime, &name])
                .await?;
            let body = row.map(|row| row.try_get::<_, &[u8]>(0).map(Payload::from));
            Ok(body.transpose()?)
        });
        let found = get.await.map_err(unavailable)?;
        let bytes = found.ok_or(AttachmentError::NotFound { digest: *digest })?;
        if Digest::of_bytes(&bytes) != *digest {
            return Err(AttachmentError::Corrupt { digest: *digest });
        }
        Ok(Arc::clone(&bytes))
    }

    async fn has_attachment(&self, digest: &Digest) -> Result<bool, AttachmentError> {
        let runtime = self.key();
        let has = self.readers().read(|reader| async move {
            let statement = reader.prepared(HAS).await?;
            let name = digest.as_bytes().as_slice();
            let row = reader
                .client()
                .query_one(&statement, &[&runtime, &name])
                .await?;
            Ok(row.try_get(0)?)
        });
        has.await.map_err(unavailable)
    }

    async fn sweep_attachments(
        &self,
        live: &(dyn for<'a> Fn(&'a Digest) -> bool + Sync),
        min_age: Duration,
    ) -> Result<usize, AttachmentError> {
        let seconds = min_age.as_secs_f64();
        let mut swept = 0;
        let mut after = Vec::new();
        loop {
            let old = self
                .old_attachments(seconds, after)
                .await
                .map_err(unavailable)?;
            let Some(last) = old.last().cloned() else {
                return Ok(swept);
            };
            let is_orphan = |name: &Vec<u8>| {
                let name = <[u8; 32]>::try_from(name.as_slice());
                name.is_ok_and(|name| !live(&Digest::from_bytes(name)))
            };
            let orphans = old.into_iter().filter(is_orphan).collect();
            let removed = self.remove_attachments(seconds, orphans).await;
            swept += usize::try_from(removed.map_err(unavailable)?).unwrap_or(usize::MAX);
            after = last;
        }
    }
}
