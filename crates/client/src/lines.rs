//! Output of a process, cut into lines for a log.

/// Longer lines are cut here: a log is for people.
const MAX_LINE_BYTES: usize = 8 * 1024;

/// What has come of a line that is not whole yet.
#[derive(Debug, Default)]
pub struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// Takes the next bytes and hands every line that is whole to `take`: trimmed, and only when something is left.
    pub fn push(&mut self, bytes: &[u8], mut take: impl FnMut(String)) {
        let mut parts = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            let room = MAX_LINE_BYTES.saturating_sub(self.begun.len());
            self.begun.extend_from_slice(&part[..part.len().min(room)]);
            if parts.peek().is_some() {
                self.finish(&mut take);
            }
        }
    }

    /// Hands out what is left at the end.
    pub fn finish(&mut self, mut take: impl FnMut(String)) {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.begun))
            .trim()
            .to_owned();
        if !line.is_empty() {
            take(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_trimmed_and_not_empty() {
        let (mut lines, mut got) = (Lines::default(), Vec::new());
        for piece in ["a", "b\n\n  c \r\n", "d", "\u{fffd}("] {
            lines.push(piece.as_bytes(), |line| got.push(line));
        }
        lines.finish(|line| got.push(line));
        assert_eq!(got[..2], ["ab", "c"]);
        assert!(got[2].starts_with('d'));
        lines.push(&vec![b'x'; 100_000], |_| panic!("no end yet"));
        lines.finish(|line| assert_eq!(line.len(), MAX_LINE_BYTES));
    }
}
