//! The credential of one connection, and where the next one comes from.

use std::sync::{Arc, Mutex, PoisonError};

use reqwest::header::HeaderValue;

use crate::{AuthError, AuthProvider, Challenge, TokenRequest};

/// The credential in force.
#[derive(Debug)]
pub(crate) struct Credentials {
    server: String,
    url: String,
    provider: Option<Arc<dyn AuthProvider>>,
    current: Mutex<Option<HeaderValue>>,
}

impl Credentials {
    pub(crate) fn new(server: &str, url: &str, provider: Option<Arc<dyn AuthProvider>>) -> Self {
        Self {
            server: server.to_owned(),
            url: url.to_owned(),
            provider,
            current: Mutex::default(),
        }
    }

    /// Asks for the credential: before a connection or discovery, and when the server refused the
    /// last one.
    ///
    /// # Errors
    /// There is none that the server has not refused.
    pub(crate) async fn renew(&self, challenge: Option<Challenge>) -> Result<(), AuthError> {
        let Some(provider) = &self.provider else {
            return match challenge {
                None => Ok(()),
                Some(challenge) => Err(AuthError::new(format!(
                    "it wants a credential ({}); give one by auth or a header",
                    challenge.status
                ))),
            };
        };
        let refused = challenge.is_some();
        let before = self.header();
        let request = TokenRequest {
            server: self.server.clone(),
            url: self.url.clone(),
            challenge,
        };
        let token = provider.token(request).await?;
        let header = match token {
            None => None,
            Some(token) => {
                let text = [b"Bearer ", token.expose()].concat();
                let header = HeaderValue::from_bytes(&text);
                let mut header = header
                    .map_err(|_| AuthError::new("the token has characters that none can have"))?;
                header.set_sensitive(true);
                Some(header)
            }
        };
        if refused && (header.is_none() || header == before) {
            return Err(AuthError::new("it refused the only credential there is"));
        }
        *self.lock() = header;
        Ok(())
    }

    /// Returns the header that carries it.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<HeaderValue>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
