//! Asking a model and keeping all that came.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use runtime_core::{Message, ModelEvent, ModelRequest, Role};
use runtime_genai::{ApiKey, GenaiConfig, GenaiModel, ModelTimeouts};
use runtime_model::{Model, ModelError};
use runtime_testkit::{ProviderResponse, ProviderServer};

/// Long enough for a loaded machine, short enough for a test that waits for it.
pub(crate) const SHORT: Duration = Duration::from_millis(300);

pub(crate) fn server(response: ProviderResponse) -> ProviderServer {
    ProviderServer::start(move |_| response.clone())
}

pub(crate) fn config(server: &ProviderServer) -> GenaiConfig {
    let mut config = GenaiConfig::new("openai::fake-model");
    config.base_url = Some(server.base_url());
    config.api_key = ApiKey::None;
    config.timeouts = ModelTimeouts {
        connect: Duration::from_secs(5),
        first_byte: Duration::from_secs(20),
        idle: Duration::from_secs(20),
        total: Duration::from_secs(60),
    };
    config
}

pub(crate) fn request() -> ModelRequest {
    ModelRequest {
        model: "fake-model".to_owned(),
        instructions: Arc::from("Be brief."),
        messages: vec![Arc::new(Message::text(Role::User, "Hello"))],
        tools: Arc::from([]),
        idempotency_key: "turn-1/call-1".to_owned(),
        output_schema: None,
    }
}

/// All events of one call, and the error that ended it, if one did.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) events: Vec<ModelEvent>,
    pub(crate) error: Option<ModelError>,
}

pub(crate) async fn ask(config: GenaiConfig) -> Asked {
    ask_with(config, request()).await
}

pub(crate) async fn ask_with(config: GenaiConfig, request: ModelRequest) -> Asked {
    let model = GenaiModel::new(config).expect("the configuration is good");
    let mut asked = Asked {
        events: Vec::new(),
        error: None,
    };
    let mut stream = match model.stream(request).await {
        Ok(stream) => stream,
        Err(error) => {
            asked.error = Some(error);
            return asked;
        }
    };
    while let Some(event) = stream.next().await {
        assert!(asked.error.is_none(), "something came after the error");
        assert!(!asked.is_finished(), "something came after the end");
        match event {
            Ok(event) => asked.events.push(event),
            Err(error) => asked.error = Some(error),
        }
    }
    asked
}

impl Asked {
    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.events.last(), Some(ModelEvent::Finished { .. }))
    }

    pub(crate) fn text(&self) -> String {
        let texts = self.events.iter().filter_map(|event| match event {
            ModelEvent::TextDelta { text } => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }

    /// The end of an answer that came whole.
    pub(crate) fn whole(self) -> Self {
        assert!(self.error.is_none(), "{:?}", self.error);
        assert!(self.is_finished(), "{:?}", self.events);
        self
    }

    /// The error of an answer that did not; it says who and has a code of its own.
    pub(crate) fn failed(self, code: &str) -> ModelError {
        assert!(!self.is_finished(), "{:?}", self.events);
        let error = self.error.expect("an answer that is not whole is an error");
        assert_eq!(error.code, code, "{error}");
        assert_eq!(
            (error.provider.as_str(), error.model.as_str()),
            ("openai", "fake-model")
        );
        error
    }
}
