//! `tools`, and `plugin check`, `export` and `info`.

use std::fs::Permissions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use super::context::CommandContext;
use super::exit::Exit;
use super::output::Output;
use crate::bindings::Tool;
use crate::engine::Report;
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
    output.print(&report, |report| format!("{}: {}", file.display(), describe_report(report)))?;
    Ok(Exit::Done)
}

/// Writes the built-in plugin: the whole file or nothing.
pub fn export(file: &Path) -> anyhow::Result<Exit> {
    let cannot = || format!("cannot write the plugin to {}", file.display());
    if file == Path::new("-") {
        // Whoever has seen enough may go away.
        match std::io::stdout().write_all(crate::PLUGIN) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            written => written.with_context(cannot)?,
        }
        return Ok(Exit::Done);
    }
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // For everybody to read, unlike other temporary files.
    let everybodys = Permissions::from_mode(0o644);
    let mut written =
        tempfile::Builder::new().permissions(everybodys).tempfile_in(folder).with_context(cannot)?;
    written.write_all(crate::PLUGIN).with_context(cannot)?;
    written.persist(file).with_context(cannot)?;
    Ok(Exit::Done)
}

/// Says what a plugin is and which tools it has.
pub async fn info(context: &CommandContext, output: Output, file: Option<&Path>) -> anyhow::Result<Exit> {
    let plugin = match file {
        Some(file) => context.load_plugin_from(file)?,
        None => context.load_plugin_behind()?,
    };
    let tools = plugin.list_tools().await?;
    let mut value = serde_json::to_value(plugin.report())?;
    value["tools"] = tools.iter().map(as_json).collect::<anyhow::Result<Value>>()?;
    output.print(&value, |_| {
        let names = tools.iter().map(|tool| format!("\n  {}", tool.name)).collect::<String>();
        format!("{}tools:{names}\n", describe_report(plugin.report()))
    })?;
    Ok(Exit::Done)
}

fn describe_report(report: &Report) -> String {
    let list = |names: &[String]| names.iter().map(|name| format!("\n  {name}")).collect::<String>();
    format!(
        "a plugin for contract version {}\nsha256: {}\nsize: {} bytes\nimports:{}\nexports:{}\n",
        report.contract,
        report.sha256,
        report.bytes,
        list(&report.imports),
        list(&report.exports),
    )
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
