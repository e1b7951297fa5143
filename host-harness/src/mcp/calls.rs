//! Calls of the plugin's tools: begun for a request, and waited for while somebody is interested.

use std::pin::pin;

use rmcp::model::{CallToolResponse, CallToolResult, JsonObject};
use rmcp::service::{RequestContext, RoleServer};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::progress::{Progress, WaitsFor};
use super::{Server, answers, is_stateless};
use crate::chat::Chat;
use crate::driver::DriveError;
use crate::journal::record::CallId;

impl Server {
    /// Calls a tool of the plugin. A client that knows tasks gets one, and asks for the result when it likes.
    pub(super) async fn call_plugin(
        &self,
        tool: &str,
        arguments: Option<JsonObject>,
        context: &RequestContext<RoleServer>,
    ) -> CallToolResponse {
        let chat = match self.bound_chat(context).await {
            Ok(chat) => chat,
            Err(answer) => return (*answer).into(),
        };
        let progress = Progress::new(self, context);
        let id = match self.begin(&chat, tool, arguments).await {
            Ok(Ok(id)) => id,
            Ok(Err(refused)) => return (*refused).into(),
            Err(error) => return answers::failed(error).into(),
        };
        // Older revisions know no task as an answer, whatever a client says that it can do.
        if is_stateless(context)
            && context.client_capabilities().is_some_and(|client| client.supports_tasks())
        {
            return self.task_of(id);
        }
        self.wait(id, tool, progress, context).await.into()
    }

    /// Begins a call, or joins the same one, if that has sent something and not ended.
    async fn begin(
        &self,
        chat: &Chat,
        tool: &str,
        arguments: Option<JsonObject>,
    ) -> Result<Result<CallId, Box<CallToolResult>>, DriveError> {
        let driver = self.shared.host.driver();
        let arguments = Value::Object(arguments.unwrap_or_default()).to_string();
        // Told at once, and not when the call has got its turn.
        if let Some(refusal) = driver.refusal(tool, &arguments, chat.policy()) {
            return Ok(Err(Box::new(answers::failed(answers::refused(tool, &refusal)))));
        }
        Ok(Ok(driver.begin(chat.name(), tool, &arguments, chat.policy(), None).await?))
    }

    /// Waits for the end of a call, or of the interest in it.
    async fn wait(
        &self,
        id: CallId,
        tool: &str,
        mut progress: Progress,
        context: &RequestContext<RoleServer>,
    ) -> CallToolResult {
        let driver = self.shared.host.driver();
        let never = CancellationToken::new();
        let called = {
            let mut followed = pin!(driver.follow(id, &never));
            tokio::select! {
                called = &mut followed => Some(called),
                never = progress.tell(WaitsFor::Call(id)) => match never {},
                () = self.gone(context) => None,
            }
        };
        match called {
            Some(called) => {
                tokio::select! {
                    () = progress.rest(WaitsFor::Call(id)) => {}
                    () = self.gone(context) => {}
                }
                answers::called(tool, called)
            }
            None => {
                // Nobody else waits for a call that has sent nothing: it is joined by no other.
                driver.abandon(id).await;
                answers::cancelled()
            }
        }
    }
}
