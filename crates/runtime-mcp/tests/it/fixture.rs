//! Starting the fixture server, and waiting for what it did.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use runtime_core::{CallId, Clock, ContentPart, ExecutionScope, Reserve, Timestamp, TurnId};
use runtime_mcp::{McpServerConfig, McpSource};
use runtime_mcp_cache::{CacheConfig, DiscoveryCache};
use runtime_testkit::{SeededRandom, SimulatedClock};
use runtime_tools::{SourceListing, Tool, ToolContext, ToolError, ToolOutput, ToolSource};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::waiting::until;

/// A source whose server is the fixture, and the clock that its time limits run on: no limit
/// passes unless a test lets it.
pub(crate) struct Fixture {
    pub(crate) source: McpSource,
    pub(crate) clock: Arc<SimulatedClock>,
    calls: PathBuf,
    _directory: TempDir,
}

/// Makes a source of the fixture in that mode; `configure` changes its entry.
pub(crate) fn fixture_with(
    mode: &str,
    configure: impl FnOnce(McpServerConfig) -> McpServerConfig,
) -> Fixture {
    let directory = tempfile::tempdir().expect("a directory");
    let calls = directory.path().join("calls");
    let config =
        McpServerConfig::stdio("fixture", fixture_program().to_str().expect("a UTF-8 path"))
            .arg(mode)
            .arg(calls.to_str().expect("a UTF-8 path"));
    let clock = Arc::new(SimulatedClock::new(Timestamp::from_millis(1_000_000)));
    let random = Arc::new(SeededRandom::new(7));
    let cache = DiscoveryCache::new(CacheConfig::default(), clock.clone(), random.clone());
    let source = McpSource::new(configure(config), clock.clone(), random, cache);
    Fixture {
        source: source.expect("the entry is right"),
        clock,
        calls,
        _directory: directory,
    }
}

pub(crate) fn fixture(mode: &str) -> Fixture {
    fixture_with(mode, |config| config)
}

/// Cargo builds the example next to the tests.
pub(crate) fn fixture_program() -> PathBuf {
    let test = std::env::current_exe().expect("the test itself");
    let profile = test.ancestors().nth(2).expect("target/profile/deps/it");
    let program = profile.join("examples").join("fixture_server");
    assert!(
        program.exists(),
        "build it: cargo build -p runtime-mcp --example fixture_server"
    );
    program
}

/// The context of a call at the start of a fixture's time.
pub(crate) fn fixture_context() -> ToolContext {
    ToolContext {
        scope: ExecutionScope::RuntimeOperation {
            operation: TurnId::new("test").expect("an id"),
        },
        call: CallId::new("call").expect("an id"),
        idempotency_key: "key-1".to_owned(),
        attempt: 1,
        fencing_token: 1,
        deadline: Timestamp::from_millis(1_000_000).after(Duration::from_secs(3_600)),
        completions: None,
        delegates: None,
        triggers: None,
        budget: Reserve::default(),
    }
}

impl Fixture {
    pub(crate) async fn list(&self) -> SourceListing {
        self.source.list().await
    }

    /// The tool of that name on the server.
    pub(crate) async fn tool(&self, name: &str) -> Arc<dyn Tool> {
        let public = format!("fixture__{name}");
        let listing = self.list().await;
        let mut tools = listing.tools.into_iter();
        let found = tools.find(|tool| tool.definition().name == public);
        found.unwrap_or_else(|| panic!("no {name}; {:?}", listing.diagnostic))
    }

    pub(crate) async fn call(&self, name: &str, arguments: Value) -> Result<String, ToolError> {
        let tool = self.tool(name).await;
        tool.call(arguments, self.context()).await.map(text_of)
    }

    pub(crate) fn context(&self) -> ToolContext {
        ToolContext {
            deadline: self.clock.now().after(Duration::from_secs(3_600)),
            ..fixture_context()
        }
    }

    /// What the server noted: its calls, lists and cancellations, in order.
    pub(crate) fn noted(&self) -> Vec<String> {
        let notes = std::fs::read_to_string(&self.calls).unwrap_or_default();
        notes.lines().map(str::to_owned).collect()
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        self.noted().iter().filter(|note| *note == what).count()
    }

    /// Waits until the server noted it so often.
    pub(crate) async fn noted_times(&self, what: &str, times: usize) {
        until(|| self.count(what) >= times).await;
    }
}

pub(crate) fn text_of(output: ToolOutput) -> String {
    let ToolOutput::Finished { content, .. } = output else {
        panic!("not finished");
    };
    let texts = content.into_iter().map(|part| match part {
        ContentPart::Text { text } => text,
        other => panic!("not a text: {other:?}"),
    });
    texts.collect::<Vec<_>>().join("\n")
}

pub(crate) fn nothing() -> Value {
    json!({})
}
