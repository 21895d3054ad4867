//! From whatever went wrong to an error with a code and a class.

use std::time::{Duration, SystemTime};

use genai::webc::StreamTimeout;
use runtime_core::{ErrorClass, FinishReason, Secret};
use runtime_model::ModelError;
use serde_json::Value;

/// How much of a server's own words an error repeats, in characters.
const WORDS_MAX: usize = 300;

/// Who is to blame, and what its errors must not repeat.
#[derive(Debug, Clone)]
pub(crate) struct Blame {
    pub(crate) provider: String,
    pub(crate) model: String,
    /// A server may send back what it was sent.
    pub(crate) secrets: Vec<Secret>,
}

impl Blame {
    pub(crate) fn error(
        &self,
        code: &'static str,
        class: ErrorClass,
        message: impl AsRef<str>,
    ) -> ModelError {
        ModelError {
            provider: self.provider.clone(),
            model: self.model.clone(),
            code,
            class,
            reason: FinishReason::ProviderError,
            message: self.clean(message.as_ref()),
            provider_code: None,
            retry_after: None,
        }
    }

    /// What the server sent is no answer; it may send one the next time.
    pub(crate) fn malformed(&self, what: impl AsRef<str>) -> ModelError {
        self.error("model_response_malformed", ErrorClass::Unavailable, what)
    }

    pub(crate) fn incomplete(&self) -> ModelError {
        let message = "the answer ended before its end";
        self.error("model_stream_incomplete", ErrorClass::Unavailable, message)
    }

    pub(crate) fn too_slow(&self, what: &str, limit: Duration) -> ModelError {
        let message = format!("{what} within {limit:?}");
        self.error("model_timed_out", ErrorClass::TimedOut, message)
    }

    pub(crate) fn too_large(&self, bytes_max: usize) -> ModelError {
        let message = format!("the answer has more than {bytes_max} bytes");
        self.error("model_answer_too_large", ErrorClass::Terminal, message)
    }

    /// Classifies an error of the client library.
    pub(crate) fn of(&self, error: &genai::Error, timeouts: &crate::ModelTimeouts) -> ModelError {
        use genai::Error;
        if let Some(status) = error.status() {
            let retry_after = error.headers().and_then(|headers| {
                let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
                pause(
                    header("retry-after-ms"),
                    header("retry-after"),
                    SystemTime::now(),
                )
            });
            return self.status(status.as_u16(), &body(error), retry_after);
        }
        match error {
            Error::WebStream { error, .. } => self.broken(error.as_ref(), timeouts),
            Error::ChatResponse { body, .. } => self.told(body),
            Error::StreamParse { serde_error, .. } => {
                self.malformed(format!("a piece of the stream is no JSON: {serde_error}"))
            }
            Error::Resolver { .. } | Error::RequiresApiKey { .. } | Error::NoAuthData { .. } => {
                let message = "the provider wants a key and none is configured";
                self.error("model_unauthorised", ErrorClass::Invalid, message)
            }
            Error::AdapterNotSupported { feature, .. } => {
                let message = format!("the provider cannot do {feature}");
                self.error("model_request_refused", ErrorClass::Unsupported, message)
            }
            Error::ChatReqHasNoMessages { .. }
            | Error::LastChatMessageIsNotUser { .. }
            | Error::MessageRoleNotSupported { .. }
            | Error::MessageContentTypeNotSupported { .. } => self.error(
                "model_request_refused",
                ErrorClass::Invalid,
                error.to_string(),
            ),
            other => self.malformed(format!("the response cannot be read: {other}")),
        }
    }

    /// The connection, or what came over it.
    fn broken(
        &self,
        error: &(dyn std::error::Error + Send + Sync + 'static),
        timeouts: &crate::ModelTimeouts,
    ) -> ModelError {
        // The status of a refused stream comes wrapped.
        if let Some(inner) = error.downcast_ref::<genai::Error>() {
            return self.of(inner, timeouts);
        }
        if let Some(timeout) = error.downcast_ref::<StreamTimeout>() {
            return match timeout {
                StreamTimeout::Headers => self.too_slow("no response came", timeouts.first_byte),
                StreamTimeout::Read => {
                    self.too_slow("nothing more of the answer came", timeouts.idle)
                }
            };
        }
        match error.downcast_ref::<reqwest::Error>() {
            Some(error) if error.is_connect() && error.is_timeout() => {
                self.too_slow("no connection stood", timeouts.connect)
            }
            Some(error) if error.is_connect() => {
                let message = format!("the server cannot be reached: {}", causes(error));
                self.error("model_unreachable", ErrorClass::Unavailable, message)
            }
            Some(error) if error.is_builder() => {
                let message = format!("the request cannot be sent: {}", causes(error));
                self.error("model_request_refused", ErrorClass::Invalid, message)
            }
            _ => {
                let message = format!("the connection broke: {}", causes(error));
                self.error("model_connection_lost", ErrorClass::Unavailable, message)
            }
        }
    }

    /// The server answered with another status than success.
    pub(crate) fn status(
        &self,
        status: u16,
        body: &str,
        retry_after: Option<Duration>,
    ) -> ModelError {
        let told = Told::read(body);
        let (code, class) = match status {
            401 | 403 => ("model_unauthorised", ErrorClass::Invalid),
            404 => ("model_not_found", ErrorClass::NotFound),
            408 => ("model_timed_out", ErrorClass::TimedOut),
            429 if told.is_out_of_quota() => ("model_quota_exhausted", ErrorClass::Terminal),
            429 => ("model_rate_limited", ErrorClass::Busy),
            409 | 425 | 500.. => ("model_unavailable", ErrorClass::Unavailable),
            _ if told.is_context_overflow() => ("model_context_overflow", ErrorClass::Invalid),
            _ => ("model_request_refused", ErrorClass::Invalid),
        };
        let words = told.words();
        let message = if words.is_empty() {
            format!("the server answered with status {status}")
        } else {
            format!("the server answered with status {status}: {words}")
        };
        let mut error = self.error(code, class, message);
        if code == "model_context_overflow" {
            error.reason = FinishReason::ContextOverflow;
        }
        error.provider_code = Some(told.code.unwrap_or_else(|| status.to_string()));
        error.retry_after = retry_after;
        error
    }

    /// The server told of an error in the middle of a stream that had begun well.
    fn told(&self, body: &Value) -> ModelError {
        let told = Told::of(body);
        let status = told.status.unwrap_or(0);
        let kind = told.kind.as_deref().unwrap_or_default();
        let (code, class) = if told.is_out_of_quota() {
            ("model_quota_exhausted", ErrorClass::Terminal)
        } else if status == 429 || kind.contains("rate_limit") {
            ("model_rate_limited", ErrorClass::Busy)
        } else if told.is_context_overflow() {
            ("model_context_overflow", ErrorClass::Invalid)
        } else if (400..500).contains(&status) || kind.contains("invalid_request") {
            ("model_request_refused", ErrorClass::Invalid)
        } else {
            ("model_unavailable", ErrorClass::Unavailable)
        };
        let message = format!("the server broke off its answer: {}", told.words());
        let mut error = self.error(code, class, message);
        error.provider_code = told.code.or(told.kind);
        error
    }

    /// Takes out what must not be repeated, and what would not fit on a screen.
    fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            if let Ok(secret) = std::str::from_utf8(secret.expose())
                && !secret.is_empty()
            {
                text = text.replace(secret, "[redacted]");
            }
        }
        let words: Vec<&str> = text.split_whitespace().collect();
        let text = words.join(" ");
        match text.char_indices().nth(2 * WORDS_MAX) {
            Some((at, _)) => format!("{}…", &text[..at]),
            None => text,
        }
    }
}

/// What the body of an error says.
#[derive(Debug, Default)]
struct Told {
    message: String,
    code: Option<String>,
    kind: Option<String>,
    status: Option<u64>,
}

impl Told {
    fn read(body: &str) -> Self {
        match serde_json::from_str::<Value>(body) {
            Ok(value) => Self::of(value.get("error").unwrap_or(&value)),
            Err(_) => Self {
                message: body.to_owned(),
                ..Self::default()
            },
        }
    }

    fn of(error: &Value) -> Self {
        let text = |name: &str| error.get(name).and_then(Value::as_str).map(str::to_owned);
        let message = text("message").or_else(|| error.as_str().map(str::to_owned));
        Self {
            message: message.unwrap_or_else(|| error.to_string()),
            code: text("code"),
            kind: text("type").or_else(|| text("status")),
            status: error.get("code").and_then(Value::as_u64),
        }
    }

    fn words(&self) -> String {
        let text: String = self.message.chars().take(WORDS_MAX).collect();
        text.trim().to_owned()
    }

    fn is_out_of_quota(&self) -> bool {
        let named = [&self.code, &self.kind].into_iter().flatten();
        named.into_iter().any(|name| name == "insufficient_quota")
    }

    fn is_context_overflow(&self) -> bool {
        self.code.as_deref() == Some("context_length_exceeded")
    }
}

/// The body of a refused call, wherever the library keeps it.
fn body(error: &genai::Error) -> String {
    use genai::Error;
    match error {
        Error::HttpError { body, .. } => body.clone(),
        Error::WebModelCall { webc_error, .. } | Error::WebAdapterCall { webc_error, .. } => {
            match webc_error {
                genai::webc::Error::ResponseFailedStatus { body, .. } => body.clone(),
                other => other.to_string(),
            }
        }
        _ => String::new(),
    }
}

/// An error with its causes, without the address: it may carry a key.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut words = Vec::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        // The outermost words of the client have the address in them.
        if error.downcast_ref::<reqwest::Error>().is_none() {
            words.push(error.to_string());
        }
        cause = error.source();
    }
    words.dedup();
    if words.is_empty() {
        return "no further reason is known".to_owned();
    }
    words.join(": ")
}

/// How long the server wants to be left alone: milliseconds, seconds, or a date.
fn pause(milliseconds: Option<&str>, after: Option<&str>, now: SystemTime) -> Option<Duration> {
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|n| *n >= 0.0);
    if let Some(milliseconds) = milliseconds.and_then(number) {
        return Duration::try_from_secs_f64(milliseconds / 1_000.0).ok();
    }
    let after = after?;
    if let Some(seconds) = number(after) {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = httpdate::parse_http_date(after.trim()).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blame() -> Blame {
        Blame {
            provider: "openai".to_owned(),
            model: "m".to_owned(),
            secrets: vec![Secret::new("sk-canary"), Secret::new("")],
        }
    }

    #[test]
    fn t6_each_status_has_its_class() {
        use ErrorClass::{Busy, Invalid, NotFound, TimedOut, Unavailable};
        let table = [
            (301, Invalid),
            (400, Invalid),
            (401, Invalid),
            (403, Invalid),
            (404, NotFound),
            (408, TimedOut),
            (409, Unavailable),
            (413, Invalid),
            (422, Invalid),
            (429, Busy),
            (500, Unavailable),
            (503, Unavailable),
            (529, Unavailable),
        ];
        for (status, class) in table {
            let error = blame().status(status, "", None);
            assert_eq!(error.class, class, "{status}");
            assert_eq!(error.provider_code, Some(status.to_string()));
        }
    }

    #[test]
    fn t6_what_the_body_says_decides_where_the_status_does_not() {
        let quota = r#"{"error": {"message": "pay", "code": "insufficient_quota"}}"#;
        assert_eq!(blame().status(429, quota, None).class, ErrorClass::Terminal);
        let long = r#"{"error": {"message": "long", "code": "context_length_exceeded"}}"#;
        let error = blame().status(400, long, None);
        assert_eq!(error.reason, FinishReason::ContextOverflow);
        assert_eq!(
            error.provider_code.as_deref(),
            Some("context_length_exceeded")
        );
    }

    #[test]
    fn x2_an_error_repeats_no_secret_and_no_novel() {
        let body = format!("your key sk-canary is wrong {}", "x".repeat(100_000));
        let error = blame().status(401, &body, None);
        assert!(!error.message.contains("sk-canary"), "{}", error.message);
        assert!(error.message.contains("[redacted] is wrong"));
        assert!(error.message.len() < 1_000);
    }

    #[test]
    fn e6_a_pause_is_read_in_each_of_its_forms() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:30 GMT").unwrap();
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(pause(None, Some("7"), now), seconds(7));
        assert_eq!(
            pause(Some("1500"), Some("7"), now),
            Some(Duration::from_millis(1_500))
        );
        let date = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(pause(None, date, now), seconds(7));
        let past = Some("Sun, 06 Nov 1994 08:49:00 GMT");
        assert_eq!(pause(None, past, now), seconds(0));
        for nonsense in ["", "soon", "-1", "NaN", "1e300"] {
            assert_eq!(pause(None, Some(nonsense), now), None, "{nonsense}");
        }
    }
}
