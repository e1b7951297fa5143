//! The tools that are listed: the plugin's own, and the host's.

use std::any::Any;
use std::sync::Arc;

use rmcp::handler::server::common::schema_for_type;
use rmcp::model::{JsonObject, Tool, ToolAnnotations};
use rmcp::schemars::{self, JsonSchema};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::chat_choice::Chats;
use super::schemas::published;
use super::server_error::ServerError;
use crate::arguments::as_meant;
use crate::bindings::Tool as PluginTool;
use crate::policy::LONGEST_COMMAND_SECONDS;

/// A tool of the host's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HostTool {
    Execute,
    ListWorkspaces,
    UseWorkspace,
    WorkspaceStatus,
}

/// Arguments of `execute`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "schemars")]
pub(super) struct ExecuteArguments {
    /// A command line for bash (sh where there is no bash); may have several lines.
    pub(super) command: String,
    /// Run it in this folder; `~` is the home folder.
    // Some clients cannot tell a model of a value that may be null; this one may be left out.
    #[schemars(with = "String")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) workdir: Option<String>,
    /// End it, with all that it has left in its process group, when it has run for so many seconds; 600 if it is not given.
    #[schemars(with = "u32", range(min = 1, max = LONGEST_COMMAND_SECONDS))]
    #[serde(default, deserialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    pub(super) timeout_seconds: Option<u32>,
}

/// Arguments of `use_workspace`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "schemars")]
pub(super) struct UseArguments {
    /// Its name, `owner/name`, or its id, as `list_workspaces` tells them.
    pub(super) workspace: String,
}

/// Of tools that take none. They change nothing, and whatever they are given is ignored: some clients make an argument
/// up, because some models cannot call a tool without one.
#[derive(JsonSchema)]
#[schemars(crate = "schemars")]
struct NoArguments {}

impl HostTool {
    const ALL: [Self; 4] = [Self::Execute, Self::ListWorkspaces, Self::UseWorkspace, Self::WorkspaceStatus];

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tool| tool.name() == name)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Execute => "execute",
            Self::ListWorkspaces => "list_workspaces",
            Self::UseWorkspace => "use_workspace",
            Self::WorkspaceStatus => "workspace_status",
        }
    }

    /// Whether it has a place on such a server: where all clients work in one chat, there is nothing to choose.
    fn has_place(self, chats: &Chats) -> bool {
        match self {
            Self::Execute | Self::WorkspaceStatus => true,
            Self::ListWorkspaces | Self::UseWorkspace => *chats == Chats::Chosen,
        }
    }

    fn tool(self) -> Tool {
        let (title, description) = match self {
            Self::Execute => (
                "Run a command",
                "Runs a command in the workspace with bash (sh where there is no bash) and gives its output (standard \
                 output and error in one stream, cut in the middle if it is long) and its exit code. It has no terminal \
                 and no input. To start a server, leave it in the background with its output in a file (`npm start > \
                 server.log 2>&1 &`) and look at that (`tail server.log`); it outlives the command. If the workspace \
                 cannot be reached, the error says what happened and which tools to call, in which order: do that, then \
                 run the command again. If it had begun, the error has its output until then: look whether it may run \
                 twice.",
            ),
            Self::ListWorkspaces => ("List workspaces", "Lists the user's workspaces with their state."),
            Self::UseWorkspace => (
                "Choose the workspace",
                "Chooses the workspace that all other tools work on from now on. Has to be called first.",
            ),
            Self::WorkspaceStatus => (
                "Look at the workspace",
                "Says how the workspace is: its newest build, its agents, and the calls that are in progress or \
                 wait for their turn there. Changes nothing.",
            ),
        };
        let hints = ToolAnnotations::with_title(title);
        let (input, hints) = match self {
            Self::Execute => (
                schema::<ExecuteArguments>(),
                hints.read_only(false).destructive(true).idempotent(false).open_world(true),
            ),
            Self::UseWorkspace => (
                schema::<UseArguments>(),
                hints.read_only(false).destructive(false).idempotent(true).open_world(true),
            ),
            Self::ListWorkspaces | Self::WorkspaceStatus => {
                (schema::<NoArguments>(), hints.read_only(true).open_world(true))
            }
        };
        Tool::new(self.name(), description, input).with_title(title).with_annotations(hints)
    }
}

/// The schema of arguments, without what says the same as the tool around it.
fn schema<T: JsonSchema + Any>() -> JsonObject {
    let mut schema = (*schema_for_type::<T>()).clone();
    schema.remove("title");
    schema.remove("description");
    // Those of structures are of objects.
    published(schema).unwrap_or_default()
}

/// All tools: the plugin's in its own order, then the host's.
pub(super) fn all(plugin: &[PluginTool], chats: &Chats) -> Result<Vec<Tool>, ServerError> {
    let mut tools = plugin.iter().map(of_the_plugin).collect::<Result<Vec<_>, _>>()?;
    if let Some(taken) = plugin.iter().find(|tool| HostTool::named(&tool.name).is_some()) {
        return Err(ServerError::NameTaken(taken.name.clone()));
    }
    tools.extend(HostTool::ALL.into_iter().filter(|tool| tool.has_place(chats)).map(HostTool::tool));
    Ok(tools)
}

fn of_the_plugin(tool: &PluginTool) -> Result<Tool, ServerError> {
    let schema = |text: &str| {
        let schema = serde_json::from_str::<JsonObject>(text).map_err(|error| error.to_string());
        let refused = |reason| ServerError::Schema { tool: tool.name.clone(), reason };
        schema.and_then(published).map(Arc::new).map_err(refused)
    };
    let hints = ToolAnnotations::with_title(&tool.title)
        .read_only(tool.read_only)
        .destructive(tool.destructive)
        .idempotent(tool.idempotent)
        .open_world(tool.open_world);
    Ok(Tool::new(tool.name.clone(), tool.description.clone(), schema(&tool.input_schema)?)
        .with_title(&tool.title)
        .with_raw_output_schema(schema(&tool.output_schema)?)
        .with_annotations(hints))
}

/// What a model should know before it calls anything.
pub(super) fn instructions(chats: &Chats) -> &'static str {
    match chats {
        Chats::One(_) | Chats::Of { .. } => {
            "Runs commands in the user's workspace with `execute`. When the workspace cannot be reached, the error says \
             which tools to call, in which order."
        }
        Chats::Chosen => {
            "Runs commands in one of the user's workspaces with `execute`. Choose it first: `list_workspaces`, then \
             `use_workspace`. When the workspace cannot be reached, the error says which tools to call, in which order."
        }
    }
}

/// A tool's arguments, or a sentence on what is wrong with them.
pub(super) fn read<T>(tool: HostTool, arguments: Option<JsonObject>) -> Result<T, String>
where
    T: DeserializeOwned + JsonSchema + Any,
{
    let meant = as_meant(&Value::Object(schema::<T>()), arguments.unwrap_or_default());
    serde_path_to_error::deserialize(Value::Object(meant)).map_err(|error| {
        let at = match error.path().to_string() {
            // Nothing, or one that the tool does not know: the error names it.
            path if path == "." => String::new(),
            path => format!("`{path}`: "),
        };
        format!("{}: {at}{}; change the arguments and call it again", tool.name(), error.inner())
    })
}

/// The seconds that a command may run.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let seconds = Value::deserialize(deserializer)?.as_u64().and_then(|seconds| u32::try_from(seconds).ok());
    let sentence =
        || D::Error::custom(format!("it has to be a whole number from 1 to {LONGEST_COMMAND_SECONDS}"));
    seconds.filter(|seconds| (1..=LONGEST_COMMAND_SECONDS).contains(seconds)).map(Some).ok_or_else(sentence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Timings;

    fn of_a_plugin(name: &str, output_schema: &str) -> PluginTool {
        PluginTool {
            name: name.to_owned(),
            title: "A tool".to_owned(),
            description: "Does something.".to_owned(),
            input_schema: r#"{ "type": "object" }"#.to_owned(),
            output_schema: output_schema.to_owned(),
            read_only: false,
            destructive: false,
            idempotent: false,
            open_world: true,
        }
    }

    #[test]
    fn a_plugin_whose_tools_cannot_be_listed_is_refused() {
        let own = HostTool::ALL.map(HostTool::name);
        for name in own {
            let taken = all(&[of_a_plugin(name, "{}")], &Chats::One("talk".to_owned()));
            assert!(matches!(taken, Err(ServerError::NameTaken(its)) if its == name), "{name}");
        }
        for schema in ["", "7", "[]", "{", r#"{"type":"array"}"#] {
            let refused = all(&[of_a_plugin("mend", "{}"), of_a_plugin("make", schema)], &Chats::Chosen);
            assert!(matches!(refused, Err(ServerError::Schema { tool, .. }) if tool == "make"), "{schema}");
        }
        let listed = all(&[of_a_plugin("mend", "{}")], &Chats::Chosen).unwrap();
        let names: Vec<_> = listed.iter().map(|tool| &*tool.name).collect();
        assert_eq!(names, [&["mend"], &own[..]].concat());
    }

    #[test]
    fn a_model_is_told_the_times_that_are_kept() {
        let schema = schema::<ExecuteArguments>();
        let timeout = &schema["properties"]["timeout_seconds"];
        assert_eq!(timeout["maximum"], LONGEST_COMMAND_SECONDS);
        let usual = format!("{} if it is not given", Timings::default().command_limit.as_secs());
        assert!(timeout["description"].as_str().unwrap().contains(&usual), "{timeout}");
    }
}
