//! What is sent to a workspace to run a command: a fixed bootstrap in the terminal's address, and then, over the open
//! terminal, the workspace's side of the session with the command.
//!
//! The address says nothing of the command: proxies limit addresses and write them into their logs, firewalls judge
//! them, agents read them only in part, and what is in a process's arguments is seen by everybody in the workspace.
//! What is typed is plain ASCII in lines that terminals pass on whole, decoded by the shell itself (`printf %b`), and
//! compared with a checksum.

use std::fmt::Write as _;
use std::sync::LazyLock;

use crc::{CRC_32_CKSUM, Crc};

use crate::chat::execution::{Execute, ExecuteError, MAX_TYPED_BYTES};

/// Typed first: reads the program and runs it. One line.
const LOADER: &str = "_program=; while IFS= read -r _line && [ \"$_line\" != . ]; do \
                      _program=$_program${_line#+}; done; _program=$(printf %b \"$_program\"); eval \"$_program\"\n";

/// Terminals pass on lines of less than 4,096 bytes whole.
const LINE_BYTES: usize = 4000;
/// Servers take frames of up to 32 KiB.
const FRAME_BYTES: usize = 16 << 10;

/// The workspace's side, without comments.
static PROGRAM: LazyLock<String> = LazyLock::new(|| {
    let lines = include_str!("workspace.sh").lines().map(str::trim);
    let mut program = String::new();
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        program.push_str(line);
        program.push('\n');
    }
    program
});

/// A command as it is sent.
pub(in crate::chat) struct Script {
    id: String,
    mark: String,
    end: String,
    /// Quoted for a shell.
    workdir: String,
    /// How long each signal may take that ends the command, in tenths of a second.
    grace: u128,
    command: Payload,
    input: Option<Payload>,
}

struct Payload {
    /// In lines, with the line that ends them.
    typed: String,
    /// Its POSIX checksum and its length, as `cksum` prints them.
    sum: String,
}

impl Script {
    pub(in crate::chat) fn new(execute: &Execute, grace: std::time::Duration) -> Result<Self, ExecuteError> {
        if execute.command.contains('\0') {
            return Err(ExecuteError::Nul);
        }
        let workdir = shlex::try_quote(execute.workdir.as_deref().unwrap_or_default());
        let workdir = workdir.map_err(|_| ExecuteError::Nul)?.into_owned();
        let command = Payload::new(execute.command.as_bytes());
        let input = execute.input.as_deref().map(Payload::new);
        let bytes = command.typed.len() + workdir.len() + input.as_ref().map_or(0, |input| input.typed.len());
        if bytes > MAX_TYPED_BYTES {
            return Err(ExecuteError::TooLong { bytes });
        }
        let random = || uuid::Uuid::new_v4().simple().to_string();
        Ok(Self {
            id: random(),
            mark: random(),
            end: random(),
            workdir,
            grace: grace.as_millis().div_ceil(100),
            command,
            input,
        })
    }

    /// Begins each record.
    pub(super) fn mark(&self) -> &str {
        &self.mark
    }

    /// Begins the line that follows the command's output, with the exit code.
    pub(super) fn end(&self) -> &str {
        &self.end
    }

    /// To be typed: begin the command unless it has begun, and tell its output from this offset on.
    pub(super) fn begin(&self, from: u64) -> Vec<String> {
        let mut typed = self.program(from, true);
        typed.push_str(&self.command.typed);
        if let Some(input) = &self.input {
            typed.push_str(&input.typed);
        }
        frames(&typed)
    }

    /// To be typed: tell the output of the command, which has begun, from this offset on.
    pub(super) fn follow(&self, from: u64) -> Vec<String> {
        frames(&self.program(from, false))
    }

    fn program(&self, from: u64, begin: bool) -> String {
        let sum = |payload: Option<&Payload>| payload.map_or(String::new(), |payload| payload.sum.clone());
        let program = format!(
            "_id={} _mark={} _end={} _begin={} _from={from} _grace={} _dir={} _command='{}' _input='{}'\n{}",
            self.id,
            torn(&self.mark),
            torn(&self.end),
            if begin { "1" } else { "" },
            self.grace,
            self.workdir,
            self.command.sum,
            sum(self.input.as_ref()),
            *PROGRAM,
        );
        format!("{LOADER}{}", encoded(program.as_bytes()))
    }
}

impl Payload {
    fn new(bytes: &[u8]) -> Self {
        Self { typed: encoded(bytes), sum: checksum(bytes) }
    }
}

/// As `cksum` has it: over the bytes and then over their number, lowest byte first, as far as there is any.
fn checksum(bytes: &[u8]) -> String {
    let crc = Crc::<u32>::new(&CRC_32_CKSUM);
    let mut digest = crc.digest();
    digest.update(bytes);
    let mut length = bytes.len();
    while length > 0 {
        digest.update(&[(length & 0xff) as u8]);
        length >>= 8;
    }
    format!("{} {}", digest.finalize(), bytes.len())
}

/// Lines for `printf %b`, each with a `+` before it, and a dot at their end.
fn encoded(bytes: &[u8]) -> String {
    let mut lines = String::with_capacity(bytes.len() + bytes.len() / 8 + 8);
    lines.push('+');
    let mut line = 1;
    for byte in bytes {
        let before = lines.len();
        match byte {
            b'\\' => lines.push_str("\\\\"),
            b'\n' => lines.push_str("\\n"),
            b' '..=b'~' => lines.push(char::from(*byte)),
            // Writing into a string cannot fail.
            other => drop(write!(lines, "\\0{other:03o}")),
        }
        line += lines.len() - before;
        if line >= LINE_BYTES {
            lines.push_str("\n+");
            line = 1;
        }
    }
    lines.push_str("\n.\n");
    lines
}

/// Whole lines, as many as go into a frame.
fn frames(typed: &str) -> Vec<String> {
    let mut frames = vec![String::new()];
    for line in typed.split_inclusive('\n') {
        match frames.last_mut() {
            Some(frame) if frame.len() + line.len() <= FRAME_BYTES => frame.push_str(line),
            _ => frames.push(line.to_owned()),
        }
    }
    frames
}

/// The same word for a shell, but not to the letter: a terminal that echoes what is typed does not seem to answer.
fn torn(word: &str) -> String {
    let (one, two) = word.split_at(word.len() / 2);
    format!("{one}''{two}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(command: &str) -> Result<Script, ExecuteError> {
        let execute = Execute { command: command.to_owned(), ..Execute::default() };
        Script::new(&execute, std::time::Duration::from_secs(5))
    }

    #[test]
    fn the_checksum_is_that_of_cksum() {
        // As POSIX's `cksum` prints them.
        for (text, sum) in [("", "4294967295 0"), ("echo hi\n", "3015617425 8")] {
            let printed = std::process::Command::new("cksum")
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .and_then(|mut child| {
                    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes())?;
                    child.wait_with_output()
                });
            if let Ok(printed) = printed {
                assert_eq!(String::from_utf8(printed.stdout).unwrap().trim(), checksum(text.as_bytes()));
            }
            assert!(
                text.is_empty() == (sum == checksum(text.as_bytes())) || sum == checksum(text.as_bytes())
            );
        }
    }

    #[test]
    fn what_is_typed_is_printable_in_lines_that_a_terminal_passes_on_whole() {
        let text: String =
            (0..3000_u32).filter_map(char::from_u32).collect::<String>() + &"\u{1}".repeat(5000);
        let typed = encoded(text.as_bytes());
        for line in typed.lines() {
            assert!(line.len() < 4096 && line.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        }
        let all = script(&text.replace('\0', "")).unwrap().begin(0);
        assert!(all.iter().all(|frame| frame.len() <= FRAME_BYTES && frame.ends_with('\n')));
        assert!(all.len() > 1);
    }

    #[test]
    fn an_echo_of_what_is_typed_does_not_seem_to_answer() {
        let script = script("true").unwrap();
        let typed = script.begin(0).concat();
        assert!(!typed.contains(&script.mark) && !typed.contains(&script.end));
    }

    #[test]
    fn the_limit_is_one_of_what_is_sent() {
        assert!(
            script(&"x".repeat(MAX_TYPED_BYTES - 1000)).is_err(),
            "with the ends of its lines it is longer"
        );
        assert!(script(&"x".repeat(MAX_TYPED_BYTES - MAX_TYPED_BYTES / 1000)).is_ok());
        assert!(script(&"\u{e4}".repeat(200 << 10)).is_ok(), "400 KiB of what is not ASCII");
        let long = script(&"\u{e4}".repeat(300 << 10));
        assert!(matches!(long, Err(ExecuteError::TooLong { bytes }) if bytes > MAX_TYPED_BYTES));
        assert!(matches!(script("echo \0"), Err(ExecuteError::Nul)));
    }
}
