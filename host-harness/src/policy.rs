//! The times that hosts keep to and that tests shorten, in one place, and the contract's `Policy` made from them.
//! Limits that nobody shortens stand where they are kept to.

use std::time::Duration;

use crate::bindings::{KnownDead, NeverConnected, Policy};
use crate::clock::millis;

/// After so many restarts of a workspace within [`Timings::restart_memory`] no other one is advised. A workspace that
/// dies a third time within the hour has a cause that restarting does not cure.
pub const MAX_RESTARTS: u32 = 2;
/// So many workspaces whose agents go at the same time are no coincidence. Two may share a machine that dies.
pub const MANY_TOGETHER: usize = 3;
/// How often a call waits for somebody else's build and decides again: enough for a race, too few for a fight.
pub const CONFLICT_ROUNDS: u32 = 3;
/// Calls that may wait for their turn at one workspace. More than that is a loop in a caller, not use.
pub const MAX_WAITING_CALLS: usize = 8;
/// The longest time that the caller of a command may give it, in seconds: what takes longer than an hour is better
/// started in the background and looked after.
pub const LONGEST_COMMAND_SECONDS: u32 = 60 * 60;

/// How long things take, at most or at least. `default()` is for real use; [`Timings::shortened`] for demonstrations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timings {
    /// How long an agent must be gone before a restart is advised: three times what a control plane takes to notice a
    /// silent agent (30 s), so that a gap in the heartbeats never costs a workspace.
    pub recover_after: Duration,
    /// For how long a dial tries to reach an agent.
    pub dial_timeout: Duration,
    /// From how long after a recorded disconnect on an agent is known to be dead: the threshold and a whole dial, so
    /// that an agent whose own watchdog ends it after a minute and a half, and has it back seconds later, never is.
    /// Zero: never.
    pub known_dead_after: Duration,
    /// For how long such an agent is dialled all the same, and reads of it have to have worked: some attempts, and
    /// enough for one that is just coming back. Zero: for the whole window.
    pub known_dead_dial: Duration,
    /// Within what time agents of [`MANY_TOGETHER`] workspaces have gone if it was the control plane that was away: it
    /// notes them one after the other, in one go.
    pub together_within: Duration,
    /// For how long after that agents may still be on their way back: longer than a server is away for an upgrade. What
    /// is still gone then is judged by itself.
    pub together_for: Duration,
    /// After how long a dial looks whether the agent it dials is still the right one: well within the dial timeout, so
    /// that a stale binding does not cost the whole window.
    pub validate_after: Duration,
    /// For how long a verdict may wait for its read where the longest dial is over already: what a healthy control
    /// plane takes, and no more.
    pub last_read: Duration,
    /// How long after a failed read the control plane counts as having been away. Agents read as disconnected for as
    /// long as a control plane was away itself, and come back within seconds; generous, because a wrong restart is
    /// costly.
    pub away_lookback: Duration,
    /// Reads further apart than this do not prove that the control plane was there in between. Must be shorter than
    /// `recover_after` less the 30 s that a control plane takes to notice silence, else an outage could hide in it.
    pub read_silence: Duration,
    /// Failures of a chat are counted as one series until it has been quiet for this long.
    pub quiet_reset: Duration,
    /// For how long restarts are remembered.
    pub restart_memory: Duration,
    /// Time between two reads while waiting: what the control plane's own clients use.
    pub poll: Duration,
    /// First pause before a failed request or dial attempt is repeated; doubles up to `poll`.
    pub first_retry: Duration,
    /// The longest wait for a control plane that refuses a read for being asked too often: what a Coder server asks
    /// for.
    pub rate_patience: Duration,
    /// After how long a second terminal is tried beside one that stays silent: some ten times what a shell takes to
    /// start.
    pub greeting_patience: Duration,
    /// For how long a shell that has said something may take until it runs a command: the slowest start-up files take
    /// some seconds.
    pub shell_limit: Duration,
    /// For how long a command may be silent before its terminal is asked for a sign of life: an agent that is started
    /// again leaves terminals open that nobody answers in.
    pub keep_alive: Duration,
    /// For how long a terminal may take to give one, or to take what is typed, before another one is opened. An agent
    /// that hangs for some seconds is no reason to, though it would do no harm.
    pub keep_alive_limit: Duration,
    /// For how long a command that has to end may go on after each signal: SIGINT, SIGTERM, SIGKILL.
    pub signal_grace: Duration,
    /// Limit of a command for which the caller gives none: long enough for a build or a test run.
    pub command_limit: Duration,
    /// Limit of one wait for a build.
    pub build_limit: Duration,
    /// Limit of a restart's wait for its own stop: as long as a workspace may take to shut down in an orderly way.
    pub restart_stop_limit: Duration,
    /// Limit of the wait for a started workspace's agent to connect.
    pub connect_limit: Duration,
    /// Limit of the wait for its startup scripts to end.
    pub scripts_limit: Duration,
    /// How long a call waits for its turn at a workspace.
    pub turn_limit: Duration,
    /// A call that has sent nothing for this long after it was made sends nothing any more: its asker has moved on.
    pub send_limit: Duration,
    /// For how long a sent request may still be in flight. It is called lost only after so much time of successful
    /// reads.
    pub in_flight: Duration,
    /// For how long a lost request is looked for while the control plane cannot be read.
    pub reconcile_limit: Duration,
    /// For how long a host's calls are its own after it was last heard of: then another host takes them over. Several
    /// times what a busy machine may keep a process waiting, and little enough that nobody gives up on a call
    /// meanwhile.
    pub lease: Duration,
    /// How often a host looks what other hosts that share its store have written: how soon an interrupt is seen there.
    pub news: Duration,
    /// After how long without news whoever waits for a call or a command is told that it goes on: well within the
    /// minute after which clients give up on a request of which they hear nothing.
    pub quiet: Duration,
    /// For how long a call waits for the user's answer to a question before its verdict is told without: what most
    /// clients give a tool at least. The question stays open.
    pub user_patience: Duration,
}

/// The tools that a chat has right now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatTools {
    /// All names.
    pub names: Vec<String>,
    /// The one that asks the user a question.
    pub ask_user: Option<String>,
    /// The one that creates a workspace.
    pub create: Option<String>,
}

impl Default for Timings {
    fn default() -> Self {
        const fn seconds(seconds: u64) -> Duration {
            Duration::from_secs(seconds)
        }
        const fn minutes(minutes: u64) -> Duration {
            Duration::from_secs(60 * minutes)
        }
        Self {
            recover_after: seconds(90),
            dial_timeout: seconds(30),
            known_dead_after: seconds(120),
            known_dead_dial: seconds(5),
            together_within: seconds(5),
            together_for: minutes(15),
            validate_after: seconds(5),
            last_read: seconds(1),
            away_lookback: seconds(90),
            read_silence: seconds(30),
            quiet_reset: minutes(10),
            restart_memory: minutes(60),
            poll: seconds(2),
            first_retry: Duration::from_millis(250),
            rate_patience: seconds(60),
            greeting_patience: seconds(3),
            shell_limit: seconds(10),
            keep_alive: seconds(5),
            keep_alive_limit: seconds(10),
            signal_grace: seconds(5),
            command_limit: minutes(10),
            build_limit: minutes(10),
            restart_stop_limit: minutes(60),
            connect_limit: minutes(2),
            scripts_limit: minutes(10),
            turn_limit: minutes(10),
            send_limit: minutes(30),
            in_flight: seconds(60),
            reconcile_limit: minutes(30),
            lease: seconds(15),
            news: Duration::from_millis(500),
            quiet: seconds(10),
            user_patience: seconds(60),
        }
    }
}

impl Timings {
    /// The default times divided by `divisor` (at least 1), for a demonstration on a control plane whose own times are
    /// shortened alike.
    pub fn shortened(divisor: u32) -> Self {
        let by = divisor.max(1);
        let real = Self::default();
        Self {
            recover_after: real.recover_after / by,
            dial_timeout: real.dial_timeout / by,
            known_dead_after: real.known_dead_after / by,
            known_dead_dial: real.known_dead_dial / by,
            together_within: real.together_within / by,
            together_for: real.together_for / by,
            validate_after: real.validate_after / by,
            last_read: real.last_read,
            away_lookback: real.away_lookback / by,
            read_silence: real.read_silence / by,
            quiet_reset: real.quiet_reset / by,
            restart_memory: real.restart_memory / by,
            poll: real.poll / by,
            first_retry: real.first_retry / by,
            rate_patience: real.rate_patience / by,
            // How long shells and signals take does not depend on the control plane.
            greeting_patience: real.greeting_patience,
            shell_limit: real.shell_limit,
            keep_alive: real.keep_alive / by,
            keep_alive_limit: (real.keep_alive_limit / by).max(Duration::from_secs(2)),
            signal_grace: real.signal_grace,
            command_limit: real.command_limit / by,
            build_limit: real.build_limit / by,
            restart_stop_limit: real.restart_stop_limit / by,
            connect_limit: real.connect_limit / by,
            scripts_limit: real.scripts_limit / by,
            turn_limit: real.turn_limit / by,
            send_limit: real.send_limit / by,
            in_flight: real.in_flight / by,
            reconcile_limit: real.reconcile_limit / by,
            // Not below what a busy machine may keep a process waiting.
            lease: (real.lease / by).max(Duration::from_secs(2)),
            news: real.news,
            quiet: real.quiet / by,
            user_patience: real.user_patience / by,
        }
    }

    /// When an agent is known to be dead, if it ever is.
    fn known_dead(&self) -> Option<KnownDead> {
        let (after, dial) = (self.known_dead_after, self.known_dead_dial);
        (!after.is_zero() && !dial.is_zero())
            .then(|| KnownDead { after_ms: millis(after), dial_ms: millis(dial) })
    }

    /// The contract's policy for a chat with these tools.
    pub fn policy(&self, tools: &ChatTools) -> Policy {
        Policy {
            recover_after_ms: millis(self.recover_after),
            dial_timeout_ms: millis(self.dial_timeout),
            known_dead: self.known_dead(),
            never_connected: NeverConnected::AskUser,
            max_restarts: MAX_RESTARTS,
            build_limit_ms: millis(self.build_limit),
            restart_stop_limit_ms: millis(self.restart_stop_limit),
            connect_limit_ms: millis(self.connect_limit),
            scripts_limit_ms: millis(self.scripts_limit),
            conflict_rounds: CONFLICT_ROUNDS,
            tools: tools.names.clone(),
            ask_user_tool: tools.ask_user.clone(),
            create_tool: tools.create.clone(),
        }
    }
}
