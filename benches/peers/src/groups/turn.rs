//! A whole turn: an input, a model that asks for two tools one after the other and then answers.
//! Model and tools are scripted and do nothing, so that what is left is what the runtime adds.

use std::path::PathBuf;
use std::sync::Arc;

use runtime::core::Tier;
use runtime::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::ALLOCATOR;
use harness::{Figures, Outcome, Plan, Table, repeat};

/// After so many turns a new worker begins, so that a conversation stays short.
const TURNS_EACH: usize = 10;

pub(super) fn tables() -> Vec<Table> {
    let table = Table::new("a turn with two tools, turns one after another")
        .contender("memory", |plan, _| run(plan, None))
        .contender("files, Power", |plan, directory| {
            run(plan, Some((directory, Tier::Power)))
        })
        .contender("files, Crash", |plan, directory| {
            run(plan, Some((directory, Tier::Crash)))
        });
    vec![table]
}

#[derive(Deserialize, JsonSchema)]
struct Question {
    about: String,
}

fn agent() -> Agent {
    let tool = |name: &str| {
        let answer = |question: Question, _: ToolContext| async move { Ok(question.about) };
        Arc::new(FunctionTool::new(name, "Answers.", answer).read_only())
    };
    let about = json!({ "about": "the weather" });
    let steps = vec![
        ScriptStep::text("One.").tool_call("a", "first", about.clone()),
        ScriptStep::text("Two.").tool_call("b", "second", about),
        ScriptStep::text("It is fine."),
    ];
    let model = Arc::new(ScriptedModel::new("scripted", steps));
    Agent::builder("1", model)
        .tool(tool("first"))
        .tool(tool("second"))
        .build()
}

async fn run(plan: Plan, files: Option<(PathBuf, Tier)>) -> Outcome<Figures> {
    let builder = runtime::builder().agent(agent());
    let builder = match files {
        None => builder.memory(),
        Some((directory, tier)) => builder.store(crate::own::open(&directory, tier)?),
    };
    let runtime = builder.open().await?;
    let mut turns = 0;
    let mut worker = runtime.worker("worker-0").await?;
    let before = ALLOCATOR.stats();
    let act = async || {
        turns += 1;
        if turns % TURNS_EACH == 0 {
            worker = runtime.worker(&format!("worker-{turns}")).await?;
        }
        let answer = worker.ask("how is it?").await?;
        assert_eq!(answer, "It is fine.");
        Ok(())
    };
    let mut figures = repeat(plan, 1, 1, act).await?;
    let after = ALLOCATOR.stats();
    let each = |total: usize| total as f64 / turns as f64;
    let allocations = after.allocations - before.allocations;
    let bytes = after.bytes_allocated - before.bytes_allocated;
    figures
        .per_operation
        .push(("allocations", each(allocations)));
    figures.per_operation.push(("allocated bytes", each(bytes)));
    runtime.close().await?;
    Ok(figures)
}
