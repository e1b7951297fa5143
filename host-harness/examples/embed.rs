//! A chat host in some twenty lines: run a command in a chat's workspace and, if the workspace cannot be reached, do
//! what the verdict says.
//!
//! ```console
//! CODER_URL=http://127.0.0.1:3000 CODER_SESSION_TOKEN=... cargo run --example embed -- WORKSPACE COMMAND
//! ```

use std::sync::Arc;

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use workspace_recovery::bindings::Action;
use workspace_recovery::chat::{ChatHost, Execute, ExecuteError};
use workspace_recovery::control_plane::rest::RestClient;
use workspace_recovery::driver::Driver;
use workspace_recovery::engine::{Engine, EngineOptions};
use workspace_recovery::policy::{ChatTools, Timings};
use workspace_recovery::store::Store;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let [workspace, command] = std::env::args()
        .skip(1)
        .collect::<Vec<_>>()
        .try_into()
        .ok()
        .context("usage: embed WORKSPACE COMMAND")?;

    let plugin = Engine::new(EngineOptions::default())?.load(workspace_recovery::PLUGIN)?;
    let plane = RestClient::new(&std::env::var("CODER_URL")?, &std::env::var("CODER_SESSION_TOKEN")?)?;
    let driver = Driver::new(plugin, Arc::new(plane), Store::in_memory(), Timings::default());
    let names = driver.list_tools().await?.into_iter().map(|tool| tool.name).collect();

    let host = ChatHost::new(driver);
    host.bind("my chat", &workspace).await?;
    let chat = host.chat("my chat", ChatTools { names, ..ChatTools::default() });

    let interrupt = CancellationToken::new();
    match chat.execute(&Execute { command, ..Execute::default() }, &interrupt).await {
        Ok(executed) => print!("{}", executed.output),
        Err(ExecuteError::Unreachable(why)) if why.verdict.action == Action::Restart => {
            eprintln!("{}", why.verdict.message);
            let arguments = r#"{"only_if_unreachable": true}"#;
            let result = chat.call_tool("restart_workspace", arguments, &interrupt).await?;
            println!("{}", result.map_or_else(|refused| format!("{refused:?}"), |result| result.json));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
