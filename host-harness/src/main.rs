//! The program `workspace-recovery`.

use std::path::PathBuf;
use std::process::ExitCode;

use workspace_recovery::local::agent::{self, AgentOptions};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (Some(command), Some(folder)) = (args.next(), args.next()) else {
        eprintln!("usage: workspace-recovery agent FOLDER");
        return ExitCode::from(2);
    };
    if command != "agent" {
        eprintln!("unknown command {}: only `agent FOLDER` is known", command.display());
        return ExitCode::from(2);
    }
    match agent::run(AgentOptions { folder: PathBuf::from(folder) }).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
