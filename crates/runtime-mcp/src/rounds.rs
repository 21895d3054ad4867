//! What a call that is not over leaves behind, and what goes back to the server: pure.
//!
//! A server may ask for input in the middle of a call, or turn the call into a task. Either way
//! the call parks; what is needed to go on is recorded with it, so that another process can.

use runtime_core::{Resolution, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::words;

/// The rounds of input of one call; a server that asks for ever is cut off.
pub(crate) const ROUNDS_MAX: u32 = 16;
/// The requests of one round.
const REQUESTS_MAX: usize = 16;
/// The bytes of what a round leaves behind; it is recorded in the log.
const STATE_BYTES_MAX: usize = 64 * 1024;
/// The pauses between two looks at a task: what the server says, within these.
const POLL_MIN_MS: u64 = 250;
const POLL_MAX_MS: u64 = 60_000;
const POLL_DEFAULT_MS: u64 = 2_000;

/// What is recorded of a call that goes on later.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
pub(crate) enum Left {
    /// The newer era: the call is made again with the answers and what the server left with us.
    Round {
        round: u32,
        requests: Map<String, Value>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        state: Option<String>,
    },
    /// The older era: the call is still open on its connection, in this process only.
    Held {
        flight: String,
        round: u32,
        requests: Map<String, Value>,
    },
    /// A task: looked at again and again.
    Task {
        id: String,
        until: Timestamp,
        round: u32,
        /// What the task asks, if it does.
        #[serde(default, skip_serializing_if = "Map::is_empty")]
        requests: Map<String, Value>,
    },
}

/// Why what a server asks cannot be asked of anybody.
pub(crate) type Unaskable = &'static str;

/// Reads what a round asks.
pub(crate) fn requests(asked: Option<&Value>) -> Result<Map<String, Value>, Unaskable> {
    let requests = match asked {
        None | Some(Value::Null) => return Ok(Map::new()),
        Some(Value::Object(requests)) => requests,
        Some(_) => return Err("what it asks for is not an object"),
    };
    if requests.len() > REQUESTS_MAX {
        return Err("it asks for too much at once");
    }
    let is_form = |request: &Value| {
        let mode = request.pointer("/params/mode").and_then(Value::as_str);
        request["method"] == "elicitation/create" && matches!(mode, None | Some("form"))
    };
    if !requests.values().all(is_form) {
        return Err("it asks for something that this client does not offer");
    }
    let state = Value::Object(requests.clone());
    if state.to_string().len() > STATE_BYTES_MAX {
        return Err("what it asks for is too long");
    }
    Ok(requests.clone())
}

/// Reads what the server leaves with us between two rounds.
pub(crate) fn request_state(result: &Value) -> Result<Option<String>, Unaskable> {
    match result.get("requestState") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(state)) if state.len() <= STATE_BYTES_MAX => Ok(Some(state.clone())),
        Some(_) => Err("what it leaves with us is not a text, or too long"),
    }
}

/// Puts what is asked in words, for those who answer. The server's words are quoted as such.
pub(crate) fn question(server: &str, requests: &Map<String, Value>) -> String {
    let asked = requests.iter().map(|(key, request)| {
        let message = request.pointer("/params/message").and_then(Value::as_str);
        let properties = request.pointer("/params/requestedSchema/properties");
        let names = properties.and_then(Value::as_object);
        let mut names: Vec<&str> = names
            .into_iter()
            .flatten()
            .map(|(n, _)| n.as_str())
            .collect();
        // The order of a map depends on features of serde_json that any crate may switch on.
        names.sort_unstable();
        let label = if requests.len() > 1 {
            format!("{}: ", words(key))
        } else {
            String::new()
        };
        format!(
            "{label}\"{}\" ({})",
            words(message.unwrap_or_default()),
            words(&names.join(", "))
        )
    });
    let asked: Vec<String> = asked.collect();
    format!("{} asks {}", words(server), asked.join("; "))
}

/// Makes the answers to what was asked from the end of the wait.
///
/// One request: the value answers it. Several: the value has a member for each. An answer is
/// `{"action": "accept", "content": {…}}`, `{"action": "decline"}` or `{"action": "cancel"}`; an
/// object without an action is the content of an accepted one. What the content leaves out and
/// the server has a default for is filled in.
///
/// # Errors
/// Why the value answers nothing; it is asked for again.
pub(crate) fn answers(
    requests: &Map<String, Value>,
    resolution: &Resolution,
) -> Result<Map<String, Value>, String> {
    let Resolution::Ok { value } = resolution else {
        let cancelled = |key: &String| (key.clone(), json!({"action": "cancel"}));
        return Ok(requests.keys().map(cancelled).collect());
    };
    let mut answers = Map::new();
    for (key, request) in requests {
        let keyed = value.as_object().filter(|members| {
            !members.contains_key("action")
                && members.keys().all(|name| requests.contains_key(name))
        });
        let given = match (keyed.and_then(|members| members.get(key)), requests.len()) {
            (Some(given), _) => given,
            (None, 1) => value,
            (None, _) => return Err(format!("an answer to {key:?} is missing")),
        };
        answers.insert(key.clone(), answer(request, given)?);
    }
    Ok(answers)
}

fn answer(request: &Value, given: &Value) -> Result<Value, String> {
    let word = |action: &str| match action {
        "accept" | "decline" | "cancel" => Ok(action.to_owned()),
        other => Err(format!(
            "{other:?} is no action; use accept, decline or cancel"
        )),
    };
    let (action, content) = match given {
        Value::String(action) => (word(action)?, None),
        Value::Object(members) => match members.get("action") {
            None => ("accept".to_owned(), Some(given.clone())),
            Some(Value::String(action)) => (word(action)?, members.get("content").cloned()),
            Some(_) => return Err("its action is not a text".to_owned()),
        },
        _ => return Err("it is neither an action nor the fields that are asked for".to_owned()),
    };
    if action != "accept" {
        return Ok(json!({ "action": action }));
    }
    let mut content = match content {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(content)) => content,
        Some(_) => return Err("its content is not an object".to_owned()),
    };
    let schema = request.pointer("/params/requestedSchema");
    let schema = schema.unwrap_or(&Value::Null);
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, property) in properties.into_iter().flatten() {
        if let (false, Some(default)) = (content.contains_key(name), property.get("default")) {
            content.insert(name.clone(), default.clone());
        }
    }
    let required = schema.get("required").and_then(Value::as_array);
    let mut required = required.into_iter().flatten().filter_map(Value::as_str);
    if let Some(missing) = required.find(|name| !content.contains_key(*name)) {
        return Err(format!("{missing:?} is missing"));
    }
    Ok(json!({"action": "accept", "content": content}))
}

/// What a task says of itself.
#[derive(Debug, PartialEq)]
pub(crate) enum TaskNow {
    /// Look again after so many milliseconds.
    Working { poll_ms: u64 },
    /// It asks for this.
    Asks(Map<String, Value>),
    /// This is the result of the call.
    Completed(Value),
    /// It is over without a result.
    Over(String),
}

/// Reads the state of a task.
pub(crate) fn task_now(task: &Value) -> Result<TaskNow, Unaskable> {
    let said = task.get("statusMessage").and_then(Value::as_str);
    let over = |what: &str| {
        TaskNow::Over(match said {
            Some(said) => format!("{what}: {}", words(said)),
            None => what.to_owned(),
        })
    };
    Ok(match task.get("status").and_then(Value::as_str) {
        Some("working") => TaskNow::Working {
            poll_ms: poll_ms(task),
        },
        Some("input_required") => TaskNow::Asks(requests(task.get("inputRequests"))?),
        Some("completed") => TaskNow::Completed(task.get("result").cloned().unwrap_or_default()),
        Some("failed") => {
            let message = task.pointer("/error/message").and_then(Value::as_str);
            match message {
                Some(message) => TaskNow::Over(format!("its task failed: {}", words(message))),
                None => over("its task failed"),
            }
        }
        Some("cancelled") => over("its task was cancelled"),
        _ => return Err("its task is in no state that is known"),
    })
}

fn poll_ms(task: &Value) -> u64 {
    let asked = task.get("pollIntervalMs").and_then(Value::as_u64);
    asked
        .unwrap_or(POLL_DEFAULT_MS)
        .clamp(POLL_MIN_MS, POLL_MAX_MS)
}

/// Reads the id of a task.
pub(crate) fn task_id(result: &Value) -> Option<String> {
    let id = result.get("taskId").and_then(Value::as_str)?;
    (!id.is_empty() && id.len() <= 4096).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(schema: Value) -> Value {
        json!({"method": "elicitation/create", "params": {
            "message": "Who\u{1b}[8m?", "requestedSchema": schema,
        }})
    }

    fn one() -> Map<String, Value> {
        let schema = json!({"properties": {
            "name": {"type": "string"},
            "city": {"type": "string", "default": "Bern"},
        }, "required": ["name"]});
        requests(Some(&json!({"who": form(schema)}))).expect("a form")
    }

    fn ok(value: Value) -> Resolution {
        Resolution::Ok { value }
    }

    #[test]
    fn m9_an_answer_may_be_short_and_defaults_are_filled_in() {
        let full = json!({"who": {"action": "accept", "content": {"name": "Ada", "city": "Bern"}}});
        for short in [
            json!({"name": "Ada"}),
            json!({"action": "accept", "content": {"name": "Ada"}}),
            json!({"who": {"name": "Ada"}}),
            json!({"who": {"action": "accept", "content": {"name": "Ada", "city": "Bern"}}}),
        ] {
            let answers = answers(&one(), &ok(short.clone()));
            assert_eq!(answers.map(Value::Object), Ok(full.clone()), "{short}");
        }
        let declined = json!({"who": {"action": "decline"}});
        for no in [
            json!("decline"),
            json!({"action": "decline"}),
            declined.clone(),
        ] {
            assert_eq!(
                answers(&one(), &ok(no)).map(Value::Object),
                Ok(declined.clone())
            );
        }
        for end in [Resolution::Timeout, Resolution::Cancelled] {
            let cancelled = json!({"who": {"action": "cancel"}});
            assert_eq!(answers(&one(), &end).map(Value::Object), Ok(cancelled));
        }
    }

    #[test]
    fn m9_an_answer_that_is_none_is_asked_for_again() {
        for wrong in [
            json!(3),
            json!("maybe"),
            json!({"action": "perhaps"}),
            json!({"action": 1}),
            json!({"action": "accept", "content": []}),
            json!({"city": "Basel"}),
        ] {
            assert!(answers(&one(), &ok(wrong.clone())).is_err(), "{wrong}");
        }
        let mut two = one();
        two.insert("other".to_owned(), form(json!({})));
        assert!(answers(&two, &ok(json!({"name": "Ada"}))).is_err());
        let both = json!({"who": {"name": "Ada"}, "other": "decline"});
        assert_eq!(answers(&two, &ok(both)).expect("both").len(), 2);
    }

    #[test]
    fn x4_what_cannot_be_asked_of_a_person_is_refused() {
        let long = "x".repeat(STATE_BYTES_MAX);
        let many: Map<String, Value> = (0..=REQUESTS_MAX)
            .map(|n| (n.to_string(), form(json!({}))))
            .collect();
        for wrong in [
            json!([]),
            json!({"a": {"method": "sampling/createMessage", "params": {}}}),
            json!({"a": {"method": "roots/list"}}),
            json!({"a": {"method": "elicitation/create", "params": {"mode": "url"}}}),
            json!({"a": form(json!({"title": long}))}),
            Value::Object(many),
        ] {
            assert!(requests(Some(&wrong)).is_err());
        }
        assert!(request_state(&json!({"requestState": 3})).is_err());
        assert!(request_state(&json!({ "requestState": long + "y" })).is_err());
        assert_eq!(question("s", &one()), "s asks \"Who [8m?\" (city, name)");
    }

    #[test]
    fn m9_a_task_tells_when_to_look_again() {
        let working = |poll: Value| task_now(&json!({"status": "working", "pollIntervalMs": poll}));
        let polls = [
            (json!(0), 250),
            (json!(5_000), 5_000),
            (json!(u64::MAX), 60_000),
            (json!("x"), 2_000),
        ];
        for (said, poll_ms) in polls {
            assert_eq!(working(said), Ok(TaskNow::Working { poll_ms }));
        }
        assert!(task_now(&json!({"status": "dreaming"})).is_err());
        assert!(task_now(&json!({})).is_err());
        let failed = task_now(&json!({"status": "failed", "error": {"message": "no\u{7} disk"}}));
        assert_eq!(
            failed,
            Ok(TaskNow::Over("its task failed: no  disk".to_owned()))
        );
    }
}
