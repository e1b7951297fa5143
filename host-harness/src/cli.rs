//! The command line: parses, wires the library's parts together, prints, and chooses the exit code.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use args::{ChatCommand, Cli, Command, LocalCommand, PluginCommand};
use exit::Exit;
use output::Output;

mod args;
mod calls;
mod chats;
mod context;
mod demo;
mod deployment;
mod doctor;
mod events;
mod exit;
mod hosts;
mod local;
mod mcp;
mod output;
mod paths;
mod plugins;
mod recordings;
mod reference;
mod signals;
mod simulate;
mod timeline;
mod workspaces;

/// Runs the program: parses its arguments, does what they say, and answers the exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(&cli.command);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::notice(&format!("error: the asynchronous runtime cannot start: {error}"));
            return Exit::Failed.into();
        }
    };
    let failed = if matches!(cli.command, Command::Exec(_)) {
        Exit::Command(chats::EXEC_FAILED)
    } else {
        Exit::Failed
    };
    let exit = runtime.block_on(run(cli)).unwrap_or_else(|error| {
        output::notice(&format!("error: {error:#}"));
        failed
    });
    // A task that still waits, such as a call that goes on by itself, must not hold the process up.
    runtime.shutdown_background();
    exit.into()
}

async fn run(cli: Cli) -> anyhow::Result<Exit> {
    let output = Output { json: cli.json };
    // These are about the program itself, and need no folder.
    match &cli.command {
        Command::Completions { shell } => return reference::completions(*shell),
        Command::Man { folder } => return reference::man(folder.as_deref()),
        _ => {}
    }
    let context =
        context::CommandContext::new(cli.data, cli.plugin, cli.shorten_times, cli.deployment.deployment())?;
    if works_with_calls(&cli.command) {
        hosts::adopt_orphans(&context).await?;
    }
    let exit = command(&context, output, cli.command).await;
    context.finish_compiling().await;
    exit
}

/// Whether a command is about a workspace or its calls: whoever gives one would want calls that were left to go on.
/// Hosts carry such calls on themselves.
fn works_with_calls(command: &Command) -> bool {
    matches!(
        command,
        Command::Workspace(_)
            | Command::Chat(_)
            | Command::Exec(_)
            | Command::Calls(_)
            | Command::Show { .. }
            | Command::Export { .. }
            | Command::Doctor { .. }
    )
}

async fn command(
    context: &context::CommandContext,
    output: Output,
    command: Command,
) -> anyhow::Result<Exit> {
    match command {
        Command::Demo(args) => demo::run(context, output, args.real_timings).await,
        Command::Local(LocalCommand::Serve { port }) => local::serve(context, output, port).await,
        Command::Workspace(command) => workspaces::run(context, output, command).await,
        Command::Chat(ChatCommand::Bind { name, workspace }) => {
            chats::bind(context, output, &name, &workspace).await
        }
        Command::Chat(ChatCommand::List) => chats::list(context, output).await,
        Command::Exec(args) => chats::exec(context, output, args).await,
        Command::Call(args) => calls::call(context, output, args).await,
        Command::Calls(args) => calls::list(context, output, &args),
        Command::Attach { id } => calls::attach(context, output, id).await,
        Command::Cancel { id } => calls::cancel(context, output, id).await,
        Command::Show { id } => recordings::show(context, output, id),
        Command::Export { id } => recordings::export(context, id),
        Command::Replay { file } => recordings::replay_file(context, output, &file),
        Command::Prune { older_than } => recordings::prune(context, output, older_than).await,
        Command::Host { stay } => hosts::run(context, stay).await,
        Command::Doctor { workspace } => doctor::run(context, output, workspace.as_deref()).await,
        Command::Mcp(args) => mcp::run(context, args).await,
        Command::Tools => plugins::tools(context, output).await,
        // It has runtimes of its own.
        Command::Simulate(args) => {
            let plugin = context.load_plugin()?;
            tokio::task::spawn_blocking(move || simulate::simulate(&plugin, output, &args)).await?
        }
        Command::Plugin(PluginCommand::Check { file }) => plugins::check(output, &file),
        Command::Plugin(PluginCommand::Export { file }) => plugins::export(&file),
        Command::Plugin(PluginCommand::Info { file }) => {
            plugins::info(context, output, file.as_deref()).await
        }
        Command::Agent { folder } => local::agent(folder).await,
        Command::Completions { .. } | Command::Man { .. } => unreachable!("they were answered before"),
    }
}

/// What --log or RUST_LOG says; else warnings, but not those of a world that is made to go wrong.
fn log_to_stderr(command: &Command) {
    let usual = match command {
        Command::Simulate(_) => "workspace_recovery=error",
        _ => "workspace_recovery=warn",
    };
    let asked = match command {
        Command::Mcp(args::McpArgs { log: Some(filter), .. }) => Some(filter.clone()),
        _ => std::env::var(EnvFilter::DEFAULT_ENV).ok(),
    };
    let filter = EnvFilter::try_new(asked.as_deref().unwrap_or(usual)).unwrap_or_else(|error| {
        output::notice(&format!("{} is passed over: {error}", EnvFilter::DEFAULT_ENV));
        EnvFilter::new(usual)
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        // A reader who has gone away is no reason to panic.
        .log_internal_errors(false)
        .init();
}
