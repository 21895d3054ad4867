//! The model of an example: the one that the environment names, as for the command line, or else
//! a scripted one that needs no key.

use std::error::Error;
use std::sync::Arc;

use runtime::prelude::*;

/// `AGENT_RUNTIME_MODEL` names the model, as PROVIDER::MODEL; `AGENT_RUNTIME_MODEL_BASE_URL` a
/// server of one's own, and `AGENT_RUNTIME_MODEL_API_KEY` its key. Without a base URL the key is
/// in the provider's own variable.
pub(crate) fn model(scripted: Arc<dyn Model>) -> Result<Arc<dyn Model>, Box<dyn Error>> {
    model_of(|name| std::env::var(name).ok(), scripted)
}

pub(crate) fn model_of(
    variable: impl Fn(&str) -> Option<String>,
    scripted: Arc<dyn Model>,
) -> Result<Arc<dyn Model>, Box<dyn Error>> {
    match variable("AGENT_RUNTIME_MODEL") {
        None => Ok(scripted),
        Some(name) => real(name, variable),
    }
}

#[cfg(feature = "genai")]
fn real(
    name: String,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Arc<dyn Model>, Box<dyn Error>> {
    use runtime::core::Secret;
    use runtime::genai::{ApiKey, GenaiConfig, GenaiModel};

    let mut config = GenaiConfig::new(name);
    config.base_url = variable("AGENT_RUNTIME_MODEL_BASE_URL");
    let key = variable("AGENT_RUNTIME_MODEL_API_KEY");
    config.api_key = match (key, &config.base_url) {
        (Some(key), _) => ApiKey::Value(Secret::new(key.as_str())),
        (None, Some(_)) => ApiKey::None,
        (None, None) => ApiKey::Provider,
    };
    Ok(Arc::new(GenaiModel::new(config)?))
}

#[cfg(not(feature = "genai"))]
fn real(
    name: String,
    _: impl Fn(&str) -> Option<String>,
) -> Result<Arc<dyn Model>, Box<dyn Error>> {
    Err(format!("{name} takes a build with `--features genai`").into())
}
