//! A coding agent: it reads and writes files in one folder and runs commands there, and a person
//! approves whatever changes something. Kill it at any moment and start it again: it goes on.
//!
//! ```console
//! $ cargo run -p runtime --example coding_agent -- "add a README"
//! $ cargo run -p runtime --example coding_agent -- --yes "add a README"
//! ```
//!
//! The files are in `./.coding-agent/work`, the record in `./.coding-agent/store`. The model is
//! scripted, so that it runs without a key; a real one is two or three variables away:
//!
//! ```console
//! $ export AGENT_RUNTIME_MODEL=anthropic::claude-sonnet-4-5 ANTHROPIC_API_KEY=sk-…
//! $ cargo run -p runtime --features genai --example coding_agent -- "add a README"
//! ```
//!
//! File tools stay inside the folder: absolute paths, `..` and symbolic links are refused. A
//! command is run in the folder with a bare environment, but it is a program like any other and
//! can reach what the user can: that is why each one is asked for.

#![allow(
    clippy::print_stdout,
    reason = "an example talks to the person who runs it"
)]

mod model;

use std::error::Error;
use std::fs;
use std::io::{self, BufRead, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::process::{Command as Program, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::core::ApprovalPolicy;
use runtime::effects::PendingKind;
use runtime::prelude::*;
use runtime::tools::FunctionError;
use runtime::turn::CompactionPolicy;
use runtime::workers::view::PendingItem;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

const INSTRUCTIONS: &str = "You are a careful programmer. You work in one folder, through tools. \
    Look before you write, keep changes small, and say at the end what you did.";

/// How long a command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// How much of what a command says is read.
const OUTPUT_BYTES_MAX: u64 = 1024 * 1024;

/// One folder, and nothing outside it.
#[derive(Debug, Clone)]
struct Sandbox(PathBuf);

impl Sandbox {
    fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self(folder.canonicalize()?))
    }

    /// The place of a path inside the folder. Every part must be a plain name, and none that
    /// exists may be a symbolic link: so nothing leads out.
    fn path(&self, path: &str) -> Result<PathBuf, FunctionError> {
        let mut place = self.0.clone();
        for part in Path::new(path).components() {
            match part {
                Component::CurDir => continue,
                Component::Normal(name) => place.push(name),
                _ => {
                    let reason = format!("{path} leads out of the folder");
                    return Err(FunctionError::new(reason));
                }
            }
            match fs::symlink_metadata(&place) {
                Ok(found) if found.file_type().is_symlink() => {
                    return Err(FunctionError::new(format!("{path} is a symbolic link")));
                }
                _ => {}
            }
        }
        Ok(place)
    }

    fn list(&self, path: &str) -> Result<Vec<String>, FunctionError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.path(path)?)? {
            let entry = entry?;
            let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
            names.push(format!("{}{slash}", entry.file_name().to_string_lossy()));
        }
        names.sort();
        Ok(names)
    }

    fn write(&self, path: &str, content: &str) -> Result<String, FunctionError> {
        let place = self.path(path)?;
        if let Some(above) = place.parent() {
            fs::create_dir_all(above)?;
        }
        fs::write(&place, content)?;
        Ok(format!("wrote {} bytes to {path}", content.len()))
    }

    fn run(&self, command: &str) -> Result<String, FunctionError> {
        let mut child = Program::new("/bin/sh")
            .args(["-c", command])
            .current_dir(&self.0)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", &self.0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let read = |source: Option<Box<dyn Read + Send>>| {
            std::thread::spawn(move || {
                let mut text = Vec::new();
                let source = source.into_iter().next();
                let taken = source.map(|source| source.take(OUTPUT_BYTES_MAX));
                taken.map_or(Ok(0), |mut source| source.read_to_end(&mut text))?;
                Ok::<_, io::Error>(String::from_utf8_lossy(&text).into_owned())
            })
        };
        let out = read(child.stdout.take().map(|pipe| Box::new(pipe) as _));
        let err = read(child.stderr.take().map(|pipe| Box::new(pipe) as _));
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status.to_string();
            }
            if started.elapsed() > COMMAND_TIMEOUT {
                child.kill()?;
                child.wait()?;
                break format!("killed after {COMMAND_TIMEOUT:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let said = |thread: std::thread::JoinHandle<io::Result<String>>| {
            thread
                .join()
                .map_or_else(|_| String::new(), Result::unwrap_or_default)
        };
        Ok(format!("{}{}[{status}]", said(out), said(err)))
    }
}

#[derive(Deserialize, JsonSchema)]
struct OnePath {
    /// A path inside the folder, such as `src/main.rs`; `.` is the folder itself.
    path: String,
}

#[derive(Deserialize, JsonSchema)]
struct WriteFile {
    /// A path inside the folder.
    path: String,
    /// The whole content of the file.
    content: String,
}

#[derive(Deserialize, JsonSchema)]
struct RunCommand {
    /// A line for `/bin/sh`, run in the folder.
    command: String,
}

/// The agent, with any model.
fn agent(model: Arc<dyn Model>, sandbox: &Sandbox) -> Agent {
    let (list, read, write, run) = (
        sandbox.clone(),
        sandbox.clone(),
        sandbox.clone(),
        sandbox.clone(),
    );
    let list = FunctionTool::blocking("list_files", "Lists a folder.", move |at: OnePath, _| {
        list.list(&at.path)
    });
    let read = FunctionTool::blocking("read_file", "Reads a text file.", move |at: OnePath, _| {
        Ok(fs::read_to_string(read.path(&at.path)?)?)
    });
    let write = FunctionTool::blocking(
        "write_file",
        "Writes a whole file, over what was there.",
        move |file: WriteFile, _| write.write(&file.path, &file.content),
    )
    // The same file with the same content: harmless when repeated.
    .retry_safe();
    let run = FunctionTool::blocking(
        "run_command",
        "Runs a shell command and gives what it said.",
        move |line: RunCommand, _| run.run(&line.command),
    )
    .approval(ApprovalPolicy::Always);
    Agent::builder("coding-agent-1", model)
        .instructions(INSTRUCTIONS)
        .compaction(CompactionPolicy::default())
        .tool(Arc::new(list.read_only()))
        .tool(Arc::new(read.read_only()))
        .tool(Arc::new(write))
        .tool(Arc::new(run))
        .build()
}

/// The model that needs no key: it looks, writes a file, runs a command and reports.
fn scripted() -> Arc<dyn Model> {
    Arc::new(ScriptedModel::new(
        "scripted",
        vec![
            ScriptStep::text("Let me look.").tool_call("a", "list_files", json!({ "path": "." })),
            ScriptStep::text("I write what was asked for.").tool_call(
                "b",
                "write_file",
                json!({ "path": "notes/README.md", "content": "# {input}\n" }),
            ),
            ScriptStep::text("Now I check it.").tool_call(
                "c",
                "run_command",
                json!({ "command": "cat notes/README.md" }),
            ),
            ScriptStep::text("Done: {last_tool_result}"),
        ],
    ))
}

/// Answers what waits until the turn is over; false when nobody is there to answer.
async fn drive(
    runtime: &Runtime,
    mut answer: impl FnMut(&PendingItem) -> Option<ApprovalDecision>,
) -> Result<bool, RuntimeError> {
    loop {
        runtime.settled().await;
        let mut waiting = runtime.pending().await?;
        waiting.retain(|item| item.kind == PendingKind::Approval);
        if waiting.is_empty() {
            return Ok(true);
        }
        for item in waiting {
            let Some(decision) = answer(&item) else {
                return Ok(false);
            };
            let target = item.token.clone().unwrap_or_default();
            runtime.apply(Command::Decide { target, decision }).await?;
        }
    }
}

/// Shows the call as the model asked for it, and the tool as the model sees it.
fn ask(item: &PendingItem) -> Option<ApprovalDecision> {
    println!("\n? {}", item.tool.as_deref().unwrap_or("a call"));
    if let Some(tool) = &item.definition {
        println!("  {}", tool.description);
    }
    if let Some(arguments) = &item.arguments {
        println!("  {arguments:#}");
    }
    print!("  run it? [y]es, [n]o, or other arguments as JSON: ");
    io::stdout().flush().ok()?;
    let mut line = String::new();
    if io::stdin().lock().read_line(&mut line).ok()? == 0 {
        println!("\nnobody answers; start it again to go on");
        return None;
    }
    Some(match line.trim() {
        "y" | "yes" => ApprovalDecision::Approve,
        other => match serde_json::from_str(other) {
            Ok(arguments) => ApprovalDecision::Edit { arguments },
            Err(_) => ApprovalDecision::Deny { reason: None },
        },
    })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut yes = false;
    let mut words = Vec::new();
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--yes" => yes = true,
            _ => words.push(argument),
        }
    }
    let sandbox = Sandbox::open(Path::new("./.coding-agent/work"))?;
    let runtime = runtime::builder()
        .directory("./.coding-agent/store")
        .agent(agent(model::model(scripted())?, &sandbox))
        .open()
        .await?;
    let worker = runtime.worker("programmer").await?;
    // Without a task it only goes on with what it has begun.
    let receipt = match words.is_empty() {
        true => None,
        false => Some(worker.send(&words.join(" ")).await?),
    };
    let approve = |item: &PendingItem| match yes {
        true => Some(ApprovalDecision::Approve),
        false => ask(item),
    };
    let over = drive(&runtime, approve).await?;
    if let (true, Some(receipt)) = (over, receipt) {
        println!("{}", runtime.answer(worker.id(), &receipt.turn).await?);
    }
    runtime.close().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_out_of_the_folder() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("secret"), "s").unwrap();
        let sandbox = Sandbox::open(&root.path().join("work")).unwrap();
        std::os::unix::fs::symlink(root.path(), sandbox.0.join("up")).unwrap();
        for path in [
            "../secret",
            "/etc/passwd",
            "a/../../secret",
            "up/secret",
            "up",
        ] {
            assert!(sandbox.path(path).is_err(), "{path}");
            assert!(sandbox.write(path, "x").is_err(), "{path}");
        }
        assert_eq!(fs::read_to_string(root.path().join("secret")).unwrap(), "s");
        assert!(sandbox.path("./a/b").is_ok());
    }

    /// Stopped while a person is asked, and again: it goes on in the next process.
    #[tokio::test]
    async fn it_goes_on_where_it_was_stopped() {
        let root = tempfile::tempdir().unwrap();
        let sandbox = Sandbox::open(&root.path().join("work")).unwrap();
        let open = async || {
            runtime::builder()
                .directory(root.path().join("store"))
                .agent(agent(scripted(), &sandbox))
                .open()
                .await
                .unwrap()
        };
        let runtime = open().await;
        let worker = runtime.worker("programmer").await.unwrap();
        let receipt = worker.send("hello").await.unwrap();
        assert!(!drive(&runtime, |_| None).await.unwrap());
        runtime.close().await.unwrap();
        // A person changes what is written, then lets the command run.
        let runtime = open().await;
        let mut asked = Vec::new();
        let over = drive(&runtime, |item| {
            asked.push(item.tool.clone().unwrap());
            Some(match item.tool.as_deref() {
                Some("write_file") => ApprovalDecision::Edit {
                    arguments: json!({ "path": "notes/README.md", "content": "edited\n" }),
                },
                _ => ApprovalDecision::Approve,
            })
        });
        assert!(over.await.unwrap());
        let said = runtime.answer(worker.id(), &receipt.turn).await.unwrap();
        assert_eq!(asked, ["write_file", "run_command"]);
        assert!(
            said.contains("edited") && said.contains("exit status: 0"),
            "{said}"
        );
        let written = fs::read_to_string(sandbox.0.join("notes/README.md")).unwrap();
        assert_eq!(written, "edited\n");
        runtime.close().await.unwrap();
    }

    /// The same agent with a model behind HTTP, as the variables name it: its tools are offered as
    /// they are, and what it asks for is done.
    #[cfg(feature = "genai")]
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_works_with_a_model_behind_http() {
        use runtime_testkit::{ProviderResponse, ProviderServer};

        let server = ProviderServer::start(|request| {
            let seen = request.body["messages"].to_string();
            let response = ProviderResponse::stream();
            if seen.contains("from afar") {
                return response.text("It says: from afar").reason("stop").done();
            }
            let (name, arguments) = match seen.contains("wrote 10 bytes") {
                false => (
                    "write_file",
                    json!({ "path": "a.txt", "content": "FROM AFAR\n" }),
                ),
                true => ("run_command", json!({ "command": "tr A-Z a-z < a.txt" })),
            };
            let call = response.call(0, name, name, &arguments);
            call.reason("tool_calls").done()
        });
        let base_url = server.base_url();
        let variable = |name: &str| match name {
            "AGENT_RUNTIME_MODEL" => Some("openai::fake".to_owned()),
            "AGENT_RUNTIME_MODEL_BASE_URL" => Some(base_url.clone()),
            _ => None,
        };
        let model = model::model_of(variable, scripted()).unwrap();
        let root = tempfile::tempdir().unwrap();
        let sandbox = Sandbox::open(&root.path().join("work")).unwrap();
        let builder = runtime::builder().directory(root.path().join("store"));
        let runtime = builder.agent(agent(model, &sandbox)).open().await.unwrap();
        let worker = runtime.worker("programmer").await.unwrap();
        let receipt = worker.send("what does it say?").await.unwrap();
        let over = drive(&runtime, |_| Some(ApprovalDecision::Approve));
        assert!(over.await.unwrap());
        let said = runtime.answer(worker.id(), &receipt.turn).await.unwrap();
        assert_eq!(said, "It says: from afar");
        let offered = server.requests()[0].body["tools"].as_array().unwrap().len();
        assert_eq!(offered, 4);
        runtime.close().await.unwrap();
    }
}
