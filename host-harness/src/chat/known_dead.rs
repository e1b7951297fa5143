//! An agent that is known to be dead: trying to reach it need not take the whole window.
//!
//! It takes the same two signals as everywhere, each for a few seconds: whoever tries to reach the agent is refused,
//! and reads of the workspace show an agent whose disconnect was recorded, not inferred, longer ago than a whole dial
//! and the threshold together. Whatever else is seen meanwhile lets the dial take its window.

use std::time::Duration;

use tokio::time::Instant;

use crate::bindings::{Agent, AgentState};
use crate::evidence::is_known_dead;
use crate::policy::Timings;

/// What a dial has seen that speaks for an agent's death.
pub(super) struct DeathWatch {
    after_ms: u64,
    dial: Duration,
    /// The disconnect that its beginning showed, and when that was. `None`: the agent is not known to be dead.
    began: Option<(Instant, Disconnect)>,
    refused: bool,
}

/// Which disconnect of which process of which agent.
#[derive(PartialEq, Eq)]
struct Disconnect {
    agent: String,
    process: Option<String>,
    at: Option<u64>,
}

impl DeathWatch {
    /// The dial of an agent begins: this is what a read shows of it, if it is there.
    pub(super) fn begin(
        timings: &Timings,
        now: Instant,
        agent: Option<&Agent>,
        observed: Option<u64>,
    ) -> Self {
        let (after, dial) = (timings.known_dead_after, timings.known_dead_dial);
        let mut watch = Self {
            after_ms: after.as_millis().try_into().unwrap_or(u64::MAX),
            dial,
            began: None,
            refused: false,
        };
        if !after.is_zero() && !dial.is_zero() {
            watch.began = watch.dead(agent, observed).map(|disconnect| (now, disconnect));
        }
        watch
    }

    /// A dial of which nothing speaks for a death, now or later.
    pub(super) fn off(timings: &Timings, now: Instant) -> Self {
        Self::begin(timings, now, None, None)
    }

    /// A later read shows this of the agent for the chat, if there is one.
    pub(super) fn read(&mut self, agent: Option<&Agent>, observed: Option<u64>) {
        let seen = self.dead(agent, observed);
        if self.began.as_ref().is_some_and(|(_, began)| seen.as_ref() != Some(began)) {
            self.began = None;
        }
    }

    /// An attempt to reach it was refused.
    pub(super) fn refused(&mut self) {
        self.refused = true;
    }

    /// Something was seen that is no sign of death: a read that failed, a terminal that opened.
    pub(super) fn rule_out(&mut self) {
        self.began = None;
    }

    /// When it may be called dead, if nothing else is seen until then.
    pub(super) fn due(&self) -> Option<Instant> {
        self.began.as_ref().map(|(began, _)| *began + self.dial)
    }

    /// Whether it is known to be dead now, as the last read showed it.
    pub(super) fn is_dead(&self, now: Instant) -> bool {
        self.refused && self.due().is_some_and(|due| due <= now)
    }

    fn dead(&self, agent: Option<&Agent>, observed: Option<u64>) -> Option<Disconnect> {
        let agent = agent?;
        let is_dead =
            agent.state == AgentState::Disconnected && is_known_dead(agent, observed, self.after_ms);
        is_dead.then(|| Disconnect {
            agent: agent.id.clone(),
            process: agent.process.clone(),
            at: agent.disconnected,
        })
    }
}
