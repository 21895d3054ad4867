//! The smallest program: an agent that answers, and goes on after a crash.

#![allow(clippy::print_stdout, reason = "an example shows what it gets")]

use std::sync::Arc;

use runtime::prelude::*;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = ScriptedModel::new("scripted", vec![ScriptStep::text("Hello, {input}!")]);
    let agent = Agent::builder("1", Arc::new(model)).build();
    let builder = runtime::builder().directory("./.hello").agent(agent);
    let runtime = builder.open().await?;
    println!("{}", runtime.worker("desk").await?.ask("world").await?);
    runtime.close().await?;
    Ok(())
}
