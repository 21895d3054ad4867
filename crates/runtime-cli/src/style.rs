//! Colours: what a word means, and whether the place where it is printed can show that.

use std::io::IsTerminal;

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use runtime::core::EventKind;

/// When colours are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColourChoice {
    /// On a terminal, unless `NO_COLOR` is set or `TERM` is `dumb`.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl ColourChoice {
    /// Decides for a place.
    pub(crate) fn is_on(self, place: &impl IsTerminal) -> bool {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => place.is_terminal() && !set("NO_COLOR") && !dumb,
        }
    }
}

/// What a piece of text means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Only for who looks closely.
    Faint,
    /// A name.
    Strong,
    /// It went well.
    Good,
    /// Somebody should look.
    Notice,
    /// It went wrong.
    Bad,
    /// What a model or a tool does.
    Work,
}

impl Tone {
    const fn style(self) -> Style {
        let style = Style::new();
        match self {
            Self::Faint => style.dimmed(),
            Self::Strong => style.bold(),
            Self::Good => style.fg_color(Some(anstyle::Color::Ansi(AnsiColor::Green))),
            Self::Notice => style.fg_color(Some(anstyle::Color::Ansi(AnsiColor::Yellow))),
            Self::Bad => style.fg_color(Some(anstyle::Color::Ansi(AnsiColor::Red))),
            Self::Work => style.fg_color(Some(anstyle::Color::Ansi(AnsiColor::Cyan))),
        }
    }

    /// What an event means.
    pub(crate) fn of(kind: &EventKind) -> Self {
        let name = kind.as_str();
        let ends = |words: &[&str]| words.iter().any(|word| name.ends_with(word));
        if ends(&["failed", "refused", "cancelled", "detected", "exhausted"]) {
            Self::Bad
        } else if ends(&["parked", "requested", "in_doubt", "diagnostic"]) {
            Self::Notice
        } else if *kind == EventKind::TurnCompleted {
            Self::Good
        } else if name.starts_with("model")
            || name.starts_with("tool")
            || name.starts_with("message")
        {
            Self::Work
        } else {
            Self::Strong
        }
    }
}

/// Puts colours around words, where they are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Paint(pub(crate) bool);

impl Paint {
    /// The text as it is meant.
    pub(crate) fn text(self, tone: Tone, text: impl AsRef<str>) -> String {
        let text = text.as_ref();
        if !self.0 || text.is_empty() {
            return text.to_owned();
        }
        let style = tone.style();
        format!("{style}{text}{style:#}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_coloured_where_that_is_wanted_and_nowhere_else() {
        assert_eq!(Paint(false).text(Tone::Bad, "no"), "no");
        assert_eq!(Paint(true).text(Tone::Bad, "no"), "\u{1b}[31mno\u{1b}[0m");
        assert_eq!(Paint(true).text(Tone::Bad, ""), "");
        assert!(ColourChoice::Always.is_on(&std::io::stdout()));
        assert!(!ColourChoice::Never.is_on(&std::io::stdout()));
    }

    #[test]
    fn an_event_is_coloured_by_what_it_means() {
        assert_eq!(Tone::of(&EventKind::TurnFailed), Tone::Bad);
        assert_eq!(Tone::of(&EventKind::TurnParked), Tone::Notice);
        assert_eq!(Tone::of(&EventKind::ApprovalRequested), Tone::Notice);
        assert_eq!(Tone::of(&EventKind::TurnCompleted), Tone::Good);
        assert_eq!(Tone::of(&EventKind::ToolCallFinished), Tone::Work);
    }
}
