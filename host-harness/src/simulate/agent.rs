//! The life of a workspace's agent, and how the control plane sees it.
//!
//! The control plane knows an agent by its connection and by the signs of life that come over it. It notices silence
//! after [`SILENCE`]. While it is away itself it notices nothing; back again, it takes the last sign of life that it
//! has for the time of the disconnect, until the agent has connected again.

use super::dice::Dice;
use super::schedule::At;
use crate::bindings::{Agent, AgentState, Lifecycle};

/// After how long without a sign of life an agent counts as disconnected.
const SILENCE: u64 = 30_000;
/// How long an agent may take to connect at first.
const CONNECT_LIMIT: u64 = 120_000;

/// A time in which something is the case, its end not included.
pub type Span = (At, At);

/// An agent.
#[derive(Clone, Debug)]
pub struct Life {
    id: String,
    created: At,
    /// What happened to it, in order; later entries may lie in the future.
    turns: Vec<(At, Turn)>,
    /// How long its scripts take from its first connection, and how they end.
    scripts: (u64, Scripts),
    /// How long it takes to connect again after the control plane was away.
    returns_after: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Connects,
    /// Its connection is closed.
    Dies,
    /// Its connection stays open, and nothing comes any more.
    Hangs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scripts {
    Succeed,
    Fail,
    Last,
}

impl Life {
    /// An agent that is made now. With luck it connects soon and stays.
    pub fn new(id: String, created: At, lucky: bool, dice: &mut Dice) -> Self {
        let scripts = (dice.between(0, 20_000), dice.pick([Scripts::Succeed, Scripts::Fail, Scripts::Last]));
        let scripts = if lucky || dice.percent(80) { (scripts.0, Scripts::Succeed) } else { scripts };
        let connects = created + dice.between(200, 20_000);
        let mut turns = vec![(connects, Turn::Connects)];
        match dice.between(0, 99) {
            _ if lucky => {}
            0..=4 => turns.clear(),
            5..=12 => turns.push((connects + dice.between(0, 60_000), Turn::Dies)),
            13..=20 => turns.push((connects + dice.between(0, 60_000), Turn::Hangs)),
            21..=26 => {
                // It crashes and is started again, over and over.
                for crash in 1..=dice.between(2, 8) {
                    turns.push((connects + crash * 20_000, Turn::Dies));
                    turns.push((connects + crash * 20_000 + 9_000, Turn::Connects));
                }
            }
            _ => {}
        }
        Self { id, created, turns, scripts, returns_after: dice.between(500, 15_000) }
    }

    /// An agent that has been connected for long when the world begins.
    pub fn old(id: String) -> Self {
        let turns = vec![(0, Turn::Connects)];
        Self { id, created: 0, turns, scripts: (0, Scripts::Succeed), returns_after: 3_000 }
    }

    /// Its process ends now. What was going to happen to it does not.
    pub fn dies(&mut self, now: At, back: Option<u64>) {
        self.turn(now, Turn::Dies, back);
    }

    /// Its process stands still from now on.
    pub fn hangs(&mut self, now: At, back: Option<u64>) {
        self.turn(now, Turn::Hangs, back);
    }

    fn turn(&mut self, now: At, turn: Turn, back: Option<u64>) {
        let connected = self.last_turn(now).is_some_and(|(_, turn)| turn == Turn::Connects);
        self.turns.retain(|(at, _)| *at <= now);
        if connected {
            self.turns.push((now, turn));
        }
        self.turns.extend(back.map(|back| (now + back, Turn::Connects)));
    }

    /// In truth: since when it cannot be reached although it was connected once. `None`: it can be, or never could.
    pub fn gone_since(&self, now: At) -> Option<At> {
        self.last_turn(now).filter(|(_, turn)| *turn != Turn::Connects).map(|(at, _)| at)
    }

    /// In truth: since when it was missed by a control plane that could have heard of it. An agent that has not come
    /// back since an outage counts from the outage's end, whenever it died. `None`: it lives.
    pub fn missed_since(&self, now: At, outages: &[Span]) -> Option<At> {
        let died = self.gone_since(now)?;
        let connected = self.turns.iter().rev().find(|(at, turn)| *at <= died && *turn == Turn::Connects);
        let frozen = connected.and_then(|(at, _)| self.frozen_at(*at, died, outages));
        let since = frozen.unwrap_or(died);
        // A shorter one makes no agent look gone, and can hide between two reads.
        let long = outages.iter().filter(|(from, to)| to - from >= SILENCE && since < *to && *from <= now);
        Some(long.map(|(_, to)| (*to).min(now)).fold(since, At::max))
    }

    /// Whether a terminal on it works.
    pub fn answers(&self, now: At, outages: &[Span]) -> bool {
        self.last_turn(now)
            .is_some_and(|(at, turn)| turn == Turn::Connects && self.frozen_at(at, now, outages).is_none())
    }

    /// When what the control plane says of it changes next.
    pub fn next_change(&self, now: At) -> Option<At> {
        let turns = self.turns.iter().flat_map(|(at, turn)| match turn {
            Turn::Connects => [*at, at + self.scripts.0],
            Turn::Dies => [*at, *at],
            Turn::Hangs => [at + SILENCE, at + SILENCE],
        });
        turns.filter(|at| *at > now).min()
    }

    /// As the control plane tells it, in its own time.
    pub fn seen(&self, now: At, outages: &[Span], begin: u64) -> Agent {
        let (state, last, disconnected) = match self.last_turn(now) {
            None if now - self.created > CONNECT_LIMIT => (AgentState::TimedOut, None, None),
            None => (AgentState::Connecting, None, None),
            Some((at, Turn::Connects)) => match self.frozen_at(at, now, outages) {
                Some(frozen) => silent(frozen, true, now),
                None => (AgentState::Connected, Some(now), None),
            },
            Some((at, turn)) => {
                // The control plane has to be there to see it go.
                let seen = if turn == Turn::Hangs { at + SILENCE } else { at };
                match outages.iter().find(|(from, to)| *from <= seen && at < *to && seen < *to) {
                    Some((from, _)) => silent(at.min(*from), true, now),
                    None if turn == Turn::Dies => {
                        (AgentState::Disconnected, Some(at.saturating_sub(1)), Some(at))
                    }
                    None => silent(at, false, now),
                }
            }
        };
        Agent {
            id: self.id.clone(),
            parent: None,
            name: "main".to_owned(),
            order: 0,
            external: false,
            state,
            lifecycle: self.lifecycle(now),
            created: begin + self.created,
            first_connected: self.first_connected().filter(|at| *at <= now).map(|at| begin + at),
            last_connected: last.map(|at| begin + at),
            disconnected: disconnected.map(|at| begin + at),
            process: None,
        }
    }

    fn first_connected(&self) -> Option<At> {
        self.turns.iter().find(|(_, turn)| *turn == Turn::Connects).map(|(at, _)| *at)
    }

    fn last_turn(&self, now: At) -> Option<(At, Turn)> {
        self.turns.iter().rev().find(|(at, _)| *at <= now).copied()
    }

    /// When its last sign of life came, if it has not been able to give another since an outage began.
    fn frozen_at(&self, connected: At, now: At, outages: &[Span]) -> Option<At> {
        let (from, to) = outages.iter().rev().find(|(from, to)| *from <= now && connected < *to)?;
        (now < to + self.returns_after).then(|| connected.max(*from))
    }

    fn lifecycle(&self, now: At) -> Lifecycle {
        match self.first_connected().filter(|at| *at <= now) {
            None => Lifecycle::Created,
            Some(at) if now < at + self.scripts.0 => Lifecycle::Starting,
            Some(_) => match self.scripts.1 {
                Scripts::Succeed => Lifecycle::Ready,
                Scripts::Fail => Lifecycle::StartError,
                Scripts::Last => Lifecycle::StartTimeout,
            },
        }
    }
}

/// An agent whose last sign of life came then: connected for a while, disconnected afterwards.
fn silent(last: At, inferred: bool, now: At) -> (AgentState, Option<At>, Option<At>) {
    if now < last + SILENCE {
        return (AgentState::Connected, Some(last), None);
    }
    (AgentState::Disconnected, Some(last), Some(if inferred { last } else { last + SILENCE }))
}
