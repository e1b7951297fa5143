//! Sessions of clients over HTTP: `rmcp`'s, but only so many at the same time; and with a session ends, at once, all
//! that it has asked for. Streams can be resumed: `rmcp` sees to that until the answer; that of a call is kept here for
//! those who come later.

use std::collections::{BTreeMap, HashMap};
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{once, poll_fn};
use futures_util::{Stream, StreamExt};
use rmcp::model::{ClientJsonRpcMessage, ClientNotification, ClientRequest, RequestId, ServerJsonRpcMessage};
use rmcp::service::RoleServer;
use rmcp::transport::Transport;
use rmcp::transport::streamable_http_server::session::local::{
    LocalSessionManager, LocalSessionManagerError,
};
use rmcp::transport::streamable_http_server::session::{
    EventStream, ServerSseMessage, SessionId, SessionManager,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::answer_buffer::{AnswerBuffer, BufferedAnswer};

/// Sessions at the same time: some 60 KB each.
const SESSIONS: usize = 1000;
/// A session of which nothing is heard for so long has ended. Longer than any call takes that is not held up by a
/// control plane that is away: one whose client does not want to hear of its progress is silent until it ends.
const IDLE: Duration = Duration::from_secs(2 * 60 * 60);
/// Stands for the event's number in the id of an answer, `answer/STREAM`: which number `rmcp` gives to it is not known
/// when it is kept.
const ANSWER: &str = "answer";

/// The sessions of a server.
pub(super) struct Sessions {
    rmcp: LocalSessionManager,
    room: Arc<Semaphore>,
    open: Arc<Open>,
}

/// What sessions share with their ways out.
#[derive(Default)]
struct Open(Mutex<State>);

#[derive(Default)]
struct State {
    living: BTreeMap<SessionId, Living>,
    answers: AnswerBuffer,
}

/// The way out, from the tools to a session's streams. An answer is kept before `rmcp` has it and ends its stream, so
/// that at any time it is got from one or the other.
pub(super) struct Outgoing {
    rmcp: <LocalSessionManager as SessionManager>::Transport,
    session: SessionId,
    open: Arc<Open>,
}

/// What ends with a session.
struct Living {
    /// The streams of calls that have no answer yet. Whatever else was asked can be asked again.
    calls: HashMap<RequestId, u64>,
    /// Its requests are cancelled.
    end: CancellationToken,
    _cancels: DropGuard,
    /// There is room for another one.
    _room: OwnedSemaphorePermit,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionsError {
    #[error("too many sessions: end some, or try again later")]
    TooMany,
    #[error(transparent)]
    Rmcp(#[from] LocalSessionManagerError),
}

impl Sessions {
    pub(super) fn new() -> Self {
        let mut rmcp = LocalSessionManager::default();
        rmcp.session_config.keep_alive = Some(IDLE);
        Self { rmcp, room: Arc::new(Semaphore::new(SESSIONS)), open: Arc::default() }
    }

    pub(super) fn are_full(&self) -> bool {
        self.room.available_permits() == 0
    }

    /// Is cancelled when the session ends. `None`: there is no such session.
    pub(super) fn end_of(&self, id: &str) -> Option<CancellationToken> {
        self.open.state().living.get(id).map(|living| living.end.clone())
    }
}

impl Open {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what is the answer to a call.
    fn push(&self, session: &SessionId, message: &ServerJsonRpcMessage) {
        let Some(request) = answered(message) else { return };
        let stream = self.state().living.get_mut(session).and_then(|living| living.calls.remove(request));
        let Some(stream) = stream else { return };
        let kept = BufferedAnswer::new(session, id_of_answer(stream), message.clone());
        let mut state = self.state();
        if state.living.contains_key(session) {
            state.answers.push(kept);
        }
    }
}

/// The request that a message answers.
fn answered(message: &ServerJsonRpcMessage) -> Option<&RequestId> {
    match message {
        ServerJsonRpcMessage::Response(response) => Some(&response.id),
        ServerJsonRpcMessage::Error(error) => error.id.as_ref(),
        ServerJsonRpcMessage::Request(_) | ServerJsonRpcMessage::Notification(_) => None,
    }
}

fn id_of_answer(stream: u64) -> String {
    format!("{ANSWER}/{stream}")
}

/// The stream of a request that an event's id, `NUMBER/STREAM`, is of.
fn stream_of(event: &str) -> Option<u64> {
    event.split_once('/')?.1.parse().ok()
}

/// An event under the id that it can be found by.
fn findable(mut event: ServerSseMessage) -> ServerSseMessage {
    if event.message.as_deref().is_some_and(|message| answered(message).is_some())
        && let Some(stream) = event.event_id.as_deref().and_then(stream_of)
    {
        event.event_id = Some(id_of_answer(stream));
    }
    event
}

impl Transport<RoleServer> for Outgoing {
    type Error = <<LocalSessionManager as SessionManager>::Transport as Transport<RoleServer>>::Error;

    fn send(
        &mut self,
        message: ServerJsonRpcMessage,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        self.open.push(&self.session, &message);
        self.rmcp.send(message)
    }

    async fn receive(&mut self) -> Option<ClientJsonRpcMessage> {
        self.rmcp.receive().await
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        self.rmcp.close().await
    }
}

impl SessionManager for Sessions {
    type Error = SessionsError;
    type Transport = Outgoing;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        let room = self.room.clone().try_acquire_owned().map_err(|_| SessionsError::TooMany)?;
        let (id, rmcp) = self.rmcp.create_session().await?;
        let end = CancellationToken::new();
        let calls = HashMap::new();
        let living = Living { calls, _cancels: end.clone().drop_guard(), end, _room: room };
        self.open.state().living.insert(id.clone(), living);
        Ok((id.clone(), Outgoing { rmcp, session: id, open: self.open.clone() }))
    }

    /// Called for every session that ends, however it ends.
    async fn close_session(&self, id: &SessionId) -> Result<(), Self::Error> {
        // Requests first: `rmcp` would let them go on for some seconds.
        {
            let mut state = self.open.state();
            state.living.remove(id);
            state.answers.forget(id);
        }
        Ok(self.rmcp.close_session(id).await?)
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Self::Error> {
        Ok(self.rmcp.initialize_session(id, message).await?)
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Self::Error> {
        Ok(self.rmcp.has_session(id).await?)
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        // As `rmcp` does it, which would not tell what stream it is.
        let session = self.rmcp.sessions.read().await.get(id).cloned();
        let session = session.ok_or_else(|| LocalSessionManagerError::SessionNotFound(id.clone()))?;
        let channel = session.establish_request_wise_channel().await;
        let mut channel = channel.map_err(LocalSessionManagerError::from)?;
        if let (Some(stream), ClientJsonRpcMessage::Request(request)) = (channel.http_request_id, &message)
            && let ClientRequest::CallToolRequest(_) = &request.request
            && let Some(living) = self.open.state().living.get_mut(id)
        {
            living.calls.insert(request.id.clone(), stream);
        }
        let pushed = session.push_message(message, channel.http_request_id).await;
        pushed.map_err(LocalSessionManagerError::from)?;
        Ok(poll_fn(move |context| channel.inner.poll_recv(context)).map(findable))
    }

    async fn accept_message(&self, id: &SessionId, message: ClientJsonRpcMessage) -> Result<(), Self::Error> {
        if let ClientJsonRpcMessage::Notification(notification) = &message
            && let ClientNotification::CancelledNotification(cancelled) = &notification.notification
            && let Some(request) = &cancelled.params.request_id
            && let Some(living) = self.open.state().living.get_mut(id)
        {
            // It gets no answer.
            living.calls.remove(request);
        }
        Ok(self.rmcp.accept_message(id, message).await?)
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        Ok(self.rmcp.create_standalone_stream(id).await?)
    }

    async fn resume(
        &self,
        id: &SessionId,
        last_event_id: String,
    ) -> Result<impl Stream<Item = ServerSseMessage> + Send + Sync + 'static, Self::Error> {
        let resumed = self.rmcp.resume(id, last_event_id.clone()).await;
        let Some(stream) = stream_of(&last_event_id) else { return Ok(Box::pin(resumed?) as EventStream) };
        let answer = id_of_answer(stream);
        let has_answer = last_event_id == answer;
        match resumed {
            // `rmcp` begins with the event that the client has seen: a question would be put twice.
            Ok(events) => Ok(Box::pin(
                events
                    .filter(move |event| ready(event.event_id.as_ref() != Some(&last_event_id)))
                    .map(findable),
            )),
            Err(error) if has_answer => Err(error.into()),
            Err(error) => {
                let answer = self.open.state().answers.find(id, &answer).ok_or(error)?;
                Ok(Box::pin(once(ready(answer))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use rmcp::model::{CallToolRequestParams, CallToolResponse, CallToolResult, ErrorData};
    use rmcp::service::RequestContext;
    use rmcp::{ServerHandler, ServiceExt};
    use serde_json::{Value, json};

    use super::*;

    /// Answers calls of the tool `quick`, and no others.
    struct Tools;

    impl ServerHandler for Tools {
        async fn call_tool(
            &self,
            request: CallToolRequestParams,
            _context: RequestContext<RoleServer>,
        ) -> Result<CallToolResponse, ErrorData> {
            match &*request.name {
                "quick" => Ok(CallToolResult::success(Vec::new()).into()),
                _ => pending().await,
            }
        }
    }

    fn message(message: Value) -> ClientJsonRpcMessage {
        serde_json::from_value(message).unwrap()
    }

    fn call(id: u32, tool: &str) -> ClientJsonRpcMessage {
        let params = json!({ "name": tool, "arguments": {} });
        message(json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }))
    }

    async fn begin(sessions: &Sessions) -> SessionId {
        let (id, transport) = sessions.create_session().await.unwrap();
        tokio::spawn(async move { Tools.serve(transport).await.unwrap().waiting().await });
        let params = json!({
            "protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": { "name": "test", "version": "1" },
        });
        let initialize = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params });
        sessions.initialize_session(&id, message(initialize)).await.unwrap();
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        sessions.accept_message(&id, message(initialized)).await.unwrap();
        id
    }

    #[tokio::test]
    async fn what_is_answered_or_cancelled_is_waited_for_no_longer_and_what_is_kept_ends_with_the_session() {
        let sessions = Sessions::new();
        let id = begin(&sessions).await;
        let waiting = || sessions.open.state().living[&id].calls.len();
        let kept = |stream| sessions.open.state().answers.find(&id, &id_of_answer(stream));
        let quick: Vec<_> = sessions.create_stream(&id, call(1, "quick")).await.unwrap().collect().await;
        assert_eq!((quick.last().unwrap().event_id.as_deref(), waiting()), (Some("answer/0"), 0));
        let list = message(json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/list" }));
        let listed: Vec<_> = sessions.create_stream(&id, list).await.unwrap().collect().await;
        assert!(listed.len() == 2 && kept(1).is_none(), "it can be asked for again");
        let _slow = sessions.create_stream(&id, call(3, "slow")).await.unwrap();
        assert_eq!(waiting(), 1);
        let cancelled =
            json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 3 } });
        sessions.accept_message(&id, message(cancelled)).await.unwrap();
        assert_eq!(waiting(), 0);
        assert!(kept(0).is_some() && kept(2).is_none());
        sessions.close_session(&id).await.unwrap();
        assert!(kept(0).is_none());
    }
}
