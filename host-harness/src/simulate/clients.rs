//! Who makes calls: models that wait for the end, ask again, interrupt, or go away.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::hosts::{Host, Hosts};
use super::schedule::{Caller, Tool};
use super::world_state::WorldState;
use crate::bindings::{Action, Policy};
use crate::chat::{Began, Execute, ExecuteError};
use crate::driver::DriveError;
use crate::journal::record::CallId;
use crate::policy::ChatTools;

/// The pause before something is tried again that failed for a host's reasons.
const PAUSE: Duration = Duration::from_secs(2);
/// How often a call is asked for that could not be begun.
const TRIES: u32 = 5;

/// A call to be made.
#[derive(Clone, Copy)]
pub struct ScheduledCall {
    /// Tells it apart.
    pub number: u64,
    /// The chat.
    pub chat: u64,
    /// The host that is asked first.
    pub host: u64,
    /// The tool.
    pub tool: Tool,
    /// Its condition.
    pub only_if: bool,
    /// What becomes of the caller.
    pub caller: Caller,
}

/// The tools that chats have.
pub fn tools() -> ChatTools {
    let names = ["execute", "start_workspace", "stop_workspace", "restart_workspace", "ask_user_question"];
    let names = names.map(ToOwned::to_owned).to_vec();
    ChatTools { names, ask_user: Some("ask_user_question".to_owned()), create: None }
}

impl ScheduledCall {
    /// Makes the call, and does with it what the caller does.
    pub async fn make(self, world: Arc<WorldState>, hosts: Arc<Hosts>) {
        if let Caller::Leaves { after } = self.caller {
            return self.make_and_leave(&world, &hosts, Duration::from_millis(after)).await;
        }
        let Some(call) = self.begin(&world, &hosts).await else { return };
        match self.caller {
            Caller::Interrupts { after } => {
                sleep(Duration::from_millis(after)).await;
                // Whichever host is asked, the one that has the call gets to know.
                interrupt(&hosts, self.host % world.schedule.hosts + 1, call).await;
            }
            Caller::Stays | Caller::StaysWithKey | Caller::Leaves { .. } => {}
        }
        follow(&hosts, self.host, call).await;
    }

    /// Begins it. With a key it may be asked for again when the host died meanwhile.
    async fn begin(&self, world: &WorldState, hosts: &Hosts) -> Option<CallId> {
        let key = matches!(self.caller, Caller::StaysWithKey).then(|| format!("key-{}", self.number));
        let mut before = None;
        for _ in 0..TRIES {
            let Some(host) = hosts.near(self.host) else {
                sleep(PAUSE).await;
                continue;
            };
            let driver = host.driver.clone();
            let chat = self.chat();
            let begin =
                driver.begin(&chat, self.tool.name(), self.arguments(), policy(&host), key.as_deref());
            match alive(&host, begin).await {
                Some(Ok(call)) => {
                    if let Some(before) = before.replace(call).filter(|before| *before != call) {
                        world
                            .observer()
                            .note(world.now(), "twice", &[before, call], || "a key made two calls".into());
                    }
                    return Some(call);
                }
                Some(Err(DriveError::Failed(_) | DriveError::KeyTaken { .. })) => return None,
                // It may have been begun all the same.
                None | Some(Err(_)) if key.is_none() => return None,
                None | Some(Err(_)) => sleep(PAUSE).await,
            }
        }
        None
    }

    /// Makes it as one that waits for the answer, and then does not.
    async fn make_and_leave(&self, world: &WorldState, hosts: &Hosts, after: Duration) {
        let Some(host) = hosts.near(self.host) else { return };
        let (chat, interrupt) = (self.chat(), CancellationToken::new());
        let call =
            host.driver.call_tool(&chat, self.tool.name(), self.arguments(), policy(&host), &interrupt);
        tokio::select! {
            biased;
            () = host.gate.death() => {}
            _ = call => {}
            () = sleep(after) => world.observer().note(world.now(), "left", &[self.number], || format!("a caller of {chat} goes away")),
        }
    }

    fn chat(&self) -> String {
        format!("c{}", self.chat)
    }

    fn arguments(&self) -> &'static str {
        if self.only_if { r#"{"only_if_unreachable":true}"# } else { "{}" }
    }
}

fn policy(host: &Host) -> Policy {
    host.driver.host_calls().timings().policy(&tools())
}

/// Waits for a call's end, at whichever host is up.
async fn follow(hosts: &Hosts, near: u64, call: CallId) {
    loop {
        let Some(host) = hosts.near(near) else {
            sleep(PAUSE).await;
            continue;
        };
        let never = CancellationToken::new();
        match alive(&host, host.driver.follow(call, &never)).await {
            Some(Ok(_) | Err(DriveError::Failed(_) | DriveError::UnknownCall { .. })) => return,
            Some(Err(_)) | None => sleep(PAUSE).await,
        }
    }
}

/// Interrupts a call, at whichever host is up, until that is noted.
async fn interrupt(hosts: &Hosts, near: u64, call: CallId) {
    loop {
        if let Some(host) = hosts.near(near)
            && let Some(Ok(_)) = alive(&host, host.driver.interrupt(call)).await
        {
            return;
        }
        sleep(PAUSE).await;
    }
}

/// What a host answers, if it lives so long.
async fn alive<T>(host: &Host, answer: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = host.gate.death() => None,
        answer = answer => Some(answer),
    }
}

/// A chat runs a command. If that cannot be done it does as it is advised, in the simplest way.
pub async fn execute(world: Arc<WorldState>, hosts: Arc<Hosts>, number: u64, chat: u64, near: u64) {
    let name = format!("c{chat}");
    let Some(host) = hosts.near(near) else { return };
    for time in 0..3 {
        let command = Execute { command: format!("{number}.{time}"), ..Execute::default() };
        let (talk, never) = (host.chats.chat(&name, tools()), CancellationToken::new());
        let done = alive(&host, talk.execute(&command, &never)).await;
        let began = match &done {
            // Nobody knows.
            None => return,
            Some(Ok(_)) => Began::Yes,
            Some(Err(ExecuteError::Unreachable(unreachable))) => unreachable.began,
            Some(Err(ExecuteError::Lost { began, .. })) => *began,
            Some(Err(_)) => Began::No,
        };
        world.observer().command_reported(world.now(), &command.command, began);
        let Some(Err(ExecuteError::Unreachable(unreachable))) = done else { return };
        let workspace = talk.record().ok().flatten().and_then(|record| record.workspace);
        world.observer().advised(&world, &workspace.unwrap_or_default(), &unreachable.verdict);
        let (tool, only_if) = match unreachable.verdict.action {
            Action::Retry => continue,
            Action::Restart => (Tool::Restart, true),
            Action::Start => (Tool::Start, false),
            _ => return,
        };
        let call = ScheduledCall { number, chat, host: near, tool, only_if, caller: Caller::Stays };
        return call.make(world, hosts).await;
    }
}
