//! What is refused before anything is sent.

use std::time::Duration;

use runtime_core::{Classified, ErrorClass, Secret};
use runtime_genai::{ApiKey, GenaiConfig, GenaiError, GenaiModel};
use runtime_model::Model;

fn refused(config: GenaiConfig) -> GenaiError {
    GenaiModel::new(config).expect_err("it must be refused")
}

#[test]
fn t6_a_model_is_named_with_its_provider() {
    for name in ["", "gpt-4o", "::gpt-4o", "openai::", "openai:: "] {
        let error = refused(GenaiConfig::new(name));
        assert_eq!(error.code(), "model_provider_missing", "{name}");
    }
    // The library would take this for a model of a server on this machine.
    let error = refused(GenaiConfig::new("opneai::gpt-4o"));
    assert_eq!(error.code(), "model_provider_unknown");
    assert!(error.to_string().contains("openai"), "{error}");
}

#[test]
fn t6_an_address_is_checked() {
    for base_url in [
        "localhost:8080",
        "ftp://example.org/v1",
        "http://",
        "https://user:canary@example.org/v1",
        "https://example.org/v1?key=1",
    ] {
        let mut config = GenaiConfig::new("openai::m");
        config.base_url = Some(base_url.to_owned());
        config.api_key = ApiKey::None;
        let error = refused(config);
        assert_eq!(error.code(), "model_base_url_invalid", "{base_url}");
        assert!(!error.to_string().contains("canary"), "{error}");
    }
}

#[test]
fn t6_a_key_that_is_missing_is_named() {
    let mut config = GenaiConfig::new("anthropic::m");
    config.api_key = ApiKey::Variable("NO_SUCH_VARIABLE_AT_ALL".to_owned());
    let error = refused(config);
    assert_eq!(
        (error.code(), error.class()),
        ("model_key_missing", ErrorClass::Invalid)
    );
    assert!(
        error.to_string().contains("NO_SUCH_VARIABLE_AT_ALL"),
        "{error}"
    );
}

#[test]
fn t6_a_header_is_checked_and_its_value_never_shown() {
    for (name, value) in [("x y", "v"), ("x", "can\nary"), ("", "v")] {
        let mut config = GenaiConfig::new("openai::m");
        config.api_key = ApiKey::None;
        config.headers.insert(name.to_owned(), Secret::new(value));
        let error = refused(config);
        assert_eq!(error.code(), "model_header_invalid");
        assert!(!error.to_string().contains("ary"), "{error}");
    }
}

#[test]
fn t6_a_bound_of_zero_is_refused() {
    let mut config = GenaiConfig::new("openai::m");
    config.api_key = ApiKey::None;
    config.timeouts.idle = Duration::ZERO;
    assert_eq!(refused(config).code(), "model_bound_zero");
}

/// Every provider's adapter can be made; none needs a network for that.
#[test]
fn t6_native_providers_are_there() {
    for name in [
        "openai",
        "anthropic",
        "gemini",
        "ollama",
        "mistral",
        "deepseek",
        "groq",
        "xai",
    ] {
        let mut config = GenaiConfig::new(format!("{name}::some-model"));
        config.api_key = ApiKey::Value(Secret::new("key"));
        let model = GenaiModel::new(config).expect("the provider is known");
        assert_eq!((model.provider(), model.name()), (name, "some-model"));
        assert!(!format!("{model:?}").contains("key"));
    }
}
