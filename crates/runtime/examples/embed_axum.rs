//! A web server with a runtime inside: inputs come by POST, events go out as server-sent events.
//!
//! - `POST /workers/NAME/inputs` with `{"text": …, "submission": …}` accepts an input; sending the
//!   same submission again repeats nothing.
//! - `GET /workers/NAME/events` follows the worker. Each event's id is the cursor right after it,
//!   so that a browser that reconnects (`Last-Event-ID`) goes on exactly where it was, also after
//!   the server was killed and started again. Pieces of a streaming answer have no id: whoever
//!   missed them reads the whole message as an event.
//! - `POST /workers/NAME/cancel` is the only way to end the work: closing the page is not.
//!
//! `cargo run -p runtime --example embed_axum`, then
//! `curl -N localhost:3000/workers/desk/events` and
//! `curl localhost:3000/workers/desk/inputs --json '{"text": "Good day"}'`.

#![allow(clippy::print_stdout, reason = "an example shows what it gets")]

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::{Stream, StreamExt, stream};
use runtime::core::{Classified, ErrorClass, SessionId, SubmissionId, WireError};
use runtime::events::{Cursor, EventStream};
use runtime::prelude::*;
use serde::Deserialize;
use serde_json::json;

/// An error as a client sees it: its code and class, and the status that fits the class.
struct Refusal(WireError);

impl<E: Classified> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self(error.to_wire())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.0.class {
            ErrorClass::Invalid => StatusCode::BAD_REQUEST,
            ErrorClass::NotFound => StatusCode::NOT_FOUND,
            ErrorClass::Conflict => StatusCode::CONFLICT,
            ErrorClass::Gap => StatusCode::GONE,
            ErrorClass::Busy | ErrorClass::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(json!({ "error": self.0 }))).into_response()
    }
}

#[derive(Deserialize)]
struct Input {
    text: String,
    /// Names the input, so that sending it again does not repeat it.
    submission: Option<SubmissionId>,
}

async fn input(
    State(runtime): State<Runtime>,
    Path(worker): Path<String>,
    Json(input): Json<Input>,
) -> Result<Response, Refusal> {
    let worker = runtime.worker(&worker).await?;
    let receipt = match input.submission {
        Some(submission) => worker.submit(submission, &input.text).await?,
        None => worker.send(&input.text).await?,
    };
    // Accepted means stored: whatever happens now, it will be worked on.
    Ok((StatusCode::ACCEPTED, Json(receipt)).into_response())
}

async fn cancel(
    State(runtime): State<Runtime>,
    Path(worker): Path<String>,
) -> Result<Response, Refusal> {
    let reason = Some("asked for".to_owned());
    Ok(Json(runtime.cancel(&worker.parse()?, reason).await?).into_response())
}

async fn events(
    State(runtime): State<Runtime>,
    Path(worker): Path<String>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refusal> {
    let from = match headers.get("last-event-id") {
        None => None,
        Some(cursor) => Some(cursor.to_str().unwrap_or_default().parse::<Cursor>()?),
    };
    let session = SessionId::from(&worker.parse::<WorkerId>()?);
    let mut events = runtime.subscribe(Topic::Session { session }, from);
    // An unknown worker, or a cursor of another runtime, is refused with a status of its own.
    events.join().await?;
    Ok(Sse::new(server_sent(events)).keep_alive(KeepAlive::default()))
}

/// The events of a stream as a browser reads them. Dropping it ends the watching, never the work.
fn server_sent(events: EventStream) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(events, |mut events| async {
        let item = events.next().await?;
        let event = match item {
            Ok(StreamItem::Event(event)) => Event::default()
                .id(events.cursor().to_string())
                .event(event.kind().as_str())
                .json_data(&*event),
            Ok(StreamItem::Delta(delta)) => {
                let piece = json!({ "turn": delta.turn, "text": delta.text });
                Event::default().event("delta").json_data(piece)
            }
            Ok(StreamItem::Gap { oldest }) => Event::default()
                .event("gap")
                .json_data(json!({ "oldest": oldest })),
            Ok(_) => return Some((Ok(Event::default().comment("skipped")), events)),
            Err(error) => Event::default().event("error").json_data(error.to_wire()),
        };
        let event = event.expect("an event is plain data");
        Some((Ok(event), events))
    })
}

fn app(runtime: Runtime) -> Router {
    Router::new()
        .route("/workers/{worker}/inputs", post(input))
        .route("/workers/{worker}/events", get(events))
        .route("/workers/{worker}/cancel", post(cancel))
        .with_state(runtime)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = ScriptedModel::new("scripted", vec![ScriptStep::text("You said: {input}")]);
    let agent = Agent::builder("1", Arc::new(model)).build();
    let builder = runtime::builder().directory("./.embed").agent(agent);
    let runtime = builder.open().await?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://{}", listener.local_addr()?);
    // Closing the runtime ends every stream of events, and so every connection that reads one.
    let closing = runtime.clone();
    let shutdown = async move {
        let _ = tokio::signal::ctrl_c().await;
        let _ = closing.close().await;
    };
    let served = axum::serve(listener, app(runtime.clone())).with_graceful_shutdown(shutdown);
    served.await?;
    runtime.close().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::{Body, BodyDataStream};
    use axum::http::Request;
    use serde_json::Value;
    use tokio::sync::Semaphore;
    use tower::ServiceExt;

    use super::*;

    /// A tool that runs until the test lets it go on.
    fn agent(gate: &Arc<Semaphore>) -> Agent {
        #[derive(Deserialize, schemars::JsonSchema)]
        struct Nothing {}
        let gate = Arc::clone(gate);
        let wait = move |_: Nothing, _: ToolContext| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.expect("never closed").forget();
                Ok("waited".to_owned())
            }
        };
        let wait = FunctionTool::new("wait", "Waits.", wait).read_only();
        let steps = vec![
            ScriptStep::text("I wait.").tool_call("1", "wait", json!({})),
            ScriptStep::text("Done with {input}: {last_tool_result}."),
        ];
        let model = Arc::new(ScriptedModel::new("scripted", steps));
        Agent::builder("1", model).tool(Arc::new(wait)).build()
    }

    async fn open(folder: &std::path::Path, gate: &Arc<Semaphore>) -> Runtime {
        let builder = runtime::builder().directory(folder.join("store"));
        builder.agent(agent(gate)).open().await.expect("it opens")
    }

    async fn send(app: &Router, text: &str, submission: &str) -> Value {
        let body = json!({ "text": text, "submission": submission }).to_string();
        let request = Request::post("/workers/desk/inputs")
            .header("content-type", "application/json")
            .body(Body::from(body));
        let response = app.clone().oneshot(request.expect("a request")).await;
        let response = response.expect("it answers");
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        let bytes = axum::body::to_bytes(response.into_body(), 65_536).await;
        serde_json::from_slice(&bytes.expect("a body")).expect("JSON")
    }

    async fn follow(app: &Router, last: Option<&str>) -> Response {
        let mut request = Request::get("/workers/desk/events");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let request = request.body(Body::empty()).expect("a request");
        app.clone().oneshot(request).await.expect("it answers")
    }

    /// One browser: what it has read, event by event.
    struct Page {
        body: BodyDataStream,
        text: String,
    }

    impl Page {
        async fn open(app: &Router, last: Option<&str>) -> Self {
            let response = follow(app, last).await;
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers()["content-type"], "text/event-stream");
            Self {
                body: response.into_body().into_data_stream(),
                text: String::new(),
            }
        }

        /// The next event that has an id: (id, kind, data).
        async fn next(&mut self) -> (String, String, Value) {
            loop {
                while let Some((event, rest)) = self.text.split_once("\n\n") {
                    let field = |name: &str| {
                        let mut lines = event.lines();
                        let line =
                            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                        line.map(str::to_owned)
                    };
                    let (id, kind, data) = (field("id"), field("event"), field("data"));
                    self.text = rest.to_owned();
                    if let (Some(id), Some(kind), Some(data)) = (id, kind, data) {
                        return (id, kind, serde_json::from_str(&data).expect("JSON"));
                    }
                }
                let read = tokio::time::timeout(Duration::from_secs(30), self.body.next());
                let bytes = read.await.expect("an event comes").expect("it goes on");
                self.text += std::str::from_utf8(&bytes.expect("bytes")).expect("UTF-8");
            }
        }

        async fn until(&mut self, last: &str) -> Vec<(String, String, Value)> {
            let mut events = Vec::new();
            loop {
                events.push(self.next().await);
                if events.last().is_some_and(|(_, kind, _)| kind == last) {
                    return events;
                }
            }
        }
    }

    #[tokio::test]
    async fn v8_a_closed_page_cancels_nothing_and_goes_on_where_it_was() {
        let (folder, gate) = (tempfile::tempdir().unwrap(), Arc::new(Semaphore::new(0)));
        let runtime = open(folder.path(), &gate).await;
        let app = app(runtime.clone());
        send(&app, "one", "s-1").await;
        let mut page = Page::open(&app, None).await;
        let mut read = page.until("message_committed").await;
        // Closed in the middle of the turn, while a tool runs.
        drop(page);
        gate.add_permits(1);
        runtime.settled().await;
        let last = read.last().unwrap().0.clone();
        let mut page = Page::open(&app, Some(&last)).await;
        read.extend(page.until("turn_completed").await);
        let whole = Page::open(&app, None).await.until("turn_completed").await;
        assert_eq!(read, whole, "no event twice, none missing");
        let mut said = whole
            .iter()
            .filter(|(_, kind, _)| kind == "message_committed");
        assert!(
            said.next_back()
                .unwrap()
                .2
                .to_string()
                .contains("Done with one: waited.")
        );
        // The same submission again is the same turn.
        let again = send(&app, "one", "s-1").await;
        assert_eq!(again["repeated"], true);

        // From each id the rest is the rest, also after the server was started again.
        runtime.close().await.unwrap();
        let reopened = open(folder.path(), &gate).await;
        let app = super::app(reopened.clone());
        for at in 0..whole.len() - 1 {
            let mut page = Page::open(&app, Some(&whole[at].0)).await;
            assert_eq!(page.until("turn_completed").await, whole[at + 1..]);
        }
        reopened.close().await.unwrap();
    }

    #[tokio::test]
    async fn v6_a_wrong_last_event_id_is_refused_with_its_code() {
        let (folder, gate) = (tempfile::tempdir().unwrap(), Arc::new(Semaphore::new(9)));
        let runtime = open(folder.path(), &gate).await;
        let app = app(runtime.clone());
        send(&app, "one", "s-1").await;
        let other = runtime::builder().memory().agent(agent(&gate)).open().await;
        let other = other.expect("it opens");
        let foreign = other.cursor_from_start().to_string();
        for (last, code) in [
            ("nonsense", "cursor_malformed"),
            (&foreign, "cursor_other_runtime"),
        ] {
            let response = follow(&app, Some(last)).await;
            assert!(
                response.status().is_client_error(),
                "{last}: {}",
                response.status()
            );
            let body = axum::body::to_bytes(response.into_body(), 65_536)
                .await
                .unwrap();
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body["error"]["code"], code);
        }
        other.close().await.unwrap();
        runtime.close().await.unwrap();
    }

    #[tokio::test]
    async fn u3_closing_the_runtime_ends_every_page() {
        let (folder, gate) = (tempfile::tempdir().unwrap(), Arc::new(Semaphore::new(9)));
        let runtime = open(folder.path(), &gate).await;
        let app = app(runtime.clone());
        send(&app, "one", "s-1").await;
        let mut page = Page::open(&app, None).await;
        page.until("turn_completed").await;
        runtime.close().await.unwrap();
        let rest = tokio::time::timeout(Duration::from_secs(30), page.body.next()).await;
        assert!(rest.expect("it ends").is_none());
    }
}
