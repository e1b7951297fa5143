//! `list_workspaces`, `use_workspace` and `workspace_status`, and the chat that a request is for.

use rmcp::model::{CallToolResult, JsonObject};
use rmcp::service::{RequestContext, RoleServer};
use serde_json::{Value, json};

use super::tools::{HostTool, UseArguments, read};
use super::{Bound, Chats, Server, http, results};
use crate::chat::{BindError, Chat};
use crate::control_plane::{ApiError, ControlPlane, Workspace};
use crate::describe::{describe_workspace, workspace_json};
use crate::store::{CallRow, CallState, StoreError};

/// What to do for a client of which nothing can be remembered.
const KEEPS_NOTHING: &str = "this client keeps nothing from one request to the next, so that no workspace can be chosen for it: the user has to name \
     a chat in the server's address (/mcp/NAME), or start it with --workspace";

/// A chat, with the workspace that it was bound to when a request looked: what is done for the request is done there.
pub(super) struct BoundChat {
    pub(super) chat: Chat,
    /// Its id.
    pub(super) workspace: String,
}

impl Server {
    /// The chat that a request is for, if it has a workspace; else what to do about that.
    pub(super) async fn bound_chat(
        &self,
        context: &RequestContext<RoleServer>,
    ) -> Result<BoundChat, Box<CallToolResult>> {
        let failed = |error: &dyn std::error::Error| Box::new(results::error_result(error));
        let chat = self.while_wanted(context, self.chat(context)).await?.map_err(|error| failed(&error))?;
        let Some(chat) = chat else { return Err(Box::new(self.unbound(None, context))) };
        let record = chat.record().map_err(|error| failed(&error))?;
        let Some(workspace) = record.and_then(|record| record.workspace) else {
            return Err(Box::new(self.unbound(Some(chat.name()), context)));
        };
        let elsewhere = |bound: &Bound| bound.chat == chat.name() && bound.workspace != workspace;
        let rebound = if self.shared.bound.get().is_some_and(elsewhere) {
            "since this server was started for its own; nothing was done: ask the user, who can start the server anew or \
             bind the chat back"
        } else if self.chosen().as_ref().is_some_and(elsewhere) {
            "since you have chosen yours; nothing was done: call use_workspace again, and then this tool"
        } else {
            return Ok(BoundChat { chat, workspace });
        };
        let name = chat.name();
        let sentence = format!("the chat \"{name}\" was bound to another workspace {rebound}");
        Err(Box::new(results::error_result(sentence)))
    }

    fn unbound(&self, chat: Option<&str>, context: &RequestContext<RoleServer>) -> CallToolResult {
        match (chat, &self.shared.chats) {
            (None, _) if http::keeps_nothing(context) => results::error_result(KEEPS_NOTHING),
            (None, _) | (_, Chats::Chosen) => results::error_result(
                "no workspace is chosen yet: call list_workspaces, then use_workspace, then this tool again",
            ),
            (Some(chat), _) => results::error_result(format!(
                "the chat \"{chat}\" has no workspace; the user has to choose one: \
                 `workspace-recovery chat bind '{chat}' WORKSPACE`"
            )),
        }
    }

    /// Binds a chat to a workspace: this one, or that of those who work there and have not named one.
    pub(super) async fn bind(
        &self,
        name: &str,
        chat: Option<&str>,
    ) -> Result<(String, Workspace), BindError> {
        let host = &self.shared.host;
        let workspace = host.workspace(name).await?;
        let chat = chat.map_or_else(|| chat_of(&workspace), str::to_owned);
        host.bind_to(&chat, &workspace).await?;
        Ok((chat, workspace))
    }

    pub(super) async fn list_workspaces(&self) -> CallToolResult {
        match self.shared.host.driver().host_calls().plane().workspaces().await {
            Ok(workspaces) => {
                let data: Vec<_> = workspaces.iter().map(workspace_json).collect();
                let text = match workspaces.as_slice() {
                    [] => "the user has no workspace".to_owned(),
                    workspaces => workspaces.iter().map(describe_workspace).collect(),
                };
                results::structured(json!({ "workspaces": data }), text)
            }
            Err(error) => results::error_result(error),
        }
    }

    pub(super) async fn use_workspace(
        &self,
        arguments: Option<JsonObject>,
        context: &RequestContext<RoleServer>,
    ) -> CallToolResult {
        let name = match read::<UseArguments>(HostTool::UseWorkspace, arguments) {
            Ok(arguments) => arguments.workspace,
            Err(sentence) => return results::error_result(sentence),
        };
        if http::keeps_nothing(context) {
            return results::error_result(KEEPS_NOTHING);
        }
        let (chat, workspace) = match self.bind(&name, http::named_chat(context).as_deref()).await {
            Ok(bound) => bound,
            Err(BindError::Workspace { error: ApiError::NotFound | ApiError::Gone, .. }) => {
                return results::error_result(format!(
                    "there is no workspace \"{name}\": list_workspaces tells those that there are"
                ));
            }
            Err(error) => return results::error_result(error),
        };
        *self.chosen() = Some(Bound { chat, workspace: workspace.id.clone() });
        let text =
            format!("all tools work on this workspace from now on:\n{}", describe_workspace(&workspace));
        results::structured(json!({ "workspace": workspace_json(&workspace) }), text)
    }

    pub(super) async fn workspace_status(&self, context: &RequestContext<RoleServer>) -> CallToolResult {
        let id = match self.bound_chat(context).await {
            Ok(bound) => bound.workspace,
            Err(answer) => return *answer,
        };
        let plane = self.shared.host.driver().host_calls().plane();
        match (plane.workspace(&id).await, self.calls_at(&id)) {
            (Ok(workspace), Ok(calls)) => {
                let mut text = describe_workspace(&workspace);
                for call in &calls {
                    text += &format!("  {}: {} (call {})\n", standing(call), call.tool, call.id);
                }
                let calls: Vec<_> = calls.iter().map(call_json).collect();
                results::structured(json!({ "workspace": workspace_json(&workspace), "calls": calls }), text)
            }
            (Err(ApiError::NotFound | ApiError::Gone), _) => results::error_result(match self.shared.chats {
                Chats::Chosen => {
                    "the workspace was deleted: choose another one with list_workspaces and use_workspace"
                }
                Chats::One(_) => "the workspace was deleted: the user has to bind this chat to another one",
                Chats::Of { .. } => {
                    "the workspace was deleted: the user has to start this server for another one"
                }
            }),
            (Err(error), _) => results::error_result(error),
            (_, Err(error)) => results::error_result(error),
        }
    }

    /// The calls that have not ended at a workspace.
    fn calls_at(&self, workspace: &str) -> Result<Vec<CallRow>, StoreError> {
        let host_calls = self.shared.host.driver().host_calls();
        host_calls.store().queue(&host_calls.plane().deployment(), workspace)
    }
}

/// The chat of those who work in a workspace and have not named a chat. It is one for all of them, so that a client
/// which comes back finds its calls again.
fn chat_of(workspace: &Workspace) -> String {
    format!("mcp {}/{}", workspace.owner, workspace.name)
}

/// How a call stands that has not ended. One that only waits for another has done nothing at the workspace yet, and
/// must not be taken for what goes on there.
fn standing(call: &CallRow) -> &'static str {
    match call.state {
        CallState::Queued => "waits for its turn",
        CallState::Active | CallState::Ended => "in progress",
    }
}

fn call_json(call: &CallRow) -> Value {
    json!({
        "call": call.id,
        "state": standing(call),
        "tool": call.tool,
        "chat": call.chat,
        "interrupted": call.interrupted,
    })
}
