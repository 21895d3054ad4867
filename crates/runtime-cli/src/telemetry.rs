//! Spans for a collector, where the variables of OpenTelemetry name one (T7).

use runtime::core::Classified;
use runtime::otel::{OtelError, OtlpConfig, SpanExport};

use crate::work::warn;

/// The export that is under way, if one is.
pub(crate) struct Telemetry(Option<SpanExport>);

impl Telemetry {
    /// Starts to export, if `OTEL_EXPORTER_OTLP_ENDPOINT` is set. What cannot be exported is told
    /// and hinders nothing.
    pub(crate) fn start() -> Self {
        let Some(mut config) = OtlpConfig::from_environment() else {
            return Self(None);
        };
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            config.service_name = Some("agent-runtime".to_owned());
        }
        let started = SpanExport::start(&config).and_then(|export| {
            export.install()?;
            Ok(export)
        });
        match started {
            Ok(export) => Self(Some(export)),
            Err(error) => {
                tell(&error);
                Self(None)
            }
        }
    }

    /// Sends what has not been sent.
    pub(crate) async fn close(self) {
        if let Some(export) = self.0
            && let Err(error) = export.close().await
        {
            tell(&error);
        }
    }
}

fn tell(error: &OtelError) {
    warn(&format!("{error} ({})", error.code()));
}
