//! How much room the limits leave to the largest honest call of this repository's plugin.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use super::*;
use crate::bindings::{
    Agent, AgentWait, Binding, Build, BuildWait, JobStatus, Provisioner, Snapshot, Transition,
    TransitionError, WaitEnd,
};
use crate::builders::{self, agents_of, default_policy, gone_agent, snapshot};
use crate::journal::{Answer, Export, Journal, Request};
use crate::limits::{HOST_CALLS, JOURNAL_BYTES, STEP_FUEL};

/// The most that one step and one call took.
#[derive(Debug, Default)]
struct Peak {
    fuel: u64,
    requests: usize,
    bytes: usize,
}

/// A workspace with many agents, in which somebody else's builds come first again and again.
struct World {
    latest: Build,
    conflicts: u32,
}

impl World {
    fn answer(&mut self, request: &Request) -> Answer {
        match request {
            Request::LatestBuild { .. } => Answer::LatestBuild(Ok(Binding::Bound(Snapshot {
                workspace_name: "a-workspace-with-a-longer-name".into(),
                template: Some(id(0)),
                ..snapshot(self.latest.clone())
            }))),
            Request::AgentStatus => {
                let agents = (0..20).map(agent).collect();
                Answer::AgentStatus(Ok(agents_of(self.latest.clone(), agents)))
            }
            Request::IssueTransition { .. } if self.conflicts > 0 => {
                self.conflicts -= 1;
                self.latest = build(self.latest.number + 1, Transition::Start, JobStatus::Running);
                Answer::IssueTransition(Err(TransitionError::Conflict(Some(self.latest.clone()))))
            }
            Request::IssueTransition { to, .. } => {
                self.latest = build(self.latest.number + 1, to.clone(), JobStatus::Pending);
                Answer::IssueTransition(Ok(self.latest.clone()))
            }
            Request::PublishBinding { .. } => Answer::PublishBinding(Ok(true)),
            Request::WaitForBuild { .. } => {
                self.latest.status = match self.latest.transition {
                    Transition::Start if self.conflicts > 0 => JobStatus::Failed,
                    _ => JobStatus::Succeeded,
                };
                let build = Some(self.latest.clone());
                Answer::WaitForBuild(Ok(BuildWait { end: WaitEnd::Reached, waited_ms: 60_000, build }))
            }
            Request::WaitForAgent { .. } => Answer::WaitForAgent(Ok(AgentWait {
                end: WaitEnd::Limit,
                waited_ms: 60_000,
                agent: Some(agent(0)),
                probe: None,
            })),
        }
    }
}

fn id(number: u32) -> String {
    format!("0d6f3c1e-8a55-4f0e-9c8e-{number:012}")
}

fn build(number: u32, transition: Transition, status: JobStatus) -> Build {
    Build {
        id: id(number),
        queue_position: Some(1),
        provisioner: Provisioner::Available,
        error: Some("terraform apply: exit status 1: ".repeat(32)),
        template_version: Some(id(0)),
        ..builders::build(number, transition, status)
    }
}

fn agent(number: u32) -> Agent {
    Agent {
        parent: (number > 0).then(|| id(0)),
        name: format!("agent-{number}"),
        ..gone_agent(&id(number), 600_000)
    }
}

/// Runs a call to its end, and raises the peak to what it took.
fn run(plugin: &Plugin, tool: &str, conflicts: u32, arguments: &str, peak: &mut Peak) {
    let mut world = World { latest: build(1, Transition::Start, JobStatus::Succeeded), conflicts };
    let export =
        Export::CallTool { name: tool.into(), arguments: arguments.into(), policy: default_policy() };
    let mut journal = Journal::new();
    loop {
        let step = plugin.step(&export, &journal).unwrap();
        peak.fuel = peak
            .fuel
            .max(step::fuel_of(plugin.inner.linked.wait().as_ref().unwrap(), &export, &journal).unwrap());
        match step {
            Step::Done(_) => break,
            Step::Request(request) => {
                let answer = world.answer(&request);
                journal.append(request, answer, None).unwrap();
            }
        }
    }
    peak.requests = peak.requests.max(journal.entries().len());
    peak.bytes = peak.bytes.max(journal.bytes());
}

#[test]
fn limits_leave_a_hundredfold_to_the_largest_honest_call() {
    let plugin = Engine::new(EngineOptions::default()).unwrap().load(guest_artifact::COMPONENT).unwrap();
    let parameters: Vec<_> =
        (0..20).map(|n| format!(r#""parameter_{n}":"a value of some length""#)).collect();
    let parameters = format!(r#"{{"parameters":{{{}}}}}"#, parameters.join(","));
    let mut peak = Peak::default();
    for conflicts in 0..6 {
        run(&plugin, "stop_workspace", conflicts, "{}", &mut peak);
        run(&plugin, "stop_workspace", conflicts, r#"{"only_if_unreachable":true}"#, &mut peak);
        run(&plugin, "start_workspace", conflicts, &parameters, &mut peak);
        run(&plugin, "restart_workspace", conflicts, &parameters, &mut peak);
    }
    assert!(peak.requests >= 8, "the world is too simple: {peak:?}");
    assert!(STEP_FUEL >= 100 * peak.fuel, "{peak:?}");
    assert!(HOST_CALLS >= 100 * peak.requests, "{peak:?}");
    assert!(JOURNAL_BYTES >= 100 * peak.bytes, "{peak:?}");
}
