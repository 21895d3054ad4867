//! Fresh runtimes on the server for tests.

use std::sync::Arc;

use async_trait::async_trait;
use runtime_core::{Clock as _, Random as _, RuntimeId};
use runtime_postgres::{PostgresOptions, PostgresStore};
use runtime_store::{Limits, Store, SystemClock, SystemRandom};
use runtime_testkit::store_laws::StoreFixture;

/// The schema of all tests: their runtimes share its tables and nothing else.
pub(crate) const SCHEMA: &str = "agent_runtime_tests";

pub(crate) fn fresh_runtime() -> RuntimeId {
    RuntimeId::generate(SystemClock::new().now(), SystemRandom.ten())
}

/// How to open a runtime of one's own; none where there is no server.
pub(crate) fn options() -> Option<PostgresOptions> {
    let url = postgres_for_tests::url_for_tests()?;
    let mut options = PostgresOptions::new(&url)
        .expect("a URL")
        .runtime(fresh_runtime());
    options.schema = SCHEMA.to_owned();
    Some(options)
}

/// A runtime of its own for one law.
pub(crate) struct Database {
    pub(crate) options: PostgresOptions,
}

impl Database {
    pub(crate) fn new() -> Option<Self> {
        Some(Self {
            options: options()?,
        })
    }

    /// With bounds that make forgetting and refusing take no time.
    pub(crate) fn small() -> Option<Self> {
        let mut options = options()?;
        options.limits = Limits {
            commit_bytes_max: 64 * 1024,
            remembered_commits: 1_000,
            ..Limits::default()
        };
        Some(Self { options })
    }
}

#[async_trait]
impl StoreFixture for Database {
    async fn open(&self) -> Arc<dyn Store> {
        let opened = PostgresStore::open(self.options.clone()).await;
        Arc::new(opened.expect("the server for tests opens"))
    }
}

/// Makes the value, or ends the test where there is no server; that has been reported.
macro_rules! or_skip {
    ($made:expr) => {
        match $made {
            Some(made) => made,
            None => return,
        }
    };
}

pub(crate) use or_skip;
