//! A whole turn: an input, a model that asks for two tools one after the other and then answers.
//! Model and tools are scripted and do nothing, so that what is left is what the runtime adds.

use std::sync::Arc;

use runtime::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::Outcome;

/// After so many turns a new worker begins, so that a conversation stays short.
const TURNS_EACH: usize = 10;

#[derive(Deserialize, JsonSchema)]
struct Question {
    about: String,
}

pub fn agent() -> Agent {
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

/// Turns of short conversations, one after another.
pub struct Turns<'a> {
    runtime: &'a Runtime,
    worker: Worker,
    taken: usize,
}

impl<'a> Turns<'a> {
    pub async fn of(runtime: &'a Runtime) -> Outcome<Self> {
        Ok(Self {
            runtime,
            worker: runtime.worker("worker-0").await?,
            taken: 0,
        })
    }

    pub fn taken(&self) -> usize {
        self.taken
    }

    pub async fn take(&mut self) -> Outcome<()> {
        self.taken += 1;
        if self.taken.is_multiple_of(TURNS_EACH) {
            let name = format!("worker-{}", self.taken);
            self.worker = self.runtime.worker(&name).await?;
        }
        let answer = self.worker.ask("how is it?").await?;
        assert_eq!(answer, "It is fine.");
        Ok(())
    }
}
