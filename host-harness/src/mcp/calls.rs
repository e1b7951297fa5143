//! Calls of the plugin's tools: begun for a request, and waited for while somebody is interested.

use std::pin::pin;

use rmcp::model::{CallToolResponse, CallToolResult, JsonObject};
use rmcp::service::{RequestContext, RoleServer};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::progress::{Progress, WaitsFor};
use super::workspaces::BoundChat;
use super::{Server, is_stateless, results};
use crate::describe::refused;
use crate::driver::CallHandle;

impl Server {
    /// Calls a tool of the plugin. A client that knows tasks gets one, and asks for the result when it likes.
    pub(super) async fn call_plugin(
        &self,
        tool: &str,
        arguments: Option<JsonObject>,
        context: &RequestContext<RoleServer>,
    ) -> CallToolResponse {
        let mut progress = Progress::new(self, context);
        let begun = tokio::select! {
            // First: a call that nobody wants any more is dropped also if it has just begun.
            biased;
            () = self.gone(context) => Err(Box::new(self.given_up())),
            begun = self.begin(tool, arguments, context) => begun,
            never = progress.tell(WaitsFor::Begin) => match never {},
        };
        let call = match begun {
            Ok(call) => call,
            Err(answer) => return (*answer).into(),
        };
        // Older revisions know no task as an answer, whatever a client says that it can do.
        if is_stateless(context)
            && context.client_capabilities().is_some_and(|client| client.supports_tasks())
        {
            return self.task_of(call.detach().await);
        }
        self.wait(call, tool, progress, context).await.into()
    }

    /// Begins a call, or joins the same one. The control plane may be asked for the workspace and the user, and be
    /// away.
    async fn begin(
        &self,
        tool: &str,
        arguments: Option<JsonObject>,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallHandle, Box<CallToolResult>> {
        let BoundChat { chat, workspace } = self.bound_chat(context).await?;
        let driver = self.shared.host.driver();
        let arguments = Value::Object(arguments.unwrap_or_default()).to_string();
        // Told at once, and not when the call has got its turn.
        if let Some(refusal) = driver.refusal(tool, &arguments, chat.policy()).await {
            return Err(Box::new(results::error_result(refused(tool, &refusal))));
        }
        if let Some(why) = chat.would_end_this_process(tool, &workspace).await {
            return Err(Box::new(results::error_result(why)));
        }
        let begun = driver.begin_with_handle(chat.name(), &workspace, tool, &arguments, chat.policy()).await;
        begun.map_err(|error| Box::new(results::error_result(error)))
    }

    /// Waits for the end of a call, or of the interest in it.
    async fn wait(
        &self,
        call: CallHandle,
        tool: &str,
        mut progress: Progress,
        context: &RequestContext<RoleServer>,
    ) -> CallToolResult {
        let (driver, never) = (self.shared.host.driver(), CancellationToken::new());
        let of = WaitsFor::Call(call.id());
        let called = {
            let mut followed = pin!(driver.follow(call.id(), &never));
            tokio::select! {
                called = &mut followed => Some(called),
                never = progress.tell(of) => match never {},
                () = self.gone(context) => None,
            }
        };
        match called {
            Some(called) => {
                call.release();
                tokio::select! {
                    () = progress.rest(of) => {}
                    () = self.gone(context) => {}
                }
                results::of_plugin_call(tool, called)
            }
            None => {
                call.abandon().await;
                self.given_up()
            }
        }
    }
}
