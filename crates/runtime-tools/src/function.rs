//! Tools from typed Rust functions (T5).

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

use async_trait::async_trait;
use runtime_core::{ApprovalPolicy, ToolDefinition, ToolHints};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::task::{AbortHandle, JoinError};

use crate::{Tool, ToolContext, ToolError, ToolOutput};

/// Why a function gave no result. Any error becomes one by `?`.
///
/// A [`ToolError`] keeps its variant and so its meaning; any other error is
/// [`ToolError::Failed`]: final, and the model reads its text. It is not itself an
/// [`Error`], so that `?` can turn every error into it.
#[derive(Debug)]
pub struct FunctionError(Box<dyn Error + Send + Sync>);

impl FunctionError {
    /// Fails with a text that the model should read.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into().into())
    }

    fn into_tool_error(self, tool: &str) -> ToolError {
        match self.0.downcast::<ToolError>() {
            Ok(error) => *error,
            Err(error) => ToolError::Failed {
                tool: tool.to_owned(),
                reason: chain(error.as_ref()),
                details: None,
            },
        }
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for FunctionError {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// What a function may return: a [`ToolOutput`], or anything that serialises. A string is its
/// text, `()` is `done`, everything else its JSON.
pub trait IntoToolOutput {
    /// Makes the output.
    ///
    /// # Errors
    /// The value does not serialise.
    fn into_tool_output(self) -> Result<ToolOutput, FunctionError>;
}

impl IntoToolOutput for ToolOutput {
    fn into_tool_output(self) -> Result<ToolOutput, FunctionError> {
        Ok(self)
    }
}

impl<T: Serialize> IntoToolOutput for T {
    fn into_tool_output(self) -> Result<ToolOutput, FunctionError> {
        Ok(ToolOutput::text(match serde_json::to_value(self)? {
            Value::String(text) => text,
            // Some providers refuse an empty result.
            Value::Null => "done".to_owned(),
            value => value.to_string(),
        }))
    }
}

type Called<'a> = Pin<Box<dyn Future<Output = Result<ToolOutput, ToolError>> + Send + 'a>>;
type Body = dyn for<'a> Fn(&'a str, Value, ToolContext) -> Called<'a> + Send + Sync;

/// A tool from a typed Rust function: its schema comes from the type of its arguments.
///
/// The host declares it, so its hints are trusted. Without any it asks for approval and never runs
/// twice by itself.
///
/// A panic of the function is not caught here: the effect controller does that, and knows whether
/// the call may run again (E9).
///
/// ```
/// use runtime_tools::FunctionTool;
/// use schemars::JsonSchema;
/// use serde::Deserialize;
///
/// #[derive(Deserialize, JsonSchema)]
/// struct Add {
///     /// The first number.
///     left: i64,
///     /// The second number.
///     right: i64,
/// }
///
/// let add = FunctionTool::new("add", "Adds two numbers.", |numbers: Add, _context| async move {
///     Ok(numbers.left + numbers.right)
/// })
/// .read_only();
/// # use runtime_tools::Tool;
/// assert!(!add.definition().needs_approval());
/// assert_eq!(add.definition().input_schema["required"][0], "left");
/// ```
pub struct FunctionTool {
    definition: ToolDefinition,
    body: Box<Body>,
}

impl FunctionTool {
    /// Makes a tool from an async function.
    ///
    /// `Arguments` must be a type whose JSON is an object; the doc comments of its fields tell the
    /// model what they mean.
    ///
    /// # Panics
    /// When the name is not `[A-Za-z_][A-Za-z0-9_-]{0,62}`, or the JSON of `Arguments` is not an
    /// object: both are mistakes in the program, seen at its first start.
    pub fn new<Arguments, Function, Running, Output>(
        name: impl Into<String>,
        description: impl Into<String>,
        function: Function,
    ) -> Self
    where
        Arguments: DeserializeOwned + JsonSchema + Send + 'static,
        Function: Fn(Arguments, ToolContext) -> Running + Send + Sync + 'static,
        Running: Future<Output = Result<Output, FunctionError>> + Send + 'static,
        Output: IntoToolOutput,
    {
        Self::from_body::<Arguments>(name, description, move |tool, arguments, context| {
            let running = parse(tool, arguments).map(|arguments| function(arguments, context));
            Box::pin(async move { finish(tool, running?.await) })
        })
    }

    /// Makes a tool from a function that blocks; each call runs on the blocking pool.
    ///
    /// A call that is cancelled before it got a thread does not run; one that runs cannot be
    /// stopped and goes on to its end, unheard.
    ///
    /// # Panics
    /// As [`new`](Self::new); a call panics outside a Tokio runtime.
    pub fn blocking<Arguments, Function, Output>(
        name: impl Into<String>,
        description: impl Into<String>,
        function: Function,
    ) -> Self
    where
        Arguments: DeserializeOwned + JsonSchema + Send + 'static,
        Function: Fn(Arguments, ToolContext) -> Result<Output, FunctionError>
            + Clone
            + Send
            + Sync
            + 'static,
        Output: IntoToolOutput,
    {
        Self::from_body::<Arguments>(name, description, move |tool, arguments, context| {
            let function = function.clone();
            Box::pin(async move {
                let arguments = parse::<Arguments>(tool, arguments)?;
                let running = tokio::task::spawn_blocking(move || {
                    // Made into an output on that thread, so that the value need not be Send.
                    function(arguments, context).and_then(IntoToolOutput::into_tool_output)
                });
                let _withdraw = AbortOnDrop(running.abort_handle());
                match running.await {
                    Ok(output) => finish(tool, output),
                    Err(error) => Err(lost(tool, error)),
                }
            })
        })
    }

    fn from_body<Arguments: JsonSchema>(
        name: impl Into<String>,
        description: impl Into<String>,
        body: impl for<'a> Fn(&'a str, Value, ToolContext) -> Called<'a> + Send + Sync + 'static,
    ) -> Self {
        let name = name.into();
        assert!(
            is_public_name(&name),
            "tool name {name:?} is not [A-Za-z_][A-Za-z0-9_-]{{0,62}}"
        );
        let definition = ToolDefinition {
            input_schema: input_schema::<Arguments>(&name),
            name,
            display_name: None,
            description: description.into(),
            output_schema: None,
            category: None,
            approval: ApprovalPolicy::ByDeclaration,
            hints: ToolHints {
                trusted: true,
                ..ToolHints::default()
            },
            deferrable: false,
        };
        Self {
            definition,
            body: Box::new(body),
        }
    }

    /// Declares that it changes nothing: no approval, and it may run again.
    #[must_use]
    pub const fn read_only(mut self) -> Self {
        self.definition.hints.read_only = true;
        self
    }

    /// Declares that it may run again: harmless when repeated, overlapping, or late (E7).
    #[must_use]
    pub const fn retry_safe(mut self) -> Self {
        self.definition.hints.retry_safe = true;
        self
    }

    /// Sets whether a person is asked first.
    #[must_use]
    pub fn approval(mut self, policy: ApprovalPolicy) -> Self {
        self.definition.approval = policy;
        self
    }

    /// Sets the name for people.
    #[must_use]
    pub fn display_name(mut self, name: impl Into<String>) -> Self {
        self.definition.display_name = Some(name.into());
        self
    }

    /// Sets the group for display.
    #[must_use]
    pub fn category(mut self, category: impl Into<String>) -> Self {
        self.definition.category = Some(category.into());
        self
    }
}

#[async_trait]
impl Tool for FunctionTool {
    fn definition(&self) -> &ToolDefinition {
        &self.definition
    }

    async fn call(&self, arguments: Value, context: ToolContext) -> Result<ToolOutput, ToolError> {
        (self.body)(&self.definition.name, arguments, context).await
    }
}

impl fmt::Debug for FunctionTool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FunctionTool")
            .field("definition", &self.definition)
            .finish_non_exhaustive()
    }
}

/// Withdraws a blocking call that waits for a thread when its caller is gone (E9).
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn parse<Arguments: DeserializeOwned>(
    tool: &str,
    arguments: Value,
) -> Result<Arguments, ToolError> {
    // Models leave out the object where there is nothing to say. An array is refused here: serde
    // would read it as the fields in their order.
    let arguments = match arguments {
        Value::Null => Value::Object(serde_json::Map::new()),
        object @ Value::Object(_) => object,
        _ => {
            return Err(ToolError::InvalidArguments {
                tool: tool.to_owned(),
                reason: "they are not an object".to_owned(),
            });
        }
    };
    serde_json::from_value(arguments).map_err(|error| ToolError::InvalidArguments {
        tool: tool.to_owned(),
        reason: error.to_string(),
    })
}

fn finish<Output: IntoToolOutput>(
    tool: &str,
    output: Result<Output, FunctionError>,
) -> Result<ToolOutput, ToolError> {
    output
        .and_then(IntoToolOutput::into_tool_output)
        .map_err(|error| error.into_tool_error(tool))
}

fn lost(tool: &str, error: JoinError) -> ToolError {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        // Only a Tokio runtime that shuts down withdraws a call whose caller still waits; it may
        // have taken it before or after its start.
        Err(_) => ToolError::Indeterminate {
            tool: tool.to_owned(),
            reason: "the process is shutting down".to_owned(),
        },
    }
}

fn is_public_name(name: &str) -> bool {
    let first = name.chars().next();
    first.is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && name.len() <= 63
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

/// Writes the schema of a type without references where it can: not every provider follows them.
fn input_schema<Arguments: JsonSchema>(tool: &str) -> Value {
    let settings =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings
        .into_generator()
        .into_root_schema_for::<Arguments>()
        .to_value();
    let kind = schema.get("type").and_then(Value::as_str);
    assert!(
        kind.is_none_or(|kind| kind == "object"),
        "the arguments of tool {tool:?} must be an object; wrap them in a struct"
    );
    if let Some(members) = schema.as_object_mut() {
        // The dialect and the name of the Rust type tell a model nothing.
        members.remove("$schema");
        members.remove("title");
    }
    schema
}
