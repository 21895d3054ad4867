//! The client that the protocol's own conformance suite tests: `cargo xtask conformance mcp`.
//!
//! `conformance_client URL`: lists the tools of the server and calls them, as a turn would. What
//! the suite wants called is in `MCP_CONFORMANCE_CONTEXT`; without, every tool is called with made
//! up arguments. A call that parks is answered at once: accepted, with the defaults of the form.
#![allow(clippy::print_stderr, reason = "a program for people prints")]

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use async_trait::async_trait;
use runtime_core::{CallId, Clock, ExecutionScope, Resolution, Secret, TurnId};
use runtime_mcp::{
    AuthError, Consent, Lifecycle, McpServerConfig, McpSource, OAuthClient, OAuthProvider,
};
use runtime_mcp_cache::{CacheConfig, DiscoveryCache};
use runtime_store::{SystemClock, SystemRandom};
use runtime_tools::{Resumption, Tool, ToolContext, ToolOutput, ToolSource};
use serde::Deserialize;
use serde_json::{Map, Value, json};

const REDIRECT_URL: &str = "http://localhost:3000/callback";
const METADATA_URL: &str = "https://conformance-test.local/client-metadata.json";
/// The suite runs all scenarios at once; on a busy machine each takes its time.
const PATIENCE_MS: u64 = 110_000;
/// More waits than any scenario has.
const WAITS_MAX: usize = 20;
/// One scenario changes the authorisation server after the second call.
const CALLS_OF_MIGRATION: usize = 3;

/// What the suite wants done.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wanted {
    #[serde(rename = "toolCalls")]
    tool_calls: Vec<WantedCall>,
    client_id: Option<String>,
    client_secret: Option<String>,
}

#[derive(Debug, Deserialize)]
struct WantedCall {
    name: String,
    #[serde(default)]
    arguments: Map<String, Value>,
}

/// Agrees to everything: follows the page to where it leads back to.
#[derive(Debug)]
struct AgreeAtOnce(reqwest::Client);

#[async_trait]
impl Consent for AgreeAtOnce {
    async fn authorise(&self, url: &str) -> Result<String, AuthError> {
        let response = self.0.get(url).send().await;
        let response = response.map_err(|error| AuthError::new(error.to_string()))?;
        let location = response.headers().get("location");
        let location = location.and_then(|location| location.to_str().ok());
        location
            .map(str::to_owned)
            .ok_or_else(|| AuthError::new("the page leads nowhere"))
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = std::env::args().next_back().context("which URL?")?;
    let scenario = std::env::var("MCP_CONFORMANCE_SCENARIO").unwrap_or_default();
    let version = std::env::var("MCP_CONFORMANCE_PROTOCOL_VERSION").unwrap_or_default();
    let wanted: Wanted = match std::env::var("MCP_CONFORMANCE_CONTEXT") {
        Ok(context) => serde_json::from_str(&context).context("the context cannot be read")?,
        Err(_) => Wanted::default(),
    };
    let source = source(url, &scenario, &version, &wanted)?;
    let listing = source.list().await;
    if let Some(diagnostic) = &listing.diagnostic {
        eprintln!("listing: {diagnostic:?}");
    }
    if listing.tools.is_empty() && listing.diagnostic.is_some() {
        bail!("nothing was listed");
    }
    let rounds = match scenario.as_str() {
        "auth/authorization-server-migration" => CALLS_OF_MIGRATION,
        _ => 1,
    };
    for _ in 0..rounds {
        call_all(&listing.tools, &wanted).await;
    }
    source.close().await;
    Ok(())
}

fn source(
    url: String,
    scenario: &str,
    version: &str,
    wanted: &Wanted,
) -> anyhow::Result<McpSource> {
    let mut config = McpServerConfig::http("conformance", url).allow_private_addresses();
    config.lifecycle = match version {
        "" => Lifecycle::Auto,
        version if version < "2026" => Lifecycle::Handshake,
        _ => Lifecycle::Stateless,
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let random = Arc::new(SystemRandom);
    config.discovery_timeout_ms = PATIENCE_MS;
    config.call_timeout_ms = PATIENCE_MS;
    let limits = CacheConfig {
        discovery_timeout: Duration::from_millis(PATIENCE_MS),
        ..CacheConfig::default()
    };
    let cache = DiscoveryCache::new(limits, Arc::clone(&clock), random.clone());
    let source = McpSource::new(config, clock, random, cache)?;
    if !scenario.starts_with("auth/") {
        return Ok(source);
    }
    let mut client = OAuthClient::new(REDIRECT_URL, "conformance")
        .with_metadata_url(METADATA_URL)
        .allow_private_addresses();
    if let Some(id) = &wanted.client_id {
        let secret = wanted.client_secret.as_deref().map(Secret::new);
        client = client.registered(id, secret);
    }
    let tls = rustls::crypto::ring::default_provider();
    let _ = tls.install_default();
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    let consent = Arc::new(AgreeAtOnce(http.build()?));
    Ok(source.with_auth(Arc::new(OAuthProvider::new(client, consent)?)))
}

async fn call_all(tools: &[Arc<dyn Tool>], wanted: &Wanted) {
    if wanted.tool_calls.is_empty() {
        for tool in tools {
            let arguments = made_up(&tool.definition().input_schema);
            call(tool, arguments).await;
        }
        return;
    }
    for asked in &wanted.tool_calls {
        let public = runtime_mcp_cache::public_name("conformance", &asked.name);
        match tools.iter().find(|tool| tool.definition().name == public) {
            Some(tool) => call(tool, Value::Object(asked.arguments.clone())).await,
            None => eprintln!("{} is not offered", asked.name),
        }
    }
}

async fn call(tool: &Arc<dyn Tool>, arguments: Value) {
    let mut answer = tool.call(arguments.clone(), context()).await;
    for _ in 0..WAITS_MAX {
        let Ok(ToolOutput::Parked {
            deadline,
            continuation,
        }) = answer
        else {
            break;
        };
        let resolution = match deadline {
            None => Resolution::Ok {
                value: json!("accept"),
            },
            Some(pause) => {
                tokio::time::sleep(pause).await;
                Resolution::Timeout
            }
        };
        let resumption = Resumption {
            arguments: arguments.clone(),
            // As if it had been recorded, and read by another process.
            state: serde_json::from_str(&continuation.state.to_string()).unwrap_or_default(),
            resolution,
        };
        answer = tool.resume(resumption, context()).await;
    }
    eprintln!("{}: {answer:?}", tool.definition().name);
}

fn context() -> ToolContext {
    ToolContext {
        scope: ExecutionScope::RuntimeOperation {
            operation: TurnId::new("conformance").expect("an id"),
        },
        call: CallId::new("call").expect("an id"),
        idempotency_key: "conformance".to_owned(),
        attempt: 1,
        fencing_token: 1,
        deadline: SystemClock::new()
            .now()
            .after(Duration::from_millis(PATIENCE_MS)),
        completions: None,
        delegates: None,
        triggers: None,
        budget: runtime_core::Reserve::default(),
    }
}

/// Arguments that fit the required members of a schema.
fn made_up(schema: &Value) -> Value {
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    let members = required.iter().filter_map(Value::as_str).map(|name| {
        let value = match schema["properties"][name]["type"].as_str() {
            Some("number") => json!(1.5),
            Some("integer") => json!(1),
            Some("boolean") => json!(true),
            Some("object") => json!({}),
            Some("array") => json!([]),
            _ => json!("test"),
        };
        (name.to_owned(), value)
    });
    Value::Object(members.collect())
}
