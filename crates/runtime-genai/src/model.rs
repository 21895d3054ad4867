//! The model.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::stream;
use genai::adapter::AdapterKind;
use genai::chat::ChatOptions;
use genai::resolver::{AuthData, Endpoint};
use genai::{Client, Headers, ModelIden, ServiceTarget};
use runtime_core::{ModelRequest, Secret};
use runtime_model::{Model, ModelError, ModelStream};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::time::Instant;

use crate::answer::{Answer, CallIds, Progress};
use crate::failure::Blame;
use crate::frames::Frames;
use crate::request::chat_request;
use crate::{ApiKey, GenaiConfig, GenaiError};

/// The header by which a provider may pay a repeated call once (E7).
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// A model at a provider; one HTTP request per call. Cheap to share, prints no key.
pub struct GenaiModel {
    client: Client,
    kind: AdapterKind,
    provider: String,
    name: String,
    endpoint: Option<Endpoint>,
    key: Option<Secret>,
    config: GenaiConfig,
}

impl fmt::Debug for GenaiModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GenaiModel")
            .field("provider", &self.provider)
            .field("model", &self.name)
            .field("base_url", &self.config.base_url)
            .finish_non_exhaustive()
    }
}

impl GenaiModel {
    /// Makes the model; nothing is sent yet. The key is read from the environment here, once.
    ///
    /// # Errors
    /// [`GenaiError`] for what can be seen to be wrong before anything is sent.
    pub fn new(config: GenaiConfig) -> Result<Self, GenaiError> {
        let (provider, name) = config
            .model
            .split_once("::")
            .filter(|(provider, name)| !provider.is_empty() && !name.trim().is_empty())
            .ok_or_else(|| GenaiError::NoProvider {
                model: config.model.clone(),
            })?;
        let (provider, name) = (provider.to_owned(), name.to_owned());
        let kind = kind_of(&provider)?;
        check_bounds(&config)?;
        check_headers(&config)?;
        let endpoint = config.base_url.as_deref().map(endpoint).transpose()?;
        let key = key_of(&config, kind, &provider)?;
        Ok(Self {
            client: client(&config)?,
            kind,
            provider,
            name,
            endpoint,
            key,
            config,
        })
    }

    /// Where a call goes, and with which key.
    async fn target(&self, model: &str) -> Result<ServiceTarget, genai::Error> {
        let full = format!("{}::{model}", self.provider);
        let iden = ModelIden::new(self.kind, full);
        let mut target = self.client.resolve_service_target(iden).await?;
        if let Some(endpoint) = &self.endpoint {
            target.endpoint = endpoint.clone();
        }
        target.auth = match &self.key {
            Some(key) => AuthData::Key(String::from_utf8_lossy(key.expose()).into_owned()),
            None if speaks_openai(self.kind) => {
                // The library insists on a key here; this way nothing is sent in its place.
                AuthData::RequestOverride {
                    url: format!("{}chat/completions", target.endpoint.base_url()),
                    headers: Headers::default(),
                }
            }
            None => AuthData::None,
        };
        Ok(target)
    }

    fn options(&self, request: &ModelRequest, frames: &Arc<Mutex<Frames>>) -> ChatOptions {
        let frames = Arc::clone(frames);
        let mut options = ChatOptions::default()
            .with_capture_usage(true)
            .with_capture_tool_calls(true)
            .with_stream_header_timeout(self.config.timeouts.first_byte)
            .with_stream_read_timeout(self.config.timeouts.idle)
            .with_extra_headers(self.headers(request))
            .with_raw_frame_fn(move |_, frame| {
                let mut frames = frames.lock().unwrap_or_else(PoisonError::into_inner);
                frames.read(frame.data);
            });
        if let Some(tokens) = self.config.output_tokens_max {
            options = options.with_max_tokens(tokens);
        }
        if let Some(temperature) = self.config.temperature {
            options = options.with_temperature(temperature);
        }
        options
    }

    fn headers(&self, request: &ModelRequest) -> Headers {
        let configured = self.config.headers.iter();
        let configured = configured.map(|(name, value)| {
            let value = String::from_utf8_lossy(value.expose()).into_owned();
            (name.clone(), value)
        });
        let mut headers: std::collections::HashMap<_, _> = configured.collect();
        let key = &request.idempotency_key;
        if !key.is_empty() && key.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            headers.insert(IDEMPOTENCY_KEY.to_owned(), key.clone());
        }
        Headers::from(headers)
    }

    fn blame(&self, model: &str) -> Blame {
        let headers = self.config.headers.values().cloned();
        Blame {
            provider: self.provider.clone(),
            model: model.to_owned(),
            secrets: headers.chain(self.key.clone()).collect(),
        }
    }
}

#[async_trait]
impl Model for GenaiModel {
    fn provider(&self) -> &str {
        &self.provider
    }

    fn name(&self) -> &str {
        &self.name
    }

    async fn stream(&self, request: ModelRequest) -> Result<ModelStream<'_>, ModelError> {
        // A turn keeps the model that it started with.
        let model = if request.model.is_empty() {
            &self.name
        } else {
            &request.model
        };
        let blame = self.blame(model);
        let timeouts = self.config.timeouts;
        let frames = Arc::new(Mutex::new(Frames::default()));
        let options = self.options(&request, &frames);
        let refused = |error: genai::Error| blame.of(&error, &timeouts);
        let mut target = self.target(model).await.map_err(refused)?;
        if let AuthData::RequestOverride { headers, .. } = &mut target.auth {
            // An override replaces the extra headers as well.
            *headers = self.headers(&request);
        }
        let deadline = Instant::now() + timeouts.total;
        let chat = self
            .client
            .exec_chat_stream(target, chat_request(&request), Some(&options))
            .await
            .map_err(refused)?
            .stream;
        let calls = request
            .messages
            .iter()
            .flat_map(|message| message.tool_calls());
        let taken: BTreeSet<String> = calls.map(|call| call.id.as_str().to_owned()).collect();
        let answer = Answer {
            chat,
            frames,
            blame,
            ids: CallIds::new(taken, request.idempotency_key),
            timeouts,
            deadline,
            bytes_max: self.config.answer_bytes_max,
            progress: Progress::default(),
        };
        Ok(Box::pin(stream::unfold(answer, |mut answer| async {
            let event = answer.next().await?;
            Some((event, answer))
        })))
    }
}

/// The adapter of a provider. An unknown name is refused: the library would take it for a model
/// of a server on this machine.
fn kind_of(provider: &str) -> Result<AdapterKind, GenaiError> {
    let kind = AdapterKind::from_lower_str(provider);
    kind.ok_or_else(|| GenaiError::UnknownProvider {
        provider: provider.to_owned(),
        known: AdapterKind::all()
            .iter()
            .map(AdapterKind::as_lower_str)
            .collect(),
    })
}

/// Whether the provider is asked by OpenAI's chat completions with a bearer key, so that leaving
/// the key out is a matter of one header.
const fn speaks_openai(kind: AdapterKind) -> bool {
    matches!(kind, AdapterKind::OpenAI)
}

fn check_bounds(config: &GenaiConfig) -> Result<(), GenaiError> {
    let timeouts = &config.timeouts;
    let bounds = [
        ("connect", timeouts.connect.is_zero()),
        ("first_byte", timeouts.first_byte.is_zero()),
        ("idle", timeouts.idle.is_zero()),
        ("total", timeouts.total.is_zero()),
        ("answer_bytes_max", config.answer_bytes_max == 0),
        ("output_tokens_max", config.output_tokens_max == Some(0)),
    ];
    match bounds.into_iter().find(|(_, zero)| *zero) {
        Some((name, _)) => Err(GenaiError::ZeroBound { name }),
        None => Ok(()),
    }
}

fn check_headers(config: &GenaiConfig) -> Result<(), GenaiError> {
    for (name, value) in &config.headers {
        let refuse = |reason| {
            Err(GenaiError::InvalidHeader {
                name: name.clone(),
                reason,
            })
        };
        if reqwest::header::HeaderName::from_bytes(name.as_bytes()).is_err() {
            return refuse("that is no name of a header");
        }
        let readable = std::str::from_utf8(value.expose()).is_ok();
        if !readable || reqwest::header::HeaderValue::from_bytes(value.expose()).is_err() {
            return refuse("its value has characters that no header may have");
        }
    }
    Ok(())
}

/// The address with the slash at its end without which its last part would be lost.
fn endpoint(base_url: &str) -> Result<Endpoint, GenaiError> {
    let refuse = |reason: String| GenaiError::InvalidBaseUrl {
        base_url: without_userinfo(base_url),
        reason,
    };
    let url = reqwest::Url::parse(base_url).map_err(|error| refuse(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refuse("it must start with http:// or https://".to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        let reason = "put credentials into the key or a header, not into the address";
        return Err(refuse(reason.to_owned()));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refuse("it must end with a path".to_owned()));
    }
    let mut text = url.to_string();
    if !text.ends_with('/') {
        text.push('/');
    }
    Ok(Endpoint::from_owned(text))
}

fn without_userinfo(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            format!("{}://[redacted]{}", &url[..scheme], &url[at..])
        }
        _ => url.to_owned(),
    }
}

fn key_of(
    config: &GenaiConfig,
    kind: AdapterKind,
    provider: &str,
) -> Result<Option<Secret>, GenaiError> {
    let variable = match &config.api_key {
        ApiKey::Value(key) => return Ok(Some(key.clone())),
        ApiKey::None => return Ok(None),
        ApiKey::Variable(variable) => variable.clone(),
        ApiKey::Provider if config.base_url.is_some() => return Ok(None),
        ApiKey::Provider => match kind.default_key_env_name() {
            // A server of one's own may do without.
            Some(_) if matches!(kind, AdapterKind::Ollama) => return Ok(None),
            Some(variable) => variable.to_owned(),
            None => return Ok(None),
        },
    };
    match std::env::var(&variable) {
        Ok(key) if !key.trim().is_empty() => Ok(Some(Secret::new(key.trim()))),
        _ => Err(GenaiError::NoKey {
            provider: provider.to_owned(),
            variable,
        }),
    }
}

/// An HTTP client that does what it is told, once: no retries, no redirects (a key must not
/// follow one to another host). Its TLS is its own, so that the program's choice stands.
fn client(config: &GenaiConfig) -> Result<Client, GenaiError> {
    let refuse = |reason: String| GenaiError::NoClient { reason };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(BuilderVerifierExt::with_platform_verifier)
        .map_err(|error| refuse(error.to_string()))?
        .with_no_client_auth();
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .retry(reqwest::retry::never())
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(config.timeouts.connect)
        .pool_max_idle_per_host(4)
        .build()
        .map_err(|error| refuse(error.to_string()))?;
    let built = Client::builder().with_reqwest(client).build();
    built.map_err(|error| refuse(error.to_string()))
}
