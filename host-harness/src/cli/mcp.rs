//! `mcp`: the tools for MCP clients, on standard input and output or over HTTP.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rmcp::transport::stdio_pipes;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Exit;
use super::args::McpArgs;
use super::calls::{interrupted_by_signals, leave};
use super::host::Place;
use super::output::note;
use crate::driver::Driver;
use crate::mcp::http::{self, HttpOptions, PATH};
use crate::mcp::{Chats, Server, stdio};

mod config;

/// The file of the token that is made if none is named, in the folder of the chats.
const TOKEN_FILE: &str = "mcp-token";
/// Characters that a user's own token needs at least: 128 bits, if they are hexadecimal and from chance.
const SHORTEST_TOKEN: usize = 32;
/// Bytes of a token that is made.
const TOKEN_BYTES: usize = 32;

pub async fn run(place: &Place, args: McpArgs) -> anyhow::Result<Exit> {
    if let Some(client) = args.print_config {
        return config::print(place, &args, client);
    }
    // Clients start it when they start themselves, whether or not the control plane is there at the moment.
    let host = place.open_ahead().await?;
    let end = interrupted_by_signals()?;
    let server = Server::new(host.chats.clone(), chats(&args)).await?;
    tokio::spawn(get_ready(host.driver.clone(), server.clone()));
    let served = match args.http {
        Some(address) => serve_http(place, &server, address, &args, end).await,
        None => {
            let (read, write) = stdio_pipes();
            stdio::serve(&server, read, write, end).await.map_err(Into::into)
        }
    };
    leave(place, &host).await?;
    served.map(|()| Exit::Done)
}

/// The chat that the command line names.
fn chats(args: &McpArgs) -> Chats {
    match (args.chat.clone(), args.workspace.clone()) {
        (None, None) => Chats::Chosen,
        (Some(chat), None) => Chats::One(chat),
        (chat, Some(workspace)) => Chats::Of { workspace, chat },
    }
}

/// What is better done before the first call, and can wait for it.
async fn get_ready(driver: Driver, server: Server) {
    // So that a client that comes back finds its calls carried on.
    if let Err(error) = driver.stand_by().await {
        tracing::warn!(%error, "calls of hosts that are gone are not carried on yet");
    }
    if let Err(error) = server.bind_now().await {
        tracing::warn!(%error, "the workspace cannot be used yet; each call tries again");
    }
}

async fn serve_http(
    place: &Place,
    server: &Server,
    address: SocketAddr,
    args: &McpArgs,
    end: CancellationToken,
) -> anyhow::Result<()> {
    let token = match (&args.http_token_file, args.http_no_token) {
        (_, true) if !address.ip().is_loopback() => bail!(
            "without a token, everybody who reaches {address} could run commands in your workspaces: leave \
             --http-no-token out, or serve 127.0.0.1"
        ),
        (_, true) => None,
        (Some(file), false) => Some((file.clone(), token(file)?)),
        (None, false) => {
            let file = place.folder().join(TOKEN_FILE);
            let token = token(&file)?;
            Some((file, token))
        }
    };
    if address.ip().is_unspecified() && args.http_host.is_empty() {
        bail!(
            "which names do clients call this machine by? Requests for other names are refused, so that no page can \
             point one of its own here: add --http-host NAME"
        );
    }
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot serve {address}"))?;
    let address = listener.local_addr()?;
    note(&match &token {
        Some((file, _)) => {
            format!("serving http://{address}{PATH}; its token is in {}", absolute(file).display())
        }
        None => format!("serving http://{address}{PATH}, without a token"),
    });
    let options = HttpOptions {
        token: token.map(|(_, token)| token),
        hosts: [vec![address.ip().to_string()], args.http_host.clone()].concat(),
        rate: args.http_rate,
    };
    http::serve(server, listener, options, end).await;
    Ok(())
}

/// The token in a file, which is made if it is missing.
fn token(file: &Path) -> anyhow::Result<String> {
    let cannot = || format!("cannot use the token file {}", file.display());
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    match made {
        Ok(mut made) => {
            let mut bytes = [0; TOKEN_BYTES];
            getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
            let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(made, "{token}").with_context(cannot)?;
            Ok(token)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            if std::fs::metadata(file).with_context(cannot)?.mode() & 0o077 != 0 {
                bail!("others can read the token file {0}: `chmod 600 {0}`", file.display());
            }
            let token = std::fs::read_to_string(file).with_context(cannot)?.trim().to_owned();
            if token.len() < SHORTEST_TOKEN {
                bail!(
                    "the token in {} has {} characters, and could be guessed: it needs {SHORTEST_TOKEN}; without the file \
                     a good one is made",
                    file.display(),
                    token.len()
                );
            }
            Ok(token)
        }
        Err(error) => Err(error).with_context(cannot),
    }
}

/// Paths in a client's configuration are absolute: nobody knows where it starts the program.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
