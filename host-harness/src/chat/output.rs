//! The output of a command: found between two markers in what a terminal shows, and cut from the middle if it is long.

use std::collections::VecDeque;

use crate::plain::plain;

/// Limit of a command's output, in bytes: the first and the last half of it are kept. About what a model can usefully read at
/// once; who needs more redirects it into a file and looks at pieces.
pub const MAX_OUTPUT_BYTES: usize = 32 * 1024;

const HALF: usize = MAX_OUTPUT_BYTES / 2;
/// Bytes looked at before the start marker: a shell's greetings are shorter.
const MAX_PREAMBLE: usize = 64 * 1024;

/// Takes a terminal's output piece by piece.
pub(super) struct Reader {
    start: Vec<u8>,
    end: Vec<u8>,
    started: bool,
    /// Not yet decided: may be part of a marker, or of a line end.
    held: Vec<u8>,
    kept: Kept,
}

impl Reader {
    /// For a command that prints `start` and a newline before its output, and a newline, `end`, its exit code and a
    /// newline after it.
    pub(super) fn new(start: &str, end: &str) -> Self {
        Self {
            start: format!("{start}\n").into_bytes(),
            end: format!("\n{end}").into_bytes(),
            started: false,
            held: Vec::new(),
            kept: Kept::default(),
        }
    }

    /// Takes the next piece. Answers the exit code once the end is seen.
    pub(super) fn push(&mut self, piece: &[u8]) -> Option<i32> {
        self.held.extend_from_slice(piece);
        normalise_line_ends(&mut self.held);
        if !self.started {
            let Some(at) = find(&self.held, &self.start) else {
                let excess = self.held.len().saturating_sub(MAX_PREAMBLE);
                self.held.drain(..excess);
                return None;
            };
            self.held.drain(..at + self.start.len());
            self.started = true;
        }
        if let Some(at) = find(&self.held, &self.end) {
            let code = &self.held[at + self.end.len()..];
            let length = code.iter().position(|byte| *byte == b'\n')?;
            let code = std::str::from_utf8(&code[..length]).ok().and_then(|code| code.parse().ok());
            self.held.truncate(at);
            self.kept.push(&std::mem::take(&mut self.held));
            // A marker without a number: the shell was replaced underneath. Nonzero, and none that a command returns.
            return Some(code.unwrap_or(-1));
        }
        // What may still become the end marker is held back.
        let decided = self.held.len().saturating_sub(self.end.len());
        self.kept.push(&self.held[..decided]);
        self.held.drain(..decided);
        None
    }

    /// Whether the start marker was seen.
    pub(super) fn started(&self) -> bool {
        self.started
    }

    /// What the command put out until now, and whether its middle was left out.
    pub(super) fn output(mut self) -> (String, bool) {
        self.kept.push(&self.held);
        self.kept.text()
    }
}

/// The first and the last half of what was pushed.
#[derive(Default)]
struct Kept {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    left_out: usize,
}

impl Kept {
    fn push(&mut self, bytes: &[u8]) {
        let to_head = bytes.len().min(HALF - self.head.len());
        self.head.extend_from_slice(&bytes[..to_head]);
        self.tail.extend(&bytes[to_head..]);
        let excess = self.tail.len().saturating_sub(HALF);
        self.tail.drain(..excess);
        self.left_out += excess;
    }

    fn text(self) -> (String, bool) {
        let tail = Vec::from(self.tail);
        if self.left_out == 0 {
            return (shown(&[self.head, tail].concat()), false);
        }
        let (head, tail) = (shown(&self.head), shown(&tail));
        (format!("{head}\n[... {} bytes left out ...]\n{tail}", self.left_out), true)
    }
}

fn shown(bytes: &[u8]) -> String {
    plain(&String::from_utf8_lossy(bytes))
}

/// Turns each `\r\n` into `\n`. A `\r` at the very end may be half of one and stays for the next time.
fn normalise_line_ends(bytes: &mut Vec<u8>) {
    let mut previous_return = false;
    let mut write = 0;
    for read in 0..bytes.len() {
        let byte = bytes[read];
        if byte == b'\n' && previous_return {
            write -= 1;
        }
        bytes[write] = byte;
        write += 1;
        previous_return = byte == b'\r';
    }
    bytes.truncate(write);
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]]) -> (Option<i32>, String, bool) {
        let mut reader = Reader::new("S", "E:");
        let mut code = None;
        for piece in pieces {
            code = code.or(reader.push(piece));
        }
        let (output, truncated) = reader.output();
        (code, output, truncated)
    }

    #[test]
    fn output_is_what_stands_between_the_markers() {
        assert_eq!(
            read(&[b"welcome\r\nS\r\nhi\r\nthere\r\n\r\nE:3\r\n"]),
            (Some(3), "hi\nthere\n".into(), false)
        );
    }

    #[test]
    fn the_newline_before_the_end_marker_is_not_output() {
        assert_eq!(read(&[b"S\r\nno newline\r\nE:0\r\n"]), (Some(0), "no newline".into(), false));
    }

    #[test]
    fn a_silent_command_has_no_output() {
        assert_eq!(read(&[b"S\r\n\r\nE:1\r\n"]), (Some(1), String::new(), false));
    }

    #[test]
    fn pieces_may_be_cut_anywhere() {
        let whole = b"S\r\na\r\nb\rc\r\n\r\nE:12\r\n";
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(read(&bytes), (Some(12), "a\nb\nc\n".into(), false));
    }

    #[test]
    fn an_unended_command_gives_what_it_put_out_so_far() {
        assert_eq!(read(&[b"S\r\nhalf\r\n\r\nE"]), (None, "half\n\nE".into(), false));
    }

    #[test]
    fn long_output_loses_its_middle_and_says_how_much() {
        let body = [vec![b'a'; HALF], vec![b'x'; 100], vec![b'b'; HALF]].concat();
        let (code, output, truncated) = read(&[b"S\n", &body, b"\nE:0\n"]);
        assert_eq!((code, truncated), (Some(0), true));
        assert!(output.contains("\n[... 100 bytes left out ...]\n"), "{}", &output[HALF - 5..HALF + 50]);
        assert!(output.starts_with('a') && output.ends_with('b') && !output.contains('x'));
    }

    #[test]
    fn what_only_tells_a_terminal_how_to_show_the_output_is_left_out() {
        let coloured = b"S\r\n\x1b[?2004h\x1b[1;31mred\x1b[0m \x1b]0;title\x07a\x1b]8;;http://x\x1b\\link\x08\x1b(B\tb\r50%\r\n\r\nE:0\r\n";
        assert_eq!(read(&[coloured]), (Some(0), "red alink\tb\n50%\n".into(), false));
        assert_eq!(read(&[b"S\ncut \x1b[3", b"1mhere\x1b", b"\nE:0\n"]), (Some(0), "cut here".into(), false));
    }

    #[test]
    fn output_of_exactly_the_limit_is_whole() {
        let body = vec![b'a'; MAX_OUTPUT_BYTES];
        let (_, output, truncated) = read(&[b"S\n", &body, b"\nE:0\n"]);
        assert_eq!((output.len(), truncated), (MAX_OUTPUT_BYTES, false));
    }
}
