//! An answer as it comes, with a typed function as a tool.

#![allow(clippy::print_stdout, reason = "an example shows what it gets")]

use std::sync::Arc;

use futures_util::StreamExt;
use runtime::prelude::*;

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct City {
    name: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let weather = |c: City, _: ToolContext| async move { Ok(format!("7 degrees in {}", c.name)) };
    let weather = FunctionTool::new("weather", "Tells the weather.", weather).read_only();
    let city = serde_json::json!({"name": "{input}"});
    let call = ScriptStep::default().tool_call("1", "weather", city);
    let answer = ScriptStep::text("{last_tool_result}");
    let model = Arc::new(ScriptedModel::new("scripted", vec![call, answer]));
    let agent = Agent::builder("1", model).tool(Arc::new(weather)).build();
    let runtime = runtime::builder().memory().agent(agent).open().await?;
    let mut stream = runtime.worker("desk").await?.stream("Oslo").await?;
    while let Some(item) = stream.next().await {
        if let StreamItem::Delta(delta) = item? {
            print!("{}", delta.answer_text());
        }
    }
    Ok(runtime.close().await.map(|_| println!())?)
}
