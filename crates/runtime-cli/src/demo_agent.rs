//! The agent of the command line: a scripted model, the ledger, and a real tool server.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use runtime::agent::Agent;
use runtime::core::Clock;
use runtime::mcp::{McpServerConfig, McpSource};
use runtime::mcp_cache::public_name;
use runtime::model::{Model, ScriptStep, ScriptedModel};
use runtime::store::SystemClock;
use runtime::tools::Tool;
use serde_json::json;

use crate::args::CrashPoint;
use crate::crash::{CrashModel, CrashTool};
use crate::ledger::{LEDGER, LedgerTool};
use crate::tool_servers::ToolServers;

/// The name of the tool server.
pub(crate) const SERVER: &str = "demo";
/// The file that has one line for each call of the model.
const CALL_LOG: &str = "demo-model-calls.txt";
/// The file that the ledger tool appends to.
const LEDGER_FILE: &str = "demo-ledger.txt";

/// Builds the agent for a directory. With a crash point, the parts that it names are wrapped.
pub(crate) fn build(
    dir: &Path,
    servers: &ToolServers,
    crash: Option<CrashPoint>,
) -> anyhow::Result<Agent> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let model = Arc::new(script(Arc::clone(&clock)).with_call_log(dir.join(CALL_LOG)));
    let model: Arc<dyn Model> = match crash {
        Some(CrashPoint::DuringModel) => Arc::new(CrashModel(model)),
        _ => model,
    };
    let ledger: Arc<dyn Tool> = Arc::new(LedgerTool::new(dir.join(LEDGER_FILE)));
    let ledger: Arc<dyn Tool> = match crash {
        Some(CrashPoint::DuringTool) => {
            // Past the append, before the end: the line is there and nobody has been told.
            Arc::new(CrashTool {
                tool: ledger,
                after: Some(Duration::from_millis(35)),
            })
        }
        Some(CrashPoint::AfterToolBeforeRecord) => Arc::new(CrashTool {
            tool: ledger,
            after: None,
        }),
        _ => ledger,
    };
    let source = source(servers)?;
    Ok(Agent::builder(env!("CARGO_PKG_VERSION"), model)
        .instructions("You look things up and keep a ledger. Say briefly what you do.")
        .tool(ledger)
        .source(Arc::new(source))
        .build())
}

/// The demo's tool server: this program, started by itself.
pub(crate) fn source(servers: &ToolServers) -> anyhow::Result<McpSource> {
    let program = std::env::current_exe().context("the path of this program is unknown")?;
    let program = program
        .to_str()
        .context("the path of this program is not UTF-8")?;
    let server = McpServerConfig::stdio(SERVER, program)
        .arg("mcp-server")
        .trusted();
    Ok(servers.source(SERVER, server)?)
}

/// The input of `demo`.
pub(crate) const DEMO_INPUT: &str = "Note the weather in Oslo in the ledger.";

/// What the model says: it asks for the weather of whatever the input names, and writes it to the
/// ledger when the input asks so.
fn script(clock: Arc<dyn Clock>) -> ScriptedModel {
    ScriptedModel::new("scripted", answers("{input}", false))
        .when_input_contains(DEMO_INPUT, answers("Oslo", true))
        .when_input_contains("ledger", answers("{input}", true))
        .with_pace(clock, PACE)
}

fn answers(city: &str, with_ledger: bool) -> Vec<ScriptStep> {
    let weather = public_name(SERVER, "weather");
    let mut steps = vec![ScriptStep::text("I look at the weather first.").tool_call(
        "weather",
        &weather,
        json!({ "city": city }),
    )];
    if with_ledger {
        let entry = json!({ "entry": "{last_tool_result}" });
        steps.push(
            ScriptStep::text("Now I would like to write it to the ledger.")
                .tool_call("ledger", LEDGER, entry),
        );
        steps.push(ScriptStep::text("All done: {last_tool_result}."));
    } else {
        steps.push(ScriptStep::text("This is what I found: {last_tool_result}"));
    }
    steps
}

/// The pause between the pieces of an answer, so that a person can watch.
const PACE: Duration = Duration::from_millis(8);
