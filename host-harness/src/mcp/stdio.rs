//! The server over standard input and output.

use std::future::Future;
use std::time::Duration;

use rmcp::model::JsonRpcMessage;
use rmcp::service::{
    RoleServer, RxJsonRpcMessage, ServerInitializeError, TxJsonRpcMessage, serve_server_with_ct,
};
use rmcp::transport::Transport;
use rmcp::transport::async_rw::AsyncRwTransport;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Server, ServerError};

/// The longest line. Longer ones are dropped, and nobody is answered: far more than any tool takes, so that what is too
/// long is refused with a sentence by the one that it is for.
const MAX_LINE_BYTES: usize = 16 * 1024 * 1024;
/// For how long a client may take to read its answers when the server ends.
const GRACE: Duration = Duration::from_secs(5);

/// Serves one client until it closes its end, or until `end`.
pub async fn serve(
    server: &Server,
    read: impl AsyncRead + Send + Unpin + 'static,
    write: impl AsyncWrite + Send + Unpin + 'static,
    end: CancellationToken,
) -> Result<(), ServerError> {
    let lines = AsyncRwTransport::new_server(read, write).with_max_line_length(MAX_LINE_BYTES);
    let client = Client { lines, begun: false, gone: server.shared.closing.clone() };
    let ended = end.clone();
    let served = match serve_server_with_ct(server.clone(), client, end).await {
        Ok(running) => tokio::select! {
            served = running.waiting() => served.map(drop).map_err(|error| error.to_string()),
            // It does not read what it is told.
            () = async { ended.cancelled().await; sleep(GRACE).await } => Ok(()),
        },
        // It went away before it had begun.
        Err(ServerInitializeError::ConnectionClosed(_) | ServerInitializeError::Cancelled) => Ok(()),
        Err(error) => Err(error.to_string()),
    };
    server.close().await;
    served.map_err(ServerError::Transport)
}

/// The one client of this process.
struct Client<R: AsyncRead, W: AsyncWrite> {
    lines: AsyncRwTransport<RoleServer, R, W>,
    /// Whether it has asked for something.
    begun: bool,
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
        self.lines.send(item)
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleServer>> {
        loop {
            match self.lines.receive().await {
                None => {
                    // Requests end with the stream: `rmcp` would let them go on for some seconds.
                    self.gone.cancel();
                    return None;
                }
                // Else a notification that comes too early would end the server.
                Some(message) if !self.begun && !matches!(message, JsonRpcMessage::Request(_)) => {
                    tracing::warn!("the client's first message is no request, and is passed over");
                }
                Some(message) => {
                    self.begun = true;
                    return Some(message);
                }
            }
        }
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        self.lines.close().await
    }
}
