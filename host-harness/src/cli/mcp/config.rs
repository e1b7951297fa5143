//! `mcp --print-config`: what to write into a client's configuration.

use anyhow::Context;
use serde_json::{Value, json};

use super::absolute;
use crate::cli::Exit;
use crate::cli::args::{McpArgs, McpClient};
use crate::cli::host::Place;
use crate::cli::output::{note, tell};

/// The server's name in the configuration.
const NAME: &str = "workspace-recovery";
/// For clients that would give up on a tool earlier and can be told so here: as long as the longest wait of a restart.
const TOOL_TIMEOUT_SECONDS: u32 = 3600;

/// Prints the snippet on standard output, and where it belongs on standard error.
pub fn print(place: &Place, args: &McpArgs, client: McpClient) -> anyhow::Result<Exit> {
    let (command, arguments) = command_line(place, args)?;
    let (snippet, file) = snippet(client, &command, &arguments);
    tell(&snippet);
    note(&format!("belongs into {file}"));
    Ok(Exit::Done)
}

/// How a client starts this program as it was started now.
fn command_line(place: &Place, args: &McpArgs) -> anyhow::Result<(String, Vec<String>)> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut arguments = Vec::new();
    let mut before = None;
    for argument in place.arguments() {
        let text = argument.to_str().context("an argument is not Unicode, which no client can be told")?;
        // What follows these names a file or a folder.
        let is_path = matches!(
            before.as_deref(),
            Some("--data" | "--plugin" | "--coder-token-file" | "--coder-ca-file")
        );
        let absolute = is_path.then(|| absolute(text.as_ref()).to_string_lossy().into_owned());
        before = Some(text.to_owned());
        arguments.push(absolute.unwrap_or_else(|| text.to_owned()));
    }
    arguments.push("mcp".to_owned());
    for (name, value) in [("--workspace", &args.workspace), ("--chat", &args.chat), ("--log", &args.log)] {
        if let Some(value) = value {
            arguments.extend([name.to_owned(), value.clone()]);
        }
    }
    let program =
        program.to_str().context("this program's path is not Unicode, which no client can be told")?;
    Ok((program.to_owned(), arguments))
}

/// The snippet, and the file that it belongs into.
fn snippet(client: McpClient, command: &str, arguments: &[String]) -> (String, &'static str) {
    let server = json!({ "command": command, "args": arguments });
    match client {
        McpClient::ClaudeCode => {
            (pretty(&json!({ "mcpServers": { NAME: server } })), ".mcp.json of your project")
        }
        McpClient::ClaudeDesktop => (
            pretty(&json!({ "mcpServers": { NAME: server } })),
            "claude_desktop_config.json (Settings, Developer)",
        ),
        McpClient::Cursor => (pretty(&json!({ "mcpServers": { NAME: server } })), "~/.cursor/mcp.json"),
        McpClient::Json => {
            (pretty(&json!({ "mcpServers": { NAME: server } })), "your client's configuration")
        }
        McpClient::Vscode => {
            let server = json!({ "type": "stdio", "command": command, "args": arguments });
            (pretty(&json!({ "servers": { NAME: server } })), ".vscode/mcp.json of your project")
        }
        McpClient::Zed => {
            let server = json!({ "command": command, "args": arguments, "env": {} });
            (pretty(&json!({ "context_servers": { NAME: server } })), "Zed's settings.json")
        }
        McpClient::Codex => {
            // Strings and lists of JSON are those of TOML, too.
            let (command, arguments) = (json!(command), json!(arguments));
            let text = format!(
                "[mcp_servers.{NAME}]\ncommand = {command}\nargs = {arguments}\ntool_timeout_sec = {TOOL_TIMEOUT_SECONDS}"
            );
            (text, "~/.codex/config.toml")
        }
    }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}")
}
