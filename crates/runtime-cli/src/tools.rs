//! `tools` and `approve-tool`: what the tool servers offer, how good that knowledge is, and what
//! waits for a person.

use std::sync::Arc;

use runtime::RuntimeError;
use runtime::core::{
    Classified as _, Clock, ErrorClass, EventKind, RuntimeEvent, SourceReport, StreamKey,
    Timestamp, Topic, WireError,
};
use runtime::events::EventHub;
use runtime::mcp::{McpSource, ServerType, hidden_characters};
use runtime::mcp_cache::{PinnedServer, WithheldReason, WithheldTool};
use runtime::store::{Store, SystemClock, SystemRandom};
use runtime::workers::Command;
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::args::Common;
use crate::config::ServerEntry;
use crate::exit::Exit;
use crate::inspect::visible;
use crate::output::Output;
use crate::tool_servers::{ToolApproval, ToolServers};
use crate::{answer, demo_agent, open};

/// How many digits of a digest say enough for a person to type them.
const DIGITS_MIN: usize = 8;

/// `tools`: starts no server and asks none. It tells what is kept in the store.
pub(crate) async fn tools(common: &Common, output: Output) -> anyhow::Result<Exit> {
    open::existing(common)?;
    let store = open::read_only(common).await?;
    let mut servers = ToolServers::new();
    let pins = servers.read(&store).await?.servers().await?;
    let hub = EventHub::new(
        Arc::clone(&store),
        Arc::new(SystemClock::new()),
        Arc::new(SystemRandom),
    );
    for entry in entries(common, &servers)? {
        let name = entry.name();
        let pinned = pins.iter().find(|pinned| pinned.server == name);
        let known = Known {
            trouble: last_trouble(&hub, name).await?,
            pinned,
            entry,
        };
        output.print(|| known.lines(), &known.value());
    }
    Ok(Exit::Done)
}

/// `approve-tool SERVER TOOL DIGEST`
pub(crate) async fn approve(
    common: &Common,
    output: Output,
    server: String,
    tool: String,
    digest: &str,
) -> anyhow::Result<Exit> {
    open::existing(common)?;
    let store = open::read_only(common).await?;
    let definition = definition(&store, &server, &tool, digest).await?;
    drop(store);
    let approval = ToolApproval {
        server,
        tool,
        definition,
    };
    let command = Command::Host {
        name: ToolApproval::NAME.to_owned(),
        body: json!(approval),
    };
    answer::carry_out(common, output, command).await
}

/// The whole digest that the person means: what is typed may be its beginning.
async fn definition(
    store: &Arc<dyn Store>,
    server: &str,
    tool: &str,
    digest: &str,
) -> anyhow::Result<runtime::core::Digest> {
    if let Ok(whole) = digest.parse() {
        return Ok(whole);
    }
    let servers = ToolServers::new().read(store).await?.servers().await?;
    let waiting = servers.iter().filter(|pinned| pinned.server == server);
    let mut waiting = waiting.flat_map(|pinned| &pinned.withheld);
    let meant = waiting.find(|waiting| {
        waiting.name == tool
            && digest.len() >= DIGITS_MIN
            && waiting.definition.to_string().starts_with(digest)
    });
    meant.map(|waiting| waiting.definition).ok_or_else(|| {
        let message = format!(
            "no definition {digest} of {tool} at {server} waits for approval; `tools` shows what does"
        );
        WireError::new("pin_not_waiting", ErrorClass::NotFound, message).into()
    })
}

/// A server of the configuration.
struct Entry {
    key: String,
    discovery: bool,
    source: McpSource,
}

impl Entry {
    fn name(&self) -> &str {
        &self.source.config().name
    }
}

/// Every server that some worker may use, by its key; the demo's own where no model is configured.
fn entries(common: &Common, servers: &ToolServers) -> anyhow::Result<Vec<Entry>> {
    let configuration = &common.configuration;
    let settings = &configuration.settings;
    let mut entries = Vec::new();
    if !settings.model.is_real() {
        entries.push(Entry {
            key: "(demo)".to_owned(),
            discovery: true,
            source: demo_agent::source(servers)?,
        });
    }
    for entry in settings.all_servers() {
        let ServerEntry {
            config,
            discovery,
            key,
        } = entry;
        let source = servers.source(&key, config);
        let source = source.map_err(|error| error.to_wire())?;
        entries.push(Entry {
            key,
            discovery,
            source,
        });
    }
    Ok(entries)
}

/// What a turn was told of a server, last.
struct Trouble {
    at: Timestamp,
    report: SourceReport,
}

/// The last turn that lacked tools of a server, or was told something of them (M1).
async fn last_trouble(hub: &EventHub, server: &str) -> anyhow::Result<Option<Trouble>> {
    let Ok(provider) = StreamKey::new(format!("provider/{server}")) else {
        return Ok(None);
    };
    let topic = Topic::Provider { provider };
    let (mut cursor, mut last) = (hub.cursor_from_start(), None);
    loop {
        let read = match hub.read(topic.clone(), cursor, 256).await {
            Ok(read) => read,
            // Nothing was ever told of it.
            Err(error) if error.class() == ErrorClass::NotFound => return Ok(None),
            Err(error) => return Err(RuntimeError::from_part(&error).into()),
        };
        let newest = read.events.iter().rev().find_map(|event| trouble(event));
        last = newest.or(last);
        cursor = read.next;
        if !read.has_more {
            return Ok(last);
        }
    }
}

fn trouble(event: &RuntimeEvent) -> Option<Trouble> {
    if *event.kind() != EventKind::Diagnostic {
        return None;
    }
    let report = event.draft.payload.get("tool_source")?;
    Some(Trouble {
        at: event.time,
        report: SourceReport::deserialize(report).ok()?,
    })
}

/// What is known of a server.
struct Known<'a> {
    entry: Entry,
    trouble: Option<Trouble>,
    pinned: Option<&'a PinnedServer>,
}

impl Known<'_> {
    fn kind(&self) -> &'static str {
        match self.entry.source.config().server_type {
            ServerType::Http => "http",
            _ => "stdio",
        }
    }

    /// The state, the age of the list in milliseconds, and the public names of its tools.
    fn state(&self) -> (String, Option<u64>, Vec<String>) {
        if !self.entry.discovery {
            return ("off".to_owned(), None, Vec::new());
        }
        let Some(answer) = self.entry.source.peek() else {
            return ("cold".to_owned(), None, Vec::new());
        };
        let names = answer.value.iter().flat_map(|list| list.tools());
        let names = names.map(|tool| tool.definition.name.clone()).collect();
        let age = u64::try_from(answer.age.as_millis()).unwrap_or(u64::MAX);
        (answer.state.as_str().to_owned(), Some(age), names)
    }

    /// What a turn was told, unless the list that is kept came later.
    fn standing_trouble(&self, age: Option<u64>) -> Option<&Trouble> {
        let listed = age.map(|age| SystemClock::new().now().as_millis().saturating_sub(age));
        let trouble = self.trouble.as_ref()?;
        let made_good = listed.is_some_and(|listed| listed > trouble.at.as_millis());
        (!made_good).then_some(trouble)
    }

    fn value(&self) -> Value {
        let (state, age, tools) = self.state();
        let trouble = self.standing_trouble(age);
        let pinned = self.pinned.map(|pinned| pinned.pinned);
        let waiting = self.pinned.iter().flat_map(|pinned| &pinned.withheld);
        json!({
            "server": self.entry.name(),
            "key": self.entry.key,
            "type": self.kind(),
            "state": trouble.map_or(&state, |trouble| &trouble.report.state),
            "age_ms": age,
            "tools": tools,
            "cause": trouble.and_then(|trouble| trouble.report.error.as_ref()),
            "next_retry": trouble.and_then(|trouble| trouble.report.next_retry),
            "since": trouble.map(|trouble| trouble.at),
            "pin": self.entry.source.config().pin,
            "pinned": pinned,
            "waiting": waiting.map(waiting_value).collect::<Vec<_>>(),
        })
    }

    fn lines(&self) -> String {
        let (state, age, tools) = self.state();
        let trouble = self.standing_trouble(age);
        let state = trouble.map_or(&*state, |trouble| &*trouble.report.state);
        let name = visible(self.entry.name());
        let mut lines = vec![format!("{name:<16} {:<6} {state}", self.kind())];
        if let Some(age) = age {
            let names = tools.join(" ");
            lines.push(format!("  listed {} s ago: {names}", age / 1_000));
        }
        if let Some(Trouble { at, report }) = trouble {
            let cause = report.error.as_ref();
            let cause = cause.map(|cause| format!("{} [{}]", visible(&cause.message), cause.code));
            lines.push(format!(
                "  since {at}: {}",
                cause.unwrap_or_else(|| "no reason was told".to_owned())
            ));
            if let Some(next) = report.next_retry {
                lines.push(format!("  next try at {next}"));
            }
        }
        if let Some(pinned) = self.pinned {
            lines.push(format!("  {} definitions pinned", pinned.pinned));
            let waiting = pinned.withheld.iter();
            lines.extend(waiting.map(|waiting| waiting_lines(&pinned.server, waiting)));
        }
        lines.join("\n")
    }
}

/// The characters of a definition that nobody would see, as their numbers.
pub(crate) fn hidden(definition: &Value) -> Vec<String> {
    let found = hidden_characters(definition);
    let numbers = found.into_iter().map(|c| format!("U+{:04X}", u32::from(c)));
    numbers.collect()
}

fn waiting_value(waiting: &WithheldTool) -> Value {
    let mut value = json!(waiting);
    value["hidden"] = json!(waiting.shown.as_ref().map(hidden));
    value
}

fn waiting_lines(server: &str, waiting: &WithheldTool) -> String {
    let why = match &waiting.reason {
        WithheldReason::Added => "new".to_owned(),
        WithheldReason::Changed { .. } => "changed".to_owned(),
        WithheldReason::Renamed { from } => format!("renamed from {}", visible(from)),
        _ => "not approved".to_owned(),
    };
    let name = visible(&waiting.name);
    let mut lines = format!("  waits  {name} ({why})");
    match &waiting.shown {
        Some(shown) => {
            lines.push_str(&format!("\n    as listed  {}", visible(&shown.to_string())));
            let hidden = hidden(shown);
            if !hidden.is_empty() {
                lines.push_str(&format!(
                    "\n    WARNING    it has characters that nobody sees: {}",
                    hidden.join(" ")
                ));
            }
        }
        None => lines.push_str("\n    it is too large to be shown; ask its server what it is"),
    }
    let digest = waiting.definition;
    let server = visible(server);
    lines.push_str(&format!(
        "\n    approve by `approve-tool {server} {name} {digest}`"
    ));
    lines
}
