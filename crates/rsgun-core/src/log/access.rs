//! The access log as text: pure parts, apart from who writes them.

/// Largest write to a pipe that is atomic (`PIPE_BUF` on Linux), bytes.
pub(super) const PIPE_BUF: usize = 4096;

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
}
