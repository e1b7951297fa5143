//! What can be typed.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

use super::deployment::DeploymentArgs;
use crate::policy::LONGEST_COMMAND_SECONDS;
use crate::store::{NameError, check_name};

/// Brings a chat's unreachable workspace back.
///
/// A chat works in a workspace; when the agent process in it dies, every command times out. This program runs commands
/// in the workspace of a chat, says what to do when the agent cannot be reached, and does it: it stops, starts and
/// restarts workspaces, waits for their builds, and tells the truth about the outcome.
///
/// Begin with `workspace-recovery demo`, which needs nothing else running.
#[derive(Debug, Parser)]
#[command(name = "workspace-recovery", version, after_help = AFTER_HELP, max_term_width = 110, arg_required_else_help = true)]
#[command(next_help_heading = "Global options")]
pub struct Cli {
    /// Print one JSON document (or, for a stream, one JSON object a line) on standard output instead of text.
    #[arg(long, global = true)]
    pub json: bool,

    /// Folder of the local control plane, and of all chats and calls. Made if it is missing.
    #[arg(long, global = true, env = "WORKSPACE_RECOVERY_DATA", value_name = "FOLDER")]
    pub data: Option<PathBuf>,

    #[command(flatten)]
    pub deployment: DeploymentArgs,

    /// Use this plugin instead of the built-in one.
    #[arg(long, global = true, value_name = "FILE")]
    pub plugin: Option<PathBuf>,

    /// Divide every wait of this host by this number: for demonstrations and tests.
    #[arg(long, global = true, hide = true, default_value_t = 1, value_name = "N")]
    pub shorten_times: u32,

    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
A first session, in two terminals:

  1$ workspace-recovery local serve
  2$ workspace-recovery workspace create dev
  2$ workspace-recovery chat bind talk dev
  2$ workspace-recovery exec talk -- uname -a
  2$ workspace-recovery workspace kill-agent dev
  2$ workspace-recovery exec talk -- uname -a        # times out after 30 s at most, and says what to do
  2$ workspace-recovery call talk restart_workspace '{\"only_if_unreachable\": true}'

Exit codes:
  0    done
  1    it could not be done, or the tool's result has an error; the sentence says why
  2    the command line or a tool's arguments are wrong
  130  interrupted, or not followed to its end: the call goes on then
  exec exits with the command's own code; its own failures are 123 (agent not reached), 124 (the command took too
  long), 125 (anything else) and 130 (interrupted).

Errors go to standard error, results to standard output. RUST_LOG=debug shows what is asked of the control plane.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show a workspace dying and being recovered, with real processes, on this machine.
    ///
    /// Creates a workspace, starts it, runs a command in it, kills its agent with SIGKILL, lets a command time out,
    /// follows the verdict, and runs the command again. Then come the cases in which nothing may be stopped. Exits 0
    /// only if everything that it claims was seen. Leaves no process and no file behind.
    Demo(DemoArgs),

    /// The control plane that needs no deployment: real builds, real agent processes, on this machine.
    #[command(subcommand)]
    Local(LocalCommand),

    /// Look at workspaces; on the local control plane, also make and delete them.
    #[command(subcommand)]
    Workspace(WorkspaceCommand),

    /// Chats, and the workspaces that they work in.
    #[command(subcommand)]
    Chat(ChatCommand),

    /// Run a command in the workspace of a chat.
    ///
    /// Output is what the command wrote to its terminal: standard output and error in one stream, cut in the middle if
    /// it is too long. If the agent cannot be reached, standard error has the verdict: what happened, and which tools
    /// to call, in which order.
    Exec(ExecArgs),

    /// Call a tool of the plugin for a chat, and wait for it.
    ///
    /// Prints the tool's result, a JSON object. Progress and build logs go to standard error. Ctrl-C interrupts the
    /// call: nothing is started or stopped after it, and the result says where things stand.
    ///
    /// The call is kept in the data folder, step by step: if this program is killed, another one carries it on. If it
    /// is terminated (SIGTERM), or its terminal is closed, the call goes on in the background; `attach` follows it.
    Call(CallArgs),

    /// List the calls that have not ended, newest first.
    Calls(CallsArgs),

    /// Follow a call to its end, whichever process carries it. Ctrl-C stops following; the call goes on.
    Attach {
        /// The call's number; see `calls`.
        #[arg(value_parser = call_number)]
        id: u64,
    },

    /// Interrupt a call, whichever process carries it. No build is asked for after it.
    Cancel {
        /// The call's number; see `calls`.
        #[arg(value_parser = call_number)]
        id: u64,
    },

    /// Show what a call did: each request with its answer, how long it took, and the result.
    Show {
        /// The call's number; see `calls --all`.
        #[arg(value_parser = call_number)]
        id: u64,
    },

    /// Print a call as JSON, one object a line, for `replay` and for a report.
    ///
    /// It holds what the plugin was asked and told: names, ids, states, build errors, the call's arguments. It holds no
    /// credentials.
    Export {
        /// The call's number; see `calls --all`.
        #[arg(value_parser = call_number)]
        id: u64,
    },

    /// Run an exported call again, offline: the plugin must ask the same and come to the same result, byte for byte.
    ///
    /// Uses the plugin named with --plugin, else the built-in one. A difference is shown with its place.
    Replay {
        /// What `export` printed.
        file: PathBuf,
    },

    /// Remove calls that ended long ago. Happens by itself after two weeks.
    Prune {
        /// Remove those that ended more than this many days ago.
        #[arg(long, value_name = "DAYS", default_value_t = 14)]
        older_than: u32,
    },

    /// Carry on the calls of processes that are gone, until there are none left.
    ///
    /// That a process was killed shows when it has not been heard of for 15 s: while there are calls that have not
    /// ended, a host waits that long.
    ///
    /// Started by itself, in the background, by `call --detach` and wherever calls are found that nobody carries.
    Host {
        /// Do not end when there is nothing left to do.
        #[arg(long)]
        stay: bool,
    },

    /// Look at everything that a recovery rests on, and say what is wrong and what to do.
    ///
    /// The address, the version, the token, the clock; with a workspace also its newest build, its agents, the
    /// provisioners if a build waits for one, and whether a command runs in it. Changes nothing. Exits 1 if something
    /// is not well.
    Doctor {
        /// The workspace's name, OWNER/NAME, or its id.
        workspace: Option<String>,
    },

    /// Give the tools to an agent: an MCP server on standard input and output, or over HTTP.
    ///
    /// `mcp --print-config CLIENT` prints what to write into the client's configuration.
    ///
    /// Besides the plugin's tools it has `execute`, which runs a command in the workspace and says what to do when that
    /// cannot be reached, and `workspace_status`. Without --workspace and --chat the agent chooses the workspace, with
    /// `list_workspaces` and `use_workspace`.
    ///
    /// When the client goes away, its requests are cancelled: a call that has sent nothing is interrupted, one that has
    /// goes on in the background.
    Mcp(McpArgs),

    /// List the plugin's tools.
    Tools,

    /// Look for mistakes in worlds made of chance.
    ///
    /// Runs the plugin, the engine and the driver against a simulated control plane, clock, network and store: hosts
    /// die and come back, answers are lost, people stop and cancel things. First everything goes wrong that can, then
    /// comes a calm in which every call must end. After every event the rules are checked that docs/simulation.md
    /// lists. The same seed prints the same bytes on standard output; rates and times go to standard error.
    ///
    /// If a rule is broken, prints the seed, the fewest events that break it, what happens in them, and the command to
    /// repeat it; exits 1.
    Simulate(SimulateArgs),

    /// Print what completes this program's command line in a shell.
    ///
    /// For bash: `workspace-recovery completions bash > ~/.local/share/bash-completion/completions/workspace-recovery`.
    /// For others, put it where the shell looks for completions.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },

    /// Print the manual page of this program, or write those of all its commands into a folder.
    ///
    /// `workspace-recovery man | man -l -` shows it.
    Man {
        /// The folder, which is made if it is missing: one page for the program, and one for each command.
        folder: Option<PathBuf>,
    },

    /// Look at plugins.
    #[command(subcommand)]
    Plugin(PluginCommand),

    /// The agent process in a workspace; started by the local control plane.
    #[command(hide = true)]
    Agent {
        /// The agent's folder.
        folder: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Use the time constants of production. Takes some seven minutes.
    #[arg(long)]
    pub real_timings: bool,
}

#[derive(Debug, Subcommand)]
pub enum LocalCommand {
    /// Serve the local control plane until Ctrl-C. Agents go on without it, and find it again.
    Serve {
        /// Port on the loopback interface. By default the one used last time, or a free one.
        #[arg(long)]
        port: Option<u16>,
    },
}

#[derive(Debug, Subcommand)]
pub enum WorkspaceCommand {
    /// On the local control plane: create a workspace and wait until its first build has ended.
    Create {
        /// Its name: letters, digits and single hyphens.
        name: String,
        /// The template to build it from.
        #[arg(long, default_value = "shell")]
        template: String,
        /// A template parameter, NAME=VALUE. May be given several times.
        #[arg(long = "parameter", value_name = "NAME=VALUE", value_parser = parameter)]
        parameters: Vec<(String, String)>,
    },
    /// List your workspaces.
    List,
    /// Show one workspace: its newest build and its agents.
    Show {
        /// The workspace's name, OWNER/NAME, or its id.
        name: String,
    },
    /// On the local control plane: delete a workspace and wait until it is gone.
    Delete {
        /// The workspace's name.
        name: String,
    },
    /// On the local control plane: send a signal to the agent process of a workspace: kill it, hang it, or let it go
    /// on.
    KillAgent {
        /// The workspace's name.
        name: String,
        /// KILL ends it at once, STOP hangs it, CONT lets a hung one go on.
        #[arg(long, value_enum, default_value_t = Signal::Kill)]
        signal: Signal,
    },
}

/// A signal for an agent process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum Signal {
    Kill,
    Stop,
    Cont,
}

#[derive(Debug, Subcommand)]
pub enum ChatCommand {
    /// Bind a chat to a workspace. Makes the chat if there is none of that name.
    Bind {
        /// The chat's name.
        #[arg(value_parser = name)]
        name: String,
        /// The workspace's name, OWNER/NAME, or its id.
        workspace: String,
    },
    /// List the chats and what they are bound to.
    List,
}

#[derive(Debug, Args)]
pub struct ExecArgs {
    /// The chat's name.
    #[arg(value_parser = name)]
    pub chat: String,
    /// Run it in this folder of the workspace.
    #[arg(long, value_name = "FOLDER")]
    pub workdir: Option<String>,
    /// End the command, with all that it has left in its process group, when it has run for this many seconds.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=i64::from(LONGEST_COMMAND_SECONDS)))]
    pub timeout: Option<u32>,
    /// The command and its arguments. One argument is taken as a command line for bash, or sh where there is no bash.
    /// What is piped to `exec` is the command's input.
    #[arg(required = true, last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct CallArgs {
    /// The chat's name.
    #[arg(value_parser = name)]
    pub chat: String,
    /// The tool's name; see `workspace-recovery tools`.
    pub tool: String,
    /// The tool's arguments, a JSON object.
    #[arg(value_name = "JSON", default_value = "{}")]
    pub arguments: String,
    /// Print the call's number and leave it to a process in the background; `attach` follows it.
    #[arg(long)]
    pub detach: bool,
    /// Make the call also if it stops the workspace in which this program runs, and so ends it half-way: the call is
    /// left to a host elsewhere that shares the data folder (`host --stay`), and waits until there is one.
    #[arg(long)]
    pub from_inside: bool,
    /// Your own name for this request. Given again in this chat, it is the same call, also after its end.
    #[arg(long, value_name = "KEY", value_parser = name)]
    pub key: Option<String>,
}

#[derive(Debug, Args)]
pub struct CallsArgs {
    /// Those that have ended, too.
    #[arg(long)]
    pub all: bool,
    /// At most so many.
    #[arg(long, default_value_t = 50)]
    pub limit: usize,
}

#[derive(Debug, Args)]
pub struct McpArgs {
    /// Work in this workspace: its name, OWNER/NAME, or its id.
    #[arg(long)]
    pub workspace: Option<String>,
    /// Work in this chat; see `chat bind`. With --workspace, the chat is bound to that first.
    #[arg(long, value_parser = name)]
    pub chat: Option<String>,
    /// Print the snippet for a client's configuration with which it starts this program as it was started now.
    #[arg(long, value_enum, value_name = "CLIENT", conflicts_with = "http")]
    pub print_config: Option<McpClient>,
    /// Serve streamable HTTP at this address, at the path /mcp, instead of standard input and output.
    ///
    /// At /mcp/NAME it is that of the chat NAME, unless --workspace or --chat names one. Clients show a token as
    /// `Authorization: Bearer TOKEN`.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address)]
    pub http: Option<SocketAddr>,
    /// Answer requests for this name or address as well, besides those of the loopback interface and the ADDRESS.
    /// Needed behind a proxy, and where ADDRESS is that of all interfaces.
    #[arg(long, value_name = "NAME", requires = "http")]
    pub http_host: Vec<String>,
    /// The file with the token for HTTP, of at least 32 characters of ASCII without blanks. Made, readable for you
    /// alone, if it is missing. If none is named, the server says at its start which one it uses.
    #[arg(long, value_name = "FILE", requires = "http")]
    pub http_token_file: Option<PathBuf>,
    /// Ask for no token over HTTP: everybody on this machine may run commands in your workspaces then.
    #[arg(long, requires = "http", conflicts_with = "http_token_file")]
    pub http_no_token: bool,
    /// Answer at most so many requests a second over HTTP.
    #[arg(long, value_name = "N", requires = "http", default_value_t = crate::mcp::http::RATE, value_parser = clap::value_parser!(u32).range(1..))]
    pub http_rate: u32,
    /// What to log on standard error: `warn`, `info`, `debug`, or a filter as RUST_LOG takes it, which this overrides.
    #[arg(long, value_name = "FILTER", value_parser = filter)]
    pub log: Option<String>,
}

/// A program whose configuration this one knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum McpClient {
    ClaudeCode,
    ClaudeDesktop,
    Codex,
    Cursor,
    GeminiCli,
    /// MultiServerMCPClient of langchain-mcp-adapters.
    Langchain,
    Opencode,
    Vscode,
    Zed,
    /// Any other that takes the usual JSON.
    Json,
}

#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// All chance comes from it. Without it a fresh one is taken, and printed.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Calls of tools in all. They are split into worlds of forty, each with a seed of its own.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub calls: u64,
    /// Worlds that run at the same time, each in one thread. As many as there are processors if it is not given; the
    /// result does not depend on it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Say whether a file is a plugin that this program runs, and what it asks for.
    Check {
        /// The component, a `.wasm` file.
        file: PathBuf,
    },

    /// Write the built-in plugin into a file, for other hosts: the bytes that this program runs itself.
    Export {
        /// The file, which is replaced if it is there; - is standard output.
        file: PathBuf,
    },

    /// Say what a plugin is: its contract, imports, exports, size, hash and tools.
    Info {
        /// The component, a `.wasm` file. Without one: the plugin that this program uses.
        file: Option<PathBuf>,
    },
}

/// The name of a chat or a request.
fn name(text: &str) -> Result<String, NameError> {
    check_name(text).map(|()| text.to_owned())
}

/// Names of machines are not looked up: which of their addresses would be served is left to chance.
fn address(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
    match port {
        Some(port) => Ok((Ipv4Addr::LOCALHOST, port).into()),
        None => text.parse().map_err(|_| {
            "it takes an address and a port, as in 127.0.0.1:8931 (with port 0 a free one is taken)"
                .to_owned()
        }),
    }
}

fn filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn call_number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "a call is named by its number; `calls --all` lists them".to_owned())
}

fn parameter(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("a parameter is written NAME=VALUE, but this is `{text}`")),
    }
}
