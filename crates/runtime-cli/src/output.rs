//! What is printed: for people, or one JSON object per line.

use std::io::{self, IsTerminal, Write};

use runtime::core::{Classified, EventKind, RuntimeEvent, WireError};
use serde_json::{Value, json};

/// Where a command prints.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
    terminal: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            terminal: io::stdout().is_terminal(),
        }
    }

    /// Whether a person sits before it.
    pub(crate) fn is_interactive(self) -> bool {
        !self.json && self.terminal && io::stdin().is_terminal()
    }

    /// Prints one thing: a line for people, or its JSON.
    pub(crate) fn print(self, line: impl FnOnce() -> String, value: &Value) {
        if self.json {
            self.write(&value.to_string())
        } else {
            self.write(&line())
        }
    }

    /// Prints a line that only people need.
    pub(crate) fn say(self, line: &str) {
        if !self.json {
            self.write(line);
        }
    }

    /// Prints a part of a line that only people need.
    pub(crate) fn stream(self, text: &str) {
        if !self.json {
            let mut out = io::stdout().lock();
            let _ = out.write_all(text.as_bytes());
            let _ = out.flush();
        }
    }

    pub(crate) fn event(self, event: &RuntimeEvent) {
        self.print(|| event_line(event), &event_value(event));
    }

    pub(crate) fn error(self, error: &WireError) {
        if self.json {
            self.write(&json!({ "error": error }).to_string());
        } else {
            // Standard error may be closed; there is nobody left to tell.
            let _ = writeln!(io::stderr(), "error: {} [{}]", error.message, error.code);
        }
    }

    /// Writes a whole line at once. A reader that has gone ends the process quietly, as for any
    /// command in a pipe.
    fn write(self, line: &str) {
        let mut out = io::stdout().lock();
        if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
            std::process::exit(crate::exit::Exit::Error as i32);
        }
    }
}

/// The JSON of an event: `position`, `seq`, `turn` and `kind` are always there, null where an
/// event belongs to no turn.
pub(crate) fn event_value(event: &RuntimeEvent) -> Value {
    let mut value = json!(event);
    for member in ["seq", "turn"] {
        if value.get(member).is_none() {
            value[member] = Value::Null;
        }
    }
    value
}

/// The line of an event.
pub(crate) fn event_line(event: &RuntimeEvent) -> String {
    let place = format!("{:>5}  {:<22}", event.position, event.kind().as_str());
    let session = event
        .draft
        .session
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    let told = event.draft.message.clone().unwrap_or_else(|| told(event));
    format!("{place} {session:<8} {told}").trim_end().to_owned()
}

fn told(event: &RuntimeEvent) -> String {
    let payload = &event.draft.payload;
    let text = |pointer: &str| {
        payload
            .pointer(pointer)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let told = match event.kind() {
        EventKind::InputAccepted => text("/message/content/0/text"),
        EventKind::TurnParked => text("/park/reason"),
        EventKind::WorkerStatusChanged => text("/status"),
        EventKind::CommandRefused => text("/error/message"),
        _ => None,
    };
    told.unwrap_or_default()
}

/// The wire form of whatever a command failed with.
pub(crate) fn wire(error: &anyhow::Error) -> WireError {
    use runtime::core::ErrorClass;
    let classified = error.chain().find_map(|cause| {
        cause
            .downcast_ref::<runtime::RuntimeError>()
            .map(Classified::to_wire)
            .or_else(|| {
                cause
                    .downcast_ref::<runtime::OpenError>()
                    .map(Classified::to_wire)
            })
            .or_else(|| {
                cause
                    .downcast_ref::<crate::config::ConfigError>()
                    .map(Classified::to_wire)
            })
            .or_else(|| classified::<runtime::fs_store::MaintenanceError>(cause))
            .or_else(|| classified::<runtime::store::CommitError>(cause))
            .or_else(|| classified::<runtime::store::ReadError>(cause))
            .or_else(|| classified::<runtime::store::AttachmentError>(cause))
            .or_else(|| classified::<runtime::mcp_cache::ArchiveError>(cause))
            .or_else(|| classified::<runtime::mcp_cache::PinError>(cause))
            .or_else(|| cause.downcast_ref::<WireError>().cloned())
    });
    classified.unwrap_or_else(|| {
        WireError::new("command_failed", ErrorClass::Terminal, format!("{error:#}"))
    })
}

fn classified<E: Classified + std::error::Error + 'static>(
    cause: &(dyn std::error::Error + 'static),
) -> Option<WireError> {
    cause.downcast_ref::<E>().map(Classified::to_wire)
}
