//! Sessions of clients over HTTP: `rmcp`'s, but only so many at the same time; and with a session ends, at once, all that
//! it has asked for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::Stream;
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::streamable_http_server::session::local::{
    LocalSessionManager, LocalSessionManagerError,
};
use rmcp::transport::streamable_http_server::session::{ServerSseMessage, SessionId, SessionManager};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Sessions at the same time: some 60 KB each.
const SESSIONS: usize = 1000;
/// A session of which nothing is heard for so long has ended. Longer than any call takes that is not held up by a control
/// plane that is away: one whose client does not want to hear of its progress is silent until it ends.
const IDLE: Duration = Duration::from_secs(2 * 60 * 60);

/// The sessions of a server.
pub(super) struct Sessions {
    rmcp: LocalSessionManager,
    room: Arc<Semaphore>,
    living: Mutex<BTreeMap<SessionId, Living>>,
}

/// What ends with a session.
struct Living {
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
        Self { rmcp, room: Arc::new(Semaphore::new(SESSIONS)), living: Mutex::default() }
    }

    pub(super) fn are_full(&self) -> bool {
        self.room.available_permits() == 0
    }

    /// Is cancelled when the session ends. `None`: there is no such session.
    pub(super) fn end_of(&self, id: &str) -> Option<CancellationToken> {
        self.living().get(id).map(|living| living.end.clone())
    }

    fn living(&self) -> MutexGuard<'_, BTreeMap<SessionId, Living>> {
        self.living.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SessionManager for Sessions {
    type Error = SessionsError;
    type Transport = <LocalSessionManager as SessionManager>::Transport;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Self::Error> {
        let room = self.room.clone().try_acquire_owned().map_err(|_| SessionsError::TooMany)?;
        let (id, transport) = self.rmcp.create_session().await?;
        let end = CancellationToken::new();
        let living = Living { _cancels: end.clone().drop_guard(), end, _room: room };
        self.living().insert(id.clone(), living);
        Ok((id, transport))
    }

    /// Called for every session that ends, however it ends.
    async fn close_session(&self, id: &SessionId) -> Result<(), Self::Error> {
        // Requests first: `rmcp` would let them go on for some seconds.
        drop(self.living().remove(id));
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
        Ok(self.rmcp.create_stream(id, message).await?)
    }

    async fn accept_message(&self, id: &SessionId, message: ClientJsonRpcMessage) -> Result<(), Self::Error> {
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
        Ok(self.rmcp.resume(id, last_event_id).await?)
    }
}
