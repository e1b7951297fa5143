//! `host`: a process that carries on the calls of others, and how one is started in the background.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;

use super::Exit;
use super::calls::interrupted_by_signals;
use super::host::Place;
use crate::clock::{Clock, SystemClock};

/// Where a host in the background writes what it has to say.
const LOG_FILE: &str = "host.log";
/// How often a host looks whether there is anything left to do.
const LOOK: Duration = Duration::from_millis(200);
/// How many looks in a row must find nothing before a host ends.
const IDLE_LOOKS: u32 = 10;

pub async fn run(place: &Place, stay: bool) -> anyhow::Result<Exit> {
    let host = place.open().await?;
    let interrupt = interrupted_by_signals()?;
    host.driver.stand_by().await?;
    let mut idle = 0;
    while stay || idle < IDLE_LOOKS {
        tokio::select! {
            () = interrupt.cancelled() => break,
            () = tokio::time::sleep(LOOK) => {}
        }
        let busy = host.driver.unended() > 0 || host.store.has_orphans(SystemClock.now_ms())?;
        idle = if busy { 0 } else { idle + 1 };
    }
    host.driver.leave().await?;
    Ok(if interrupt.is_cancelled() { Exit::Interrupted } else { Exit::Done })
}

/// Starts a host in the background, which ends by itself when nothing is left to do.
pub fn start(place: &Place) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let log = place.data().join(LOG_FILE);
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .with_context(|| format!("cannot write {}", log.display()))?;
    Command::new(program)
        .args(place.arguments())
        .arg("host")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        // Of its own, so that what ends the terminal's programs does not end it.
        .process_group(0)
        .spawn()
        .context("cannot start a host in the background")?;
    Ok(())
}
