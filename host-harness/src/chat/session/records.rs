//! What a session's terminal shows, taken apart: records of the workspace's side, and the command's output between
//! them.

use crate::greeting::find;

/// What the workspace's side says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// The command has begun, now or before.
    Begun,
    /// Output from this offset on follows.
    Output { from: u64, left_out: u64 },
    /// The command is over, and all its output was told. The exit code, if it was noted.
    Over(Option<i32>),
    /// Nothing is known of the session.
    Unknown,
    /// Another terminal follows the command now.
    TakenOver,
    /// What was sent arrived as something else.
    Garbled,
    /// The command cannot be run there.
    Refused(String),
    /// The terminal lives.
    Alive,
    /// The command was ended; whether something of it is left.
    Ended { left: bool },
    /// The command has not begun, and never will.
    NeverBegins,
}

/// A piece of what was shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Record(Record),
    Output(Vec<u8>),
}

/// Takes what a terminal shows piece by piece.
pub(super) struct Records {
    /// A newline and the mark.
    separator: Vec<u8>,
    /// Not yet decided: may be part of a separator, of a record or of a line end.
    held: Vec<u8>,
    /// Output is told. Before it, what is shown is of the shell and the terminal.
    output: bool,
}

impl Records {
    pub(super) fn new(mark: &str) -> Self {
        Self { separator: format!("\n{mark}").into_bytes(), held: Vec::new(), output: false }
    }

    pub(super) fn push(&mut self, piece: &[u8]) -> Vec<Shown> {
        self.held.extend_from_slice(piece);
        normalise_line_ends(&mut self.held);
        let mut shown = Vec::new();
        while let Some(at) = find(&self.held, &self.separator) {
            let begin = at + self.separator.len();
            let Some(length) = self.held[begin..].iter().position(|byte| *byte == b'\n') else {
                self.release(at, &mut shown);
                return shown;
            };
            let record = record(&self.held[begin..begin + length]);
            self.release(at, &mut shown);
            self.held.drain(..self.separator.len() + length + 1);
            if let Some(record) = record {
                // All others may come in the middle of output.
                self.output |= matches!(record, Record::Output { .. });
                shown.push(Shown::Record(record));
            }
        }
        let undecided = undecided(&self.held, &self.separator);
        self.release(self.held.len() - undecided, &mut shown);
        shown
    }

    fn release(&mut self, length: usize, shown: &mut Vec<Shown>) {
        let output: Vec<u8> = self.held.drain(..length).collect();
        if self.output && !output.is_empty() {
            shown.push(Shown::Output(output));
        }
    }
}

/// How many bytes at the end may become a separator, or are a `\r` that may be half of a line end.
fn undecided(held: &[u8], separator: &[u8]) -> usize {
    let longest = held.len().min(separator.len());
    let begun = (1..=longest).rev().find(|length| held.ends_with(&separator[..*length])).unwrap_or(0);
    begun.max(usize::from(held.ends_with(b"\r")))
}

/// A record, unless it is one that nobody knows.
fn record(line: &[u8]) -> Option<Record> {
    let line = String::from_utf8_lossy(line);
    let kind = line.chars().next()?;
    let rest = line[kind.len_utf8()..].trim();
    Some(match kind {
        'b' => Record::Begun,
        'c' => {
            let (from, left_out) = rest.split_once(' ')?;
            Record::Output { from: from.parse().ok()?, left_out: left_out.parse().ok()? }
        }
        'x' => Record::Over(rest.parse().ok()),
        'n' => Record::Unknown,
        't' => Record::TakenOver,
        'r' if rest == "garbled" => Record::Garbled,
        'r' => Record::Refused(rest.to_owned()),
        'p' => Record::Alive,
        'k' => Record::Ended { left: rest == "1" },
        'v' => Record::NeverBegins,
        _ => return None,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn output(text: &str) -> Shown {
        Shown::Output(text.as_bytes().to_vec())
    }

    /// All that is shown, with pieces of output joined.
    fn read(pieces: &[&[u8]]) -> Vec<Shown> {
        let mut records = Records::new("MARK");
        let mut joined: Vec<Shown> = Vec::new();
        for shown in pieces.iter().flat_map(|piece| records.push(piece)) {
            match (joined.last_mut(), shown) {
                (Some(Shown::Output(before)), Shown::Output(more)) => before.extend(more),
                (_, shown) => joined.push(shown),
            }
        }
        joined
    }

    const WHOLE: &[u8] =
        b"noise\r\n\r\nMARKb\r\n\r\nMARKc0 0\r\none\r\n\r\nMARKp7\r\ntwo\r\n\r\nMARKc8 5\r\n\r\nMARKx3\r\n";

    fn expected() -> Vec<Shown> {
        vec![
            Shown::Record(Record::Begun),
            Shown::Record(Record::Output { from: 0, left_out: 0 }),
            output("one\n"),
            Shown::Record(Record::Alive),
            output("two\n"),
            Shown::Record(Record::Output { from: 8, left_out: 5 }),
            Shown::Record(Record::Over(Some(3))),
        ]
    }

    #[test]
    fn records_and_the_output_between_them_are_told_apart() {
        assert_eq!(read(&[WHOLE]), expected());
    }

    #[test]
    fn pieces_may_be_cut_anywhere() {
        let bytes: Vec<&[u8]> = WHOLE.chunks(1).collect();
        assert_eq!(read(&bytes), expected());
        for cut in 0..WHOLE.len() {
            assert_eq!(read(&[&WHOLE[..cut], &WHOLE[cut..]]), expected(), "{cut}");
        }
    }

    #[test]
    fn output_is_held_back_only_as_far_as_it_may_be_something_else() {
        let mut records = Records::new("MARK");
        let mut last = |piece: &[u8]| records.push(piece).pop();
        assert!(matches!(last(b"\nMARKc0 0\n"), Some(Shown::Record(_))));
        assert_eq!(last(b"prompt:"), Some(output("prompt:")));
        assert_eq!(last(b"a\nMA"), Some(output("a")));
        assert_eq!(last(b"N\r"), Some(output("\nMAN")));
        assert_eq!(last(b"\n"), None);
        assert_eq!(last(b"."), Some(output("\n.")));
    }

    #[test]
    fn each_record_is_known() {
        for (line, wanted) in [
            ("n", Some(Record::Unknown)),
            ("t", Some(Record::TakenOver)),
            ("rgarbled", Some(Record::Garbled)),
            ("rit has no dd", Some(Record::Refused("it has no dd".into()))),
            ("k0", Some(Record::Ended { left: false })),
            ("k1", Some(Record::Ended { left: true })),
            ("v", Some(Record::NeverBegins)),
            ("x", Some(Record::Over(None))),
            ("c", None),
            ("cx 1", None),
            ("z", None),
            ("", None),
        ] {
            assert_eq!(record(line.as_bytes()), wanted, "{line}");
        }
    }
}
