//! The demo's tool with a side effect: it appends a line to a file.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use runtime::core::{ApprovalPolicy, ToolDefinition, ToolHints};
use runtime::tools::{Tool, ToolContext, ToolError, ToolOutput};
use serde_json::{Value, json};

/// The tool's name.
pub(crate) const LEDGER: &str = "append_ledger";

/// How long the work before and after the append takes: 50 ms in all.
const HALF: Duration = Duration::from_millis(25);

/// Appends a line that names turn and call to the ledger. It is a bare append: running it twice
/// leaves two lines, so it is not declared safe to run again, and a person is asked first.
#[derive(Debug)]
pub(crate) struct LedgerTool {
    definition: ToolDefinition,
    path: PathBuf,
}

impl LedgerTool {
    pub(crate) fn new(path: PathBuf) -> Self {
        let definition = ToolDefinition {
            name: LEDGER.to_owned(),
            display_name: Some("Append to the ledger".to_owned()),
            description: "Appends one line to the ledger. It cannot be undone.".to_owned(),
            input_schema: json!({
                "type": "object",
                "properties": { "entry": { "type": "string" } },
                "required": ["entry"],
            }),
            output_schema: None,
            category: None,
            approval: ApprovalPolicy::Always,
            hints: ToolHints {
                trusted: true,
                ..ToolHints::default()
            },
            deferrable: false,
        };
        Self { definition, path }
    }
}

#[async_trait]
impl Tool for LedgerTool {
    fn definition(&self) -> &ToolDefinition {
        &self.definition
    }

    async fn call(&self, arguments: Value, context: ToolContext) -> Result<ToolOutput, ToolError> {
        let Some(entry) = arguments.get("entry").and_then(Value::as_str) else {
            let reason = "entry must be a text".to_owned();
            return Err(ToolError::InvalidArguments {
                tool: LEDGER.to_owned(),
                reason,
            });
        };
        let turn = context
            .scope
            .turn()
            .map(ToString::to_string)
            .unwrap_or_default();
        let line = format!("turn={turn} call={} entry={entry:?}\n", context.call);
        tokio::time::sleep(HALF).await;
        let appended = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)
            .and_then(|mut file| file.write_all(line.as_bytes()));
        if let Err(error) = appended {
            let reason = format!("{}: {error}", self.path.display());
            return Err(ToolError::Failed {
                tool: LEDGER.to_owned(),
                reason,
                details: None,
            });
        }
        tokio::time::sleep(HALF).await;
        Ok(ToolOutput::text(format!("appended {entry:?}")))
    }
}
