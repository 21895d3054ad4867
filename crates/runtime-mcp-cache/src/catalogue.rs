//! What is cached of a tool server: its tools, ready to be offered (M5, M6, M8).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use runtime_core::{ApprovalPolicy, CanonicalEncoder, Digest, ToolDefinition, ToolHints};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    ArchivedValue, ByteBudget, CacheValue, Changes, FetchError, FetchLimits, Fetched, Hints,
    RefusedTool, public_name,
};

/// One tool of a server.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DiscoveredTool {
    /// The name on the server, which calls are made with.
    pub name: String,
    /// The definition as the server gave it, unknown members included.
    pub raw: Value,
    /// What models and people see, under the public name.
    pub definition: ToolDefinition,
    /// The digest of name and definition, every member included: what a pin holds (M7).
    pub digest: Digest,
}

impl DiscoveredTool {
    /// Reads one member of the `tools` of an MCP list. The server's hints count only if it is
    /// `trusted` (M10).
    ///
    /// # Errors
    /// The tool is refused: it has no usable name or input schema.
    pub fn parse(server: &str, trusted: bool, raw: Value) -> Result<Self, RefusedTool> {
        let text = |value: &Value, member: &str| value.get(member)?.as_str().map(str::to_owned);
        let name = text(&raw, "name").unwrap_or_default();
        let refuse = |name: String, reason: &str| RefusedTool {
            name,
            reason: reason.to_owned(),
        };
        if name.is_empty() {
            return Err(refuse(name, "it has no name"));
        }
        let Some(input_schema) = raw.get("inputSchema").filter(|schema| schema.is_object()) else {
            return Err(refuse(name, "its input schema is not an object"));
        };
        let annotations = raw.get("annotations").unwrap_or(&Value::Null);
        let flag = |member: &str| annotations.get(member).and_then(Value::as_bool) == Some(true);
        let definition = ToolDefinition {
            name: public_name(server, &name),
            display_name: text(&raw, "title").or_else(|| text(annotations, "title")),
            description: text(&raw, "description").unwrap_or_default(),
            input_schema: input_schema.clone(),
            output_schema: raw.get("outputSchema").cloned(),
            category: Some(server.to_owned()),
            approval: ApprovalPolicy::ByDeclaration,
            hints: ToolHints {
                read_only: flag("readOnlyHint"),
                retry_safe: flag("idempotentHint"),
                trusted,
            },
            deferrable: false,
        };
        let digest = CanonicalEncoder::new("discovered-tool").json(&raw).digest();
        Ok(Self {
            name,
            raw,
            definition,
            digest,
        })
    }
}

/// The tools of one server at one time, ordered by name.
#[derive(Clone)]
pub struct Catalogue {
    server: String,
    trusted: bool,
    tools: Vec<DiscoveredTool>,
    refused: Vec<RefusedTool>,
    rendered: Arc<[u8]>,
    spans: Vec<Range<usize>>,
    digest: Digest,
    bytes: u64,
}

impl fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalogue")
            .field("server", &self.server)
            .field("tools", &self.tools.len())
            .field("refused", &self.refused)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl Catalogue {
    /// Returns the name of the server.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Returns the tools, ordered by their name on the server.
    #[must_use]
    pub fn tools(&self) -> &[DiscoveredTool] {
        &self.tools
    }

    /// Returns the tool of that name on the server.
    #[must_use]
    pub fn tool(&self, name: &str) -> Option<&DiscoveredTool> {
        let at = self.position(name)?;
        Some(&self.tools[at])
    }

    /// Returns what was listed but may not be offered, ordered by name.
    #[must_use]
    pub fn refused(&self) -> &[RefusedTool] {
        &self.refused
    }

    /// Returns the JSON array of all tools as a model request carries them: members `name`
    /// (public), `description` and `input_schema`.
    #[must_use]
    pub fn rendered(&self) -> &Arc<[u8]> {
        &self.rendered
    }

    /// Returns the JSON object of one tool: its part of [`rendered`](Self::rendered).
    #[must_use]
    pub fn rendered_tool(&self, name: &str) -> Option<&[u8]> {
        let at = self.position(name)?;
        Some(&self.rendered[self.spans[at].clone()])
    }

    fn of(
        server: String,
        trusted: bool,
        tools: Vec<DiscoveredTool>,
        refused: Vec<RefusedTool>,
        bytes: u64,
    ) -> Self {
        let (rendered, spans) = render(&tools);
        Self {
            digest: digest(&server, trusted, &tools, &refused),
            server,
            trusted,
            rendered: rendered.into(),
            spans,
            tools,
            refused,
            bytes,
        }
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.tools
            .binary_search_by(|tool| tool.name.as_str().cmp(name))
            .ok()
    }
}

impl CacheValue for Catalogue {
    fn digest(&self) -> Digest {
        self.digest
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn tools(&self) -> usize {
        self.tools.len() + self.refused.len()
    }

    fn changes_since(&self, earlier: &Self) -> Changes {
        let mut changes = Changes::default();
        for tool in &self.tools {
            match earlier.tool(&tool.name) {
                None => changes.added.push(tool.name.clone()),
                Some(before) if before.digest != tool.digest => {
                    changes.changed.push(tool.name.clone());
                }
                Some(_) => {}
            }
        }
        let gone = earlier
            .tools
            .iter()
            .filter(|tool| self.tool(&tool.name).is_none());
        changes.removed = gone.map(|tool| tool.name.clone()).collect();
        changes
    }
}

/// A catalogue as it stands in an archive.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ArchivedCatalogue<'a> {
    trusted: bool,
    tools: Vec<Cow<'a, Value>>,
    refused: Cow<'a, [RefusedTool]>,
    digest: Digest,
}

impl ArchivedValue for Catalogue {
    fn encode(&self) -> Vec<u8> {
        let archived = ArchivedCatalogue {
            trusted: self.trusted,
            tools: self
                .tools
                .iter()
                .map(|tool| Cow::Borrowed(&tool.raw))
                .collect(),
            refused: Cow::Borrowed(&self.refused),
            digest: self.digest,
        };
        serde_json::to_vec(&archived).expect("JSON made of JSON can be written")
    }

    /// Reads it back as trusted as it was. Whether hints count is for the configuration of today to
    /// say (M10): trust is part of the connection that a key digests, so a list that was trusted is
    /// met only by those who still trust its server.
    fn decode(server: &str, bytes: &[u8]) -> Option<Self> {
        let archived: ArchivedCatalogue<'static> = serde_json::from_slice(bytes).ok()?;
        let (mut budget, mut tools) = (ByteBudget::new(u64::MAX), Vec::new());
        for raw in archived.tools {
            budget.spend_json(&*raw).ok()?;
            tools.push(DiscoveredTool::parse(server, archived.trusted, raw.into_owned()).ok()?);
        }
        let ordered = tools.is_sorted_by(|one: &DiscoveredTool, two| one.name < two.name);
        let mut names: Vec<_> = tools.iter().map(|tool| &tool.definition.name).collect();
        names.sort_unstable();
        names.dedup();
        let refused = archived.refused.into_owned();
        let same = digest(server, archived.trusted, &tools, &refused) == archived.digest;
        let whole = ordered && names.len() == tools.len() && same;
        whole.then(|| {
            Self::of(
                server.to_owned(),
                archived.trusted,
                tools,
                refused,
                budget.spent(),
            )
        })
    }
}

/// Gathers the pages of a list into a [`Catalogue`], within the limits of the fetch.
#[derive(Debug)]
pub struct CatalogueBuilder {
    server: String,
    trusted: bool,
    limits: FetchLimits,
    budget: ByteBudget,
    pages: usize,
    hints: Option<Hints>,
    tools: BTreeMap<String, Vec<DiscoveredTool>>,
    listed: usize,
    refused: Vec<RefusedTool>,
}

impl CatalogueBuilder {
    /// Starts an empty list of a server.
    #[must_use]
    pub fn new(server: impl Into<String>, trusted: bool, limits: FetchLimits) -> Self {
        Self {
            server: server.into(),
            trusted,
            limits,
            budget: ByteBudget::new(limits.bytes_max),
            pages: 0,
            hints: None,
            tools: BTreeMap::new(),
            listed: 0,
            refused: Vec::new(),
        }
    }

    /// Adds a page: the members of its `tools`, and what it says about its time to live.
    ///
    /// # Errors
    /// [`FetchError::TooLarge`] as soon as a limit is passed; ask for no further page then.
    pub fn page(
        &mut self,
        tools: impl IntoIterator<Item = Value>,
        hints: Hints,
    ) -> Result<(), FetchError> {
        self.pages += 1;
        if self.pages > self.limits.pages_max {
            return Err(too_large(format!(
                "it has more than {} pages",
                self.limits.pages_max
            )));
        }
        self.hints = Some(self.hints.map_or(hints, |joined| joined.and(hints)));
        for raw in tools {
            self.listed += 1;
            if self.listed > self.limits.tools_max {
                return Err(too_large(format!(
                    "it has more than {} tools",
                    self.limits.tools_max
                )));
            }
            self.budget.spend_json(&raw)?;
            match DiscoveredTool::parse(&self.server, self.trusted, raw) {
                Ok(tool) => self.tools.entry(tool.name.clone()).or_default().push(tool),
                Err(refused) => self.refused.push(refused),
            }
        }
        Ok(())
    }

    /// Adds a tool that may not be offered, for a reason of the caller's. It counts like any
    /// other.
    ///
    /// # Errors
    /// [`FetchError::TooLarge`] as of [`page`](Self::page).
    pub fn refuse(
        &mut self,
        name: impl Into<String>,
        reason: impl Into<String>,
    ) -> Result<(), FetchError> {
        self.listed += 1;
        if self.listed > self.limits.tools_max {
            let limit = self.limits.tools_max;
            return Err(too_large(format!("it has more than {limit} tools")));
        }
        let (name, reason) = (name.into(), reason.into());
        self.budget.spend((name.len() + reason.len()) as u64)?;
        self.refused.push(RefusedTool { name, reason });
        Ok(())
    }

    /// Ends the list.
    #[must_use]
    pub fn finish(self) -> Fetched<Catalogue> {
        let mut refused = self.refused;
        let (single, several): (Vec<_>, Vec<_>) =
            self.tools.into_values().partition(|tools| tools.len() == 1);
        refused.extend(several.into_iter().flatten().map(|tool| RefusedTool {
            name: tool.name,
            reason: "the server lists its name more than once".to_owned(),
        }));
        let tools = refuse_equal_public_names(single.into_iter().flatten(), &mut refused);
        refused.sort_unstable();
        let bytes = self.budget.spent();
        let value = Catalogue::of(self.server, self.trusted, tools, refused, bytes);
        let hints = self.hints.unwrap_or_default();
        Fetched { value, hints }
    }
}

fn too_large(reason: String) -> FetchError {
    FetchError::TooLarge { reason }
}

/// Names differ, but the digests in two lossy public names may not.
fn refuse_equal_public_names(
    tools: impl Iterator<Item = DiscoveredTool>,
    refused: &mut Vec<RefusedTool>,
) -> Vec<DiscoveredTool> {
    let mut by_public: BTreeMap<String, Vec<DiscoveredTool>> = BTreeMap::new();
    for tool in tools {
        let public = tool.definition.name.clone();
        by_public.entry(public).or_default().push(tool);
    }
    let mut kept = Vec::with_capacity(by_public.len());
    for (public, mut tools) in by_public {
        if tools.len() == 1 {
            kept.append(&mut tools);
        } else {
            refused.extend(tools.into_iter().map(|tool| RefusedTool {
                name: tool.name,
                reason: format!("it and another tool are both called {public}"),
            }));
        }
    }
    kept.sort_unstable_by(|one, two| one.name.cmp(&two.name));
    kept
}

/// What a model request carries of a tool.
#[derive(Serialize)]
struct Rendered<'a> {
    name: &'a str,
    description: &'a str,
    input_schema: &'a Value,
}

fn render(tools: &[DiscoveredTool]) -> (Vec<u8>, Vec<Range<usize>>) {
    let mut json = vec![b'['];
    let mut spans = Vec::with_capacity(tools.len());
    for tool in tools {
        if json.len() > 1 {
            json.push(b',');
        }
        let start = json.len();
        let rendered = Rendered {
            name: &tool.definition.name,
            description: &tool.definition.description,
            input_schema: &tool.definition.input_schema,
        };
        serde_json::to_writer(&mut json, &rendered).expect("JSON made of JSON can be written");
        spans.push(start..json.len());
    }
    json.push(b']');
    (json, spans)
}

fn digest(
    server: &str,
    trusted: bool,
    tools: &[DiscoveredTool],
    refused: &[RefusedTool],
) -> Digest {
    let mut encoder = CanonicalEncoder::new("catalogue")
        .text(server)
        .unsigned(u64::from(trusted))
        .unsigned(tools.len() as u64);
    for tool in tools {
        encoder = encoder.text(&tool.name).bytes(tool.digest.as_bytes());
    }
    for tool in refused {
        encoder = encoder.text(&tool.name).text(&tool.reason);
    }
    encoder.digest()
}
