//! Tools as models and people see them (C5, T3).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{CallId, CanonicalEncoder, ContentPart, Digest};

/// Whether a person is asked before a call runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ApprovalPolicy {
    /// Ask, unless the tool is declared read-only by somebody trusted.
    #[default]
    ByDeclaration,
    /// Ask each time.
    Always,
    /// Never ask.
    Never,
    /// The first rule that fits the arguments of the call decides; if none does, as
    /// [`ByDeclaration`](Self::ByDeclaration).
    ByRules(Vec<ApprovalRule>),
}

/// What happens to a call before it runs (T3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalNeed {
    /// It runs.
    Run,
    /// A person is asked.
    Ask,
    /// It does not run; the model is told.
    Deny,
}

/// One rule over the arguments of a call. It is data, recorded with the catalogue of a turn: the
/// same call gets the same answer after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ApprovalRule {
    /// A JSON pointer to the argument that is looked at, such as `/path`; empty for all of them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub argument: String,
    /// What it must be for the rule to fit.
    pub when: ArgumentTest,
    /// What then happens.
    pub then: ApprovalNeed,
}

/// A test of one argument. A text is looked at as it is, any other value as its JSON; an argument
/// that is not there fits only [`Absent`](Self::Absent) and [`Any`](Self::Any).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ArgumentTest {
    /// Always fits.
    Any,
    /// It is not there.
    Absent,
    /// It is this.
    Is(String),
    /// It begins with this.
    StartsWith(String),
    /// It contains this.
    Contains(String),
    /// It is a number, at most this.
    AtMost(i64),
}

impl ApprovalRule {
    /// Makes a rule.
    #[must_use]
    pub fn new(argument: impl Into<String>, when: ArgumentTest, then: ApprovalNeed) -> Self {
        Self {
            argument: argument.into(),
            when,
            then,
        }
    }

    fn fits(&self, arguments: &Value) -> bool {
        let Some(argument) = arguments.pointer(&self.argument) else {
            return matches!(self.when, ArgumentTest::Any | ArgumentTest::Absent);
        };
        let text = || match argument {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        match &self.when {
            ArgumentTest::Any => true,
            ArgumentTest::Absent => false,
            ArgumentTest::Is(wanted) => text() == *wanted,
            ArgumentTest::StartsWith(wanted) => text().starts_with(wanted),
            ArgumentTest::Contains(wanted) => text().contains(wanted),
            ArgumentTest::AtMost(most) => argument
                .as_f64()
                .is_some_and(|number| number <= *most as f64),
        }
    }
}

/// What is declared of a tool's behaviour. Absent means the cautious answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ToolHints {
    /// It changes nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// It may run again: harmless when repeated, overlapping, or late (E7).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retry_safe: bool,
    /// The declaration comes from a trusted source, so it counts (M10).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub trusted: bool,
}

/// A tool as it is offered to a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolDefinition {
    /// The public name, unique in a catalogue: `[A-Za-z_][A-Za-z0-9_-]{0,62}` (M8).
    pub name: String,
    /// The name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// What it does, for the model.
    pub description: String,
    /// The JSON schema of its arguments.
    pub input_schema: Value,
    /// The JSON schema of its structured result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<Value>,
    /// A group for display.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// Whether a person is asked first.
    #[serde(default)]
    pub approval: ApprovalPolicy,
    /// What is declared of its behaviour.
    #[serde(default)]
    pub hints: ToolHints,
    /// A short form may be shown to the model first, the schema on demand.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deferrable: bool,
}

impl ToolDefinition {
    /// Says whether a person may be asked before a call runs (T3); by rules it depends on the
    /// arguments, see [`approval_of`](Self::approval_of).
    #[must_use]
    pub fn needs_approval(&self) -> bool {
        match &self.approval {
            ApprovalPolicy::Always => true,
            ApprovalPolicy::Never => false,
            ApprovalPolicy::ByDeclaration => !self.is_trusted_reader(),
            ApprovalPolicy::ByRules(rules) => {
                !self.is_trusted_reader() || rules.iter().any(|rule| rule.then != ApprovalNeed::Run)
            }
        }
    }

    /// Says what happens to a call with these arguments before it runs (T3).
    #[must_use]
    pub fn approval_of(&self, arguments: &Value) -> ApprovalNeed {
        let ask = match &self.approval {
            ApprovalPolicy::Always => true,
            ApprovalPolicy::Never => false,
            ApprovalPolicy::ByDeclaration => !self.is_trusted_reader(),
            ApprovalPolicy::ByRules(rules) => {
                match rules.iter().find(|rule| rule.fits(arguments)) {
                    Some(rule) => return rule.then,
                    None => !self.is_trusted_reader(),
                }
            }
        };
        match ask {
            true => ApprovalNeed::Ask,
            false => ApprovalNeed::Run,
        }
    }

    const fn is_trusted_reader(&self) -> bool {
        self.hints.read_only && self.hints.trusted
    }

    /// Says whether a call may run again after a crash (E7): declared so by somebody trusted.
    #[must_use]
    pub const fn is_retry_safe(&self) -> bool {
        self.hints.trusted && (self.hints.retry_safe || self.hints.read_only)
    }
}

/// A call that a model asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The call as the provider names it.
    pub id: CallId,
    /// The public name of the tool.
    pub name: String,
    /// The arguments.
    pub arguments: Value,
}

impl ToolCall {
    /// Returns the digest of the arguments, what an approval is bound to.
    #[must_use]
    pub fn arguments_digest(&self) -> Digest {
        CanonicalEncoder::new("tool-arguments")
            .json(&self.arguments)
            .digest()
    }
}

/// What a call gave, as the model sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolResult {
    /// The call that it answers.
    pub call: CallId,
    /// The content, in order.
    pub content: Vec<ContentPart>,
    /// The call failed; the content says how.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_error: bool,
}

impl ToolResult {
    /// Makes a result of one text.
    #[must_use]
    pub fn text(call: CallId, text: impl Into<String>) -> Self {
        Self {
            call,
            content: vec![ContentPart::Text { text: text.into() }],
            is_error: false,
        }
    }

    /// Makes a failed result of one text.
    #[must_use]
    pub fn error(call: CallId, text: impl Into<String>) -> Self {
        Self {
            is_error: true,
            ..Self::text(call, text)
        }
    }
}
