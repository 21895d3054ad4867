//! The catalogue of a turn (M8).

use std::sync::Arc;

use async_trait::async_trait;
use runtime_core::{ApprovalPolicy, ToolDefinition, ToolHints};
use runtime_tools::{Tool, ToolContext, ToolError, ToolOutput, Toolbox};
use serde_json::{Value, json};

#[derive(Debug)]
struct Named(ToolDefinition);

#[async_trait]
impl Tool for Named {
    fn definition(&self) -> &ToolDefinition {
        &self.0
    }

    async fn call(&self, _: Value, _: ToolContext) -> Result<ToolOutput, ToolError> {
        Ok(ToolOutput::text(&*self.0.name))
    }
}

fn named(name: &str) -> Arc<dyn Tool> {
    Arc::new(Named(ToolDefinition {
        name: name.to_owned(),
        display_name: None,
        description: String::new(),
        input_schema: json!({"type": "object"}),
        output_schema: None,
        category: None,
        approval: ApprovalPolicy::ByDeclaration,
        hints: ToolHints::default(),
        deferrable: false,
    }))
}

#[test]
fn m8_a_name_that_comes_twice_is_refused_each_time() {
    let tools = ["b", "twice", "a", "twice", "twice"].map(named);
    let (toolbox, refused) = Toolbox::gather(tools);
    assert_eq!(refused, ["twice"]);
    assert!(
        toolbox.tool("twice").is_none(),
        "neither may stand in for the other"
    );
    assert!(toolbox.tool("a").is_some());
}

#[test]
fn m8_the_order_does_not_depend_on_who_came_first() {
    let names = |tools: [&str; 3]| -> Vec<String> {
        let (toolbox, _) = Toolbox::gather(tools.map(named));
        toolbox
            .definitions()
            .into_iter()
            .map(|tool| tool.name)
            .collect()
    };
    assert_eq!(names(["c", "a", "b"]), ["a", "b", "c"]);
    assert_eq!(names(["c", "a", "b"]), names(["b", "c", "a"]));
}
