//! The laws of effects and promises (E1–E14) on files: between two processes the directory is
//! closed and opened again.

use std::sync::Arc;

use async_trait::async_trait;
use runtime_fs_store::{FsStore, FsStoreOptions};
use runtime_store::Store;
use runtime_testkit::effect_laws::{TokenFault, replay_of_damaged_journals, run, tampered_tokens};
use runtime_testkit::store_laws::StoreFixture;

use crate::support::options;

pub(crate) struct Files {
    parent: tempfile::TempDir,
    options: FsStoreOptions,
}

impl Files {
    pub(crate) fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let options = options(parent.path(), 4);
        Self { parent, options }
    }
}

#[async_trait]
impl StoreFixture for Files {
    async fn open(&self) -> Arc<dyn Store> {
        assert!(self.parent.path().exists(), "the directory lives as long");
        Arc::new(FsStore::open(&self.options).unwrap())
    }
}

runtime_testkit::effect_laws!(Files::new());

/// R17: a damaged journal gives a typed error and never an execution.
#[test]
fn r17_a_damaged_journal_never_runs_anything() {
    let fixture = Files::new();
    let tally = run(|| replay_of_damaged_journals(&fixture, false));
    println!("R17-files {tally}");
    assert!(tally.cases() >= 30, "{} cases", tally.cases());
    assert!(tally.failures().is_empty(), "{:#?}", tally.failures());
}

/// R17, planted: a record that cannot be read is taken for none.
#[test]
fn r17_a_journal_that_drops_damaged_records_is_found() {
    let fixture = Files::new();
    let tally = run(|| replay_of_damaged_journals(&fixture, true));
    assert_eq!(tally.failures().len(), tally.cases(), "each is missed");
}

/// X1: no tampered, foreign, expired or revoked token is accepted, after a real restart too.
#[test]
fn x1_no_tampered_token_is_accepted() {
    let fixture = Files::new();
    let tally = run(|| tampered_tokens(&fixture, None));
    println!("X1-files {tally}");
    assert!(tally.cases() >= 20_000, "{} cases", tally.cases());
    assert!(tally.failures().is_empty(), "{:#?}", tally.failures());
}

/// X1, planted: a signature that is not read to its end, a revocation that wears off.
#[test]
fn x1_each_planted_fault_is_found() {
    for fault in [TokenFault::ShortSignature, TokenFault::RevocationWearsOff] {
        let fixture = Files::new();
        let tally = run(|| tampered_tokens(&fixture, Some(fault)));
        assert!(!tally.failures().is_empty(), "{fault:?}");
    }
}
