//! A personal agent: it remembers what it is told, and wakes by the clock, also when the process
//! was stopped in between.
//!
//! ```console
//! $ cargo run -p runtime --example personal_agent -- "remind me of the tea"
//! ```
//!
//! The model is scripted; `AGENT_RUNTIME_MODEL` and a build with the feature `genai` take a real
//! one, as for `coding_agent`.
//!
//! While it waits, the turn is rows in `./.personal-agent/store`, not a task: stop the process, and
//! the next one wakes it at the same time, or at once when that has passed. What it remembers is
//! in `./.personal-agent/memory.jsonl`, one line for each call, so that repeating one after a crash
//! changes nothing.

#![allow(
    clippy::print_stdout,
    reason = "an example talks to the person who runs it"
)]

mod model;

use std::error::Error;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use runtime::core::{Continuation, ToolDefinition, ToolHints};
use runtime::prelude::*;
use runtime::tools::{FunctionError, Resumption};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const INSTRUCTIONS: &str = "You are a personal assistant. Look into your memory before you answer, \
    remember what matters, and wait until it is time when you are asked to remind somebody.";

/// What the agent remembers: a file of lines.
#[derive(Debug, Clone)]
struct Memory(PathBuf);

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// The call that remembered it: the same line is not written twice.
    key: String,
    text: String,
}

impl Memory {
    fn notes(&self) -> io::Result<Vec<Note>> {
        let text = match fs::read_to_string(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        // A line that was cut off by a crash is written again under its key.
        Ok(text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect())
    }

    fn remember(&self, key: String, text: String) -> Result<String, FunctionError> {
        if !self.notes()?.iter().any(|note| note.key == key) {
            let line = serde_json::to_string(&Note { key, text })?;
            let mut file = OpenOptions::new().create(true).append(true).open(&self.0)?;
            file.write_all(format!("\n{line}\n").as_bytes())?;
            file.sync_all()?;
        }
        Ok("remembered".to_owned())
    }

    fn recall(&self, about: &str) -> Result<Vec<String>, FunctionError> {
        let about = about.to_lowercase();
        let notes = self.notes()?.into_iter().map(|note| note.text);
        Ok(notes
            .filter(|text| text.to_lowercase().contains(&about))
            .collect())
    }
}

#[derive(Deserialize, JsonSchema)]
struct Remember {
    /// What to remember, as one sentence.
    text: String,
}

#[derive(Deserialize, JsonSchema)]
struct Recall {
    /// A word to look for; empty for everything.
    about: String,
}

/// A tool that is done when it is time. It holds no task and no timer: the turn is woken from the
/// store.
#[derive(Debug)]
struct Wait(ToolDefinition);

impl Wait {
    fn new() -> Self {
        Self(ToolDefinition {
            name: "wait".to_owned(),
            display_name: None,
            description: "Waits for so many seconds, however long; then you go on.".to_owned(),
            input_schema: json!({
                "type": "object",
                "properties": { "seconds": { "type": "integer", "minimum": 0 } },
                "required": ["seconds"],
            }),
            output_schema: None,
            category: None,
            approval: ApprovalPolicy::Never,
            hints: ToolHints {
                read_only: true,
                retry_safe: true,
                trusted: true,
            },
            deferrable: false,
        })
    }
}

#[async_trait]
impl Tool for Wait {
    fn definition(&self) -> &ToolDefinition {
        &self.0
    }

    async fn call(&self, arguments: Value, _: ToolContext) -> Result<ToolOutput, ToolError> {
        let seconds = arguments["seconds"].as_u64().unwrap_or(0);
        Ok(ToolOutput::Parked {
            deadline: Some(Duration::from_secs(seconds)),
            continuation: Continuation {
                retry_safe: true,
                ..Continuation::default()
            },
        })
    }

    async fn resume(&self, _: Resumption, _: ToolContext) -> Result<ToolOutput, ToolError> {
        Ok(ToolOutput::text("it is time"))
    }
}

/// The agent, with any model.
fn agent(model: Arc<dyn Model>, memory: &Memory) -> Agent {
    let (remember, recall) = (memory.clone(), memory.clone());
    let remember = FunctionTool::blocking(
        "remember",
        "Remembers a sentence for later.",
        move |note: Remember, context: ToolContext| {
            remember.remember(context.idempotency_key, note.text)
        },
    )
    .retry_safe()
    .approval(ApprovalPolicy::Never);
    let recall = FunctionTool::blocking(
        "recall",
        "Looks up what was remembered.",
        move |query: Recall, _| recall.recall(&query.about),
    );
    Agent::builder("personal-agent-1", model)
        .instructions(INSTRUCTIONS)
        .tool(Arc::new(remember))
        .tool(Arc::new(recall.read_only()))
        .tool(Arc::new(Wait::new()))
        .build()
}

/// The model that needs no key.
fn scripted() -> Arc<dyn Model> {
    Arc::new(
        ScriptedModel::new(
            "scripted",
            vec![
                ScriptStep::call("a", "recall", json!({ "about": "" })),
                ScriptStep::text("I remember: {last_tool_result}"),
            ],
        )
        .when_input_contains(
            "remind me",
            vec![
                ScriptStep::text("I will.").tool_call(
                    "a",
                    "remember",
                    json!({ "text": "asked: {input}" }),
                ),
                ScriptStep::text("Until then.").tool_call("b", "wait", json!({ "seconds": 3 })),
                ScriptStep::text("This is your reminder: {input}"),
            ],
        ),
    )
}

async fn open(folder: &Path) -> Result<Runtime, Box<dyn Error>> {
    fs::create_dir_all(folder)?;
    let memory = Memory(folder.join("memory.jsonl"));
    let runtime = runtime::builder()
        .directory(folder.join("store"))
        .agent(agent(model::model(scripted())?, &memory))
        .open();
    Ok(runtime.await?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let input = match words.is_empty() {
        true => "what do you remember?".to_owned(),
        false => words.join(" "),
    };
    let runtime = open(Path::new("./.personal-agent")).await?;
    let worker = runtime.worker("assistant").await?;
    let receipt = worker.send(&input).await?;
    println!(
        "{}",
        last_words(&runtime, worker.id(), &receipt.turn).await?
    );
    runtime.close().await?;
    Ok(())
}

/// Waits for a turn, however often it parks meanwhile.
async fn last_words(
    runtime: &Runtime,
    worker: &WorkerId,
    turn: &runtime::core::TurnId,
) -> Result<String, RuntimeError> {
    loop {
        match runtime.answer(worker, turn).await {
            Err(RuntimeError::TurnParked { .. }) => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stopped while it waits; the next process wakes it, once, and it has remembered once.
    #[tokio::test]
    async fn it_wakes_by_the_clock_in_another_process_and_remembers() {
        let root = tempfile::tempdir().unwrap();
        let runtime = open(root.path()).await.unwrap();
        let worker = runtime.worker("assistant").await.unwrap();
        let receipt = worker.send("remind me of the tea").await.unwrap();
        let parked = runtime.answer(worker.id(), &receipt.turn).await;
        assert!(matches!(parked, Err(RuntimeError::TurnParked { .. })));
        runtime.close().await.unwrap();

        let runtime = open(root.path()).await.unwrap();
        let worker = runtime.worker("assistant").await.unwrap();
        let words = last_words(&runtime, worker.id(), &receipt.turn)
            .await
            .unwrap();
        assert_eq!(words, "This is your reminder: remind me of the tea");
        let words = worker.ask("what do you remember?").await.unwrap();
        assert_eq!(words, "I remember: [\"asked: remind me of the tea\"]");
        runtime.close().await.unwrap();
    }
}
