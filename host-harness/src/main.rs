//! The program `workspace-recovery`; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    workspace_recovery::cli::main()
}
