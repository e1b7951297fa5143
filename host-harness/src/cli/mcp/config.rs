//! `mcp --print-config`: what to write into a client's configuration.

use std::ffi::OsString;

use anyhow::Context;
use serde_json::json;

use crate::cli::args::{McpArgs, McpClient};
use crate::cli::context::CommandContext;
use crate::cli::exit::Exit;
use crate::cli::output::{line, notice};

/// The server's name in the configuration.
const NAME: &str = "workspace-recovery";
/// For clients that would give up on a tool earlier and can be told so here: longer than a restart that waits as long
/// as it may for its turn, its two builds, the agent and its scripts (an hour and a half), and than the longest command
/// with its dial (an hour). A restart that other people's builds hold up for longer goes on without its client, and is
/// joined.
const TOOL_TIMEOUT_SECONDS: u32 = 2 * 60 * 60;
/// For clients that give up on a server that takes long to start: this one answers at once, where the machine is not
/// busy.
const START_TIMEOUT_SECONDS: u32 = 30;

/// Prints the snippet on standard output, and where it belongs on standard error.
pub fn print(context: &CommandContext, args: &McpArgs, client: McpClient) -> anyhow::Result<Exit> {
    // Compiled now, the client's first start need not do it. And one that cannot be used is told now.
    context.load_plugin()?;
    let (command, arguments) = command_line(context, args)?;
    let (snippet, file) = snippet(client, &command, &arguments);
    line(&snippet);
    notice(&format!("belongs into {file}, beside the servers that it names already"));
    if let Some(also) = also(client, &command, &arguments) {
        notice(&also);
    }
    notice(&timeouts(client));
    if let Some(variable) = context.token_variable() {
        notice(&format!(
            "the client has to pass {variable} on, which few do: with --coder-token-file, or after `coder login`, nothing \
             has to be passed on"
        ));
    }
    for (variable, _) in context.variables()? {
        notice(&format!(
            "the client has to pass {variable} on as well: additional headers are not printed, since they may be secret"
        ));
    }
    Ok(Exit::Done)
}

/// How a client starts this program as it was started now.
fn command_line(context: &CommandContext, args: &McpArgs) -> anyhow::Result<(String, Vec<String>)> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let unicode = |text: &OsString| text.to_str().map(str::to_owned);
    let arguments = context.arguments()?.iter().map(unicode).collect::<Option<Vec<_>>>();
    let mut arguments = arguments.context("an argument is not Unicode, which no client can be told")?;
    arguments.push("mcp".to_owned());
    for (name, value) in [("--workspace", &args.workspace), ("--chat", &args.chat), ("--log", &args.log)] {
        if let Some(value) = value {
            // A value that begins with a dash would be taken for an option of its own.
            if value.starts_with('-') {
                arguments.push(format!("{name}={value}"));
            } else {
                arguments.extend([name.to_owned(), value.clone()]);
            }
        }
    }
    let program =
        program.to_str().context("this program's path is not Unicode, which no client can be told")?;
    Ok((program.to_owned(), arguments))
}

/// The snippet, and the file that it belongs into.
fn snippet(client: McpClient, command: &str, arguments: &[String]) -> (String, &'static str) {
    let milliseconds = u64::from(TOOL_TIMEOUT_SECONDS) * 1000;
    let mut server = json!({ "command": command, "args": arguments });
    let (key, file) = match client {
        McpClient::ClaudeCode => {
            server["timeout"] = json!(milliseconds);
            ("mcpServers", ".mcp.json of your project")
        }
        McpClient::ClaudeDesktop => ("mcpServers", "claude_desktop_config.json (Settings, Developer)"),
        McpClient::Cursor => ("mcpServers", "~/.cursor/mcp.json"),
        McpClient::GeminiCli => {
            server["timeout"] = json!(milliseconds);
            ("mcpServers", "~/.gemini/settings.json")
        }
        McpClient::Json => ("mcpServers", "your client's configuration"),
        McpClient::Langchain => {
            server["transport"] = json!("stdio");
            return (format!("{:#}", json!({ NAME: server })), "what MultiServerMCPClient is made with");
        }
        McpClient::Opencode => {
            let command = [&[command.to_owned()], arguments].concat();
            server = json!({ "type": "local", "command": command, "enabled": true, "timeout": milliseconds });
            ("mcp", "opencode.json of your project, or ~/.config/opencode/opencode.json")
        }
        McpClient::Vscode => {
            server["type"] = json!("stdio");
            ("servers", ".vscode/mcp.json of your project")
        }
        McpClient::Zed => {
            server["env"] = json!({});
            // In seconds.
            server["timeout"] = json!(TOOL_TIMEOUT_SECONDS);
            ("context_servers", "Zed's settings.json")
        }
        McpClient::Codex => {
            // Strings and lists of JSON are those of TOML, too. Without an approval mode `codex exec`, which has nobody
            // to ask, calls none of the tools that change something.
            let (command, arguments) = (json!(command), json!(arguments));
            let text = format!(
                "[mcp_servers.{NAME}]\ncommand = {command}\nargs = {arguments}\n\
                 startup_timeout_sec = {START_TIMEOUT_SECONDS}\ntool_timeout_sec = {TOOL_TIMEOUT_SECONDS}\n\
                 default_tools_approval_mode = \"approve\""
            );
            return (text, "~/.codex/config.toml");
        }
    };
    (format!("{:#}", json!({ key: { NAME: server } })), file)
}

/// What else there is to say to the users of a client.
fn also(client: McpClient, command: &str, arguments: &[String]) -> Option<String> {
    match client {
        McpClient::ClaudeCode => {
            let words = std::iter::once(command).chain(arguments.iter().map(String::as_str));
            // Arguments of a program have no NUL, which is all that cannot be quoted.
            let line = shlex::try_join(words).ok()?;
            Some(format!("or, instead of the file: claude mcp add {NAME} -- {line}"))
        }
        McpClient::Codex => Some(
            "default_tools_approval_mode = \"approve\" lets the model call the tools without asking you; leave it out to be \
             asked each time, which `codex exec` cannot do"
                .to_owned(),
        ),
        _ => None,
    }
}

/// How long a client has to wait at least, and how it is told.
fn timeouts(client: McpClient) -> String {
    let how = match client {
        McpClient::ClaudeCode
        | McpClient::Codex
        | McpClient::GeminiCli
        | McpClient::Opencode
        | McpClient::Zed => "the snippet says so",
        McpClient::Langchain => "without a shorter read_timeout_seconds in session_kwargs it does",
        McpClient::ClaudeDesktop | McpClient::Cursor | McpClient::Vscode | McpClient::Json => {
            "where it can be told; a call that it gives up may be made again, and joins the one that runs"
        }
    };
    format!(
        "a verdict takes up to 60 s, a restart or a command up to {TOOL_TIMEOUT_SECONDS} s: the client should wait so long \
         for a tool ({how})"
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::policy::{LONGEST_COMMAND_SECONDS, Timings};

    #[test]
    fn a_client_waits_for_longer_than_a_restart_or_a_command_may_take() {
        let client = Duration::from_secs(TOOL_TIMEOUT_SECONDS.into());
        let real = Timings::default();
        let restart = real.turn_limit
            + real.restart_stop_limit
            + real.build_limit
            + real.connect_limit
            + real.scripts_limit;
        let command = real.dial_timeout + Duration::from_secs(LONGEST_COMMAND_SECONDS.into());
        assert!(client > restart && client > command, "{restart:?} {command:?}");
    }
}
