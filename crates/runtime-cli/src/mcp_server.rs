//! A small real tool server over standard input and output, so that the demo needs nothing
//! installed. Its answers depend on the arguments alone.

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

#[tool_router]
impl DemoServer {
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
