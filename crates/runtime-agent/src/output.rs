//! Cutting a tool's output to what a model should read (T2).

use runtime_core::ContentPart;

/// How much of a tool's output the model sees; the whole stays in the attachment store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToolOutputLimits {
    /// Bytes of text, over all parts.
    pub bytes_max: usize,
    /// Lines of text, over all parts.
    pub lines_max: usize,
}

impl Default for ToolOutputLimits {
    fn default() -> Self {
        Self {
            bytes_max: 64 * 1024,
            lines_max: 2000,
        }
    }
}

/// What is left of an output, and the whole of its text if something was cut.
#[derive(Debug, PartialEq)]
pub(crate) struct CutOutput {
    pub(crate) content: Vec<ContentPart>,
    pub(crate) whole: Option<String>,
}

/// Keeps the text up to the limits, at a character's end, and every part that is not text.
pub(crate) fn cut(content: Vec<ContentPart>, limits: ToolOutputLimits) -> CutOutput {
    let texts = content.iter().filter_map(text).collect::<Vec<_>>();
    let bytes: usize = texts.iter().map(|text| text.len()).sum();
    let lines: usize = texts.iter().map(|text| text.lines().count()).sum();
    if bytes <= limits.bytes_max && lines <= limits.lines_max {
        return CutOutput {
            content,
            whole: None,
        };
    }
    let whole = texts.join("\n");
    let (mut bytes, mut lines) = (limits.bytes_max, limits.lines_max);
    let kept = content.into_iter().filter_map(|part| match part {
        ContentPart::Text { text } => {
            let text = head(&text, bytes, lines).to_owned();
            bytes -= text.len();
            lines -= text.lines().count();
            (!text.is_empty()).then_some(ContentPart::Text { text })
        }
        other => Some(other),
    });
    CutOutput {
        content: kept.collect(),
        whole: Some(whole),
    }
}

fn text(part: &ContentPart) -> Option<&str> {
    match part {
        ContentPart::Text { text } => Some(text),
        _ => None,
    }
}

/// The longest beginning of whole lines within both limits; of a first line that is too long
/// alone, the longest beginning of whole characters.
fn head(text: &str, bytes_max: usize, lines_max: usize) -> &str {
    let mut end = 0;
    for line in text.split_inclusive('\n').take(lines_max) {
        if end + line.len() > bytes_max {
            break;
        }
        end += line.len();
    }
    if end == 0 && lines_max > 0 {
        end = text.floor_char_boundary(bytes_max);
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(texts: &[&str]) -> Vec<ContentPart> {
        let part = |text: &&str| ContentPart::Text {
            text: (*text).to_owned(),
        };
        texts.iter().map(part).collect()
    }

    fn limits(bytes_max: usize, lines_max: usize) -> ToolOutputLimits {
        ToolOutputLimits {
            bytes_max,
            lines_max,
        }
    }

    #[test]
    fn an_output_within_the_limits_is_untouched() {
        let whole = cut(parts(&["a\nb", "c"]), limits(4, 3));
        assert_eq!(whole.content, parts(&["a\nb", "c"]));
        assert_eq!(whole.whole, None);
    }

    #[test]
    fn too_many_lines_are_cut_over_all_parts() {
        let output = cut(parts(&["a\nb\n", "c\nd"]), limits(100, 3));
        assert_eq!(output.content, parts(&["a\nb\n", "c\n"]));
        assert_eq!(output.whole.as_deref(), Some("a\nb\n\nc\nd"));
    }

    #[test]
    fn a_long_line_is_cut_at_the_end_of_a_character() {
        let output = cut(parts(&["äää"]), limits(3, 10));
        assert_eq!(output.content, parts(&["ä"]));
    }
}
