//! From `tracing` to a collector.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use rustls_platform_verifier::BuilderVerifierExt;
use tracing::{Dispatch, Metadata};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;

use crate::{OtelError, OtlpConfig};

/// Under which name the spans are made (`otel.scope.name`).
const SCOPE: &str = "runtime";

/// The path of the protocol.
const TRACES: &str = "/v1/traces";

/// Takes spans to a collector, in batches, by a thread of its own.
///
/// Dropping it without [`close`](Self::close) loses the spans that were not sent yet.
pub struct SpanExport {
    provider: SdkTracerProvider,
    dispatch: Dispatch,
    endpoint: String,
}

impl fmt::Debug for SpanExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpanExport")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl SpanExport {
    /// Makes the exporter; nothing is sent yet, and no span is taken before
    /// [`install`](Self::install).
    ///
    /// # Errors
    /// [`OtelError::Invalid`] and [`OtelError::NoClient`].
    pub fn start(config: &OtlpConfig) -> Result<Self, OtelError> {
        let endpoint = checked(&config.endpoint)?;
        let exporter = exporter(config, &endpoint)?;
        let mut resource = Resource::builder();
        if let Some(name) = &config.service_name {
            resource = resource.with_service_name(name.clone());
        }
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .build();
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer(SCOPE))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(is_exported));
        let dispatch = Dispatch::new(tracing_subscriber::registry().with(layer));
        Ok(Self {
            provider,
            dispatch,
            endpoint,
        })
    }

    /// Takes the spans of the whole program.
    ///
    /// # Errors
    /// [`OtelError::AlreadyInstalled`] if it has a subscriber.
    pub fn install(&self) -> Result<(), OtelError> {
        tracing::dispatcher::set_global_default(self.dispatch.clone())
            .map_err(|_| OtelError::AlreadyInstalled)
    }

    /// Returns the subscriber, to be put in force for a part of the program by
    /// `tracing::dispatcher::with_default` or `WithSubscriber`.
    #[must_use]
    pub fn dispatch(&self) -> Dispatch {
        self.dispatch.clone()
    }

    /// Sends what has not been sent, and ends. Spans that end later are lost.
    ///
    /// # Errors
    /// [`OtelError::NotSent`] if the collector refuses, or does not answer in time.
    ///
    /// # Cancel safety
    /// A dropped future loses the answer; the spans are sent all the same.
    pub async fn close(self) -> Result<(), OtelError> {
        let Self {
            provider, endpoint, ..
        } = self;
        // It waits for the thread that sends.
        let sent = tokio::task::spawn_blocking(move || {
            let flushed = provider.force_flush();
            flushed.and(provider.shutdown())
        });
        let reason = match sent.await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        Err(OtelError::NotSent { endpoint, reason })
    }
}

/// What the client that sends says of itself would be sent by it, and so on for ever.
fn is_exported(metadata: &Metadata<'_>) -> bool {
    const SENDS: [&str; 6] = ["h2", "hyper", "opentelemetry", "reqwest", "rustls", "tower"];
    let target = metadata.target();
    let root = target.split("::").next().unwrap_or(target);
    let sends = SENDS
        .iter()
        .any(|name| root == *name || root.starts_with(&format!("{name}_")));
    *metadata.level() <= tracing::Level::INFO && !sends
}

/// The address, without a slash at its end.
fn checked(endpoint: &str) -> Result<String, OtelError> {
    let invalid = |endpoint: &str, reason: &str| OtelError::Invalid {
        endpoint: endpoint.to_owned(),
        reason: reason.to_owned(),
    };
    let url = match reqwest::Url::parse(endpoint) {
        Ok(url) => url,
        Err(error) => return Err(invalid(endpoint, &error.to_string())),
    };
    if !url.username().is_empty() || url.password().is_some() {
        let host = url.host_str().unwrap_or_default();
        return Err(invalid(
            host,
            "put credentials into a header, not into the address",
        ));
    }
    if !matches!(url.scheme(), "http" | "https") || url.query().is_some() {
        return Err(invalid(
            endpoint,
            "it must be http:// or https:// and the address before /v1/traces",
        ));
    }
    let text = endpoint.trim_end_matches('/');
    Ok(text.strip_suffix(TRACES).unwrap_or(text).to_owned())
}

fn exporter(config: &OtlpConfig, endpoint: &str) -> Result<SpanExporter, OtelError> {
    let mut headers = HashMap::new();
    for (name, value) in &config.headers {
        let text = std::str::from_utf8(value.expose()).unwrap_or_default();
        let readable = reqwest::header::HeaderName::from_bytes(name.as_bytes()).is_ok()
            && reqwest::header::HeaderValue::from_str(text).is_ok();
        if !readable || text.is_empty() {
            return Err(OtelError::Invalid {
                endpoint: endpoint.to_owned(),
                reason: format!("the header {name:?} cannot be sent"),
            });
        }
        headers.insert(name.clone(), text.to_owned());
    }
    let built = SpanExporter::builder()
        .with_http()
        .with_http_client(client(config)?)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{endpoint}{TRACES}"))
        .with_timeout(config.timeout)
        .with_headers(headers)
        .build();
    built.map_err(|error| OtelError::Invalid {
        endpoint: endpoint.to_owned(),
        reason: error.to_string(),
    })
}

/// The client of the thread that sends. It follows no redirect, since a key may go with the spans,
/// and its TLS is its own, so that the program's choice stands. It blocks, so it is made and
/// dropped where that is allowed.
fn client(config: &OtlpConfig) -> Result<reqwest::blocking::Client, OtelError> {
    let refuse = |reason: String| OtelError::NoClient { reason };
    let timeout = config.timeout;
    let built = std::thread::spawn(move || {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(BuilderVerifierExt::with_platform_verifier)
            .map_err(|error| error.to_string())?
            .with_no_client_auth();
        reqwest::blocking::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(timeout)
            .build()
            .map_err(|error| error.to_string())
    });
    match built.join() {
        Ok(built) => built.map_err(refuse),
        Err(_) => Err(refuse("it panicked".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t7_an_address_is_checked_before_anything_is_sent() {
        let good = [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318"),
            ("http://127.0.0.1:4318/", "http://127.0.0.1:4318"),
            ("https://c.example/otlp/v1/traces", "https://c.example/otlp"),
        ];
        for (given, used) in good {
            assert_eq!(checked(given).as_deref(), Ok(used));
        }
        for wrong in ["", "4318", "ftp://c.example", "http://c.example/?key=1"] {
            assert!(checked(wrong).is_err(), "{wrong}");
        }
        let told = checked("http://ada:secret@c.example").expect_err("it has a password");
        assert!(!told.to_string().contains("secret"), "{told}");
    }
}
