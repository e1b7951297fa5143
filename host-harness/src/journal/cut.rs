//! Cuts an answer to what a plugin may be given.
//!
//! Texts that are only read are cut, and end in an ellipsis. Identifiers, names and the list of agents mean something
//! else when cut: an answer in which one of them is too long is refused.

use super::messages::Answer;
use crate::bindings::{
    Agent, AgentState, AgentWait, Agents, Binding, Build, BuildWait, JobStatus, Lifecycle, Probe, ReadError,
    Refusal, Snapshot, Transition, TransitionError,
};
use crate::limits::{ANSWER_AGENTS, ANSWER_NAME_BYTES, ANSWER_PROBLEMS, ANSWER_TEXT_BYTES};

/// What is too long, how long it is, and how long it may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong {
    pub field: &'static str,
    pub size: usize,
    pub limit: usize,
}

type Cut = Result<(), TooLong>;

pub(super) fn answer(answer: &mut Answer) -> Cut {
    match answer {
        Answer::LatestBuild(Ok(found)) => binding(found),
        Answer::AgentStatus(Ok(found)) => agents(found),
        Answer::IssueTransition(Ok(issued)) => build(issued),
        Answer::IssueTransition(Err(error)) => transition_error(error),
        Answer::PublishBinding(Ok(_)) => Ok(()),
        Answer::WaitForBuild(Ok(BuildWait { build: last, .. })) => optional(last, build),
        Answer::WaitForAgent(Ok(AgentWait { agent: last, probe, .. })) => {
            if let Some(Probe::Unanswered(why) | Probe::Untried(why)) = probe {
                text(why);
            }
            optional(last, agent)
        }
        Answer::LatestBuild(Err(error))
        | Answer::AgentStatus(Err(error))
        | Answer::PublishBinding(Err(error))
        | Answer::WaitForBuild(Err(error))
        | Answer::WaitForAgent(Err(error)) => {
            read_error(error);
            Ok(())
        }
    }
}

fn binding(binding: &mut Binding) -> Cut {
    match binding {
        Binding::Unbound | Binding::Rebound | Binding::Deleted => Ok(()),
        Binding::Bound(Snapshot { workspace_name, template, dormant: _, latest, start_refusal }) => {
            name("workspace name", workspace_name)?;
            optional(template, |template| name("template", template))?;
            build(latest)?;
            optional(start_refusal, refusal)
        }
    }
}

fn agents(found: &mut Agents) -> Cut {
    build(&mut found.build)?;
    if found.agents.len() > ANSWER_AGENTS {
        return Err(TooLong { field: "list of agents", size: found.agents.len(), limit: ANSWER_AGENTS });
    }
    found.agents.iter_mut().try_for_each(agent)
}

fn build(build: &mut Build) -> Cut {
    name("build id", &build.id)?;
    optional(&mut build.error_code, |code| name("error code", code))?;
    optional(&mut build.template_version, |version| name("template version", version))?;
    if let Some(error) = &mut build.error {
        text(error);
    }
    if let Transition::Unknown(other) = &mut build.transition {
        text(other);
    }
    if let JobStatus::Unknown(other) = &mut build.status {
        text(other);
    }
    Ok(())
}

fn agent(agent: &mut Agent) -> Cut {
    name("agent id", &agent.id)?;
    optional(&mut agent.parent, |parent| name("parent agent id", parent))?;
    name("agent name", &agent.name)?;
    if let AgentState::Unknown(other) = &mut agent.state {
        text(other);
    }
    if let Lifecycle::Unknown(other) = &mut agent.lifecycle {
        text(other);
    }
    Ok(())
}

fn read_error(error: &mut ReadError) {
    if let ReadError::Other(message) = error {
        text(message);
    }
}

fn transition_error(error: &mut TransitionError) -> Cut {
    match error {
        TransitionError::Superseded(newer) => build(newer),
        TransitionError::Conflict(active) => optional(active, build),
        TransitionError::Forbidden(why)
        | TransitionError::Invalid(why)
        | TransitionError::Policy(why)
        | TransitionError::UnseenConflict(why)
        | TransitionError::Other(why) => refusal(why),
        TransitionError::Rebound
        | TransitionError::Interrupted
        | TransitionError::Expired
        | TransitionError::Gone
        | TransitionError::Unavailable(_) => Ok(()),
    }
}

fn refusal(refusal: &mut Refusal) -> Cut {
    text(&mut refusal.message);
    if let Some(detail) = &mut refusal.detail {
        text(detail);
    }
    refusal.validations.truncate(ANSWER_PROBLEMS);
    for problem in &mut refusal.validations {
        name("field name", &problem.field)?;
        text(&mut problem.detail);
    }
    optional(&mut refusal.template, |template| name("template", template))
}

fn optional<T>(value: &mut Option<T>, cut: impl FnOnce(&mut T) -> Cut) -> Cut {
    value.as_mut().map_or(Ok(()), cut)
}

fn name(field: &'static str, name: &str) -> Cut {
    if name.len() > ANSWER_NAME_BYTES {
        return Err(TooLong { field, size: name.len(), limit: ANSWER_NAME_BYTES });
    }
    Ok(())
}

fn text(text: &mut String) {
    const ELLIPSIS: &str = "…";
    if text.len() > ANSWER_TEXT_BYTES {
        text.truncate(text.floor_char_boundary(ANSWER_TEXT_BYTES - ELLIPSIS.len()));
        text.push_str(ELLIPSIS);
    }
}
