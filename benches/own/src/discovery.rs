//! What tool servers offer, and the cache of it.

use std::sync::Arc;

use runtime::mcp_cache::{
    Authorisation, CacheConfig, CacheKey, Catalogue, CatalogueBuilder, DiscoveryCache, FetchError,
    FetchLimits, Fetched, Hints, Owner,
};
use runtime::store::{SystemClock, SystemRandom};
use serde_json::{Value, json};

/// 32 tools with 39 KB of input schemas, as finely grained as those of real servers: about 19 bytes
/// for each JSON value. What a deep clone costs is the number of values, not of bytes.
pub fn tools() -> Vec<Value> {
    let schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "additionalProperties": false,
        "required": ["owner", "repository", "title"],
        "properties": {
            "owner": {"type": "string", "description": "Owner of the repository (user name or organisation)"},
            "repository": {"type": "string", "description": "Name of the repository, without the owner"},
            "title": {"type": "string", "description": "Title of the issue, on one line"},
            "body": {"type": "string", "description": "What it is about, in Markdown, as text"},
            "state": {"type": "string", "enum": ["open", "closed", "all"]},
            "sort": {"type": "string", "enum": ["created", "updated", "comments"]},
            "labels": {"type": "array", "items": {"type": "string"}},
            "assignees": {"type": "array", "items": {"type": "string"}},
            "milestone": {"type": "number", "description": "Number of the milestone to associate it"},
            "draft": {"type": "boolean", "description": "Keep it from being seen yet"},
            "files": {"type": "array", "items": {
                "type": "object",
                "additionalProperties": false,
                "required": ["path", "content"],
                "properties": {"path": {"type": "string"},
                    "content": {"type": "string", "description": "The whole new content of it"}}
            }},
            "page": {"type": "number", "description": "Page of the results (default: 1)"},
            "per_page": {"type": "number", "minimum": 1, "maximum": 100}
        }
    });
    let tool = |number| {
        json!({
            "name": format!("tool_{number}"),
            "description": "what the tool does, in a sentence or two",
            "inputSchema": schema,
        })
    };
    (0..32).map(tool).collect()
}

pub fn catalogue(limits: FetchLimits) -> Result<Fetched<Catalogue>, FetchError> {
    let mut list = CatalogueBuilder::new("server", false, limits);
    list.page(tools(), Hints::default())?;
    Ok(list.finish())
}

pub fn key() -> CacheKey {
    let connection = json!({ "type": "http", "url": "https://tools.example.test/mcp" });
    CacheKey::new(
        Owner::Shared,
        "server",
        &connection,
        &Authorisation::Anonymous,
    )
}

pub fn new_cache() -> DiscoveryCache<Catalogue> {
    let (clock, random) = (Arc::new(SystemClock::new()), Arc::new(SystemRandom));
    DiscoveryCache::new(CacheConfig::default(), clock, random)
}
