//! What the engine costs, with the plugin of this repository and an in-memory control plane that answers at once.
//!
//! `cargo bench -p workspace-recovery --no-default-features --features plugin` leaves out what is not measured.

#![expect(clippy::unwrap_used, reason = "a benchmark that fails may panic")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use guest_artifact::COMPONENT;
use workspace_recovery::bindings::{
    Agent, AgentWait, Binding, Build, BuildWait, Evidence, JobStatus, Probe, Provisioner, Snapshot,
    Transition, WaitEnd,
};
use workspace_recovery::engine::{Engine, EngineOptions, Plugin, Step};
use workspace_recovery::journal::{Answer, Export, Journal, Output, Request};
use workspace_recovery::{bindings as types, control_plane, policy};

#[path = "../../tests/support/host_builders.rs"]
mod builders;

use builders::{NOW, agents_of, default_policy, evidence, gone_agent, snapshot};

/// A control plane with one workspace, whose builds succeed as soon as somebody waits for them.
struct World {
    latest: Build,
}

impl World {
    fn new(transition: Transition, status: JobStatus) -> Self {
        Self { latest: build(1, transition, status) }
    }

    fn answer(&mut self, request: &Request) -> Answer {
        match request {
            Request::LatestBuild { .. } => Answer::LatestBuild(Ok(Binding::Bound(Snapshot {
                template: Some("9c4a7a1e-6a0e-4d9c-b9a5-4f4d6f1f8a11".into()),
                ..snapshot(self.latest.clone())
            }))),
            Request::AgentStatus => Answer::AgentStatus(Ok(agents_of(self.latest.clone(), vec![agent()]))),
            Request::IssueTransition { to, .. } => {
                self.latest = build(self.latest.number + 1, to.clone(), JobStatus::Running);
                Answer::IssueTransition(Ok(self.latest.clone()))
            }
            Request::PublishBinding { .. } => Answer::PublishBinding(Ok(true)),
            Request::WaitForBuild { .. } => {
                self.latest.status = JobStatus::Succeeded;
                let (end, waited_ms) = (WaitEnd::Reached, 7_000);
                Answer::WaitForBuild(Ok(BuildWait { end, waited_ms, build: Some(self.latest.clone()) }))
            }
            Request::WaitForAgent { .. } => {
                let (end, waited_ms) = (WaitEnd::Reached, 3_000);
                let probe = Some(Probe::Answered);
                Answer::WaitForAgent(Ok(AgentWait { end, waited_ms, agent: Some(agent()), probe }))
            }
        }
    }
}

fn build(number: u32, transition: Transition, status: JobStatus) -> Build {
    Build {
        id: format!("0d6f3c1e-8a55-4f0e-9c8e-{number:012}"),
        ours: true,
        provisioner: Provisioner::Available,
        template_version: Some("41d0a6ac-1f43-4b4f-a9ad-0d3f3c3f5a55".into()),
        ..builders::build(number, transition, status)
    }
}

/// An agent that has been gone for ten minutes.
fn agent() -> Agent {
    gone_agent("b5c2a7b8-93f4-4a9a-8f0e-7e5a5b1c2d3e", 600_000)
}

fn classify() -> Export {
    let evidence =
        Evidence { dialed: Some(agent().id), disconnected_at_start: agent().disconnected, ..evidence() };
    Export::ClassifyFailure { evidence, policy: default_policy() }
}

fn stop() -> Export {
    Export::CallTool { name: "stop_workspace".into(), arguments: "{}".into(), policy: default_policy() }
}

/// Runs a call to its end, and returns its journal too.
fn run(plugin: &Plugin, export: &Export, mut world: World) -> (Output, Journal) {
    let mut journal = Journal::new();
    loop {
        match plugin.step(export, &journal).unwrap() {
            Step::Done(output) => return (output, journal),
            Step::Request(request) => {
                let answer = world.answer(&request);
                journal.append(request, answer, Some(NOW)).unwrap();
            }
        }
    }
}

fn steps(c: &mut Criterion) {
    let plugin = Engine::new(EngineOptions::default()).unwrap().load(COMPONENT).unwrap();

    // An input that is refused before the plugin asks for anything: what remains is making the instance.
    let refused = Export::CallTool { name: "x".into(), arguments: String::new(), policy: default_policy() };
    c.bench_function("instantiate, and refuse an unknown tool", |b| {
        b.iter(|| plugin.step(black_box(&refused), &Journal::new()).unwrap());
    });

    let gone = || World::new(Transition::Start, JobStatus::Succeeded);
    let (_, answered) = run(&plugin, &classify(), gone());
    let export = classify();
    c.bench_function("one fresh instance and classify-failure, complete", |b| {
        b.iter(|| plugin.step(black_box(&export), &answered).unwrap());
    });

    let export = stop();
    for (name, status) in [
        ("stop call: issue, bind, wait for the own build", JobStatus::Succeeded),
        ("stop call: wait for another build first", JobStatus::Running),
    ] {
        let world = || World::new(Transition::Start, status.clone());
        let (output, journal) = run(&plugin, &export, world());
        println!(
            "{name}: {} steps, {} journal bytes, {output:?}",
            journal.entries().len() + 1,
            journal.bytes()
        );
        c.bench_function(name, |b| b.iter(|| run(&plugin, black_box(&export), world())));
        c.bench_function(&format!("{name}; its last step alone"), |b| {
            b.iter(|| plugin.step(black_box(&export), &journal).unwrap());
        });
    }
}

fn cold_start(c: &mut Criterion) {
    let mut group = c.benchmark_group("load the plugin");
    group.sample_size(20);

    let engine = Engine::new(EngineOptions::default()).unwrap();
    group.bench_function("compiling it", |b| b.iter(|| engine.load(black_box(COMPONENT)).unwrap()));

    let folder = tempfile::tempdir().unwrap();
    let options = EngineOptions { cache_dir: Some(folder.path().to_owned()), ..EngineOptions::default() };
    let engine = Engine::new(options.clone()).unwrap();
    engine.load(COMPONENT).unwrap();
    group.bench_function("from the cached image", |b| b.iter(|| engine.load(black_box(COMPONENT)).unwrap()));
    group.bench_function("from the cached image, engine included", |b| {
        b.iter(|| Engine::new(options.clone()).unwrap().load(black_box(COMPONENT)).unwrap());
    });
    group.finish();
}

criterion_group!(benches, steps, cold_start);
criterion_main!(benches);
