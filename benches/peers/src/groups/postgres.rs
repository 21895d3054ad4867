//! Durable steps of 200 bytes on one PostgreSQL server, beside DBOS for Rust; and this runtime on
//! files, for those who need no server.

use std::sync::Arc;

use runtime::core::{Clock as _, Random as _, RuntimeId, Tier};
use runtime::postgres::{PostgresOptions, PostgresStore};
use runtime::store::{Store as _, SystemClock, SystemRandom};

use crate::rounds;
use harness::{Figures, Outcome, Plan, Progress, Table, observe};

/// As many as DBOS opens unless it is told otherwise.
const DBOS_CONNECTIONS: u32 = 10;
const OURS: &str = "this runtime, PostgreSQL, 1 write";
const FILES: &str = "this runtime, files, Power, 1 write";
const DBOS: &str = "DBOS 0.5, 10 connections (its default)";
const DBOS_WIDE: &str = "DBOS 0.5, a connection for each workflow";

pub(super) fn tables() -> Outcome<Vec<Table>> {
    let url = postgres_for_tests::url_for_tests();
    let url = url.ok_or("no PostgreSQL server; `cargo xtask bench` starts one")?;
    let url: Arc<str> = url.into();
    // How many times DBOS the steps on files are to be, and those on the same server.
    let tables = [(1, 5.0, None), (16, 20.0, None), (64, 40.0, Some(10.0))];
    Ok(tables
        .map(|(workflows, files, server)| table(&url, workflows, files, server))
        .into())
}

fn table(url: &Arc<str>, workflows: usize, files: f64, server: Option<f64>) -> Table {
    let mut table = Table::new(format!("steps on PostgreSQL, {workflows} at once"));
    let each = (workflows as u32).max(DBOS_CONNECTIONS);
    for (name, connections) in [(DBOS, DBOS_CONNECTIONS), (DBOS_WIDE, each)] {
        let url = Arc::clone(url);
        table = table.contender(name, move |plan, _| {
            dbos_steps(plan, Arc::clone(&url), workflows, connections)
        });
    }
    for (name, retry_safe) in [(OURS, true), ("this runtime, PostgreSQL, 2 writes", false)] {
        let url = Arc::clone(url);
        table = table.contender(name, move |plan, _| {
            own_steps(plan, Arc::clone(&url), workflows, retry_safe)
        });
    }
    table = table.contender(FILES, move |plan, directory| async move {
        let store = own::open(&directory, Tier::Power)?;
        let shared = Arc::clone(&store) as _;
        let figures = rounds::steps(plan, shared, workflows, true, || None).await?;
        store.close().await?;
        Ok(figures)
    });
    table = table.target(FILES, files, DBOS);
    match server {
        Some(factor) => table
            .target(OURS, factor, DBOS)
            .target(OURS, factor, DBOS_WIDE),
        None => table,
    }
}

async fn own_steps(
    plan: Plan,
    url: Arc<str>,
    workflows: usize,
    retry_safe: bool,
) -> Outcome<Figures> {
    let fresh = RuntimeId::generate(SystemClock::new().now(), SystemRandom.ten());
    let mut options = PostgresOptions::new(&url)?.runtime(fresh);
    options.schema = "bench_steps".to_owned();
    let store = Arc::new(PostgresStore::open(options).await?);
    let shared = Arc::clone(&store) as _;
    let figures = rounds::steps(plan, shared, workflows, retry_safe, || None).await?;
    store.close().await?;
    Ok(figures)
}

async fn dbos_steps(
    plan: Plan,
    url: Arc<str>,
    workflows: usize,
    connections: u32,
) -> Outcome<Figures> {
    let dbos = dbos::DBOS::new(dbos::Config {
        app_version: Some("1".to_owned()),
        max_connections: connections,
        ..dbos::Config::new("bench", &*url)
    });
    let progress = Arc::new(Progress::default());
    let counted = Arc::clone(&progress);
    let steps = dbos.register_workflow("bench", move |_: ()| {
        let progress = Arc::clone(&counted);
        async move {
            loop {
                dbos::step("bench", || async { done(own::outcome()) }).await?;
                if !progress.count() {
                    return done(());
                }
            }
        }
    })?;
    dbos.launch().await?;
    let mut started = Vec::new();
    for _ in 0..workflows {
        started.push(steps.start(()).await?);
    }
    let waits = started.into_iter().map(|workflow| {
        tokio::spawn(async move {
            workflow.result().await?;
            Ok(())
        })
    });
    let figures = observe(plan, &progress, waits.collect(), || None).await;
    dbos.shutdown().await;
    figures
}

/// Without it nothing says which error a workflow has.
fn done<T>(value: T) -> dbos::Result<T> {
    Ok(value)
}
