//! Every combination of what the decision table looks at, as inputs of `classify-failure`.
//!
//! Compiled twice: with the plugin's types and with the host's, which have the same names. Whoever includes this file
//! has modules `types` and `builders` beside it.

use super::builders::{self, NOW, agents_of, build, evidence, snapshot, start};
use super::types::{
    Agent, AgentState, Agents, Binding, Build, Dial, Evidence, JobStatus, NeverConnected, Policy, ReadError,
    Transition,
};

/// From when on a restart may be advised.
pub const THRESHOLD_MS: u64 = 90_000;

/// One input, and what it stands for.
#[derive(Clone, Debug)]
pub struct Case {
    pub evidence: Evidence,
    pub policy: Policy,
    /// The answer to `agent-status`, if it is asked for.
    pub status: Result<Agents, ReadError>,
    /// The answer to `latest-build`, if it is asked for.
    pub binding: Result<Binding, ReadError>,
    pub dialed: Dialed,
    pub changed: bool,
    pub who: Who,
    pub age: Age,
}

/// Which agent was dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialed {
    This,
    Another,
    None,
}

/// Which agents there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The read itself failed.
    Unread,
    Nobody,
    OnlyAChild,
    SeveralClaim,
    One {
        external: bool,
    },
}

/// For how long a disconnected agent has been gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// Not a disconnected agent.
    None,
    NoClock,
    NoTime,
    InTheFuture,
    /// Its times are in an order in which nothing happens, or one of them is missing or zero.
    Contradictory,
    Short,
    LongEnough,
    LongEnoughInferred,
}

/// All of them, in a fixed order. Those whose dial did not time out, or whose control plane was away, are decided by
/// the evidence alone, so they are not multiplied by what a read would show.
pub fn all() -> impl Iterator<Item = Case> {
    let read = views().into_iter().enumerate().flat_map(|(index, view)| read(index, view));
    by_evidence().into_iter().chain(unread()).chain(read)
}

fn by_evidence() -> Vec<Case> {
    let mut cases = Vec::new();
    for dial in [Dial::Interrupted, Dial::FailedFast("no permission".into()), Dial::TimedOut(30_000)] {
        for (away, earlier_away) in [(false, 0), (true, 0), (true, 1), (true, 2)] {
            if matches!(dial, Dial::TimedOut(_)) && !away {
                continue;
            }
            for earlier_timeouts in [0, 1] {
                let mut case = Case::new(0, NeverConnected::Restart);
                case.evidence.dial = dial.clone();
                case.evidence.control_plane_away = away;
                case.evidence.trusted_in_ms = (earlier_timeouts == 1).then_some(61_001);
                case.evidence.earlier_away = earlier_away;
                case.evidence.earlier_timeouts = earlier_timeouts;
                cases.push(case);
            }
        }
    }
    cases
}

fn unread() -> Vec<Case> {
    let bound = Binding::Bound(snapshot(start(1, JobStatus::Succeeded)));
    let absent = || Err(ReadError::NotFound);
    let reads = [
        (Err(ReadError::Unauthorized), Ok(bound.clone())),
        (Err(ReadError::Forbidden), Ok(bound.clone())),
        (Err(ReadError::Unavailable(Some(1000))), Ok(bound.clone())),
        (Err(ReadError::Other("odd".into())), Ok(bound.clone())),
        (absent(), Ok(bound)),
        (absent(), Err(ReadError::NotFound)),
        (absent(), Ok(Binding::Unbound)),
        (absent(), Ok(Binding::Rebound)),
        (absent(), Ok(Binding::Deleted)),
    ];
    let mut cases = Vec::new();
    for (status, binding) in reads {
        for earlier_timeouts in [0, 1] {
            for tools in 0..TOOL_SETS {
                let mut case = Case::new(tools, NeverConnected::AskUser);
                case.status = status.clone();
                case.binding = binding.clone();
                case.evidence.earlier_timeouts = earlier_timeouts;
                cases.push(case);
            }
        }
    }
    cases
}

/// What a read that works may show: every newest build with every set of agents.
fn views() -> Vec<(Agents, Who, Age)> {
    let mut views = Vec::new();
    for build in builds() {
        let agents = |agents: Vec<Agent>| agents_of(build.clone(), agents);
        let child = Agent { parent: Some("a0".into()), ..agent(AgentState::Connected) };
        let claims = |name: &str| Agent { name: name.into(), ..agent(AgentState::Connected) };
        views.push((agents(vec![]), Who::Nobody, Age::None));
        views.push((agents(vec![child]), Who::OnlyAChild, Age::None));
        let several = vec![claims("a-coderd-chat"), claims("b-coderd-chat")];
        views.push((agents(several), Who::SeveralClaim, Age::None));
        for external in [false, true] {
            let who = Who::One { external };
            for state in [
                AgentState::Connecting,
                AgentState::Connected,
                AgentState::TimedOut,
                AgentState::Unknown("odd".into()),
            ] {
                let one = Agent { external, ..agent(state) };
                views.push((agents(vec![one]), who, Age::None));
            }
            for age in [
                Age::NoClock,
                Age::NoTime,
                Age::InTheFuture,
                Age::Short,
                Age::LongEnough,
                Age::LongEnoughInferred,
            ] {
                let observed = if age == Age::NoClock { None } else { Some(NOW) };
                let read = agents(vec![Agent { external, ..gone(age) }]);
                views.push((Agents { observed, ..read }, who, age));
            }
        }
    }
    for (agent, age) in lives() {
        let agents = agents_of(start(1, JobStatus::Succeeded), vec![agent]);
        views.push((agents, Who::One { external: false }, age));
    }
    views
}

/// Disconnected agents that were made, connected first, were seen last and went, long ago, in every order, at the same
/// time or not; and such of whom one of these times is missing or zero.
fn lives() -> Vec<(Agent, Age)> {
    let mut lives = Vec::new();
    let at = |place: u64| NOW - THRESHOLD_MS - 4_000 + 1_000 * place;
    for order in 0..4_u64.pow(4) {
        let places = [order / 64, order / 16 % 4, order / 4 % 4, order % 4];
        // Every order once: none that leaves a place free.
        if places.iter().any(|place| *place > 0 && !places.contains(&(place - 1))) {
            continue;
        }
        let [made, first, last, gone] = places;
        let agent = Agent {
            created: at(made),
            first_connected: Some(at(first)),
            last_connected: Some(at(last)),
            disconnected: Some(at(gone)),
            ..agent(AgentState::Disconnected)
        };
        let age = match made <= first && first <= last && last <= gone {
            true if last == gone => Age::LongEnoughInferred,
            true => Age::LongEnough,
            false => Age::Contradictory,
        };
        lives.push((agent, age));
    }
    let whole = || gone(Age::LongEnough);
    for wrong in [
        Agent { created: 0, ..whole() },
        Agent { first_connected: Some(0), ..whole() },
        Agent { first_connected: None, ..whole() },
        Agent { last_connected: Some(0), ..whole() },
        Agent { last_connected: None, ..whole() },
        Agent { disconnected: Some(0), ..whole() },
        Agent {
            created: 0,
            first_connected: Some(0),
            last_connected: Some(0),
            disconnected: Some(0),
            ..whole()
        },
    ] {
        lives.push((wrong, Age::Contradictory));
    }
    lives
}

fn builds() -> Vec<Build> {
    let mut builds = Vec::new();
    for transition in
        [Transition::Start, Transition::Stop, Transition::Delete, Transition::Unknown("freeze".into())]
    {
        for status in [
            JobStatus::Pending,
            JobStatus::Running,
            JobStatus::Canceling,
            JobStatus::Succeeded,
            JobStatus::Failed,
            JobStatus::Canceled,
            JobStatus::Unknown("napping".into()),
        ] {
            for cancel_requested in [false, true] {
                for ours in [false, true] {
                    let build = build(1, transition.clone(), status.clone());
                    builds.push(Build { cancel_requested, ours, ..build });
                }
            }
        }
    }
    builds
}

/// Every evidence of a dial that timed out, for one view.
fn read(index: usize, (agents, who, age): (Agents, Who, Age)) -> Vec<Case> {
    let mut cases = Vec::new();
    let now_gone = agents.agents.first().and_then(|agent| agent.disconnected);
    for (earlier_timeouts, recent_restarts) in [(0, 0), (1, 0), (0, 2), (1, 2)] {
        for dialed in [Dialed::This, Dialed::Another, Dialed::None] {
            for changed in [false, true] {
                for never_connected in [NeverConnected::AskUser, NeverConnected::Restart] {
                    let mut case = Case::new((index + cases.len()) % TOOL_SETS, never_connected);
                    case.status = Ok(agents.clone());
                    case.evidence.earlier_timeouts = earlier_timeouts;
                    case.evidence.recent_restarts = recent_restarts;
                    case.evidence.dialed = match dialed {
                        Dialed::This => Some("a1".into()),
                        Dialed::Another => Some("a9".into()),
                        Dialed::None => None,
                    };
                    case.evidence.disconnected_at_start = if changed { Some(1) } else { now_gone };
                    cases.push(Case { dialed, changed, who, age, ..case });
                }
            }
        }
    }
    cases
}

impl Case {
    /// A dial to `a1` that timed out for the first time, and a read that fails.
    fn new(tools: usize, never_connected: NeverConnected) -> Self {
        Self {
            evidence: evidence(),
            policy: policy(tools, never_connected),
            status: Err(ReadError::Unavailable(None)),
            binding: Err(ReadError::Unavailable(None)),
            dialed: Dialed::This,
            changed: false,
            who: Who::Unread,
            age: Age::None,
        }
    }
}

const TOOL_SETS: usize = 5;

/// The rules, and one of the sets of tools that a chat may have.
fn policy(tools: usize, never_connected: NeverConnected) -> Policy {
    let tools: &[&str] = match tools {
        0 => &["stop_workspace", "start_workspace", "restart_workspace", "ask", "create"],
        1 => &["stop_workspace", "start_workspace"],
        2 => &[],
        3 => &["stop_workspace", "ask"],
        _ => &["restart_workspace", "create"],
    };
    let tools = tools.iter().map(|tool| (*tool).into()).collect();
    let (ask_user_tool, create_tool) = (Some("ask".into()), Some("create".into()));
    Policy { never_connected, tools, ask_user_tool, create_tool, ..builders::policy() }
}

fn agent(state: AgentState) -> Agent {
    Agent { state, last_connected: Some(NOW - 500_000), ..builders::agent("a1") }
}

fn gone(age: Age) -> Agent {
    let since = match age {
        Age::None | Age::NoTime | Age::Contradictory => None,
        Age::InTheFuture => Some(NOW + 1),
        Age::Short => Some(NOW - THRESHOLD_MS + 1),
        Age::NoClock | Age::LongEnough | Age::LongEnoughInferred => Some(NOW - THRESHOLD_MS),
    };
    let gone = Agent { disconnected: since, ..agent(AgentState::Disconnected) };
    match age {
        Age::LongEnoughInferred => Agent { last_connected: since, ..gone },
        _ => gone,
    }
}
