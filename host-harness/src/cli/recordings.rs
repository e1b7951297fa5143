//! `show`, `export`, `replay` and `prune`.

use std::path::Path;

use anyhow::{Context, anyhow};
use serde::Serialize;
use serde_json::json;
use similar::TextDiff;

use super::context::CommandContext;
use super::exit::Exit;
use super::output::{Output, data, notice};
use super::timeline::timeline;
use crate::clock::{Clock, SystemClock};
use crate::driver::DriveError;
use crate::engine::{Step, StepError};
use crate::journal::record::{CallId, Recording};
use crate::replay::{ReplayError, replay};

/// Milliseconds of a day.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

pub fn show(context: &CommandContext, output: Output, id: CallId) -> anyhow::Result<Exit> {
    let recording = recording(context, id)?;
    let Recording { call, entries, open, outcome } = &recording;
    let value = json!({ "id": id, "call": call, "entries": entries, "open": open, "outcome": outcome });
    output.print(&value, |_| timeline(id, &recording))?;
    Ok(Exit::Done)
}

pub fn export(context: &CommandContext, id: CallId) -> anyhow::Result<Exit> {
    let lines = recording(context, id)?.to_json_lines()?;
    data(&lines)?;
    Ok(Exit::Done)
}

pub fn replay_file(context: &CommandContext, output: Output, file: &Path) -> anyhow::Result<Exit> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let is_none = || format!("{} is no exported call", file.display());
    let text = String::from_utf8(bytes).map_err(|_| anyhow!("it is not text")).with_context(is_none)?;
    let recording = Recording::from_json_lines(&text).with_context(is_none)?;
    let plugin = context.load_plugin()?;
    let hash = &plugin.report().sha256;
    if *hash != recording.call.component {
        notice(&format!("note: recorded with component {}, replayed with {hash}", recording.call.component));
    }
    match replay(&plugin, &recording) {
        Ok(replayed) => {
            let value =
                json!({ "same": true, "requests": replayed.requests, "ended": replayed.outcome.is_some() });
            output.print(&value, |_| {
                let end =
                    if replayed.outcome.is_some() { "the same end" } else { "not ended, here as there" };
                format!("the same {} requests, {end}", replayed.requests)
            })?;
            Ok(Exit::Done)
        }
        Err(error) => {
            let difference = difference(&error)?;
            let sentence = sentence(&error);
            let value = json!({ "same": false, "error": sentence, "difference": difference });
            output.print(&value, |_| difference.clone().unwrap_or_default())?;
            notice(&format!("error: {sentence}"));
            Ok(Exit::Failed)
        }
    }
}

/// Where a replay differs from the recording. How it does is shown by [`difference`].
fn sentence(error: &ReplayError) -> String {
    match error {
        ReplayError::Step(StepError::Diverged { index, expected, got }) => {
            let (recorded, now) = (
                expected.function(),
                match got.as_ref() {
                    Step::Request(request) => request.function(),
                    Step::Done(_) => "the end of the call",
                },
            );
            format!(
                "entry {index} (`show` numbers them so) differs: {recorded} was recorded, and now comes {now}"
            )
        }
        error => error.to_string(),
    }
}

/// What was expected and what came, line by line.
fn difference(error: &ReplayError) -> anyhow::Result<Option<String>> {
    let (expected, got) = match error {
        ReplayError::Step(StepError::Diverged { expected, got, .. }) => (pretty(expected)?, came(got)?),
        ReplayError::Outcome { expected, got } => (pretty(expected)?, came(got)?),
        ReplayError::Step(_) => return Ok(None),
    };
    let diff = TextDiff::from_lines(&expected, &got);
    Ok(Some(diff.unified_diff().header("recorded", "replayed").to_string()))
}

/// What the plugin did, in the form in which it is recorded.
fn came(step: &Step) -> anyhow::Result<String> {
    match step {
        Step::Request(request) => pretty(request),
        Step::Done(result) => pretty(&json!({ "outcome": { "ended": "done", "result": result } })),
    }
}

/// Whole lines of JSON. By way of a value, so that equal things have their keys in one order.
fn pretty(shown: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(&serde_json::to_value(shown)?)? + "\n")
}

pub async fn prune(context: &CommandContext, output: Output, older_than_days: u32) -> anyhow::Result<Exit> {
    let store = context.store()?;
    let before = SystemClock.now_ms().saturating_sub(u64::from(older_than_days) * DAY_MS);
    let removed = store.prune(before).await?;
    output.print(&json!({ "removed": removed }), |_| match removed {
        1 => "1 call removed".to_owned(),
        removed => format!("{removed} calls removed"),
    })?;
    Ok(Exit::Done)
}

fn recording(context: &CommandContext, id: CallId) -> anyhow::Result<Recording> {
    context.store()?.recording(id)?.ok_or_else(|| anyhow!(DriveError::UnknownCall { call: id }))
}
