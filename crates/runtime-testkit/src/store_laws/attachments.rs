//! Attachments and keys.

use std::sync::Arc;
use std::time::Duration;

use runtime_core::Digest;
use runtime_store::{AttachmentError, Commit, CommitError, Payload};

use super::producer::{Producer, head, key, put};
use super::{LawBroken, StoreFixture, ensure, ensure_eq, ensure_matches};

/// Bytes are kept by their SHA-256; putting them again does nothing (E18).
///
/// # Errors
/// The clause that broke.
pub async fn attachments_are_kept_by_their_digest(
    fixture: &dyn StoreFixture,
) -> Result<(), LawBroken> {
    let store = fixture.open().await;
    let large: Payload = (0..100_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let all: [Payload; 3] = [b"hello".as_slice().into(), b"".as_slice().into(), large];
    for bytes in &all {
        let digest = Digest::of_bytes(bytes);
        ensure!(
            !store.has_attachment(&digest).await?,
            "there before it was put"
        );
        ensure_matches!(
            store.attachment(&digest).await,
            Err(AttachmentError::NotFound { digest: named }) if *named == digest,
            "bytes that nobody put"
        );
        for _ in 0..2 {
            ensure_eq!(
                store.put_attachment(Arc::clone(bytes)).await?,
                digest,
                "the name"
            );
        }
    }
    for bytes in &all {
        let digest = Digest::of_bytes(bytes);
        ensure!(store.has_attachment(&digest).await?, "not there");
        ensure!(store.attachment(&digest).await? == *bytes, "other bytes");
    }
    Ok(())
}

/// A commit is refused unless all the attachments that it names exist (E18).
///
/// # Errors
/// The clause that broke.
pub async fn a_commit_needs_its_attachments(fixture: &dyn StoreFixture) -> Result<(), LawBroken> {
    let store = fixture.open().await;
    let make = Producer::new(60);
    let there = store.put_attachment(b"there".as_slice().into()).await?;
    let missing = Digest::of_bytes(b"missing");
    let commit = Commit {
        attachments: vec![there, missing],
        ..make
            .commit()
            .row(put(key("a"), "x"))
            .event(make.event(&[], "x"))
    };
    ensure_matches!(
        store.commit(commit.clone()).await,
        Err(CommitError::MissingAttachment { digest }) if *digest == missing,
        "an attachment that does not exist"
    );
    ensure!(store.row(&key("a")).await?.is_none(), "a row of it");
    ensure_eq!(head(&*store).await?.0, 0, "the head");
    store.put_attachment(b"missing".as_slice().into()).await?;
    ensure!(!store.commit(commit).await?.repeated, "now it happens");
    Ok(())
}

/// The sweep removes what is neither live nor young, and says how much (E18).
///
/// # Errors
/// The clause that broke.
pub async fn the_sweep_spares_live_and_young_attachments(
    fixture: &dyn StoreFixture,
) -> Result<(), LawBroken> {
    let store = fixture.open().await;
    let live = store.put_attachment(b"live".as_slice().into()).await?;
    let orphan = store.put_attachment(b"orphan".as_slice().into()).await?;
    let young = store
        .sweep_attachments(&|_| false, Duration::from_secs(3600))
        .await?;
    ensure_eq!(young, 0, "young attachments swept");
    let is_live = |digest: &Digest| *digest == live;
    let swept = store.sweep_attachments(&is_live, Duration::ZERO).await?;
    ensure_eq!(swept, 1, "orphans swept");
    ensure!(store.has_attachment(&live).await?, "the live one is gone");
    ensure!(!store.has_attachment(&orphan).await?, "the orphan is there");
    let again = store.sweep_attachments(&is_live, Duration::ZERO).await?;
    ensure_eq!(again, 0, "orphans swept again");
    Ok(())
}

/// The ring is made once, of 32 random bytes, and a rotation adds a key that signs while the old
/// ones still verify (E12).
///
/// # Errors
/// The clause that broke.
pub async fn the_key_ring_is_stable_and_keeps_old_keys(
    fixture: &dyn StoreFixture,
) -> Result<(), LawBroken> {
    let store = fixture.open().await;
    let askers: Vec<_> = (0..8)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.key_ring().await })
        })
        .collect();
    let first = store.key_ring().await?;
    for asker in askers {
        ensure!(asker.await?? == first, "two askers got different rings");
    }
    ensure_eq!(first.keys.len(), 1, "keys of a fresh ring");
    ensure_eq!(first.signing().id, 1, "the id of the first key");
    let mut ring = first;
    for id in 2..=4 {
        let rotated = store.rotate_key_ring().await?;
        ensure!(
            rotated.keys.starts_with(&ring.keys) && rotated.keys.len() == ring.keys.len() + 1,
            "a rotation keeps the old keys and adds one"
        );
        ensure_eq!(rotated.signing().id, id, "the id of the new key");
        ensure!(
            store.key_ring().await? == rotated,
            "the ring after a rotation"
        );
        ring = rotated;
    }
    for (index, key) in ring.keys.iter().enumerate() {
        ensure_eq!(key.secret.expose().len(), 32, "bytes of a key");
        ensure!(
            ring.keys[..index]
                .iter()
                .all(|other| other.secret != key.secret),
            "two keys are the same"
        );
    }
    let kept = fixture.reopen(store).await.key_ring().await?;
    ensure!(kept == ring, "the ring is another one after reopening");
    Ok(())
}
