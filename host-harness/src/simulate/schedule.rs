//! What happens in a world, as data: drawn before the world begins, so that it can be printed, cut down and run again.

use std::fmt;

use super::dice::Dice;

/// Milliseconds since a world began.
pub type At = u64;

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
/// Virtual time in which one call is made, on average: calls should meet each other now and then.
const PER_CALL: u64 = 30 * SECOND;

/// When an agent whose own watchdog ends it after a minute and a half is back.
const WATCHDOG: u64 = 99 * SECOND;

/// A world: how large it is, and what happens in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// All chance comes from it.
    pub seed: u64,
    /// Workspaces that there are.
    pub workspaces: u64,
    /// Chats; each is bound to a workspace, several may share one.
    pub chats: u64,
    /// Hosts that share the store.
    pub hosts: u64,
    /// Users for whom they act; a host acts for one.
    pub users: u64,
    /// When the faults end and the calm begins.
    pub calm: At,
    /// Which concerns have bad luck of their own, beyond what is planned.
    pub random_faults: RandomFaults,
    /// What happens, in order.
    pub events: Vec<ScheduledEvent>,
}

/// Which kinds of faults are drawn where they come about, besides those that are scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RandomFaults {
    /// Reads fail, hang, are slow.
    pub reads: bool,
    /// Requests for builds are refused, lost, answered late or not at all.
    pub posts: bool,
    /// Builds queue, fail, are cancelled in vain.
    pub builds: bool,
    /// Agents of new builds never connect, crash, hang, have scripts that fail.
    pub agents: bool,
    /// Announcements of changes are slow or lost, streams end.
    pub changes: bool,
    /// The store is slow.
    pub store: bool,
    /// People do something about builds of ours.
    pub people: bool,
}

/// Something that happens at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduledEvent {
    /// When.
    pub at: At,
    /// What.
    pub event: Event,
}

/// What can happen. Durations are milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A chat calls a lifecycle tool, at this host.
    Call {
        /// The chat.
        chat: u64,
        /// The host that is asked.
        host: u64,
        /// The tool.
        tool: Tool,
        /// With the condition `only_if_unreachable`.
        only_if: bool,
        /// What becomes of the caller.
        caller: Caller,
    },
    /// A chat runs a command; if the agent cannot be reached, it follows the verdict.
    Execute {
        /// The chat.
        chat: u64,
        /// The host that is asked.
        host: u64,
    },
    /// A chat is bound to another workspace.
    Rebind {
        /// The chat.
        chat: u64,
        /// The workspace.
        to: u64,
    },
    /// Somebody else acts on a workspace.
    Person {
        /// The workspace.
        workspace: u64,
        /// What is done.
        does: Intervention,
    },
    /// The agent's process ends.
    AgentDies {
        /// The workspace.
        workspace: u64,
        /// After how long it comes back, if it does.
        back: Option<u64>,
    },
    /// The agent's process stands still, with its connection open.
    AgentHangs {
        /// The workspace.
        workspace: u64,
        /// After how long it goes on, if it does.
        back: Option<u64>,
    },
    /// The control plane is away, for everybody.
    Away {
        /// For how long.
        lasts: u64,
    },
    /// One host cannot reach the control plane.
    CutOff {
        /// The host.
        host: u64,
        /// For how long.
        lasts: u64,
    },
    /// No provisioner takes builds.
    NoProvisioner {
        /// For how long.
        lasts: u64,
    },
    /// A host is killed, now or when it comes to this point, and comes back.
    Crash {
        /// The host.
        host: u64,
        /// Where.
        point: FaultPoint,
        /// After how long it comes back.
        back: u64,
    },
    /// A host stands still and goes on.
    Suspend {
        /// The host.
        host: u64,
        /// For how long.
        lasts: u64,
    },
    /// A host leaves in an orderly way and comes back.
    Leave {
        /// The host.
        host: u64,
        /// After how long it comes back.
        back: u64,
    },
    /// A host's disk is full.
    StoreFull {
        /// The host.
        host: u64,
        /// For how long.
        lasts: u64,
    },
}

/// The lifecycle tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// `stop_workspace`
    Stop,
    /// `start_workspace`
    Start,
    /// `restart_workspace`
    Restart,
}

/// What becomes of whoever made a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Waits for the end, at another host if need be.
    Stays,
    /// Waits for the end, and has given the call a name of its own, so that it may be asked for again.
    StaysWithKey,
    /// Interrupts the call after a while.
    Interrupts {
        /// How long.
        after: u64,
    },
    /// Goes away without a word.
    Leaves {
        /// After how long.
        after: u64,
    },
}

/// What somebody does to a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intervention {
    /// Stops it.
    Stop,
    /// Starts it.
    Start,
    /// Deletes it.
    Delete,
    /// Cancels the build in progress.
    Cancel,
}

/// Where a host is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultPoint {
    /// Wherever it is.
    Now,
    /// Directly before its next write to the store becomes durable: the write is lost.
    BeforeCommit,
    /// Directly after.
    AfterCommit,
    /// Directly before its next request for a build is sent.
    BeforePost,
    /// After that was sent, before the answer is there.
    AfterPost,
}

impl RandomFaults {
    /// Of all kinds.
    pub const ALL: Self = Self {
        reads: true,
        posts: true,
        builds: true,
        agents: true,
        changes: true,
        store: true,
        people: true,
    };
}

impl Schedule {
    /// Draws a world with this many calls.
    pub fn draw(seed: u64, calls: u64) -> Self {
        let mut dice = Dice::new(seed, "size", &[]);
        let workspaces = dice.between(2, 6);
        let (chats, hosts) = (workspaces + dice.between(0, 4), dice.between(1, 4));
        let users = dice.between(1, 2).min(hosts);
        let calm = (calls * PER_CALL).max(4 * MINUTE);
        let mut schedule = Self {
            seed,
            workspaces,
            chats,
            hosts,
            users,
            calm,
            random_faults: RandomFaults::ALL,
            events: Vec::new(),
        };
        for call in 0..calls {
            schedule.call(&mut Dice::new(seed, "call", &[call]));
        }
        for fault in 0..calls / 2 {
            schedule.fault(&mut Dice::new(seed, "fault", &[fault]));
        }
        schedule.events.sort_by_key(|planned| planned.at);
        schedule
    }

    fn call(&mut self, dice: &mut Dice) {
        let at = dice.between(SECOND, self.calm);
        let (chat, host) = (dice.between(1, self.chats), dice.between(1, self.hosts));
        if dice.percent(15) {
            return self.add(at, Event::Execute { chat, host });
        }
        let tool =
            dice.pick([Tool::Stop, Tool::Start, Tool::Start, Tool::Restart, Tool::Restart, Tool::Restart]);
        let only_if = tool != Tool::Start && dice.percent(50);
        let caller = match dice.between(0, 9) {
            0 | 1 => Caller::Interrupts { after: dice.between(0, 2 * MINUTE) },
            2 | 3 => Caller::Leaves { after: dice.between(0, 2 * MINUTE) },
            4 | 5 => Caller::StaysWithKey,
            _ => Caller::Stays,
        };
        if only_if && dice.percent(60) {
            // Else the condition would hardly ever be met.
            let (workspace, back) = (self.home(chat), dice.percent(30).then(|| dice.between(0, 5 * MINUTE)));
            let gone = dice.between(0, 4 * MINUTE);
            let dies = dice.percent(60);
            let back = if dice.percent(15) { Some(WATCHDOG) } else { back };
            let event = match dies {
                true => Event::AgentDies { workspace, back },
                false => Event::AgentHangs { workspace, back },
            };
            self.add(at.saturating_sub(gone), event);
        }
        self.add(at, Event::Call { chat, host, tool, only_if, caller });
    }

    fn fault(&mut self, dice: &mut Dice) {
        let at = dice.between(0, self.calm - MINUTE);
        let (workspace, host) = (dice.between(1, self.workspaces), dice.between(1, self.hosts));
        let short = dice.between(SECOND, 40 * SECOND);
        let event = match dice.between(0, 99) {
            0..=13 => Event::Person { workspace, does: Intervention::Stop },
            14..=23 => Event::Person { workspace, does: Intervention::Start },
            24..=37 => Event::Person { workspace, does: Intervention::Cancel },
            38..=39 => Event::Person { workspace, does: Intervention::Delete },
            40..=47 => Event::Away { lasts: dice.between(SECOND, 4 * MINUTE) },
            48..=53 => Event::CutOff { host, lasts: dice.between(SECOND, 2 * MINUTE) },
            54..=57 => Event::NoProvisioner { lasts: dice.between(SECOND, 12 * MINUTE) },
            58..=77 => {
                use FaultPoint::{AfterCommit, AfterPost, BeforeCommit, BeforePost, Now};
                let point = dice.pick([Now, BeforeCommit, AfterCommit, BeforePost, AfterPost]);
                Event::Crash { host, point, back: dice.between(0, 3 * MINUTE) }
            }
            78..=87 => Event::Suspend { host, lasts: dice.between(SECOND, 3 * MINUTE) },
            88..=91 => Event::Leave { host, back: short },
            92..=95 => Event::StoreFull { host, lasts: short },
            _ => Event::Rebind { chat: dice.between(1, self.chats), to: workspace },
        };
        self.add(at, event);
    }

    fn add(&mut self, at: At, event: Event) {
        self.events.push(ScheduledEvent { at, event });
    }

    /// The user whom a host acts for.
    pub fn user(&self, host: u64) -> String {
        format!("user {}", host % self.users + 1)
    }

    /// The workspace that a chat is bound to at first.
    pub fn home(&self, chat: u64) -> u64 {
        (chat - 1) % self.workspaces + 1
    }
}

impl fmt::Display for ScheduledEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>8.1} s  ", self.at as f64 / 1000.0)?;
        let back = |back: Option<u64>| match back {
            Some(back) => format!(", and is back {back} ms later"),
            None => String::new(),
        };
        match self.event {
            Event::Call { chat, host, tool, only_if, caller } => {
                let condition = if only_if { " only if unreachable" } else { "" };
                write!(f, "chat c{chat} calls {}{condition} at host {host}{caller}", tool.name())
            }
            Event::Execute { chat, host } => write!(f, "chat c{chat} runs a command at host {host}"),
            Event::Rebind { chat, to } => write!(f, "chat c{chat} is bound to w{to}"),
            Event::Person { workspace, does } => {
                write!(f, "somebody asks for {does:?} of w{workspace}")
            }
            Event::AgentDies { workspace, back: after } => {
                write!(f, "the agent of w{workspace} dies{}", back(after))
            }
            Event::AgentHangs { workspace, back: after } => {
                write!(f, "the agent of w{workspace} hangs{}", back(after))
            }
            Event::Away { lasts } => write!(f, "the control plane is away for {lasts} ms"),
            Event::CutOff { host, lasts } => write!(f, "host {host} is cut off for {lasts} ms"),
            Event::NoProvisioner { lasts } => write!(f, "no provisioner takes builds for {lasts} ms"),
            Event::Crash { host, point, back } => {
                write!(f, "host {host} is killed ({point:?}), and is back {back} ms later")
            }
            Event::Suspend { host, lasts } => write!(f, "host {host} stands still for {lasts} ms"),
            Event::Leave { host, back } => write!(f, "host {host} leaves, and is back {back} ms later"),
            Event::StoreFull { host, lasts } => write!(f, "the disk of host {host} is full for {lasts} ms"),
        }
    }
}

impl fmt::Display for RandomFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reads, posts, builds, agents, changes, store, people } = *self;
        let all = [
            (reads, "reads"),
            (posts, "requests"),
            (builds, "builds"),
            (agents, "agents"),
            (changes, "announcements"),
            (store, "store"),
            (people, "people"),
        ];
        let names: Vec<_> = all.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect();
        f.write_str(if names.is_empty() { "none" } else { "" })?;
        f.write_str(&names.join(", "))
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stays => Ok(()),
            Self::StaysWithKey => f.write_str(" with a key"),
            Self::Interrupts { after } => write!(f, " and interrupts it after {after} ms"),
            Self::Leaves { after } => write!(f, " and goes away after {after} ms"),
        }
    }
}

impl Tool {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop_workspace",
            Self::Start => "start_workspace",
            Self::Restart => "restart_workspace",
        }
    }
}
