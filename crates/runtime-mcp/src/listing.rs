//! Reading the pages of a list: pure, page in, next cursor out.

use std::collections::HashSet;

use runtime_mcp_cache::{
    Catalogue, CatalogueBuilder, Era, FetchError, FetchLimits, Fetched, Hints,
};
use serde_json::Value;

use crate::McpError;

/// The bytes of a cursor; the protocol says nothing, servers use some dozens.
const CURSOR_BYTES_MAX: usize = 4096;

/// The pages of one list so far.
pub(crate) struct Pages {
    server: String,
    era: Era,
    catalogue: CatalogueBuilder,
    checks_headers: bool,
    cursors: HashSet<String>,
}

impl Pages {
    pub(crate) fn new(server: &str, trusted: bool, era: Era, limits: FetchLimits) -> Self {
        Self {
            server: server.to_owned(),
            era,
            catalogue: CatalogueBuilder::new(server, trusted, limits),
            checks_headers: false,
            cursors: HashSet::new(),
        }
    }

    /// Refuses tools that want their arguments in headers that cannot be (M9).
    pub(crate) fn checking_headers(mut self) -> Self {
        self.checks_headers = self.era == Era::WithHints;
        self
    }

    /// Takes a page and returns the cursor of the next one, if there is one. An empty cursor is
    /// one like any other.
    pub(crate) fn take(&mut self, page: Value) -> Result<Option<String>, FetchError> {
        let Value::Object(mut page) = page else {
            return Err(self.invalid("a page of its list is not an object"));
        };
        let Some(Value::Array(tools)) = page.remove("tools") else {
            return Err(self.invalid("a page of its list has no tools"));
        };
        let hints = Hints {
            era: self.era,
            ttl_ms: page.get("ttlMs").and_then(millis),
            private: page.get("cacheScope").is_some_and(is_private),
        };
        let tools = self.with_possible_headers(tools)?;
        self.catalogue.page(tools, hints)?;
        match page.remove("nextCursor") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(cursor)) if cursor.len() > CURSOR_BYTES_MAX => {
                Err(self.invalid("a cursor of its list is too long"))
            }
            Some(Value::String(cursor)) => {
                // The number of pages is bounded, so the set is; a cycle ends at once.
                if self.cursors.insert(cursor.clone()) {
                    Ok(Some(cursor))
                } else {
                    Err(self.invalid("its list gives the same cursor twice"))
                }
            }
            Some(_) => Err(self.invalid("a cursor of its list is not a text")),
        }
    }

    #[cfg(feature = "http")]
    fn with_possible_headers(&mut self, tools: Vec<Value>) -> Result<Vec<Value>, FetchError> {
        if !self.checks_headers {
            return Ok(tools);
        }
        let mut kept = Vec::with_capacity(tools.len());
        for tool in tools {
            let schema = tool.get("inputSchema").unwrap_or(&Value::Null);
            match crate::param_headers::check(schema) {
                Ok(()) => kept.push(tool),
                Err(reason) => {
                    let name = tool.get("name").and_then(Value::as_str);
                    self.catalogue.refuse(name.unwrap_or_default(), reason)?;
                }
            }
        }
        Ok(kept)
    }

    #[cfg(not(feature = "http"))]
    fn with_possible_headers(&mut self, tools: Vec<Value>) -> Result<Vec<Value>, FetchError> {
        debug_assert!(!self.checks_headers, "only servers over HTTP want headers");
        Ok(tools)
    }

    pub(crate) fn finish(self) -> Fetched<Catalogue> {
        self.catalogue.finish()
    }

    fn invalid(&self, reason: &str) -> FetchError {
        FetchError::failed(&McpError::InvalidAnswer {
            server: self.server.clone(),
            reason: reason.to_owned(),
        })
    }
}

/// Reads `ttlMs`; what is not a number counts as absent, what is beyond an i64 as the most.
fn millis(value: &Value) -> Option<i64> {
    let number = value.as_number()?;
    number
        .as_i64()
        .or_else(|| number.as_u64().map(|_| i64::MAX))
        .or_else(|| number.as_f64().map(|millis| millis as i64))
}

/// Only `public`, and absence, let a list be shared; a scope of the future might be narrower.
fn is_private(scope: &Value) -> bool {
    !matches!(scope.as_str(), Some("public" | "")) && !scope.is_null()
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime_mcp_cache::CacheConfig;
    use serde_json::json;

    fn pages() -> Pages {
        let limits = CacheConfig::default().fetch_limits();
        Pages::new("s", true, Era::WithHints, limits)
    }

    fn page(tool: &str, cursor: Value) -> Value {
        let tool = json!({"name": tool, "inputSchema": {"type": "object"}});
        json!({"tools": [tool], "nextCursor": cursor, "ttlMs": 5000, "cacheScope": "public"})
    }

    #[test]
    fn m4_all_pages_are_taken_and_an_empty_cursor_is_one() {
        let mut pages = pages();
        assert_eq!(
            pages.take(page("a", json!(""))).expect("page 1").as_deref(),
            Some("")
        );
        assert_eq!(
            pages
                .take(page("b", json!("2")))
                .expect("page 2")
                .as_deref(),
            Some("2")
        );
        let mut last = page("c", Value::Null);
        last["ttlMs"] = json!(-7);
        last["cacheScope"] = json!("private");
        assert_eq!(pages.take(last).expect("page 3"), None);
        let fetched = pages.finish();
        assert_eq!(fetched.value.tools().len(), 3);
        assert_eq!(
            (fetched.hints.ttl_ms, fetched.hints.private),
            (Some(-7), true)
        );
    }

    #[test]
    fn x4_a_cursor_that_comes_back_ends_the_list_with_an_error() {
        let mut pages = pages();
        pages.take(page("a", json!("x"))).expect("page 1");
        pages.take(page("b", json!("y"))).expect("page 2");
        let error = pages.take(page("c", json!("x"))).expect_err("a cycle");
        assert!(matches!(&error, FetchError::Failed(wire) if wire.code == "mcp_answer_invalid"));
    }

    #[test]
    fn x4_pages_that_are_none_are_errors() {
        for wrong in [
            json!([]),
            json!({}),
            json!({"tools": {}}),
            json!({"tools": [], "nextCursor": 7}),
            json!({"tools": [], "nextCursor": "x".repeat(CURSOR_BYTES_MAX + 1)}),
        ] {
            assert!(pages().take(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn x4_a_list_over_its_limits_is_an_error_at_once() {
        let mut limits = CacheConfig::default().fetch_limits();
        limits.tools_max = 2;
        let mut pages = Pages::new("s", false, Era::WithoutHints, limits);
        pages.take(page("a", json!("1"))).expect("page 1");
        pages.take(page("b", json!("2"))).expect("page 2");
        let error = pages.take(page("c", json!("3"))).expect_err("too many");
        assert!(matches!(error, FetchError::TooLarge { .. }));
    }

    #[test]
    fn m4_hints_are_read_as_they_came() {
        assert_eq!(millis(&json!(0)), Some(0));
        assert_eq!(millis(&json!(u64::MAX)), Some(i64::MAX));
        assert_eq!(millis(&json!(1.5e3)), Some(1500));
        assert_eq!(millis(&json!("1000")), None);
        assert!(!is_private(&json!("public")));
        assert!(!is_private(&json!("")));
        assert!(is_private(&json!("private")));
        assert!(is_private(&json!("tenant")));
    }
}
