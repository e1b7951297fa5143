//! `tools` and `plugin check`.

use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use super::context::CommandContext;
use super::exit::Exit;
use super::output::Output;
use crate::bindings::Tool;
use crate::engine::check::check as check_component;

/// Lists the tools. Needs no control plane: the plugin asks for nothing.
pub async fn tools(context: &CommandContext, output: Output) -> anyhow::Result<Exit> {
    let plugin = context.load_plugin_behind()?;
    let tools = plugin.list_tools().await?;
    let shown = tools.iter().map(as_json).collect::<anyhow::Result<Vec<Value>>>()?;
    output.print(&shown, |_| tools.iter().map(as_text).collect::<Vec<_>>().join("\n"))?;
    Ok(Exit::Done)
}

/// Says whether a file is a plugin that the engine runs.
pub fn check(output: Output, file: &Path) -> anyhow::Result<Exit> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let report =
        check_component(&bytes).with_context(|| format!("{} cannot be used as a plugin", file.display()))?;
    output.print(&report, |report| {
        let list = |names: &[String]| names.iter().map(|name| format!("\n  {name}")).collect::<String>();
        format!(
            "{}: a plugin for contract version {}\nsha256: {}\nsize: {} bytes\nimports:{}\nexports:{}\n",
            file.display(),
            report.contract,
            report.sha256,
            report.bytes,
            list(&report.imports),
            list(&report.exports),
        )
    })?;
    Ok(Exit::Done)
}

/// A tool as Model Context Protocol clients know it.
fn as_json(tool: &Tool) -> anyhow::Result<Value> {
    let schema = |text: &str| -> anyhow::Result<Value> {
        serde_json::from_str(text)
            .with_context(|| format!("the tool {} has a schema that is not JSON", tool.name))
    };
    Ok(json!({
        "name": tool.name,
        "title": tool.title,
        "description": tool.description,
        "inputSchema": schema(&tool.input_schema)?,
        "outputSchema": schema(&tool.output_schema)?,
        "annotations": {
            "readOnlyHint": tool.read_only,
            "destructiveHint": tool.destructive,
            "idempotentHint": tool.idempotent,
            "openWorldHint": tool.open_world,
        },
    }))
}

fn as_text(tool: &Tool) -> String {
    let hints = [
        (tool.read_only, "read-only"),
        (tool.destructive, "destructive"),
        (tool.idempotent, "idempotent"),
        (tool.open_world, "open-world"),
    ];
    let hints: Vec<_> = hints.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect();
    format!(
        "{} ({})\n  {}\n  arguments: {}\n",
        tool.name,
        hints.join(", "),
        tool.description,
        tool.input_schema
    )
}
