//! For how long an agent has been gone: the one definition of it.
//!
//! Compiled twice, in the plugin and in the host, each with its own `Agent` of the contract; whoever includes this file
//! has that type beside it.

use super::Agent;

/// For how many milliseconds a *disconnected* agent has been gone, by the control plane's own clock, read at
/// `observed`. None: not known.
///
/// An answer that contradicts itself is no evidence. An agent is made, connects, is seen, and goes, in this order, all
/// of it before the answer is given; an answer in which one of these times is missing, zero or out of order says
/// nothing of the age. (On an agent that reads connected an old disconnect is normal. Ask only of one that reads
/// disconnected.)
pub fn gone_for_ms(agent: &Agent, observed: Option<u64>) -> Option<u64> {
    let (observed, gone) = (observed?, agent.disconnected?);
    let life = [agent.created, agent.first_connected?, agent.last_connected?, gone, observed];
    (life[0] > 0 && life.is_sorted()).then(|| observed - gone)
}

/// Whether nobody saw the agent go: its last sign of life stands for the time.
pub fn is_inferred(agent: &Agent) -> bool {
    agent.disconnected.is_some() && agent.disconnected == agent.last_connected
}

/// Whether the agent is known to be dead: gone for at least `after_ms`, by a disconnect that was recorded, not
/// inferred.
pub fn is_known_dead(agent: &Agent, observed: Option<u64>, after_ms: u64) -> bool {
    !is_inferred(agent) && gone_for_ms(agent, observed).is_some_and(|gone| gone >= after_ms)
}
