//! The model of the configuration.

use std::sync::Arc;

use runtime::model::Model;

use crate::config::ModelSettings;

/// Makes the model; an error comes with the key that is wrong.
#[cfg(not(feature = "genai"))]
pub(crate) fn model(_settings: &ModelSettings) -> Result<Arc<dyn Model>, (String, String)> {
    let message =
        "this program was built without model providers: build it with `--features genai`";
    Err(("model.name".to_owned(), message.to_owned()))
}

/// Makes the model; an error comes with the key that is wrong.
#[cfg(feature = "genai")]
pub(crate) fn model(settings: &ModelSettings) -> Result<Arc<dyn Model>, (String, String)> {
    use runtime::core::Secret;
    use runtime::genai::{ApiKey, GenaiConfig, GenaiModel};

    use crate::config::{milliseconds, put};

    let mut config = GenaiConfig::new(settings.name.clone().unwrap_or_default());
    config.base_url.clone_from(&settings.base_url);
    config.api_key = match (&settings.api_key, &settings.api_key_env) {
        // An empty one says that there is none.
        (Some(key), _) if key.is_empty() => ApiKey::None,
        (Some(key), _) => ApiKey::Value(Secret::new(key.as_str())),
        (None, Some(variable)) => ApiKey::Variable(variable.clone()),
        (None, None) => ApiKey::Provider,
    };
    let headers = settings.headers.iter();
    let headers = headers.map(|(name, value)| (name.clone(), Secret::new(value.as_str())));
    config.headers = headers.collect();
    config.output_tokens_max = settings.output_tokens_max;
    config.temperature = settings.temperature;
    put(&mut config.answer_bytes_max, settings.answer_bytes_max);
    let timeouts = &mut config.timeouts;
    put(
        &mut timeouts.connect,
        milliseconds(settings.timeout_connect_ms),
    );
    put(
        &mut timeouts.first_byte,
        milliseconds(settings.timeout_first_byte_ms),
    );
    put(&mut timeouts.idle, milliseconds(settings.timeout_idle_ms));
    put(&mut timeouts.total, milliseconds(settings.timeout_total_ms));
    match GenaiModel::new(config) {
        Ok(model) => Ok(Arc::new(model)),
        Err(error) => Err((key_of(&error), error.to_string())),
    }
}

/// The key that an error is about.
#[cfg(feature = "genai")]
fn key_of(error: &runtime::genai::GenaiError) -> String {
    use runtime::genai::GenaiError;

    match error {
        GenaiError::InvalidBaseUrl { .. } => "model.base_url".to_owned(),
        GenaiError::NoKey { .. } => "model.api_key_env".to_owned(),
        GenaiError::InvalidHeader { name, .. } => format!("model.headers.{name}"),
        GenaiError::ZeroBound { name } => match *name {
            "connect" | "first_byte" | "idle" | "total" => format!("model.timeout_{name}_ms"),
            other => format!("model.{other}"),
        },
        _ => "model.name".to_owned(),
    }
}
