//! Where spans go.

use std::time::Duration;

use runtime_core::Secret;

/// Where spans go, and as whose.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct OtlpConfig {
    /// The collector: the address before `/v1/traces`, `http://127.0.0.1:4318` for one on this
    /// machine.
    pub endpoint: String,
    /// What the program is called there (`service.name`); none leaves it to `OTEL_SERVICE_NAME`.
    pub service_name: Option<String>,
    /// Headers that go with each request, for a collector that wants a key. Those of
    /// `OTEL_EXPORTER_OTLP_HEADERS` go as well.
    pub headers: Vec<(String, Secret)>,
    /// How long one request may take; 10 s by default.
    pub timeout: Duration,
}

impl OtlpConfig {
    /// A collector without a key.
    #[must_use]
    pub fn new(endpoint: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            service_name: None,
            headers: Vec::new(),
            timeout: Duration::from_secs(10),
        }
    }

    /// As the [variables of OpenTelemetry] say: none unless `OTEL_EXPORTER_OTLP_ENDPOINT` is set,
    /// or if `OTEL_SDK_DISABLED` is `true`.
    ///
    /// [variables of OpenTelemetry]: https://opentelemetry.io/docs/specs/otel/protocol/exporter/
    #[must_use]
    pub fn from_environment() -> Option<Self> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let disabled = set("OTEL_SDK_DISABLED");
        if disabled.is_some_and(|value| value.trim().eq_ignore_ascii_case("true")) {
            return None;
        }
        Some(Self::new(set("OTEL_EXPORTER_OTLP_ENDPOINT")?.trim()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(variables: &[(&str, &str)]) -> Option<String> {
        let find = |name: &str| {
            let found = variables.iter().find(|(of, _)| *of == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        OtlpConfig::from_variables(find).map(|config| config.endpoint)
    }

    #[test]
    fn t7_spans_are_exported_only_where_a_collector_is_named() {
        let at = "http://127.0.0.1:4318";
        assert_eq!(endpoint(&[]), None);
        assert_eq!(endpoint(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]), None);
        let named = ("OTEL_EXPORTER_OTLP_ENDPOINT", at);
        assert_eq!(endpoint(&[named]).as_deref(), Some(at));
        assert_eq!(endpoint(&[named, ("OTEL_SDK_DISABLED", "TRUE")]), None);
        assert_eq!(
            endpoint(&[named, ("OTEL_SDK_DISABLED", "false")]).as_deref(),
            Some(at)
        );
    }
}
