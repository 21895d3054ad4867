//! duroxide: activities of orchestrations on its SQLite provider, with the settings that were found
//! to be its best for short activities (8 + 8 dispatchers, a poll each millisecond).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use duroxide::providers::Provider;
use duroxide::providers::sqlite::SqliteProvider;
use duroxide::runtime::registry::ActivityRegistry;
use duroxide::runtime::{Runtime, RuntimeOptions};
use duroxide::{ActivityContext, Client, OrchestrationContext, OrchestrationRegistry};

use harness::{Figures, Outcome, Plan, Progress, observe};

/// Short, because each step reads the history of its orchestration anew.
const STEPS_EACH: usize = 5;
const DISPATCHERS: usize = 8;
const WAIT_MAX: Duration = Duration::from_secs(30);

pub(super) async fn run(plan: Plan, directory: &Path, turns: usize) -> Outcome<Figures> {
    let file = directory.join("duroxide.db");
    std::fs::File::create(&file)?;
    let provider = SqliteProvider::new(&format!("sqlite:{}", file.display()), None).await?;
    let provider: Arc<dyn Provider> = Arc::new(provider);
    let progress = Arc::new(Progress::default());
    let counted = Arc::clone(&progress);
    let activities = ActivityRegistry::builder()
        .register("step", move |_: ActivityContext, _: String| {
            counted.count();
            async { Ok(own::outcome().to_string()) }
        })
        .build();
    let orchestration = |context: OrchestrationContext, _: String| async move {
        for _ in 0..STEPS_EACH {
            context.schedule_activity("step", String::new()).await?;
        }
        Ok(String::new())
    };
    let orchestrations = OrchestrationRegistry::builder()
        .register("steps", orchestration)
        .build();
    let options = RuntimeOptions {
        dispatcher_min_poll_interval: Duration::from_millis(1),
        orchestration_concurrency: DISPATCHERS,
        worker_concurrency: DISPATCHERS,
        ..RuntimeOptions::default()
    };
    let store = Arc::clone(&provider);
    let runtime = Runtime::start_with_options(store, activities, orchestrations, options).await;
    let tasks = (0..turns).map(|turn| {
        let (client, progress) = (Client::new(Arc::clone(&provider)), Arc::clone(&progress));
        tokio::spawn(async move {
            for life in 0.. {
                let instance = format!("{turn}-{life}");
                client
                    .start_orchestration(&instance, "steps", "")
                    .await
                    .map_err(|error| format!("{error:?}"))?;
                client
                    .wait_for_orchestration(&instance, WAIT_MAX)
                    .await
                    .map_err(|error| format!("{error:?}"))?;
                if progress.is_over() {
                    break;
                }
            }
            Ok(())
        })
    });
    let tasks = tasks.collect();
    // It needs longer than the others to show a rate.
    let slower = Plan {
        window: plan.window * 2,
        ..plan
    };
    let figures = observe(slower, &progress, tasks, || None).await;
    runtime.shutdown(None).await;
    figures
}
