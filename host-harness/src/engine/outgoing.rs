//! Measures what goes into a plugin and what comes out of it.

use crate::bindings::{CallError, Dial, Evidence, Policy, Tool, ToolResult, Transition, Verdict};
use crate::journal::{Export, Output, Request};
use crate::limits::{Limit, OUT_LIST_ITEMS, OUT_STRING_BYTES};

/// The length of all strings of a call's input.
pub(super) fn input_bytes(export: &Export) -> usize {
    match export {
        Export::ListTools => 0,
        Export::CallTool { name, arguments, policy } => name.len() + arguments.len() + policy_bytes(policy),
        Export::ClassifyFailure { evidence, policy } => evidence_bytes(evidence) + policy_bytes(policy),
        Export::CheckConnection { cached } => cached.len(),
    }
}

fn policy_bytes(policy: &Policy) -> usize {
    let named = [&policy.ask_user_tool, &policy.create_tool].into_iter().flatten();
    // Each name also costs the plugin a pointer and a length.
    policy.tools.iter().chain(named).map(|tool| tool.len() + 8).sum()
}

fn evidence_bytes(evidence: &Evidence) -> usize {
    let error = match &evidence.dial {
        Dial::FailedFast(error) => error.len(),
        Dial::Interrupted | Dial::TimedOut(_) => 0,
    };
    error + evidence.dialed.as_ref().map_or(0, String::len)
}

/// Judges the strings and lists of a request.
pub(super) fn request(request: &Request) -> Result<(), Limit> {
    match request {
        Request::LatestBuild { .. } | Request::AgentStatus => Ok(()),
        Request::IssueTransition { to, rests_on, parameters } => {
            if let Transition::Unknown(other) = to {
                string(other)?;
            }
            list(parameters)?;
            string(rests_on)?;
            parameters.iter().try_for_each(|parameter| strings([&parameter.name, &parameter.value]))
        }
        Request::PublishBinding { build } | Request::WaitForBuild { build, .. } => string(build),
        Request::WaitForAgent { build, agent, .. } => strings([build, agent]),
    }
}

/// Judges the strings and lists of a result.
pub(super) fn output(output: &Output) -> Result<(), Limit> {
    match output {
        Output::ListTools(tools) => {
            list(tools)?;
            tools.iter().try_for_each(|tool| {
                let Tool { name, title, description, input_schema, output_schema, .. } = tool;
                strings([name, title, description, input_schema, output_schema])
            })
        }
        Output::CallTool(Ok(ToolResult { json: text, .. }) | Err(CallError::InvalidArguments(text))) => {
            string(text)
        }
        Output::CallTool(Err(CallError::UnknownTool)) | Output::CheckConnection(_) => Ok(()),
        Output::ClassifyFailure(Verdict { tools, message, .. }) => {
            list(tools)?;
            tools.iter().chain([message]).try_for_each(|text| string(text))
        }
    }
}

fn strings<const N: usize>(texts: [&String; N]) -> Result<(), Limit> {
    texts.into_iter().try_for_each(|text| string(text))
}

fn string(text: &str) -> Result<(), Limit> {
    if text.len() > OUT_STRING_BYTES { Err(Limit::OutString { bytes: text.len() }) } else { Ok(()) }
}

fn list<T>(items: &[T]) -> Result<(), Limit> {
    if items.len() > OUT_LIST_ITEMS { Err(Limit::OutList { items: items.len() }) } else { Ok(()) }
}
