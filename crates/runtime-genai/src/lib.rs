//! Models behind real providers: OpenAI, Anthropic, Gemini, Ollama, Mistral, DeepSeek and others
//! in their own protocols, and every server that speaks OpenAI's at an address of its own.
//!
//! [`GenaiModel`] is a [`Model`](runtime_model::Model) made from a [`GenaiConfig`]. Each call is
//! one HTTP request: no retries, no redirects, so that every attempt is an attempt of the effect,
//! seen by everyone (T6). Each call has bounds: how long a connection, the first byte, a silence
//! and the whole answer may take, and how large the answer may be. Whatever a server sends
//! instead of a whole answer ends in a [`ModelError`](runtime_model::ModelError) whose class says
//! whether trying again may help.
//!
//! Not here: retries (`runtime-effects`), the models' prices, anything but text and tool calls:
//! an attachment is shown to the model as a note that names it. Reasoning is streamed but not
//! sent back, nor are signatures of thoughts, so models that demand them with their tool calls
//! cannot call tools (T6).
//!
//! No type of the client library is in a public signature, so that it can be replaced.
//!
//! ```
//! use runtime_genai::{ApiKey, GenaiConfig, GenaiModel};
//! use runtime_model::Model;
//!
//! // A server on this machine that speaks OpenAI's protocol and wants no key.
//! let mut config = GenaiConfig::new("openai::qwen3-8b");
//! config.base_url = Some("http://127.0.0.1:8080/v1".to_owned());
//! config.api_key = ApiKey::None;
//! let model = GenaiModel::new(config)?;
//! assert_eq!((model.provider(), model.name()), ("openai", "qwen3-8b"));
//! # Ok::<(), runtime_genai::GenaiError>(())
//! ```

mod answer;
mod config;
mod error;
mod failure;
mod frames;
mod model;
mod request;

pub use config::{ApiKey, GenaiConfig, ModelTimeouts};
pub use error::GenaiError;
pub use model::GenaiModel;
