//! Commands that run turns: `demo`, `run`, `resume`.

use std::io::Write as _;
use std::sync::Arc;

use runtime::core::{Clock, Random, SubmissionId, WorkerId};
use runtime::mcp::Survivor;
use runtime::store::{SystemClock, SystemRandom};
use runtime::workers::{CreateWorker, WorkerStatus, view};
use runtime::{Runtime, RuntimeError};

use crate::agents::ConfiguredAgents;
use crate::args::{Common, CrashPoint, Patience};
use crate::crash::CrashStore;
use crate::exit::Exit;
use crate::follow::{Approver, Follower};
use crate::interrupt::Interrupts;
use crate::ledger::LEDGER;
use crate::output::Output;
use crate::tool_servers::ToolServers;
use crate::{demo_agent, open};

/// The worker of the demo; further ones have a number behind it.
pub(crate) const DEMO_WORKER: &str = "demo";

/// What `demo` is told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Demo {
    pub(crate) yes: bool,
    pub(crate) crash_at: Option<CrashPoint>,
    pub(crate) patience: Patience,
}

/// `demo`
pub(crate) async fn demo(common: &Common, output: Output, demo: Demo) -> anyhow::Result<Exit> {
    let runtime = open_demo(common, demo.crash_at).await?;
    let mut interrupts = Interrupts::listen()?;
    let approver = if demo.yes {
        Approver::Yes
    } else {
        person(output)
    };
    let ended = demo_turn(&runtime, output, approver, demo.patience, &mut interrupts).await;
    close(&runtime, ended, &mut interrupts).await
}

async fn demo_turn(
    runtime: &Runtime,
    output: Output,
    approver: Approver,
    patience: Patience,
    interrupts: &mut Interrupts,
) -> anyhow::Result<Exit> {
    let worker = demo_worker(runtime).await?;
    let follower = Follower::join(runtime, output, approver, patience.wait, Some(&worker)).await?;
    if view::unfinished_turns(runtime.store(), Some(&worker))
        .await?
        .is_empty()
    {
        runtime.send(&worker, demo_agent::DEMO_INPUT).await?;
    } else {
        output.say("an unfinished turn goes on");
        runtime.insist(&worker);
    }
    follower.follow(interrupts).await
}

/// The first of `demo`, `demo-2`, `demo-3`, … that takes inputs: a cancelled worker never does
/// again (W2).
async fn demo_worker(runtime: &Runtime) -> anyhow::Result<WorkerId> {
    let mut name = DEMO_WORKER.to_owned();
    for number in 2.. {
        let id: WorkerId = name.parse().map_err(RuntimeError::from)?;
        match view::worker(runtime.store(), &id).await {
            Ok(worker) if worker.status == WorkerStatus::Running => return Ok(id),
            Ok(_) => name = format!("{DEMO_WORKER}-{number}"),
            Err(RuntimeError::UnknownWorker { .. }) => {
                runtime.create(CreateWorker::assistant(id.clone())).await?;
                return Ok(id);
            }
            Err(error) => return Err(error.into()),
        }
    }
    unreachable!("numbers do not end")
}

/// The id that names an input; a fresh one, unless its sender names it.
pub(crate) fn submission_id(named: Option<&str>) -> Result<SubmissionId, RuntimeError> {
    match named {
        Some(id) => Ok(id.parse()?),
        None => Ok(SubmissionId::generate(
            SystemClock::new().now(),
            SystemRandom.ten(),
        )),
    }
}

/// `run --worker NAME TEXT`
pub(crate) async fn run(
    common: &Common,
    output: Output,
    worker: &str,
    text: &str,
    submission: Option<&str>,
    patience: Patience,
) -> anyhow::Result<Exit> {
    let submission = submission_id(submission)?;
    let worker: WorkerId = worker.parse().map_err(RuntimeError::from)?;
    let runtime = open_runtime(common, Drive::Turns).await?;
    let mut interrupts = Interrupts::listen()?;
    let ended = async {
        let handle = runtime.worker(worker.as_str()).await?;
        let approver = person(output);
        let follower = Follower::join(&runtime, output, approver, patience.wait, Some(&worker));
        let follower = follower.await?;
        let receipt = handle.submit(submission, text).await?;
        if receipt.repeated {
            output.say(&format!("accepted before, as turn {}", receipt.turn));
        }
        runtime.insist(&worker);
        follower.follow(&mut interrupts).await
    };
    let ended = ended.await;
    close(&runtime, ended, &mut interrupts).await
}

/// `resume`
pub(crate) async fn resume(
    common: &Common,
    output: Output,
    patience: Patience,
) -> anyhow::Result<Exit> {
    // Only an existing runtime can go on: do not make a new one by a mistyped directory.
    open::existing(common)?;
    let runtime = open_runtime(common, Drive::Turns).await?;
    let mut interrupts = Interrupts::listen()?;
    let ended = async {
        let follower = Follower::join(&runtime, output, person(output), patience.wait, None);
        let follower = follower.await?;
        runtime.resume_unfinished().await?;
        follower.follow(&mut interrupts).await
    };
    let ended = ended.await;
    close(&runtime, ended, &mut interrupts).await
}

fn person(output: Output) -> Approver {
    if output.is_interactive() {
        Approver::Person
    } else {
        Approver::Nobody
    }
}

/// The runtime of the demo: scripted whatever is configured, since it shows what it shows.
async fn open_demo(common: &Common, crash: Option<CrashPoint>) -> anyhow::Result<Runtime> {
    let store = open::exclusive(common).await?;
    let mut servers = ToolServers::new();
    tell_survivors(&servers.recording_in(&common.dir)?);
    let agent = demo_agent::build(&common.dir, &servers, crash)?;
    let builder = match crash {
        Some(point) => runtime::builder().store(Arc::new(CrashStore::new(store, point, LEDGER))),
        None => runtime::builder().store(store),
    };
    Ok(builder.agent(agent).resume(false).open().await?)
}

/// The runtime of the configuration.
/// What a command opens the runtime for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drive {
    /// Turns go on here.
    Turns,
    /// Nothing goes on: this process may be configured otherwise than the one whose turns it
    /// answers.
    Nothing,
}

pub(crate) async fn open_runtime(common: &Common, drive: Drive) -> anyhow::Result<Runtime> {
    let configuration = Arc::clone(&common.configuration);
    let config = configuration.settings.runtime_config();
    let limits = configuration.settings.runtime_limits();
    for capped in &configuration.capped {
        warn(capped);
    }
    // Before the store is touched: a mistake in the configuration leaves nothing behind.
    ConfiguredAgents::new(Arc::clone(&configuration), &common.dir, ToolServers::new()).check()?;
    let store = open::exclusive(common).await?;
    let mut servers = ToolServers::new();
    // Before any turn goes on: a survivor may still do what a turn is about to repeat (E7).
    tell_survivors(&servers.recording_in(&common.dir)?);
    servers.keep_in(&store).await?;
    let agents = ConfiguredAgents::new(configuration, &common.dir, servers);
    let mut builder = runtime::builder().store(store).config(config);
    if let Some(limits) = limits {
        builder = builder.limits(limits);
    }
    let runtime = builder.agents(Arc::new(agents)).resume(false);
    Ok(runtime.drive(drive == Drive::Turns).open().await?)
}

/// Says which tool servers a killed process had left running.
fn tell_survivors(ended: &[Survivor]) {
    for Survivor {
        server, process, ..
    } in ended
    {
        warn(&format!(
            "tool server {server} (process {process}) had outlived its owner; it was ended"
        ));
    }
}

pub(crate) fn warn(line: &str) {
    // Standard error may be closed; there is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "warning: {line}");
}

/// Closes whatever happened; the first error counts. Ctrl-C while it closes is an abort (U3): the
/// process ends at once, as after a kill, and what was under way goes on when it is run again.
pub(crate) async fn close(
    runtime: &Runtime,
    ended: anyhow::Result<Exit>,
    interrupts: &mut Interrupts,
) -> anyhow::Result<Exit> {
    let closed = tokio::select! {
        closed = runtime.close() => closed,
        () = interrupts.next() => std::process::exit(Exit::Aborted as i32),
    };
    let exit = ended?;
    closed?;
    Ok(exit)
}
