//! A call that a person must approve: it waits on disk, and another process answers.

#![allow(clippy::print_stdout, reason = "an example shows what it gets")]

use std::sync::Arc;

use runtime::prelude::*;

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Payment {
    to: String,
    amount: u32,
}

fn agent() -> Agent {
    let pay =
        |p: Payment, _: ToolContext| async move { Ok(format!("paid {} to {}", p.amount, p.to)) };
    let pay = FunctionTool::new("pay", "Pays.", pay).approval(ApprovalPolicy::Always);
    let payment = serde_json::json!({"to": "Ada", "amount": 40});
    let call = ScriptStep::text("I pay.").tool_call("1", "pay", payment);
    let steps = vec![call, ScriptStep::text("Done: {last_tool_result}.")];
    let model = Arc::new(ScriptedModel::new("scripted", steps));
    Agent::builder("1", model).tool(Arc::new(pay)).build()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let builder = runtime::builder().directory("./.approval");
    let runtime = builder.clone().agent(agent()).open().await?;
    let desk = runtime.worker("desk").await?;
    let turn = desk.send("Pay Ada.").await?.turn;
    runtime.settled().await;
    runtime.close().await?;

    // Here the process may end; another one, days later, goes on.
    let runtime = builder.agent(agent()).open().await?;
    for pending in runtime.pending().await? {
        let target = pending.token.unwrap_or_default();
        let decision = ApprovalDecision::Approve;
        runtime.apply(Command::Decide { target, decision }).await?;
    }
    runtime.settled().await;
    println!("{}", runtime.answer(desk.id(), &turn).await?);
    runtime.close().await?;
    Ok(())
}
