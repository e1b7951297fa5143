#[path = "../../tests/support/agent_choices.rs"]
mod choices;

use super::*;
use crate::builders;

fn agent(name: &str) -> Agent {
    Agent { name: name.into(), ..builders::agent(name) }
}

fn child(name: &str) -> Agent {
    Agent { parent: Some("root".into()), ..agent(name) }
}

fn chosen(agents: &[Agent]) -> Result<&str, NoSelection> {
    select(agents).map(|agent| agent.id.as_str())
}

#[test]
fn the_only_root_agent_is_chosen() {
    assert_eq!(chosen(&[agent("main")]), Ok("main"));
}

#[test]
fn the_chat_suffix_wins_over_order_and_name() {
    let agents = [agent("alpha"), Agent { order: 9, ..agent("zeta-coderd-chat") }];
    assert_eq!(chosen(&agents), Ok("zeta-coderd-chat"));
}

#[test]
fn the_chat_suffix_is_matched_in_any_case() {
    assert_eq!(chosen(&[agent("alpha"), agent("Zeta-CODERD-Chat")]), Ok("Zeta-CODERD-Chat"));
}

#[test]
fn without_a_suffix_the_order_counts_before_the_name() {
    let agents = [agent("alpha"), Agent { order: -1, ..agent("zeta") }];
    assert_eq!(chosen(&agents), Ok("zeta"));
    assert_eq!(chosen(&[agent("beta"), agent("Alpha")]), Ok("Alpha"));
}

#[test]
fn names_that_differ_in_case_only_are_told_apart_by_their_exact_form() {
    assert_eq!(chosen(&[agent("main"), agent("Main")]), Ok("Main"));
    assert_eq!(chosen(&[agent("Main"), agent("main")]), Ok("Main"));
}

#[test]
fn equal_names_are_told_apart_by_id() {
    let twin = |id: &str| Agent { id: id.into(), ..agent("main") };
    assert_eq!(chosen(&[twin("2"), twin("1")]), Ok("1"));
}

#[test]
fn several_agents_with_the_suffix_are_ambiguous_and_named_in_order() {
    let agents = [agent("b-coderd-chat"), agent("a-coderd-chat"), agent("plain")];
    let names = vec!["a-coderd-chat".into(), "b-coderd-chat".into()];
    assert_eq!(chosen(&agents), Err(NoSelection::Ambiguous(names)));
}

#[test]
fn an_agent_made_by_an_agent_is_never_chosen() {
    assert_eq!(chosen(&[child("x-coderd-chat"), agent("main")]), Ok("main"));
    assert_eq!(chosen(&[child("x-coderd-chat"), agent("y-coderd-chat")]), Ok("y-coderd-chat"));
    assert_eq!(chosen(&[child("x-coderd-chat")]), Err(NoSelection::NoRootAgent));
}

#[test]
fn no_agents_give_no_selection() {
    assert_eq!(chosen(&[]), Err(NoSelection::NoRootAgent));
}

#[test]
fn the_bare_suffix_is_a_chat_agents_name_and_a_part_of_it_is_not() {
    assert!(is_chat_agent("-coderd-chat"));
    assert!(is_chat_agent("dev-Coderd-Chat"));
    assert!(!is_chat_agent("coderd-chat"));
    assert!(!is_chat_agent("dev-coderd-chat-2"));
}

#[test]
fn the_plugin_looks_at_the_agent_that_the_host_dials() {
    for (candidates, chosen) in choices::all() {
        let named = |(id, (name, order, made)): (usize, &choices::Candidate)| Agent {
            id: id.to_string(),
            name: (*name).into(),
            order: *order,
            parent: made.then(|| "root".into()),
            ..agent(name)
        };
        let agents: Vec<_> = candidates.iter().enumerate().map(named).collect();
        let id = select(&agents).ok().map(|agent| agent.id.clone());
        assert_eq!(id, chosen.map(|place| place.to_string()), "{candidates:?}");
    }
}
