//! `host`: a process that carries on the calls of others, and how one is started in the background.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::context::{CommandContext, Host};
use super::exit::Exit;
use super::signals::interrupted_by_signals;
use crate::clock::{Clock, SystemClock};
use crate::control_plane::ControlPlane;
use crate::store::Listing;

/// Where a host in the background writes what it has to say.
const LOG_FILE: &str = "host.log";
/// How often a host looks whether there is anything left to do.
const LOOK: Duration = Duration::from_millis(200);
/// For how long there must have been nothing to do before a host ends.
const IDLE: Duration = Duration::from_secs(2);

pub async fn run(context: &CommandContext, stay: bool) -> anyhow::Result<Exit> {
    let host = context.open().await?;
    let interrupt = interrupted_by_signals()?;
    host.driver.stand_by().await?;
    let mut busy = Instant::now();
    while stay || busy.elapsed() < patience(&host)? {
        tokio::select! {
            () = interrupt.cancelled() => break,
            () = tokio::time::sleep(LOOK) => {}
        }
        if host.driver.unended() > 0 || host.driver.has_orphans().await? {
            busy = Instant::now();
        }
    }
    host.driver.leave().await?;
    Ok(if interrupt.is_cancelled() { Exit::Interrupted } else { Exit::Done })
}

/// For how long a host waits for something to do. Whoever carries other calls may have been killed just now: that shows
/// when its lease has run out.
fn patience(host: &Host) -> anyhow::Result<Duration> {
    let others = !host.store.calls(Listing::Unended, 1)?.is_empty();
    Ok(if others { IDLE + host.driver.host_calls().timings().lease } else { IDLE })
}

/// Sees to it that calls which nobody carries any more are carried on, by a host in the background. The first command
/// after a host was killed may be the last one for a long time.
pub async fn adopt_orphans(context: &CommandContext) -> anyhow::Result<()> {
    if !context.has_store() {
        return Ok(());
    }
    let (store, now_ms) = (context.store()?, SystemClock.now_ms());
    store.end_leases_of_the_gone(now_ms).await?;
    let orphans = store.orphans(now_ms)?;
    if orphans.is_empty() {
        return Ok(());
    }
    // Without a control plane there is nothing that a host could do, and those of another one are not its own.
    let Ok((client, _)) = context.connect().await else { return Ok(()) };
    if orphans.iter().any(|row| row.pinned.deployment == client.deployment()) {
        start(context)?;
    }
    Ok(())
}

/// Starts a host in the background, which ends by itself when nothing is left to do.
pub fn start(context: &CommandContext) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let log = context.folder().join(LOG_FILE);
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .with_context(|| format!("cannot write {}", log.display()))?;
    Command::new(program)
        .args(context.arguments()?)
        .arg("host")
        .envs(context.variables()?)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        // Of its own, so that what ends the terminal's programs does not end it.
        .process_group(0)
        .spawn()
        .context("cannot start a host in the background")?;
    Ok(())
}
