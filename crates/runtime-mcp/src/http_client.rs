//! The HTTP client of an entry: one origin, checked addresses, bounded bodies.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Method, Url};
use rustls_platform_verifier::BuilderVerifierExt;

use crate::egress::{Egress, EgressError, GuardedResolver};

/// How long making a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The redirects that one request may follow.
const REDIRECTS_MAX: usize = 3;

/// Why a request has no response. The reason holds no URL, header or body: credentials may be in
/// all of them.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct HttpError {
    pub(crate) reason: String,
    /// It certainly never reached the server.
    pub(crate) did_not_leave: bool,
}

impl HttpError {
    fn before(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            did_not_leave: true,
        }
    }

    fn after(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            did_not_leave: false,
        }
    }
}

impl From<EgressError> for HttpError {
    fn from(error: EgressError) -> Self {
        Self::before(error.to_string())
    }
}

/// A client for the servers of one entry. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct HttpClient {
    client: reqwest::Client,
    egress: Egress,
}

impl HttpClient {
    /// Makes the client. It follows no redirect by itself, repeats nothing, reads no proxy from
    /// the environment (a proxy would resolve names where nobody checks), and has its TLS from
    /// `rustls`.
    pub(crate) fn new(egress: Egress) -> Result<Self, HttpError> {
        let refuse = |error: &dyn std::fmt::Display| HttpError::before(error.to_string());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(BuilderVerifierExt::with_platform_verifier)
            .map_err(|error| refuse(&error))?
            .with_no_client_auth();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .retry(reqwest::retry::never())
            .redirect(reqwest::redirect::Policy::none())
            .dns_resolver(Arc::new(GuardedResolver(egress)))
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .map_err(|error| refuse(&error))?;
        Ok(Self { client, egress })
    }

    /// Sends a request and returns the response, its body unread. A redirect is followed within
    /// the origin only, and only where it keeps method and body: headers and body go to nobody
    /// else.
    pub(crate) async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: Option<Vec<u8>>,
    ) -> Result<reqwest::Response, HttpError> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let (method, headers, body) = (method.clone(), headers.clone(), body.clone());
            let is_get = method == Method::GET;
            let response = self.send_once(method, &url, headers, body).await?;
            let status = response.status().as_u16();
            let followable = matches!(status, 307 | 308) || (is_get && matches!(status, 301..=303));
            if !followable {
                return match status {
                    300..=399 => Err(HttpError::before(
                        "it sends elsewhere, by a redirect that changes the request",
                    )),
                    _ => Ok(response),
                };
            }
            let location = response.headers().get("location");
            let location = location.and_then(|location| location.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            let Some(next) = next else {
                return Err(HttpError::before("it sends elsewhere without saying where"));
            };
            if next.origin() != url.origin() {
                return Err(HttpError::before(
                    "it sends to another origin, which is not followed; if that is right, put the new one in the entry",
                ));
            }
            url = next;
        }
        Err(HttpError::before(
            "it sends from one place to the next without end",
        ))
    }

    /// Sends a request and returns the response, a redirect as it is.
    pub(crate) async fn send_once(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: Option<Vec<u8>>,
    ) -> Result<reqwest::Response, HttpError> {
        self.egress.check_url(url)?;
        let mut request = self.client.request(method, url.clone()).headers(headers);
        if let Some(body) = body {
            request = request.body(body);
        }
        request.send().await.map_err(failed)
    }

    /// Reads a body of at most so many bytes.
    pub(crate) async fn body(
        &self,
        mut response: reqwest::Response,
        bytes_max: usize,
    ) -> Result<Vec<u8>, HttpError> {
        let mut body = Vec::new();
        while let Some(bytes) = response.chunk().await.map_err(failed)? {
            if body.len() + bytes.len() > bytes_max {
                let reason = format!("it sent a message of more than {bytes_max} bytes");
                return Err(HttpError::after(reason));
            }
            body.extend_from_slice(&bytes);
        }
        Ok(body)
    }
}

/// Says in words what went wrong, never where: the URL may hold a credential.
fn failed(error: reqwest::Error) -> HttpError {
    let did_not_leave = error.is_connect() || error.is_builder();
    let mut innermost: &dyn std::error::Error = &error;
    while let Some(source) = innermost.source() {
        if let Some(refused) = source.downcast_ref::<EgressError>() {
            return HttpError::before(refused.to_string());
        }
        innermost = source;
    }
    let kind = match (did_not_leave, error.is_timeout()) {
        (true, true) => "it could not be reached in time",
        (true, false) => "it could not be reached",
        _ => "the connection broke",
    };
    let detail = match innermost.downcast_ref::<std::io::Error>() {
        Some(error) => format!(": {}", error.kind()),
        None => String::new(),
    };
    HttpError {
        reason: format!("{kind}{detail}"),
        did_not_leave,
    }
}
