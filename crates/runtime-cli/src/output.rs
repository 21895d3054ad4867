//! What is printed: for people, or one JSON object per line.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, SystemTime};

use runtime::core::{Classified, Clock, EventKind, RuntimeEvent, Timestamp, WireError};
use runtime::store::SystemClock;
use serde_json::{Value, json};

use crate::style::{ColourChoice, Paint, Tone};

/// Where a command prints.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
    terminal: bool,
    paint: Paint,
    /// For standard error, which may be somewhere else.
    paint_errors: Paint,
}

impl Output {
    pub(crate) fn new(json: bool, colour: ColourChoice) -> Self {
        Self {
            json,
            terminal: io::stdout().is_terminal(),
            paint: Paint(!json && colour.is_on(&io::stdout())),
            paint_errors: Paint(!json && colour.is_on(&io::stderr())),
        }
    }

    /// The colours of standard output.
    pub(crate) const fn paint(self) -> Paint {
        self.paint
    }

    /// Whether one JSON object per line is wanted.
    pub(crate) const fn is_json(self) -> bool {
        self.json
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
        self.print(|| event_line(event, self.paint), &event_value(event));
    }

    pub(crate) fn error(self, error: &WireError) {
        if self.json {
            self.write(&json!({ "error": error }).to_string());
        } else {
            // Standard error may be closed; there is nobody left to tell.
            let word = self.paint_errors.text(Tone::Bad, "error:");
            let code = self
                .paint_errors
                .text(Tone::Faint, format!("[{}]", error.code));
            let _ = writeln!(io::stderr(), "{word} {} {code}", error.message);
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
pub(crate) fn event_line(event: &RuntimeEvent, paint: Paint) -> String {
    let kind = event.kind();
    let place = paint.text(Tone::Faint, format!("{:>5}", event.position));
    let name = paint.text(Tone::of(kind), format!("{:<22}", kind.as_str()));
    let session = event.draft.session.as_ref();
    let session = session.map(ToString::to_string).unwrap_or_default();
    let told = told(event).or_else(|| event.draft.message.clone());
    let told = told.unwrap_or_default();
    format!("{place}  {name} {session:<8} {told}")
        .trim_end()
        .to_owned()
}

/// What an event tells beside its kind, where its payload has more to say than its message.
fn told(event: &RuntimeEvent) -> Option<String> {
    let payload = &event.draft.payload;
    let text = |pointer: &str| {
        payload
            .pointer(pointer)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let failed = |place: &str| {
        let message = text(&format!("{place}/message"))?;
        Some(format!("{message} [{}]", text(&format!("{place}/code"))?))
    };
    match event.kind() {
        EventKind::EffectAttemptFailed => {
            let (attempt, why) = (payload["attempt"].as_u64()?, failed("/error")?);
            Some(format!(
                "attempt {attempt} failed, it is tried again: {why}"
            ))
        }
        EventKind::ModelCallFailed => failed("/outcome/value"),
        EventKind::TurnFailed => failed("/error"),
        EventKind::InputAccepted => text("/message/content/0/text"),
        EventKind::TurnParked => text("/park/reason"),
        EventKind::WorkerStatusChanged => text("/status"),
        EventKind::CommandRefused => text("/error/message"),
        _ => None,
    }
}

/// A time as people and programs read it.
pub(crate) fn when(at: Timestamp) -> String {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(at.as_millis());
    let mut text = String::new();
    match write!(text, "{}", humantime::format_rfc3339_seconds(at)) {
        Ok(()) => text,
        // Such a year has no form there: the end of time, say, as far as a deadline may be off.
        Err(fmt::Error) => "after the year 9999".to_owned(),
    }
}

/// A time that is over, and how long that is ago.
pub(crate) fn since(at: Timestamp) -> String {
    format!("{} ({} ago)", when(at), ago(at, SystemClock::new().now()))
}

/// How long a time is over.
pub(crate) fn ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.since(at).as_secs();
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
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
            .or_else(|| classified::<runtime::postgres::TransferError>(cause))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// U4: whatever time is stored can be shown, from the beginning to the end of time.
    #[test]
    fn u4_any_time_can_be_shown() {
        let shown = |millis| when(Timestamp::from_millis(millis));
        assert_eq!(shown(0), "1970-01-01T00:00:00Z");
        assert_eq!(shown(253_402_300_799_999), "9999-12-31T23:59:59Z");
        for late in [253_402_300_800_000, u64::MAX] {
            assert_eq!(shown(late), "after the year 9999");
        }
        let long = ago(Timestamp::default(), Timestamp::from_millis(u64::MAX));
        assert!(long.ends_with('s'), "{long}");
    }
}
