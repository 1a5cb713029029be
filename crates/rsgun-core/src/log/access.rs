//! The access log as text: pure parts, apart from who writes them.

/// Largest write to a pipe that is atomic (`PIPE_BUF` on Linux), bytes.
pub(super) const PIPE_BUF: usize = 4096;

/// How much of a method and target the error log shows, bytes.
const NAME_BYTES: usize = 200;

/// How many bytes of `lines` to write at once: as many whole lines as stay atomic on
/// a pipe, at least one.
pub(super) fn whole_lines(lines: &[u8]) -> usize {
    let atomic = &lines[..lines.len().min(PIPE_BUF)];
    let end = atomic
        .iter()
        .rposition(|byte| *byte == b'\n')
        .or_else(|| lines.iter().position(|byte| *byte == b'\n'));
    end.map_or(lines.len(), |position| position + 1)
}

/// Makes control characters and quotes harmless in a terminal and for parsers.
#[must_use]
pub fn escape(text: &str) -> std::borrow::Cow<'_, str> {
    if text
        .bytes()
        .all(|byte| (0x20..0x7f).contains(&byte) && byte != b'"')
    {
        return text.into();
    }
    text.escape_debug().to_string().into()
}

/// What the error log calls a request by its method and target: harmless, and cut, since
/// a target may be as long as a head.
#[must_use]
pub fn name(request: &str) -> String {
    let mut cut = request.len().min(NAME_BYTES);
    while !request.is_char_boundary(cut) {
        cut -= 1;
    }
    let (shown, rest) = request.split_at(cut);
    let dots = if rest.is_empty() { "" } else { "..." };
    format!("{}{dots}", escape(shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_end_at_a_line_end_and_fit_a_pipe() {
        let line = format!("{}\n", "x".repeat(99));
        let lines = line.repeat(60);
        assert_eq!(whole_lines(lines.as_bytes()), 4000);
        assert_eq!(whole_lines(&lines.as_bytes()[4000..]), 2000);
        let long = format!("{}\nshort\n", "y".repeat(5000));
        assert_eq!(whole_lines(long.as_bytes()), 5001);
    }

    #[test]
    fn a_hostile_target_stays_on_its_line() {
        assert_eq!(escape("GET /a\x1b[2J\n\""), "GET /a\\u{1b}[2J\\n\\\"");
        assert_eq!(escape("GET /plain?x=1"), "GET /plain?x=1");
    }

    #[test]
    fn a_long_target_is_cut_between_characters() {
        assert_eq!(name("GET /plain?x=1"), "GET /plain?x=1");
        assert_eq!(name("GET /a\n"), "GET /a\\n");
        let long = format!("GET /{}", "\u{e9}".repeat(200));
        assert_eq!(name(&long), format!("GET /{}...", "\u{e9}".repeat(97)));
    }
}
