//! The output of a command: put together from what terminals tell of it, and cut from the middle if it is long.

use std::collections::VecDeque;

use crate::greeting::find;
use crate::sanitize::sanitize;

/// Limit of a command's output, in bytes: the first and the last half of it are kept. About what a model can usefully
/// read at once; who needs more redirects it into a file and looks at pieces.
pub const MAX_OUTPUT_BYTES: usize = 32 * 1024;

const HALF: usize = MAX_OUTPUT_BYTES / 2;

/// Takes output in chunks, each of which begins at a known offset. A chunk counts as whole when the next one begins;
/// one that was cut is told anew.
pub(super) struct Output {
    /// A newline and what begins the line behind the output.
    end: Vec<u8>,
    kept: HeadAndTail,
    /// Not yet given to `kept`: the last of the whole chunks, which may be part of the end, and the newest chunk.
    held: Vec<u8>,
    /// How much of `held` is of whole chunks.
    whole: usize,
    /// Where the newest chunk begins.
    from: u64,
    /// The newest chunk was cut, and is told anew.
    cut: bool,
}

impl Output {
    /// Output that is followed by a newline, `end`, the exit code and a full stop.
    pub(super) fn new(end: &str) -> Self {
        let end = format!("\n{end}").into_bytes();
        Self { end, kept: HeadAndTail::default(), held: Vec::new(), whole: 0, from: 0, cut: false }
    }

    /// The connection was cut, or there was none yet: the offset from which on the output has to be told. What came
    /// after it is kept until it comes again.
    pub(super) fn cut(&mut self) -> u64 {
        self.cut = true;
        self.from
    }

    /// A chunk begins; so many bytes before it are left out.
    pub(super) fn chunk(&mut self, from: u64, left_out: u64) {
        if std::mem::take(&mut self.cut) {
            self.held.truncate(self.whole);
        }
        // What may still become the end is held back.
        let held = if left_out > 0 { 0 } else { self.end.len() + LONGEST_CODE };
        let decided = self.held.len().saturating_sub(held);
        self.kept.push(&self.held[..decided]);
        self.held.drain(..decided);
        self.kept.skip(left_out);
        self.whole = self.held.len();
        self.from = from;
    }

    /// More of the newest chunk. Answers the exit code once the end is seen.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Option<i32> {
        let seen = self.held.len().saturating_sub(self.end.len() + LONGEST_CODE);
        self.held.extend_from_slice(bytes);
        let at = seen + find(&self.held[seen..], &self.end)?;
        let code = &self.held[at + self.end.len()..];
        let length = code.iter().position(|byte| *byte == b'.')?;
        let code = std::str::from_utf8(&code[..length]).ok().and_then(|code| code.parse().ok());
        self.held.truncate(at);
        // An end without a number: nonzero, and none that a command returns.
        Some(code.unwrap_or(-1))
    }

    /// What the command put out until now, and whether its middle was left out.
    pub(super) fn text(&self) -> (String, bool) {
        let mut kept = self.kept.clone();
        kept.push(&self.held);
        kept.text()
    }
}

/// Digits of an exit code, and the full stop behind them.
const LONGEST_CODE: usize = 8;

/// The first and the last half of what was pushed.
#[derive(Clone, Default)]
struct HeadAndTail {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    left_out: u64,
}

impl HeadAndTail {
    fn push(&mut self, bytes: &[u8]) {
        let room = if self.left_out == 0 { HALF - self.head.len() } else { 0 };
        let to_head = bytes.len().min(room);
        self.head.extend_from_slice(&bytes[..to_head]);
        self.tail.extend(&bytes[to_head..]);
        let excess = self.tail.len().saturating_sub(HALF);
        self.leave_out(excess);
    }

    /// So many bytes came that are not known.
    fn skip(&mut self, bytes: u64) {
        if bytes > 0 {
            self.leave_out(self.tail.len());
            self.left_out += bytes;
        }
    }

    fn leave_out(&mut self, oldest: usize) {
        self.tail.drain(..oldest);
        self.left_out += oldest as u64;
    }

    fn text(self) -> (String, bool) {
        let tail = Vec::from(self.tail);
        if self.left_out == 0 {
            return (shown(&[self.head, tail].concat()), false);
        }
        // Characters stay whole at the cut.
        let head = &self.head[..whole_characters(&self.head)];
        let begin = tail.iter().take(MAX_CONTINUATION).take_while(|byte| **byte & 0xc0 == 0x80).count();
        let left_out = self.left_out + (self.head.len() - head.len() + begin) as u64;
        let (head, tail) = (shown(head), shown(&tail[begin..]));
        (format!("{head}\n[... {left_out} bytes left out ...]\n{tail}"), true)
    }
}

/// Bytes of a character of UTF-8 after its first one.
const MAX_CONTINUATION: usize = 3;

/// How many of the bytes are whole characters, if only the last one is cut.
fn whole_characters(bytes: &[u8]) -> usize {
    let begin = bytes.len().saturating_sub(MAX_CONTINUATION + 1);
    let lead = bytes[begin..].iter().rposition(|byte| byte & 0xc0 != 0x80);
    match lead.map(|at| &bytes[begin + at..]) {
        Some(last) if std::str::from_utf8(last).is_err_and(|error| error.error_len().is_none()) => {
            bytes.len() - last.len()
        }
        _ => bytes.len(),
    }
}

fn shown(bytes: &[u8]) -> String {
    sanitize(&String::from_utf8_lossy(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exit code and the output of chunks, all of which come whole.
    fn read(chunks: &[&[u8]]) -> (Option<i32>, String, bool) {
        let mut output = Output::new("E:");
        let (mut code, mut at) = (None, 0);
        for chunk in chunks {
            output.chunk(at, 0);
            code = output.push(chunk);
            if code.is_some() {
                break;
            }
            at += chunk.len() as u64;
        }
        let (text, truncated) = output.text();
        (code, text, truncated)
    }

    #[test]
    fn the_newline_before_the_end_is_not_output() {
        assert_eq!(read(&[b"no newline\nE:0.\n"]), (Some(0), "no newline".into(), false));
        assert_eq!(read(&[b"a line\n\nE:3.\n"]), (Some(3), "a line\n".into(), false));
        assert_eq!(read(&[b"\nE:1.\n"]), (Some(1), String::new(), false));
    }

    #[test]
    fn chunks_may_be_cut_anywhere() {
        let whole = b"a\nb\rc\n\nE:12.\n";
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(read(&bytes), (Some(12), "a\nb\nc\n".into(), false));
    }

    #[test]
    fn a_command_that_has_not_ended_gives_what_it_put_out_so_far() {
        assert_eq!(read(&[b"half\n\nE"]), (None, "half\n\nE".into(), false));
    }

    #[test]
    fn what_comes_after_the_end_is_not_output() {
        assert_eq!(
            read(&[b"mine\n\nE:0.\nof a process in the background\n"]),
            (Some(0), "mine\n".into(), false)
        );
    }

    #[test]
    fn a_chunk_that_was_cut_is_told_anew() {
        let mut output = Output::new("E:");
        output.chunk(0, 0);
        output.push(b"one\n");
        output.chunk(4, 0);
        output.push(b"tw");
        assert_eq!(output.text().0, "one\ntw", "all that is known");
        assert_eq!(output.cut(), 4);
        assert_eq!(output.text().0, "one\ntw", "until more is known");
        output.chunk(4, 0);
        assert_eq!(output.push(b"two\n\nE:0.\n"), Some(0));
        assert_eq!(output.text().0, "one\ntwo\n");
    }

    #[test]
    fn long_output_loses_its_middle_and_says_how_much() {
        let body = [vec![b'a'; HALF], vec![b'x'; 100], vec![b'b'; HALF], b"\nE:0.\n".to_vec()].concat();
        let (code, output, truncated) = read(&[&body]);
        assert_eq!((code, truncated), (Some(0), true));
        assert!(output.contains("\n[... 100 bytes left out ...]\n"), "{}", &output[HALF - 5..HALF + 50]);
        assert!(output.starts_with('a') && output.ends_with('b') && !output.contains('x'));
    }

    #[test]
    fn what_the_workspace_leaves_out_is_counted() {
        let mut output = Output::new("E:");
        output.chunk(0, 0);
        output.push(b"begin");
        output.chunk(5_000_000, 4_999_995);
        assert_eq!(output.push(b"end\nE:0.\n"), Some(0));
        assert_eq!(output.text(), ("begin\n[... 4999995 bytes left out ...]\nend".into(), true));
    }

    #[test]
    fn characters_stay_whole_at_the_cut() {
        // Each takes three bytes, which HALF is no multiple of.
        let body = ["\u{20ac}".repeat(HALF).as_bytes(), b"\nE:0.\n"].concat();
        let (_, output, truncated) = read(&[&body]);
        assert!(truncated && !output.contains('\u{fffd}'), "{output}");
        let left_out: usize =
            output.split("[... ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        let kept = output.matches('\u{20ac}').count() * 3;
        assert_eq!(kept + left_out, HALF * 3);
        for (bytes, whole) in
            [(&b"a\xe2\x82"[..], 1), (b"a\xe2\x82\xac", 4), (b"\xff\xff", 2), (b"", 0), (b"\x82", 1)]
        {
            assert_eq!(whole_characters(bytes), whole, "{bytes:?}");
        }
    }

    #[test]
    fn what_only_tells_a_terminal_how_to_show_the_output_is_left_out() {
        let coloured = b"\x1b[?2004h\x1b[1;31mred\x1b[0m \x1b]0;title\x07a\x1b]8;;http://x\x1b\\link\x08\x1b(B\tb\r50%\n\nE:0.\n";
        assert_eq!(read(&[coloured]), (Some(0), "red alink\tb\n50%\n".into(), false));
        assert_eq!(read(&[b"cut \x1b[3", b"1mhere\x1b", b"\nE:0.\n"]), (Some(0), "cut here".into(), false));
    }

    #[test]
    fn output_of_exactly_the_limit_is_whole() {
        let body = [vec![b'a'; MAX_OUTPUT_BYTES], b"\nE:0.\n".to_vec()].concat();
        let (_, output, truncated) = read(&[&body]);
        assert_eq!((output.len(), truncated), (MAX_OUTPUT_BYTES, false));
    }
}
