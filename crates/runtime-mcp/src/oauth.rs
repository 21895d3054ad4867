//! OAuth for servers over HTTP: discovery, registration, consent, tokens and their renewal.
//!
//! The protocol is the client library's; ours is that every request of it passes the same guard
//! as those to the server, and that a person is asked through [`Consent`].

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use reqwest::header::HeaderMap;
use reqwest::{Method, Url};
use rmcp::transport::auth::{
    AuthorizationManager, AuthorizationRequest, AuthorizationSession, CredentialStore,
    InMemoryCredentialStore, OAuthHttpClient, OAuthHttpClientError, OAuthHttpClientFuture,
    OAuthHttpRedirectPolicy, OAuthHttpRequest, WWWAuthenticateParams,
};
use runtime_core::Secret;
use tokio::sync::Mutex;

use crate::egress::Egress;
use crate::error::words;
use crate::http_client::{HttpClient, HttpError};
use crate::{AuthError, AuthProvider, Challenge, TokenRequest};

/// The bytes of an answer of an authorisation server.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// How often one credential may be widened; a server that is never content is given up.
const WIDENINGS_MAX: u32 = 3;

/// Lets a person agree that this client acts for them.
#[async_trait]
pub trait Consent: fmt::Debug + Send + Sync + 'static {
    /// Shows the page at `url`, and returns the whole URL that it led back to: the one registered
    /// as `redirect_url`, with what the authorisation server added.
    ///
    /// # Errors
    /// [`AuthError`]: nobody agreed.
    ///
    /// # Cancel safety
    /// Dropping the future stops waiting for the person.
    async fn authorise(&self, url: &str) -> Result<String, AuthError>;
}

/// Who this client is to authorisation servers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct OAuthClient {
    /// Where the authorisation server sends the person back to.
    pub redirect_url: String,
    /// The name that the person reads.
    pub client_name: String,
    /// An id that was registered beforehand.
    pub client_id: Option<String>,
    /// Its secret.
    pub client_secret: Option<Secret>,
    /// The URL of this client's metadata document, for servers that take one as its id.
    pub client_metadata_url: Option<String>,
    /// Scopes to ask for; those that the server names, without.
    pub scopes: Vec<String>,
    /// The stable name of the account, part of what is cached (M3).
    pub account: String,
    /// Authorisation servers may be on this machine or in its private network.
    pub allow_private_addresses: bool,
}

impl OAuthClient {
    /// Makes a client that registers itself where it must.
    #[must_use]
    pub fn new(redirect_url: impl Into<String>, account: impl Into<String>) -> Self {
        Self {
            redirect_url: redirect_url.into(),
            client_name: "agent-runtime".to_owned(),
            client_id: None,
            client_secret: None,
            client_metadata_url: None,
            scopes: Vec::new(),
            account: account.into(),
            allow_private_addresses: false,
        }
    }

    /// Uses an id that was registered beforehand, and its secret if it has one.
    #[must_use]
    pub fn registered(mut self, client_id: impl Into<String>, secret: Option<Secret>) -> Self {
        self.client_id = Some(client_id.into());
        self.client_secret = secret;
        self
    }

    /// Uses the URL of a metadata document as the id, where the server takes one.
    #[must_use]
    pub fn with_metadata_url(mut self, url: impl Into<String>) -> Self {
        self.client_metadata_url = Some(url.into());
        self
    }

    /// Lets authorisation servers be on this machine or in its private network.
    #[must_use]
    pub const fn allow_private_addresses(mut self) -> Self {
        self.allow_private_addresses = true;
        self
    }
}

/// Credentials by OAuth 2.1 with PKCE. Tokens are kept in memory and renewed when they run out;
/// the person is asked when the server first wants a credential, and again when it wants more.
pub struct OAuthProvider {
    client: OAuthClient,
    consent: Arc<dyn Consent>,
    http: GuardedHttp,
    tokens: InMemoryCredentialStore,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    manager: Option<AuthorizationManager>,
    scopes: BTreeSet<String>,
    widenings: u32,
}

impl OAuthProvider {
    /// Makes the provider; nobody is asked yet. One provider serves one server.
    ///
    /// # Errors
    /// The HTTP client cannot be made.
    pub fn new(client: OAuthClient, consent: Arc<dyn Consent>) -> Result<Self, AuthError> {
        let egress = Egress {
            allow_private: client.allow_private_addresses,
        };
        let http = HttpClient::new(egress).map_err(|error| AuthError::new(error.to_string()))?;
        Ok(Self {
            client,
            consent,
            http: GuardedHttp(http),
            tokens: InMemoryCredentialStore::new(),
            state: Mutex::default(),
        })
    }

    /// Gets a credential from the start: metadata, registration, consent, token.
    async fn authorise(
        &self,
        state: &mut State,
        url: &str,
        challenge: &Challenge,
    ) -> Result<(), AuthError> {
        let http: Arc<dyn OAuthHttpClient> = Arc::new(self.http.clone());
        let manager = AuthorizationManager::new_with_oauth_http_client(url, http).await;
        let mut manager = manager.map_err(refused)?;
        manager.set_credential_store(self.tokens.clone());
        let resolved = if challenge.www_authenticate.is_empty() {
            manager.resolve_metadata().await
        } else {
            let header = challenge.www_authenticate.as_str();
            manager.resolve_metadata_from_challenge(Some(header)).await
        };
        manager.set_metadata(resolved.map_err(refused)?.metadata);
        let mut request = AuthorizationRequest::new(self.client.redirect_url.clone())
            .with_client_name(self.client.client_name.clone())
            .with_initial_scope_selection();
        if let Some(id) = &self.client.client_id {
            request = request.with_preregistered_client(id.clone());
        }
        if let Some(secret) = &self.client.client_secret {
            let secret = String::from_utf8_lossy(secret.expose());
            request = request.with_client_secret(secret);
        }
        if let Some(metadata) = &self.client.client_metadata_url {
            request = request.with_client_metadata_url(metadata.clone());
        }
        if !state.scopes.is_empty() {
            request = request.with_scopes(state.scopes.iter().cloned());
        }
        let session = AuthorizationSession::new(manager, request).await;
        let session = session.map_err(|(_, error)| refused(error))?;
        let page = session.get_authorization_url().to_owned();
        let back = self.consent.authorise(&page).await?;
        session.handle_callback_url(&back).await.map_err(refused)?;
        state.manager = Some(session.auth_manager);
        Ok(())
    }

    async fn renewed(&self, state: &State) -> Result<Option<Secret>, AuthError> {
        let Some(manager) = &state.manager else {
            return Ok(None);
        };
        let token = manager.get_access_token().await.map_err(refused)?;
        Ok(Some(Secret::new(token)))
    }
}

#[async_trait]
impl AuthProvider for OAuthProvider {
    fn account(&self) -> String {
        self.client.account.clone()
    }

    async fn token(&self, request: TokenRequest) -> Result<Option<Secret>, AuthError> {
        let mut state = self.state.lock().await;
        let Some(challenge) = request.challenge else {
            // What cannot be renewed is asked for again when the server refuses it.
            return Ok(self.renewed(&state).await.unwrap_or_default());
        };
        if state.scopes.is_empty() {
            state.scopes.extend(self.client.scopes.iter().cloned());
        }
        if challenge.status == 403 {
            if state.widenings >= WIDENINGS_MAX {
                return Err(AuthError::new(
                    "it wants more scopes each time it is given some",
                ));
            }
            state.widenings += 1;
            let wanted = scopes_of(&challenge, &request.url);
            if let Some(manager) = &state.manager {
                let held = manager.get_current_scopes().await;
                state.scopes.extend(held);
            }
            state.scopes.extend(wanted);
        } else if state.manager.is_some() {
            // It may have been withdrawn, or belong to an authorisation server of before.
            state.manager = None;
            let _ = self.tokens.clear().await;
        }
        self.authorise(&mut state, &request.url, &challenge).await?;
        self.renewed(&state).await
    }
}

fn scopes_of(challenge: &Challenge, url: &str) -> Vec<String> {
    let Ok(url) = Url::parse(url) else {
        return Vec::new();
    };
    let read = WWWAuthenticateParams::parse(&challenge.www_authenticate, &url);
    let scopes = read.scope.unwrap_or_default();
    scopes.split_whitespace().map(str::to_owned).collect()
}

impl fmt::Debug for OAuthProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthProvider")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

fn refused(error: rmcp::transport::auth::AuthError) -> AuthError {
    AuthError::new(format!("no credential: {}", words(&error.to_string())))
}

/// Sends the requests of the library through the guard of the entry.
#[derive(Debug, Clone)]
struct GuardedHttp(HttpClient);

impl OAuthHttpClient for GuardedHttp {
    fn execute(&self, request: OAuthHttpRequest) -> OAuthHttpClientFuture<'_> {
        Box::pin(async move {
            let boxed = |error: HttpError| Box::new(error) as OAuthHttpClientError;
            let follow = request.redirect_policy == OAuthHttpRedirectPolicy::Follow;
            let (parts, body) = request.request.into_parts();
            let url = Url::parse(&parts.uri.to_string())?;
            let method: Method = parts.method;
            let headers: HeaderMap = parts.headers;
            let body = (!body.is_empty()).then_some(body);
            let response = if follow {
                self.0.send(method, &url, headers, body).await
            } else {
                self.0.send_once(method, &url, headers, body).await
            };
            let mut response = response.map_err(boxed)?;
            let mut built = http::Response::builder().status(response.status());
            if let Some(headers) = built.headers_mut() {
                *headers = std::mem::take(response.headers_mut());
            }
            let body = self
                .0
                .body(response, ANSWER_BYTES_MAX)
                .await
                .map_err(boxed)?;
            Ok(built.body(body)?)
        })
    }
}
