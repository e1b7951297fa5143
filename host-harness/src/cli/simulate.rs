//! `simulate`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::args::SimulateArgs;
use super::exit::Exit;
use super::output::{Output, notice};
use crate::engine::Plugin;
use crate::simulate::{Failure, Report, Settings, run};

/// Runs worlds, and says what came of them. What depends on this machine goes to standard error.
pub fn simulate(plugin: &Plugin, output: Output, args: &SimulateArgs) -> anyhow::Result<Exit> {
    let seed = args.seed.unwrap_or_else(fresh_seed);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = args.threads.map_or(threads, |threads| threads as usize);
    let begun = std::time::Instant::now();
    let report = run(Settings { seed, calls: args.calls, threads }, plugin)?;
    let took = begun.elapsed();
    output.print(&as_json(seed, &report), |_| as_text(seed, &report))?;
    notice(&speed(&report, took, threads));
    Ok(if report.failure.is_none() { Exit::Done } else { Exit::Failed })
}

/// A seed that nobody has chosen.
fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos() % 1_000_000_000_000).unwrap_or_default()
}

fn as_json(seed: u64, report: &Report) -> Value {
    json!({
        "seed": seed,
        "worlds": report.worlds,
        "calls": report.calls,
        "virtual_ms": report.lasted,
        "happened": report.counts,
        "digest": format!("{:016x}", report.digest.0),
        "failure": report.failure.as_ref().map(failure_json),
    })
}

fn failure_json(failure: &Failure) -> Value {
    json!({
        "seed": failure.seed,
        "invariant": failure.violation.invariant.name(),
        "at_ms": failure.violation.at,
        "what": failure.violation.what,
        "events": failure.schedule.events.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "bad_luck": failure.schedule.random_faults.to_string(),
        "happened": failure.lines,
        "repeat": failure.command(),
    })
}

fn as_text(seed: u64, report: &Report) -> String {
    if let Some(failure) = &report.failure {
        return failure.to_string();
    }
    let mut text = format!(
        "seed {seed}: {} calls in {} worlds, {} virtual hours; no rule was broken\n",
        report.calls,
        report.worlds,
        report.lasted / 3_600_000,
    );
    for (kind, count) in &report.counts {
        text.push_str(&format!("  {count:>9} {kind}\n"));
    }
    text.push_str(&format!("digest of all that happened: {:016x}\n", report.digest.0));
    text
}

fn speed(report: &Report, took: Duration, threads: usize) -> String {
    let rate = report.calls as f64 / took.as_secs_f64().max(0.001);
    format!("{:.1} s with {threads} threads: {rate:.0} calls per second", took.as_secs_f64())
}
