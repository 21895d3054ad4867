//! Which model, where, and its bounds.

use std::collections::BTreeMap;
use std::time::Duration;

use runtime_core::Secret;

/// Where the key of a provider comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ApiKey {
    /// The provider's own variable, such as `OPENAI_API_KEY`. At a `base_url` of one's own this
    /// is no key at all: a provider's key is not sent to somebody else unless one says so.
    #[default]
    Provider,
    /// This variable of the environment.
    Variable(String),
    /// This key.
    Value(Secret),
    /// No key, for servers that want none.
    None,
}

/// How long the parts of one call may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelTimeouts {
    /// Until the connection stands.
    pub connect: Duration,
    /// From the request to the first byte of the response.
    pub first_byte: Duration,
    /// Between two pieces of the response.
    pub idle: Duration,
    /// From the request to the end of the answer. Keep it below the time that an attempt of the
    /// effect has: this error says who was slow.
    pub total: Duration,
}

impl Default for ModelTimeouts {
    /// 10 s, 60 s, 120 s, 270 s; an attempt of a model call has 300 s.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            first_byte: Duration::from_secs(60),
            idle: Duration::from_secs(120),
            total: Duration::from_secs(270),
        }
    }
}

/// A model at a provider. Prints neither key nor the values of headers.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct GenaiConfig {
    /// `provider::model`, such as `anthropic::claude-sonnet-4-5`; `openai` for every server that
    /// speaks OpenAI's chat completions.
    pub model: String,
    /// The address of the API up to and with its version, such as `http://127.0.0.1:8080/v1`;
    /// the provider's own without.
    pub base_url: Option<String>,
    /// The key.
    pub api_key: ApiKey,
    /// Further headers of each request.
    pub headers: BTreeMap<String, Secret>,
    /// How many tokens an answer may have; the provider's own bound without.
    pub output_tokens_max: Option<u32>,
    /// How much chance there is in an answer; the provider's own choice without.
    pub temperature: Option<f64>,
    /// How long a call may take.
    pub timeouts: ModelTimeouts,
    /// How many bytes an answer may have as it comes, 16 MiB unless told otherwise.
    pub answer_bytes_max: usize,
}

impl GenaiConfig {
    /// Names a model as `provider::model`, at its provider's own address, with the key from its
    /// provider's own variable.
    #[must_use]
    pub fn new(model: impl Into<String>) -> Self {
        Self {
            model: model.into(),
            base_url: None,
            api_key: ApiKey::Provider,
            headers: BTreeMap::new(),
            output_tokens_max: None,
            temperature: None,
            timeouts: ModelTimeouts::default(),
            answer_bytes_max: 16 * 1024 * 1024,
        }
    }
}
