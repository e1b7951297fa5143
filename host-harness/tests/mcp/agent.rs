//! An agent's side: the program on its standard input and output, and `rmcp`'s client.

use std::process::Stdio;
use std::sync::{Arc, Mutex};

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, CancelledNotificationParam, ClientCapabilities,
    ClientConfig, ElicitRequestParams, ElicitResult, ElicitationAction, ErrorData, Implementation,
    ProgressNotificationParam,
};
use rmcp::service::{
    ClientLifecycleMode, NotificationContext, RequestContext, RoleClient, RunningService, ServiceError,
    serve_client_with_lifecycle,
};
use rmcp::{ClientHandler, Peer};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use crate::world::{SOON, World};

/// What a client can do.
#[derive(Clone, Default)]
pub struct Client {
    pub capabilities: ClientCapabilities,
    /// What the user answers when asked.
    pub answer: Option<&'static str>,
    /// Until then the user thinks.
    pub thinks: Option<Arc<Notify>>,
    /// It has no way to ask the user, whatever it says that it can do.
    pub cannot_ask: bool,
    /// Told when a request to it is withdrawn.
    pub withdrawn: Arc<Notify>,
    /// What the user was asked.
    pub asked: Arc<Mutex<Vec<String>>>,
    /// Where progress goes.
    pub progress: Option<mpsc::UnboundedSender<ProgressNotificationParam>>,
}

/// The program, and a client that speaks with it.
pub struct Agent {
    pub child: Child,
    pub service: RunningService<RoleClient, Client>,
}

impl ClientHandler for Client {
    fn get_info(&self) -> ClientConfig {
        ClientConfig::new(self.capabilities.clone(), Implementation::new("test", "1"))
    }

    async fn create_elicitation(
        &self,
        request: ElicitRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let ElicitRequestParams::FormElicitationParams { message, .. } = request else {
            panic!("a form is asked for")
        };
        self.asked.lock().unwrap().push(message);
        if self.cannot_ask {
            return Err(ErrorData::internal_error("there is no window", None));
        }
        if let Some(thinks) = &self.thinks {
            thinks.notified().await;
        }
        Ok(match self.answer {
            Some(answer) => {
                ElicitResult::new(ElicitationAction::Accept).with_content(json!({ "answer": answer }))
            }
            None => ElicitResult::new(ElicitationAction::Decline),
        })
    }

    async fn on_cancelled(
        &self,
        _params: CancelledNotificationParam,
        _context: NotificationContext<RoleClient>,
    ) {
        self.withdrawn.notify_one();
    }

    async fn on_progress(&self, param: ProgressNotificationParam, _context: NotificationContext<RoleClient>) {
        if let Some(progress) = &self.progress {
            // Nobody may be interested any more.
            let _ = progress.send(param);
        }
    }
}

impl Agent {
    /// Starts the program with these arguments after `mcp`, and speaks as clients of the first revisions do.
    pub async fn start(world: &World, arguments: &[&str]) -> Self {
        Self::start_as(world, arguments, Client::default(), ClientLifecycleMode::Initialize).await
    }

    pub async fn start_as(
        world: &World,
        arguments: &[&str],
        client: Client,
        lifecycle: ClientLifecycleMode,
    ) -> Self {
        Self::start_program(world.program(&[&["mcp"], arguments].concat()), client, lifecycle).await
    }

    pub async fn start_program(
        program: std::process::Command,
        client: Client,
        lifecycle: ClientLifecycleMode,
    ) -> Self {
        let mut command = Command::from(program);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let ends = (child.stdout.take().unwrap(), child.stdin.take().unwrap());
        let service = serve_client_with_lifecycle(client, ends, lifecycle).await.unwrap();
        Self { child, service }
    }

    pub fn peer(&self) -> &Peer<RoleClient> {
        self.service.peer()
    }

    pub async fn call(&self, tool: &str, arguments: Value) -> CallToolResult {
        let called = timeout(SOON, self.try_call(tool, arguments)).await;
        called.unwrap_or_else(|_| panic!("{tool} gives no answer")).unwrap()
    }

    pub async fn try_call(&self, tool: &str, arguments: Value) -> Result<CallToolResult, ServiceError> {
        self.service.call_tool(request(tool, arguments)).await
    }

    pub async fn call_once(&self, tool: &str, arguments: Value) -> CallToolResponse {
        self.peer().call_tool_once(request(tool, arguments)).await.unwrap()
    }

    /// Kills the program, as `kill -9` does.
    pub async fn kill(mut self) {
        self.signal(Signal::KILL);
        self.child.wait().await.unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Closes its end, and answers how the program ended.
    pub async fn close(mut self) -> Option<i32> {
        self.service.close().await.unwrap();
        self.child.wait().await.unwrap().code()
    }
}

pub fn request(tool: &str, arguments: Value) -> CallToolRequestParams {
    let Value::Object(arguments) = arguments else { panic!("arguments are an object") };
    CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments)
}

/// What a model reads of a result.
pub fn text(result: &CallToolResult) -> String {
    let blocks = result.content.iter().filter_map(|block| block.as_text());
    blocks.map(|text| text.text.as_str()).collect::<Vec<_>>().join("\n")
}

pub fn is_error(result: &CallToolResult) -> bool {
    result.is_error == Some(true)
}

/// A result's data.
pub fn data(result: &CallToolResult) -> &Value {
    result.structured_content.as_ref().unwrap()
}
