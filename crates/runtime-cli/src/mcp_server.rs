//! A small real tool server over standard input and output, so that the demo needs nothing
//! installed. Its answers depend on the arguments alone.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use rmcp::ErrorData;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::transport::stdio;
use rmcp::{ServerHandler, ServiceExt, tool, tool_handler, tool_router};
use schemars::JsonSchema;
use serde::Deserialize;

/// Serves until the client closes our input.
///
/// # Errors
/// The handshake failed, or the server's task panicked.
pub(crate) async fn serve() -> anyhow::Result<()> {
    let server = DemoServer.serve(stdio()).await?;
    server.waiting().await?;
    Ok(())
}

#[derive(Debug, Clone)]
struct DemoServer;

#[derive(Debug, Deserialize, JsonSchema)]
struct Weather {
    /// The city, such as `Oslo`.
    city: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Echo {
    /// The text to say again.
    text: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct Note {
    /// The text to write down.
    text: String,
}

/// The variable that names the file that notes go to.
const NOTES: &str = "AGENT_RUNTIME_NOTES";

/// How long writing a note down takes before and after the line is there, in all 100 ms, so that
/// it can be cut off in the middle.
const HALF: Duration = Duration::from_millis(50);

#[tool_router]
impl DemoServer {
    #[tool(
        description = "Writes a text down, one line per call. It cannot be undone.",
        annotations(
            read_only_hint = false,
            destructive_hint = false,
            idempotent_hint = false
        )
    )]
    async fn note(&self, Parameters(Note { text }): Parameters<Note>) -> Result<String, ErrorData> {
        let Some(path) = std::env::var_os(NOTES) else {
            let message = format!("set {NOTES} to the file that notes go to");
            return Err(ErrorData::invalid_request(message, None));
        };
        tokio::time::sleep(HALF).await;
        let line = format!("{}\n", text.replace('\n', " "));
        let file = OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
        tokio::time::sleep(HALF).await;
        Ok(format!("wrote {text:?} down"))
    }

    #[tool(
        description = "Tells the weather of a city: made up, but the same each time.",
        annotations(read_only_hint = true, open_world_hint = false)
    )]
    async fn weather(&self, Parameters(Weather { city }): Parameters<Weather>) -> String {
        forecast(&city)
    }

    #[tool(
        description = "Says a text again.",
        annotations(read_only_hint = true, open_world_hint = false)
    )]
    async fn echo(&self, Parameters(Echo { text }): Parameters<Echo>) -> String {
        text
    }
}

#[tool_handler]
impl ServerHandler for DemoServer {}

fn forecast(city: &str) -> String {
    const SKIES: [&str; 5] = [
        "clear sky",
        "light rain",
        "fog",
        "snow showers",
        "broken clouds",
    ];
    let sum: usize = city.bytes().map(usize::from).sum();
    let sky = SKIES[sum % SKIES.len()];
    let degrees = sum % 30;
    format!("{city}: {sky}, {degrees} °C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forecast_depends_on_the_city_alone() {
        assert_eq!(forecast("Oslo"), forecast("Oslo"));
        assert_ne!(forecast("Oslo"), forecast("Rome"));
    }
}
