//! One tool of a server: its call, and what may come between a call and its answer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use rmcp::model::{
    CallToolRequest, CallToolRequestParams, CancelTaskParams, CancelTaskRequest, ClientRequest,
    ErrorCode, GetTaskParams, GetTaskRequest, RequestMetaObject, UpdateTaskParams,
    UpdateTaskRequest,
};
use runtime_core::{Continuation, Resolution, ToolDefinition};
use runtime_mcp_cache::Catalogue;
use runtime_tools::{Resumption, Tool, ToolContext, ToolError, ToolOutput};
use serde_json::{Map, Value};

use crate::call::{call_error, call_output};
use crate::connection::{Connection, Flight, FlightEvent, RequestError};
use crate::desk::{Question, Seat};
use crate::error::words;
use crate::rounds::{self, Left, ROUNDS_MAX, TaskNow};
use crate::source::{Held, Inner};

/// The member of a call's `_meta` that carries its idempotency key.
const IDEMPOTENCY_KEY: &str = "agent-runtime/idempotencyKey";

/// One tool of a server, as it was listed.
pub(crate) struct McpTool {
    pub(crate) source: Arc<Inner>,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) index: usize,
}

impl McpTool {
    /// The name on the server; the definition has the public one.
    fn name(&self) -> &str {
        &self.catalogue.tools()[self.index].name
    }

    /// Refuses a definition that is not the pinned one (any more).
    async fn check_pin(&self) -> Result<(), ToolError> {
        // A source that must be pinned and has no pins lists nothing that could be called.
        let Some(pins) = &self.source.pins else {
            return Ok(());
        };
        let tool = &self.catalogue.tools()[self.index];
        let public = &tool.definition.name;
        match pins.allows(&self.source.config.name, tool).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(ToolError::NotFound {
                tool: format!("{public} (its definition waits for approval)"),
            }),
            Err(error) => Err(ToolError::Unavailable {
                tool: public.clone(),
                reason: error.to_string(),
            }),
        }
    }

    fn timeout(&self, context: &ToolContext) -> Duration {
        let source = &self.source;
        let left = context.deadline.since(source.clock.now());
        left.min(Duration::from_millis(source.config.call_timeout_ms))
    }

    async fn connection(&self) -> Result<Arc<Connection>, ToolError> {
        let reconnects = !self.source.is_connected();
        let connection = self.source.connection().await;
        if reconnects && connection.is_ok() {
            // Another process may answer now, with other tools (M4). The list that is there serves
            // until the next look fetches it again.
            self.source.cache.mark_stale(&self.source.key);
        }
        connection.map_err(|error| ToolError::Unavailable {
            tool: self.definition().name.clone(),
            reason: error.to_string(),
        })
    }
}

#[async_trait]
impl Tool for McpTool {
    fn definition(&self) -> &ToolDefinition {
        &self.catalogue.tools()[self.index].definition
    }

    async fn call(&self, arguments: Value, context: ToolContext) -> Result<ToolOutput, ToolError> {
        self.make(arguments, context, Inputs::default()).await
    }

    async fn resume(
        &self,
        resumption: Resumption,
        context: ToolContext,
    ) -> Result<ToolOutput, ToolError> {
        let Resumption {
            arguments,
            state,
            resolution,
        } = resumption;
        let left: Left = serde_json::from_value(state)
            .map_err(|_| self.failed("what it left behind cannot be read"))?;
        match &left {
            Left::Round {
                round,
                requests,
                state,
            } => match rounds::answers(requests, &resolution) {
                Ok(responses) => {
                    let inputs = Inputs {
                        round: round + 1,
                        responses,
                        state: state.clone(),
                    };
                    self.make(arguments, context, inputs).await
                }
                Err(why) => self.ask_again(&left, requests, &why),
            },
            Left::Held {
                flight,
                round,
                requests,
            } => {
                let Some(held) = self.source.take_held(flight) else {
                    return Err(ToolError::Indeterminate {
                        tool: self.definition().name.clone(),
                        reason: "the connection on which it asked is gone".to_owned(),
                    });
                };
                match rounds::answers(requests, &resolution) {
                    Ok(mut answers) => {
                        let answer = answers.remove(HELD_KEY).unwrap_or_default();
                        self.answer_held(held, answer, round + 1, context).await
                    }
                    Err(why) => {
                        self.source.hold(held);
                        self.ask_again(&left, requests, &why)
                    }
                }
            }
            Left::Task { .. } => self.look_at_task(left, &resolution, context).await,
        }
    }
}

/// The one question of a held call.
const HELD_KEY: &str = "question";

/// What goes with a call beside its arguments.
#[derive(Debug, Clone, Default)]
struct Inputs {
    round: u32,
    responses: Map<String, Value>,
    state: Option<String>,
}

impl McpTool {
    /// Makes the call, once; again only where the server says that it has not run, or that
    /// nobody needs to be asked.
    async fn make(
        &self,
        arguments: Value,
        context: ToolContext,
        mut inputs: Inputs,
    ) -> Result<ToolOutput, ToolError> {
        let arguments = object(&self.definition().name, arguments)?;
        self.check_pin().await?;
        let mut listed_again = false;
        let mut schema = self.definition().input_schema.clone();
        loop {
            let connection = self.connection().await?;
            let request = self.request(arguments.clone(), &inputs, &schema);
            let key = context.idempotency_key.clone().into();
            let meta = Map::from_iter([(IDEMPOTENCY_KEY.to_owned(), key)]);
            let meta = Some(RequestMetaObject::from(meta));
            let mut seat = connection.seat();
            let event = match connection.send(request, meta).await {
                Ok(mut flight) => match flight.next(&mut seat, self.timeout(&context)).await {
                    FlightEvent::Answered(answer) => answer,
                    FlightEvent::Asked(question) => {
                        return self.park_held(connection, flight, seat, question, inputs.round);
                    }
                },
                Err(error) => Err(error),
            };
            match event {
                Ok(result) => match self.read(&result, inputs.round)? {
                    Reading::Output(output) => return Ok(output),
                    Reading::Again(next) => inputs = next,
                },
                // The headers of the call are not those that the server wants: it has not run.
                Err(RequestError::Refused(error))
                    if error.code == ErrorCode::HEADER_MISMATCH && !listed_again =>
                {
                    listed_again = true;
                    schema = self.schema_now().await?;
                }
                Err(error) => {
                    if is_about_the_list(&error) {
                        // Polled once, it runs on in the cache: the model gets its error now.
                        let (cache, key) = (&self.source.cache, &self.source.key);
                        let _ = cache.refetch(key, &self.source).now_or_never();
                    }
                    let public = &self.definition().name;
                    return Err(call_error(public, error, &connection.lost().to_string()));
                }
            }
        }
    }

    fn request(
        &self,
        arguments: Option<Map<String, Value>>,
        inputs: &Inputs,
        schema: &Value,
    ) -> ClientRequest {
        let mut params = CallToolRequestParams::new(self.name().to_owned());
        #[cfg(feature = "http")]
        let headers = arguments.as_ref().map(|arguments| {
            let arguments = Value::Object(arguments.clone());
            crate::param_headers::of_call(schema, &arguments)
        });
        #[cfg(not(feature = "http"))]
        let _ = schema;
        params.arguments = arguments;
        if !inputs.responses.is_empty() {
            let responses = inputs.responses.clone().into_iter();
            params.input_responses = Some(responses.collect());
        }
        params.request_state.clone_from(&inputs.state);
        let request = CallToolRequest::new(params);
        #[cfg(feature = "http")]
        let request = match headers {
            Some(headers) if self.source.is_http() => {
                let mut request = request;
                let headers = crate::http::ParamHeaders(headers);
                request.extensions.insert(headers);
                request
            }
            _ => request,
        };
        ClientRequest::CallToolRequest(request)
    }

    /// Lists the tools again and returns the schema that the tool has now.
    async fn schema_now(&self) -> Result<Value, ToolError> {
        let (cache, key) = (&self.source.cache, &self.source.key);
        let answer = cache.refetch(key, &self.source).await;
        let tool = answer.value.as_ref().and_then(|now| now.tool(self.name()));
        match tool {
            Some(tool) => Ok(tool.definition.input_schema.clone()),
            None => Err(ToolError::NotFound {
                tool: self.definition().name.clone(),
            }),
        }
    }

    /// Reads the answer to a call: its result, or what it still needs.
    fn read(&self, result: &Value, round: u32) -> Result<Reading, ToolError> {
        let unaskable = |why| self.failed(why);
        match result.get("resultType").and_then(Value::as_str) {
            Some("input_required") => {
                if round >= ROUNDS_MAX {
                    return Err(self.failed("it asks again and again"));
                }
                let requests = rounds::requests(result.get("inputRequests")).map_err(unaskable)?;
                let state = rounds::request_state(result).map_err(unaskable)?;
                if !requests.is_empty() {
                    let question = rounds::question(&self.source.config.name, &requests);
                    let left = Left::Round {
                        round,
                        requests,
                        state,
                    };
                    return Ok(Reading::Output(parked(&left, Some(question), None)));
                }
                if state.is_none() {
                    return Err(self.failed("it asks for input without saying for what"));
                }
                Ok(Reading::Again(Inputs {
                    round: round + 1,
                    responses: Map::new(),
                    state,
                }))
            }
            Some("task") => {
                let Some(id) = rounds::task_id(result) else {
                    return Err(self.failed("it answered with a task that has no id"));
                };
                let time = Duration::from_millis(self.source.config.task_timeout_ms);
                let left = Left::Task {
                    id,
                    until: self.source.clock.now().after(time),
                    round,
                    requests: Map::new(),
                };
                let now = rounds::task_now(result).map_err(unaskable)?;
                self.task_goes_on(left, now).map(Reading::Output)
            }
            _ => {
                let bytes_max = self.source.config.result_bytes_max;
                call_output(&self.definition().name, result, bytes_max).map(Reading::Output)
            }
        }
    }

    fn task_goes_on(&self, left: Left, now: TaskNow) -> Result<ToolOutput, ToolError> {
        let Left::Task {
            id, until, round, ..
        } = left
        else {
            return Err(self.failed("it is no task"));
        };
        let task = |round, requests| Left::Task {
            id: id.clone(),
            until,
            round,
            requests,
        };
        match now {
            TaskNow::Working { poll_ms } => {
                if self.source.clock.now() >= until {
                    return Err(ToolError::TimedOut {
                        tool: self.definition().name.clone(),
                    });
                }
                let pause = Duration::from_millis(poll_ms);
                Ok(parked(&task(round, Map::new()), None, Some(pause)))
            }
            TaskNow::Asks(_) if round >= ROUNDS_MAX => Err(self.failed("it asks again and again")),
            TaskNow::Asks(requests) => {
                let question = rounds::question(&self.source.config.name, &requests);
                Ok(parked(&task(round + 1, requests), Some(question), None))
            }
            TaskNow::Completed(result) => {
                let bytes_max = self.source.config.result_bytes_max;
                call_output(&self.definition().name, &result, bytes_max)
            }
            TaskNow::Over(reason) => Ok(ToolOutput::error(reason)),
        }
    }

    /// Goes on with a task: hands it what it asked for, ends it, or looks at it.
    async fn look_at_task(
        &self,
        left: Left,
        resolution: &Resolution,
        context: ToolContext,
    ) -> Result<ToolOutput, ToolError> {
        let Left::Task { id, requests, .. } = &left else {
            return Err(self.failed("it is no task"));
        };
        if !requests.is_empty() {
            let responses = match rounds::answers(requests, resolution) {
                Ok(responses) => responses,
                Err(why) => return self.ask_again(&left, requests, &why),
            };
            let params = UpdateTaskParams::new(id.clone(), responses.into_iter().collect());
            let update = ClientRequest::UpdateTaskRequest(UpdateTaskRequest::new(params));
            match self.exchange(update, &context).await {
                // Refused: it was told before, or does not ask any more. What it does now says so.
                Ok(_) | Err(RequestError::Refused(_)) => {}
                Err(error) => return Err(self.task_error(error)),
            }
        } else if *resolution == Resolution::Cancelled {
            let params = CancelTaskParams::new(id.clone());
            let cancel = ClientRequest::CancelTaskRequest(CancelTaskRequest::new(params));
            // Whether it heard it or not, nobody waits for it any more.
            let _ = self.exchange(cancel, &context).await;
            return Ok(ToolOutput::error("the task was cancelled"));
        }
        let params = GetTaskParams::new(id.clone());
        let get = ClientRequest::GetTaskRequest(GetTaskRequest::new(params));
        let task = self.exchange(get, &context).await;
        let task = task.map_err(|error| self.task_error(error))?;
        let now = rounds::task_now(&task).map_err(|why| self.failed(why))?;
        self.task_goes_on(left, now)
    }

    async fn exchange(
        &self,
        request: ClientRequest,
        context: &ToolContext,
    ) -> Result<Value, RequestError> {
        let connection = self.source.connection().await;
        let connection = connection.map_err(|error| RequestError::NotSent(error.to_string()))?;
        connection
            .request(request, None, self.timeout(context))
            .await
    }

    fn task_error(&self, error: RequestError) -> ToolError {
        let lost = "the connection ended while its task was looked at";
        call_error(&self.definition().name, error, lost)
    }

    fn park_held(
        &self,
        connection: Arc<Connection>,
        flight: Flight,
        seat: Seat,
        question: Question,
        round: u32,
    ) -> Result<ToolOutput, ToolError> {
        if round >= ROUNDS_MAX {
            return Err(self.failed("it asks again and again"));
        }
        let request = serde_json::json!({
            "method": "elicitation/create",
            "params": question.params,
        });
        let asked = Value::Object(Map::from_iter([(HELD_KEY.to_owned(), request)]));
        let requests = rounds::requests(Some(&asked)).map_err(|why| self.failed(why))?;
        let text = rounds::question(&self.source.config.name, &requests);
        let id = self.source.nonce();
        self.source.hold(Held {
            id: id.clone(),
            flight,
            seat,
            question,
            connection,
        });
        let left = Left::Held {
            flight: id,
            round,
            requests,
        };
        Ok(parked(&left, Some(text), None))
    }

    async fn answer_held(
        &self,
        held: Held,
        answer: Value,
        round: u32,
        context: ToolContext,
    ) -> Result<ToolOutput, ToolError> {
        let Held {
            mut flight,
            mut seat,
            question,
            connection,
            ..
        } = held;
        // Nobody listens if the connection ended meanwhile; then the call is lost with it.
        let _ = question.reply.send(answer);
        let answered = match flight.next(&mut seat, self.timeout(&context)).await {
            FlightEvent::Asked(question) => {
                return self.park_held(connection, flight, seat, question, round);
            }
            FlightEvent::Answered(answered) => answered,
        };
        let public = &self.definition().name;
        let result =
            answered.map_err(|error| call_error(public, error, &connection.lost().to_string()))?;
        call_output(public, &result, self.source.config.result_bytes_max)
    }

    fn ask_again(
        &self,
        left: &Left,
        requests: &Map<String, Value>,
        why: &str,
    ) -> Result<ToolOutput, ToolError> {
        let question = rounds::question(&self.source.config.name, requests);
        let question = format!("not understood ({}); {question}", words(why));
        Ok(parked(left, Some(question), None))
    }

    fn failed(&self, reason: &str) -> ToolError {
        ToolError::Failed {
            tool: self.definition().name.clone(),
            reason: reason.to_owned(),
            details: None,
        }
    }
}

/// What an answer means.
enum Reading {
    Output(ToolOutput),
    /// The server wants the call again, and nobody asked.
    Again(Inputs),
}

fn parked(left: &Left, question: Option<String>, deadline: Option<Duration>) -> ToolOutput {
    ToolOutput::Parked {
        deadline,
        continuation: Continuation {
            question,
            state: serde_json::to_value(left).expect("what is left behind is plain data"),
            // Looking at a task changes nothing.
            retry_safe: matches!(left, Left::Task { .. }),
        },
    }
}

impl fmt::Debug for McpTool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("McpTool")
            .field("server", &self.source.config.name)
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

fn object(tool: &str, arguments: Value) -> Result<Option<Map<String, Value>>, ToolError> {
    match arguments {
        Value::Object(members) => Ok(Some(members)),
        Value::Null => Ok(None),
        _ => Err(ToolError::InvalidArguments {
            tool: tool.to_owned(),
            reason: "they are not an object".to_owned(),
        }),
    }
}

/// Says whether the answer hints that the tool is not what was listed (M4).
fn is_about_the_list(error: &RequestError) -> bool {
    let RequestError::Refused(error) = error else {
        return false;
    };
    matches!(
        error.code,
        ErrorCode::METHOD_NOT_FOUND | ErrorCode::INVALID_PARAMS
    )
}
