//! `mcp`: the tools for MCP clients, on standard input and output or over HTTP.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use rmcp::transport::stdio_pipes;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::args::McpArgs;
use super::calls::leave;
use super::context::CommandContext;
use super::exit::Exit;
use super::output::notice;
use super::paths::absolute;
use super::signals::interrupted_by_signals;
use crate::driver::Driver;
use crate::mcp::http::{self, HttpOptions, PATH};
use crate::mcp::{Chats, Server, ServerError, stdio};

mod config;
mod token;

/// The file of the token that is made if none is named, in the folder of the chats.
const TOKEN_FILE: &str = "mcp-token";

pub async fn run(context: &CommandContext, args: McpArgs) -> anyhow::Result<Exit> {
    if let Some(client) = args.print_config {
        return config::print(context, &args, client);
    }
    // Clients start it when they start themselves, whether or not the control plane is there at the moment.
    let host = context.open_ahead().await?;
    let end = interrupted_by_signals()?;
    let server = Server::new(host.chats.clone(), chats(&args));
    let getting_ready = tokio::spawn(get_ready(host.driver.clone(), server.clone(), end.clone()));
    let served = match args.http {
        Some(address) => serve_http(context, &server, address, &args, end).await,
        None => {
            let (read, write) = stdio_pipes();
            stdio::serve(&server, read, write, end).await.map_err(Into::into)
        }
    };
    leave(context, &host).await?;
    if getting_ready.is_finished() {
        getting_ready.await??;
    }
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

/// What is better done before the first call, and can wait for it. A plugin that cannot be used is the server's end.
async fn get_ready(driver: Driver, server: Server, end: CancellationToken) -> Result<(), ServerError> {
    server.ready().await.inspect_err(|_| end.cancel())?;
    // So that a client that comes back finds its calls carried on.
    if let Err(error) = driver.stand_by().await {
        tracing::warn!(%error, "calls of hosts that are gone are not carried on yet");
    }
    if let Err(error) = server.bind_now().await {
        tracing::warn!(%error, "the workspace cannot be used yet; each call tries again");
    }
    Ok(())
}

async fn serve_http(
    context: &CommandContext,
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
        (named, false) => {
            let file = named.clone().unwrap_or_else(|| context.folder().join(TOKEN_FILE));
            let file = absolute(&file)?;
            let token = token::token(&file)?;
            Some((file, token))
        }
    };
    if address.ip().is_unspecified() && args.http_host.is_empty() {
        bail!(
            "which names do clients call this machine by? Requests for other names are refused, so that no page can \
             point one of its own here: add --http-host NAME"
        );
    }
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("cannot serve {address}: take another port, 0 for a free one, or end what serves there")
    })?;
    let address = listener.local_addr()?;
    notice(&match &token {
        Some((file, _)) => format!("serving http://{address}{PATH}; its token is in {}", file.display()),
        None => format!("serving http://{address}{PATH}, without a token"),
    });
    if chats(args) == Chats::Chosen {
        notice(&format!("clients without sessions name a chat of theirs: http://{address}{PATH}/NAME"));
    }
    if !address.ip().is_loopback() {
        notice("who listens on the way can read the token: let a proxy that speaks TLS stand before it");
    }
    let options = HttpOptions {
        token: token.map(|(_, token)| token),
        hosts: [vec![address.ip().to_string()], args.http_host.clone()].concat(),
        rate: args.http_rate,
    };
    http::serve(server, listener, options, end).await;
    Ok(())
}
