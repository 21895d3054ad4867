//! DBOS for Rust: steps of workflows, checkpointed in its tables.

use std::sync::Arc;

use dbos::{Config, DBOS};

use crate::{Outcome, Plan, Progress, outcome};

pub(crate) async fn run(
    plan: &Plan,
    url: &str,
    workflows: usize,
    connections: u32,
) -> Outcome<f64> {
    let dbos = DBOS::new(Config {
        app_version: Some("1".to_owned()),
        max_connections: connections,
        ..Config::new("bench", url)
    });
    let progress = Arc::new(Progress::default());
    let counted = Arc::clone(&progress);
    let steps = dbos.register_workflow("bench", move |_: ()| {
        let progress = Arc::clone(&counted);
        async move {
            loop {
                dbos::step("bench", || async { dbos::Result::Ok(outcome()) }).await?;
                if !progress.count() {
                    return dbos::Result::Ok(());
                }
            }
        }
    })?;
    dbos.launch().await?;
    let mut running = Vec::new();
    for _ in 0..workflows {
        running.push(steps.start(()).await?);
    }
    let rate = progress.observe(plan).await;
    for one in running {
        one.result().await?;
    }
    dbos.shutdown().await;
    Ok(rate)
}
