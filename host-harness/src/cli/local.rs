//! `local serve`, and the hidden `agent`.

use std::path::PathBuf;

use anyhow::Context;
use serde_json::json;

use super::context::CommandContext;
use super::exit::Exit;
use super::output::Output;
use crate::local::agent::{self, AgentOptions};
use crate::local::{AgentCommand, Endpoint, LocalControlPlane, LocalError, LocalOptions};

pub async fn serve(context: &CommandContext, output: Output, port: Option<u16>) -> anyhow::Result<Exit> {
    let agents = AgentCommand::this_program()
        .context("cannot find this program's own file, which agents are made of")?;
    let options = LocalOptions { port, ..LocalOptions::new(context.data(), agents) };
    // So that the first command on this machine need not compile it.
    context.load_plugin_behind()?;
    let serve = LocalControlPlane::serve(options, |endpoint| {
        // Nobody would miss what cannot be printed: the server runs all the same.
        let _ = announce(output, endpoint, "serving");
    });
    let (served, ()) = tokio::join!(serve, context.finish_compiling());
    match served {
        Err(LocalError::AlreadyServed { endpoint, .. }) => announce(output, &endpoint, "already served")?,
        other => other?,
    }
    Ok(Exit::Done)
}

pub async fn agent(folder: PathBuf) -> anyhow::Result<Exit> {
    agent::run(AgentOptions { folder }).await?;
    Ok(Exit::Done)
}

/// Says where the control plane answers. The token stays in the data folder.
fn announce(output: Output, endpoint: &Endpoint, state: &str) -> anyhow::Result<()> {
    let value = json!({ "state": state, "url": endpoint.url, "pid": endpoint.pid });
    output.print(&value, |_| {
        format!("{state} at {} (process {}); end it with Ctrl-C", endpoint.url, endpoint.pid)
    })
}
