//! Which agent of a build is the chat's.

use core::cmp::Ordering;

use crate::contract::Agent;

/// An agent whose name ends so, in any case of letters, is meant for chats. Only the letters of ASCII have two cases
/// here: an agent's name has no others, and the tables for all scripts would be a tenth of the component.
pub const CHAT_SUFFIX: &str = "-coderd-chat";

/// Why no agent was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoSelection {
    /// There are no root agents: none at all, or only agents made by agents.
    NoRootAgent,
    /// More than one root agent claims the suffix. Their names, in order.
    Ambiguous(Vec<String>),
}

/// Chooses among the root agents: the one with the chat suffix, else the first in order.
///
/// Neither state nor health counts: an agent is the chat's whether it answers or not.
pub fn select(agents: &[Agent]) -> Result<&Agent, NoSelection> {
    let mut roots: Vec<&Agent> = agents.iter().filter(|agent| agent.parent.is_none()).collect();
    roots.sort_by(|left, right| in_order(left, right));
    let claims: Vec<&Agent> = roots.iter().copied().filter(|agent| is_chat_agent(&agent.name)).collect();
    match (claims.as_slice(), roots.first()) {
        ([only], _) => Ok(only),
        ([], Some(first)) => Ok(first),
        ([], None) => Err(NoSelection::NoRootAgent),
        (several, _) => Err(NoSelection::Ambiguous(several.iter().map(|agent| agent.name.clone()).collect())),
    }
}

/// Whether an agent of that name is meant for chats.
pub fn is_chat_agent(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(CHAT_SUFFIX)
}

fn in_order(left: &Agent, right: &Agent) -> Ordering {
    left.order
        .cmp(&right.order)
        .then_with(|| left.name.to_ascii_lowercase().cmp(&right.name.to_ascii_lowercase()))
        .then_with(|| left.name.cmp(&right.name))
        .then_with(|| left.id.cmp(&right.id))
}

#[cfg(test)]
#[path = "agent_select/tests.rs"]
mod tests;
