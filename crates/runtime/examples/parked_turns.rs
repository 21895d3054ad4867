//! 100,000 turns that each wait for an approval, in one directory: the tasks and the memory that
//! they hold, how long opening takes with all of them, and that one goes on when it is answered
//! (E9).
//!
//! `cargo run --release -p runtime --features schemars --example parked_turns [COUNT]`

#![allow(clippy::print_stdout, reason = "an example shows what it gets")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::prelude::*;
use runtime::workers::RuntimeConfig;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// How many inputs are sent at once: they share syncs.
const AT_ONCE: usize = 256;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What was counted.
#[derive(Debug)]
struct Parked {
    /// The tasks of the program before the first turn, and while all of them wait.
    tasks: (usize, usize),
    /// The memory of the process at the same moments, in KiB, where the system says.
    memory: (u64, u64),
    /// How long the next opening took.
    opened_in: Duration,
    /// How long it took to list all that waits, with the call and the token of each.
    listed_in: Duration,
    answer: String,
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Payment {
    to: String,
}

async fn open(directory: &Path) -> Outcome<Runtime> {
    let pay = |payment: Payment, _: ToolContext| async move { Ok(format!("paid {}", payment.to)) };
    let pay = FunctionTool::new("pay", "Pays.", pay).approval(ApprovalPolicy::Always);
    let payment = serde_json::json!({ "to": "{input}" });
    let call = ScriptStep::text("I pay.").tool_call("1", "pay", payment);
    let steps = vec![call, ScriptStep::text("Done: {last_tool_result}.")];
    let model = Arc::new(ScriptedModel::new("scripted", steps));
    let agent = Agent::builder("1", model).tool(Arc::new(pay)).build();
    // A wait for a person is seldom over within a second: park at once.
    let config = RuntimeConfig {
        park_after: Duration::ZERO,
        ..RuntimeConfig::default()
    };
    let builder = runtime::builder().directory(directory).config(config);
    Ok(builder.agent(agent).open().await?)
}

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// The memory of this process in KiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

async fn park(directory: &Path, count: usize) -> Outcome<Parked> {
    let runtime = open(directory).await?;
    runtime.settled().await;
    let before = (tasks(), memory());
    let mut sending = JoinSet::new();
    for number in 0..count {
        if sending.len() == AT_ONCE {
            sending.join_next().await.ok_or("something is sent")???;
        }
        let runtime = runtime.clone();
        sending.spawn(async move {
            let worker = runtime.worker(&format!("worker-{number}")).await?;
            worker.send(&format!("payee {number}")).await.map(drop)
        });
    }
    while let Some(sent) = sending.join_next().await {
        sent??;
    }
    runtime.settled().await;
    let while_parked = (tasks(), memory());
    runtime.close().await?;
    drop(runtime);

    let (start, runtime) = (Instant::now(), open(directory).await?);
    let opened_in = start.elapsed();
    runtime.settled().await;
    let start = Instant::now();
    let pending = runtime.pending().await?;
    let listed_in = start.elapsed();
    if pending.len() != count {
        return Err(format!("{} of {count} wait", pending.len()).into());
    }
    let one = pending.into_iter().nth(count / 2).ok_or("it waits")?;
    let (target, decision) = (one.token.unwrap_or_default(), ApprovalDecision::Approve);
    runtime.apply(Command::Decide { target, decision }).await?;
    runtime.settled().await;
    let (worker, turn) = (one.worker.ok_or("a turn's")?, one.turn.ok_or("a turn's")?);
    let answer = runtime.answer(&worker, &turn).await?;
    runtime.close().await?;
    Ok(Parked {
        tasks: (before.0, while_parked.0),
        memory: (before.1, while_parked.1),
        opened_in,
        listed_in,
        answer,
    })
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let count = std::env::args()
        .nth(1)
        .map_or(Ok(100_000), |text| text.parse())?;
    let parked = park(Path::new("./.parked"), count).await?;
    let (tasks, memory) = (parked.tasks, parked.memory);
    println!(
        "{count} turns parked: {} tasks ({} without them), {} KiB ({} without them); opened in \
         {:?}, listed in {:?}; one was approved: {}",
        tasks.1, tasks.0, memory.1, memory.0, parked.opened_in, parked.listed_in, parked.answer,
    );
    Ok(())
}

/// E9: what waits has no task, and goes on in the next process when it is answered.
#[tokio::test]
async fn e9_turns_that_wait_are_rows_and_no_tasks() {
    let folder = tempfile::tempdir().expect("a folder");
    let parked = park(folder.path(), 300).await.expect("parks");
    assert_eq!(parked.tasks.1, parked.tasks.0, "{parked:?}");
    assert!(parked.answer.starts_with("Done: paid payee "), "{parked:?}");
}
