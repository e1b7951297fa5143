//! One command in one terminal: wrapped so that its begin, its end and its exit code can be seen.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::bindings::Connection as Check;
use crate::chat::output::Reader;
use crate::chat::{Chat, ExecuteError, Executed};
use crate::control_plane::{ApiError, ControlPlane, MAX_COMMAND_BYTES, NewTerminal, Terminal};
use crate::driver::Call;
use crate::journal::{Export, Output};

/// Wide enough that no program wraps its lines.
const WIDTH: u16 = 250;
const HEIGHT: u16 = 50;
/// What a terminal turns into an interrupt for the command that runs in it.
const INTERRUPT: &str = "\u{3}";

/// A wrapped command. Opened again with the same script, a terminal attaches to the running command instead of running it
/// twice.
pub(super) struct Script {
    terminal: NewTerminal,
    start: String,
    end: String,
}

/// A command that has begun.
pub(super) struct Session {
    terminal: Box<dyn Terminal>,
    reader: Reader,
    /// The agent that it runs on.
    pub(super) agent: String,
    /// The exit code, if the command was over as soon as it had begun.
    exit_code: Option<i32>,
}

/// How a command ended.
pub(super) enum Ended {
    Exited(Executed),
    Interrupted,
    /// The connection did not last as long as the command. What it had put out.
    Lost(String),
}

impl Script {
    /// Wraps `command`: a start marker, the command run by the user's shell with its output piped, so that programs
    /// neither colour nor page it, and an end marker with the exit code.
    pub(super) fn new(command: &str, workdir: Option<&str>) -> Result<Self, ExecuteError> {
        if command.contains('\0') || workdir.is_some_and(|folder| folder.contains('\0')) {
            return Err(ExecuteError::Nul);
        }
        let mark = uuid::Uuid::new_v4().simple().to_string();
        let (start, end) = (format!("begin-{mark}"), format!("end-{mark}:"));
        let change = workdir.map(|folder| format!("cd -- {} && ", quoted_folder(folder))).unwrap_or_default();
        let run = format!("\"${{SHELL:-/bin/sh}}\" -c {} </dev/null", quoted(command));
        let script = format!(
            "{{ printf '%s\\n' {start}; {change}{run}; printf '\\n%s%d\\n' {end} \"$?\"; }} 2>&1 | cat"
        );
        let terminal = NewTerminal {
            session: uuid::Uuid::new_v4().to_string(),
            // Whatever shell the user has starts this one; the quoting means the same to all of them.
            command: format!("exec /bin/sh -c {}", quoted(&script)),
            height: HEIGHT,
            width: WIDTH,
        };
        match terminal.command_bytes() {
            bytes if bytes > MAX_COMMAND_BYTES => Err(ExecuteError::TooLong { bytes }),
            _ => Ok(Self { terminal, start, end }),
        }
    }

    /// Opens a terminal on the agent and waits for the command to begin. May wait for ever: a dead agent that still reads
    /// connected gives a terminal that stays silent.
    pub(super) async fn begin(&self, plane: &dyn ControlPlane, agent: &str) -> Result<Session, ApiError> {
        let mut terminal = plane.open_terminal(agent, &self.terminal).await?;
        let mut reader = Reader::new(&self.start, &self.end);
        loop {
            let Some(piece) = terminal.next().await? else {
                return Err(ApiError::Unavailable("the session ended before the command began".to_owned()));
            };
            let exit_code = reader.push(&piece);
            if reader.started() {
                return Ok(Session { terminal, reader, agent: agent.to_owned(), exit_code });
            }
        }
    }
}

impl Session {
    /// Waits for the command's end, at most `limit`. A command that says nothing for long has its agent looked at: a
    /// terminal whose agent has died stays open and silent.
    pub(super) async fn run(mut self, chat: &Chat, call: &Call, limit: Duration) -> Ended {
        let deadline = Instant::now() + limit;
        let silence = chat.driver.performer().timings().silence_check;
        let mut look = Instant::now() + silence;
        while self.exit_code.is_none() {
            tokio::select! {
                biased;
                () = call.interrupt().cancelled() => {
                    self.end().await;
                    return Ended::Interrupted;
                }
                piece = self.terminal.next() => match piece {
                    Ok(Some(piece)) => {
                        self.exit_code = self.reader.push(&piece);
                        look = Instant::now() + silence;
                    }
                    Ok(None) | Err(_) => return Ended::Lost(self.reader.output().0),
                },
                () = sleep_until(deadline) => {
                    self.end().await;
                    break;
                }
                () = sleep_until(look) => {
                    if must_redial(chat, call, &self.agent).await {
                        return Ended::Lost(self.reader.output().0);
                    }
                    look = Instant::now() + silence;
                }
            }
        }
        self.close().await;
        let (output, truncated) = self.reader.output();
        Ended::Exited(Executed { output, exit_code: self.exit_code, truncated })
    }

    /// Closes the terminal.
    pub(super) async fn close(&mut self) {
        self.terminal.close().await;
    }

    /// Asks the command to end, and closes the terminal.
    async fn end(&mut self) {
        // If it cannot be told, it goes on: it is out of reach.
        let _ = self.terminal.send(INTERRUPT).await;
        self.terminal.close().await;
    }
}

/// Whether the plugin says that a connection to this agent must be dropped. If it cannot be asked, the connection is kept.
pub(super) async fn must_redial(chat: &Chat, call: &Call, agent: &str) -> bool {
    let export = Export::CheckConnection { cached: agent.to_owned() };
    match chat.driver.drive(call, &export).await {
        Ok(Output::CheckConnection(check)) => check == Check::Redial,
        Ok(_) => false,
        Err(error) => {
            tracing::warn!(chat = chat.name, agent, %error, "the connection could not be checked");
            false
        }
    }
}

/// Quoted for POSIX shells and for fish alike: quotes and backslashes stand outside of the quotes.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("'");
    for character in text.chars() {
        match character {
            '\'' => quoted.push_str("'\\''"),
            '\\' => quoted.push_str("'\\\\'"),
            other => quoted.push(other),
        }
    }
    quoted.push('\'');
    quoted
}

/// A folder, with `~` and `~/` as the home folder.
fn quoted_folder(folder: &str) -> String {
    match folder.strip_prefix('~') {
        Some("") => "\"$HOME\"".to_owned(),
        Some(rest) if rest.starts_with('/') => format!("\"$HOME\"{}", quoted(rest)),
        // `cd -` is another folder.
        _ if folder.starts_with('-') => quoted(&format!("./{folder}")),
        _ => quoted(folder),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Runs the wrapped command as an agent would, with this shell.
    fn run(shell: &str, command: &str, workdir: Option<&str>) -> (Option<i32>, String) {
        let script = Script::new(command, workdir).unwrap();
        let shown =
            Command::new(shell).arg("-c").arg(&script.terminal.command).env("SHELL", shell).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&shown.stderr), "");
        let mut reader = Reader::new(&script.start, &script.end);
        let code = reader.push(&shown.stdout);
        (code, reader.output().0)
    }

    #[test]
    fn a_command_runs_with_its_quotes_backslashes_and_newlines_intact() {
        let command = "printf '%s|' 'a b' \"c'd\" 'e\\nf' \\\\\necho \"$((1+1))\"; exit 7";
        assert_eq!(run("/bin/sh", command, None), (Some(7), "a b|c'd|e\\nf|\\|2\n".into()));
    }

    #[test]
    fn both_streams_come_in_order() {
        assert_eq!(
            run("/bin/sh", "echo one; echo two >&2; echo three", None),
            (Some(0), "one\ntwo\nthree\n".into())
        );
    }

    #[test]
    fn a_folder_is_changed_to_first_and_a_missing_one_is_an_error_of_the_command() {
        assert_eq!(run("/bin/sh", "pwd", Some("/")), (Some(0), "/\n".into()));
        assert_eq!(quoted_folder("-"), "'./-'", "it is no option of `cd`");
        let (code, output) = run("/bin/sh", "echo ran", Some("/no such folder"));
        assert!(code.is_some_and(|code| code != 0) && !output.contains("ran"), "{code:?} {output}");
    }

    #[test]
    fn a_command_that_reads_input_finds_none_and_ends() {
        assert_eq!(run("/bin/sh", "cat; echo done", None), (Some(0), "done\n".into()));
    }

    #[test]
    fn the_markers_themselves_are_new_each_time() {
        let new = || Script::new("true", None).unwrap().end;
        assert_ne!(new(), new());
    }

    #[test]
    fn what_no_shell_can_be_given_is_refused_before_anything_is_dialled() {
        let new = |command: &str, workdir| Script::new(command, workdir).err();
        assert!(matches!(new("echo \0", None), Some(ExecuteError::Nul)));
        assert!(matches!(new("true", Some("/\0")), Some(ExecuteError::Nul)));
        assert!(new(&"x".repeat(MAX_COMMAND_BYTES - 1000), None).is_none());
        for long in ["x".repeat(MAX_COMMAND_BYTES), "'".repeat(MAX_COMMAND_BYTES / 30), "ä".repeat(20_000)] {
            assert!(
                matches!(new(&long, None), Some(ExecuteError::TooLong { bytes }) if bytes > MAX_COMMAND_BYTES)
            );
        }
    }
}
