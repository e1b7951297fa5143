//! Which agent of a workspace a chat works with.

use crate::bindings::Agent;

/// How the names of agents end that are meant for chats.
const CHAT_SUFFIX: &str = "-coderd-chat";

/// The agent for a chat: of the agents without parent the one whose name ends with the chat suffix; without such a one,
/// the first by order, name and id. None if there is none, or several claim the suffix. Only the letters of ASCII have
/// two cases. The plugin applies the same rule; the host needs it only to know whom to dial.
pub(crate) fn choose_agent(agents: &[Agent]) -> Option<&Agent> {
    let roots = || agents.iter().filter(|agent| agent.parent.is_none());
    let mut claimants = roots().filter(|agent| agent.name.to_ascii_lowercase().ends_with(CHAT_SUFFIX));
    match (claimants.next(), claimants.next()) {
        (Some(only), None) => Some(only),
        (Some(_), Some(_)) => None,
        (None, _) => {
            roots().min_by_key(|agent| (agent.order, agent.name.to_ascii_lowercase(), &agent.name, &agent.id))
        }
    }
}

#[cfg(test)]
#[path = "../../../tests/support/agent_choices.rs"]
mod choices;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builders;

    #[test]
    fn the_host_dials_the_agent_that_the_plugin_looks_at() {
        for (candidates, chosen) in choices::all() {
            let agent = |(id, (name, order, made)): (usize, &choices::Candidate)| Agent {
                id: id.to_string(),
                parent: made.then(|| "root".to_owned()),
                name: (*name).to_owned(),
                order: *order,
                ..builders::agent(name)
            };
            let agents: Vec<_> = candidates.iter().enumerate().map(agent).collect();
            let id = choose_agent(&agents).map(|agent| agent.id.clone());
            assert_eq!(id, chosen.map(|place| place.to_string()), "{candidates:?}");
        }
    }
}
