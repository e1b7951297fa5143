//! How a command ended, as an exit code.

use std::process::ExitCode;

/// How a command ended, as an exit code. The help text has the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done,
    Failed,
    Usage,
    Interrupted,
    /// `exec`: the command's own code, or one of 123 to 125.
    Command(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Interrupted => 130,
            Exit::Command(code) => code,
        })
    }
}
