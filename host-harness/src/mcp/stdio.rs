//! The server over standard input and output.

use std::borrow::Cow;
use std::convert::Infallible;
use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use rmcp::ServerHandler;
use rmcp::model::{ClientRequest, GetMeta, JsonRpcMessage, ProtocolVersion};
use rmcp::service::{
    RoleServer, RxJsonRpcMessage, ServerInitializeError, TxJsonRpcMessage, serve_server_with_ct,
};
use rmcp::transport::Transport;
use rmcp::transport::async_rw::AsyncRwTransport;
use tokio::io::{AsyncRead, AsyncWrite, Empty, empty};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::line_framing::{Lines, Unreadable};
use super::{Server, ServerError};

/// Lines that cannot be read and are answered at the same time. Of more, a client that does not read its answers hears
/// nothing.
const REFUSALS: usize = 100;
/// For how long a client may take to read its answers when it or the server ends, and then what is left of its calls to
/// end: each is one part of the ten seconds that programs are usually given before they are killed.
const GRACE: Duration = Duration::from_secs(5);

/// Serves one client until it closes its end, or until `end`.
pub async fn serve(
    server: &Server,
    read: impl AsyncRead + Send + Unpin + 'static,
    write: impl AsyncWrite + Send + Unpin + 'static,
    end: CancellationToken,
) -> Result<(), ServerError> {
    let gone = server.shared.closing.clone();
    let client = Client {
        lines: Lines::new(read),
        answers: AsyncRwTransport::new_server(empty(), write),
        refusals: Arc::new(Semaphore::new(REFUSALS)),
        begun: false,
        versions: ServerHandler::supported_protocol_versions(server),
        gone: gone.clone(),
    };
    let unread = async {
        gone.cancelled().await;
        sleep(GRACE).await;
    };
    let stop = CancellationToken::new();
    let ends = async {
        end.cancelled().await;
        // In this order: else requests would take the server's end for their cancellation, and tell their client that.
        gone.cancel();
        stop.cancel();
        pending::<Infallible>().await
    };
    let serves = async {
        match serve_server_with_ct(server.clone(), client, stop.clone()).await {
            Ok(running) => tokio::select! {
                served = running.waiting() => served.map(drop).map_err(|error| error.to_string()),
                // The client does not read what it is told.
                () = unread => Ok(()),
            },
            // It went away before it had begun.
            Err(
                ServerInitializeError::ConnectionClosed(_)
                | ServerInitializeError::TransportError { .. }
                | ServerInitializeError::Cancelled,
            ) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    };
    let served = tokio::select! {
        served = serves => served,
        never = ends => match never {},
    };
    let _ = timeout(GRACE, server.close()).await;
    served.map_err(ServerError::Transport)
}

/// The one client of this process.
struct Client<R, W: AsyncWrite> {
    lines: Lines<R>,
    answers: AsyncRwTransport<RoleServer, Empty, W>,
    refusals: Arc<Semaphore>,
    /// Whether `rmcp` knows how to speak with it.
    begun: bool,
    /// The versions of the protocol that the server speaks.
    versions: Cow<'static, [ProtocolVersion]>,
    /// To be cancelled when it has closed its end.
    gone: CancellationToken,
}

impl<R, W> Transport<RoleServer> for Client<R, W>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin + 'static,
{
    type Error = std::io::Error;

    fn send(
        &mut self,
        item: TxJsonRpcMessage<RoleServer>,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        self.answers.send(item)
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        loop {
            match self.lines.next().await {
                None => {
                    // Requests end with the stream: `rmcp` would let them go on for some seconds.
                    self.gone.cancel();
                    return None;
                }
                // Else a notification that comes too early would end the server.
                Some(Ok(message)) if !self.begun && !matches!(message, JsonRpcMessage::Request(_)) => {
                    tracing::warn!("a message before the client's first request is passed over");
                }
                Some(Err(unreadable)) => self.refuse(unreadable),
                Some(Ok(message)) => {
                    self.begun |= begins(&message, &self.versions);
                    return Some(message);
                }
            }
        }
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        self.answers.close().await
    }
}

impl<R, W> Client<R, W>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin + 'static,
{
    fn refuse(&mut self, unreadable: Unreadable) {
        // No warning: not every client reads what it is told there, and many of them would fill the pipe.
        tracing::debug!("a line of the client cannot be read: {}", unreadable.why());
        let Some(answer) = unreadable.answer() else { return };
        // Not waited for: this may be given up at any time, and who reads nothing should still be heard.
        let Ok(place) = self.refusals.clone().try_acquire_owned() else { return };
        let sent = self.answers.send(answer);
        tokio::spawn(async move {
            if let Err(error) = sent.await {
                tracing::debug!(%error, "a refusal was not told");
            }
            drop(place);
        });
    }
}

/// Whether `rmcp` takes this for the beginning: pings and questions for what the server can do come before it, as do
/// requests that it refuses because they do not say enough of their client.
fn begins(message: &RxJsonRpcMessage<RoleServer>, versions: &[ProtocolVersion]) -> bool {
    let JsonRpcMessage::Request(request) = message else { return false };
    match &request.request {
        ClientRequest::InitializeRequest(_) => true,
        ClientRequest::PingRequest(_) | ClientRequest::DiscoverRequest(_) => false,
        other => {
            let meta = other.get_meta();
            meta.missing_required_keys(&ProtocolVersion::V_2026_07_28).is_empty()
                && meta.protocol_version().is_some_and(|version| versions.contains(&version))
        }
    }
}
