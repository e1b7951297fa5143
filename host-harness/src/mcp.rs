//! The tools as an MCP server: the plugin's own, and those of the host around them.
//!
//! A [`Server`] answers clients over [`stdio`] or [`http`]; the protocol itself is `rmcp`'s. What a client's end means
//! is the same for both: it cancels the *request*. A call that has sent nothing is interrupted then, if no other
//! request waits for it; one that has goes on, and the same call made again joins it.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use rmcp::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, CancelTaskParams, CustomRequest, CustomResult,
    ErrorData, GetTaskParams, GetTaskResult, Implementation, ListToolsResult, PaginatedRequestParams,
    ProtocolVersion, ServerCapabilities, ServerConfig, Tool, UpdateTaskParams,
};
use rmcp::service::{RequestContext, RoleServer};
use tokio::sync::{OnceCell, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::chat::{BindError, Chat, ChatHost};
use crate::clock::millis;
use crate::policy::ChatTools;

pub use chat_choice::Chats;
use last_progress::LastProgress;
pub use server_error::ServerError;
use tools::HostTool;

mod answer_buffer;
mod calls;
mod cancelled_dials;
mod chat_choice;
mod connections;
mod elicitation;
mod execute;
pub mod http;
mod invalid_params;
mod last_progress;
mod line_framing;
mod progress;
mod request_outline;
mod results;
mod schemas;
mod server_error;
mod sessions;
pub mod stdio;
mod tasks;
mod tools;
mod workspaces;

/// Tools that may run at the same time, of all clients together. Far more than people have agents, and few enough that
/// a client in a loop is told so before this machine is busy with nothing else.
pub const MAX_CALLS: u32 = 256;

/// Answers one client; clones answer the same one.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
    /// What this client has chosen.
    chosen: Arc<Mutex<Option<Bound>>>,
}

/// The workspace that a server was started for, or that a client has chosen.
#[derive(Clone)]
struct Bound {
    chat: String,
    /// Its id. The chat may be bound elsewhere later, by whomever; nobody is led there without knowing.
    workspace: String,
}

/// What the clients of a server share.
struct Shared {
    host: ChatHost,
    last_progress: LastProgress,
    /// Asked for when they are first needed: a plugin may still be compiled then.
    tools: OnceCell<Tools>,
    chats: Chats,
    /// What [`Chats::Of`] has come to, once it is bound.
    bound: OnceLock<Bound>,
    /// One permit for each tool that runs.
    permits: Semaphore,
    questions: elicitation::Questions,
    /// Dials that go on for clients who have gone.
    cancelled_dials: cancelled_dials::CancelledDials,
    /// The server ends: requests are cancelled.
    closing: CancellationToken,
}

/// The tools of a server.
struct Tools {
    /// Those that verdicts may name: the plugin's.
    plugin: ChatTools,
    /// All of them, in the order in which they are listed.
    all: Vec<Tool>,
}

impl Server {
    /// A server for the chats of a host, at once: the plugin may still be compiled. What needs it waits.
    pub fn new(host: ChatHost, chats: Chats) -> Self {
        let shared = Shared {
            tools: OnceCell::new(),
            last_progress: LastProgress::listen(host.driver()),
            host,
            chats,
            bound: OnceLock::new(),
            permits: Semaphore::new(MAX_CALLS as usize),
            questions: elicitation::Questions::default(),
            cancelled_dials: cancelled_dials::CancelledDials::default(),
            closing: CancellationToken::new(),
        };
        Self { shared: Arc::new(shared), chosen: Arc::default() }
    }

    /// Waits until the plugin can be used, or says why it cannot.
    pub async fn ready(&self) -> Result<(), ServerError> {
        self.shared.host.driver().plugin().ready().await?;
        self.tools().await.map(drop)
    }

    /// The tools, as soon as they are known: those of the built-in plugin are always.
    async fn tools(&self) -> Result<&Tools, ServerError> {
        let Shared { host, chats, tools, .. } = &*self.shared;
        let list = || async {
            let plugin = host.driver().list_tools().await?;
            let names = plugin.iter().map(|tool| tool.name.clone()).collect();
            let all = tools::all(&plugin, chats)?;
            Ok(Tools { plugin: ChatTools { names, ..ChatTools::default() }, all })
        };
        tools.get_or_try_init(list).await
    }

    /// The same server for another client.
    fn for_another_client(&self) -> Self {
        Self { shared: self.shared.clone(), chosen: Arc::default() }
    }

    /// Cancels the requests of all clients, and waits until no tool runs any more.
    pub async fn close(&self) {
        self.shared.closing.cancel();
        self.shared.cancelled_dials.end();
        // Each tool that runs holds one. The semaphore is never closed, so that this cannot fail.
        let _ = self.shared.permits.acquire_many(MAX_CALLS).await;
    }

    fn chosen(&self) -> MutexGuard<'_, Option<Bound>> {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Binds the chat of [`Chats::Of`], which else happens when it is first needed.
    pub async fn bind_now(&self) -> Result<(), BindError> {
        match &self.shared.chats {
            Chats::Of { workspace, chat } => self.bound_once(workspace, chat.as_deref()).await.map(drop),
            Chats::One(_) | Chats::Chosen => Ok(()),
        }
    }

    /// The name of the chat that a request is for, if that is known without asking the control plane.
    fn known_chat(&self, context: &RequestContext<RoleServer>) -> Option<String> {
        match &self.shared.chats {
            Chats::One(name) => Some(name.clone()),
            Chats::Of { .. } => self.shared.bound.get().map(|bound| bound.chat.clone()),
            Chats::Chosen => {
                http::named_chat(context).or_else(|| self.chosen().as_ref().map(|bound| bound.chat.clone()))
            }
        }
    }

    /// The chat that a request is for, if it is known yet.
    async fn chat(&self, context: &RequestContext<RoleServer>) -> Result<Option<Chat>, ServerError> {
        let name = match &self.shared.chats {
            Chats::Of { workspace, chat } => Some(self.bound_once(workspace, chat.as_deref()).await?.chat),
            Chats::One(_) | Chats::Chosen => self.known_chat(context),
        };
        let Some(name) = name else { return Ok(None) };
        Ok(Some(self.shared.host.chat(&name, self.tools().await?.plugin.clone())))
    }

    /// Requests that come before it is bound try it side by side: binding twice does no harm, and waiting for one
    /// another would add up while the control plane is away.
    async fn bound_once(&self, workspace: &str, chat: Option<&str>) -> Result<Bound, BindError> {
        if let Some(bound) = self.shared.bound.get() {
            return Ok(bound.clone());
        }
        let (chat, workspace) = self.bind(workspace, chat).await?;
        Ok(self.shared.bound.get_or_init(|| Bound { chat, workspace: workspace.id }).clone())
    }

    /// Waits until nobody is interested in the answer to a request any more.
    async fn gone(&self, context: &RequestContext<RoleServer>) {
        tokio::select! {
            () = context.ct.cancelled() => {}
            () = http::session_ended(context) => {}
            () = self.shared.closing.cancelled() => {}
        }
    }

    /// The answer to a request that is not waited for to its end. One that was cancelled has nobody who reads it.
    fn given_up(&self) -> CallToolResult {
        results::error_result(if self.shared.closing.is_cancelled() {
            "the server ends. If this call had sent something, it goes on in the background, and the same call made again \
             tells how it ends; else nothing was done"
        } else {
            "the request was cancelled"
        })
    }

    /// What asks the control plane, given up when nobody is interested any more.
    async fn while_wanted<T>(
        &self,
        context: &RequestContext<RoleServer>,
        look: impl Future<Output = T>,
    ) -> Result<T, Box<CallToolResult>> {
        tokio::select! {
            answer = look => Ok(answer),
            () = self.gone(context) => Err(Box::new(self.given_up())),
        }
    }

    async fn answer_call(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let tools = self.tools().await.map_err(unusable)?;
        if !tools.all.iter().any(|tool| tool.name == request.name) {
            return Err(ErrorData::invalid_params(format!("there is no tool \"{}\"", request.name), None));
        }
        let permit = self.shared.permits.try_acquire();
        // Looked at afterwards: a server that ends takes all permits.
        if self.shared.closing.is_cancelled() {
            return Ok(self.given_up().into());
        }
        let Ok(_permit) = permit else {
            return Ok(results::error_result(
                "too many calls run at the same time: try again when one has ended",
            )
            .into());
        };
        let looked = match HostTool::named(&request.name) {
            None => return Ok(self.call_plugin(&request.name, request.arguments, &context).await),
            Some(HostTool::Execute) => return Ok(self.execute(request, &context).await),
            Some(HostTool::ListWorkspaces) => self.while_wanted(&context, self.list_workspaces()).await,
            Some(HostTool::UseWorkspace) => {
                self.while_wanted(&context, self.use_workspace(request.arguments, &context)).await
            }
            Some(HostTool::WorkspaceStatus) => {
                self.while_wanted(&context, self.workspace_status(&context)).await
            }
        };
        Ok(looked.unwrap_or_else(|given_up| *given_up).into())
    }
}

/// Whether a client speaks revision 2026-07-28 or a newer one: it has no session, is not asked in mid-request, and may
/// be given a task for an answer.
fn is_stateless(context: &RequestContext<RoleServer>) -> bool {
    context.protocol_version().is_some_and(|version| version >= ProtocolVersion::V_2026_07_28)
}

/// The answer while the plugin is one that cannot be used.
fn unusable(error: ServerError) -> ErrorData {
    ErrorData::internal_error(error.to_string(), None)
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let name = Implementation::new("workspace-recovery", env!("CARGO_PKG_VERSION"))
            .with_title("Workspace recovery");
        let capabilities = ServerCapabilities::builder().enable_tools().enable_tasks().build();
        ServerConfig::new(capabilities)
            .with_server_info(name)
            .with_instructions(tools::instructions(&self.shared.chats))
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        if request.is_some_and(|request| request.cursor.is_some()) {
            return Err(ErrorData::invalid_params(
                "all tools are on one page: there is no such cursor",
                None,
            ));
        }
        let tools = self.tools().await.map_err(unusable)?;
        Ok(ListToolsResult::with_all_items(tools.all.clone()))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.shared.tools.get()?.all.iter().find(|tool| tool.name == name).cloned()
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let (tool, begun) = (request.name.clone(), Instant::now());
        let chat = self.known_chat(&context);
        let mut answer = self.answer_call(request, context).await;
        if let (Some(chat), Ok(CallToolResponse::Complete(result))) = (chat, &mut answer) {
            self.shared.questions.tell(&chat, result);
        }
        let outcome = match &answer {
            Ok(CallToolResponse::Complete(result)) if result.is_error == Some(true) => {
                "an error for the model"
            }
            Ok(CallToolResponse::Complete(_)) => "done",
            Ok(_) => "goes on",
            Err(_) => "refused",
        };
        let ms = millis(begun.elapsed());
        tracing::info!(%tool, ms, outcome, "a tool was called");
        answer
    }

    async fn on_custom_request(
        &self,
        request: CustomRequest,
        context: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        self.tools().await.map_err(unusable)?;
        self.explain_invalid_params(&request, &context)
    }

    async fn get_task(
        &self,
        request: GetTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        self.task_now(&request.task_id, &context).await
    }

    async fn update_task(
        &self,
        request: UpdateTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        // No task asks its client for anything, so that there is nothing that an answer could be to.
        self.task_call(&request.task_id, &context).await.map(drop)
    }

    async fn cancel_task(
        &self,
        request: CancelTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.interrupt_task(&request.task_id, &context).await
    }
}
