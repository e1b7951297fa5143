//! A terminal over a websocket.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::{SinkExt, StreamExt};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::requests::Requests;
use super::socket::Socket;
use super::statuses::Asked;
use crate::control_plane::{ApiError, NewTerminal, Terminal};

/// For how long a terminal may take to be closed.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

struct WebTerminal {
    socket: Socket,
}

pub(super) async fn open(
    requests: &Requests,
    agent: &str,
    wanted: &NewTerminal,
) -> Result<Box<dyn Terminal>, ApiError> {
    let (height, width) = (wanted.height.to_string(), wanted.width.to_string());
    let query = [
        ("reconnect", wanted.session.as_str()),
        ("height", &height),
        ("width", &width),
        ("command", &wanted.command),
        // Where `screen` is installed, an agent would show its redrawn screen instead of the output. Older servers take
        // no notice of this.
        ("backend_type", "buffered"),
    ];
    let socket = requests.socket(&["workspaceagents", agent, "pty"], &query, Asked::Terminal).await?;
    Ok(Box::new(WebTerminal { socket }))
}

#[async_trait]
impl Terminal for WebTerminal {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, ApiError> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Binary(bytes))) => return Ok(Some(bytes.into())),
                Some(Ok(Message::Text(text))) => return Ok(Some(text.as_bytes().to_vec())),
                // Pings are answered by the socket itself.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                // The end of a command is a connection that breaks off, like the loss of the connection.
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(None),
            }
        }
    }

    async fn send(&mut self, input: &str) -> Result<(), ApiError> {
        // Binary, and JSON: anything else ends the session.
        let frame = serde_json::json!({ "data": input }).to_string();
        let sent = self.socket.send(Message::Binary(frame.into_bytes().into())).await;
        sent.map_err(|error| ApiError::Unavailable(error.to_string()))
    }

    async fn close(&mut self) {
        // If it cannot be closed, it is closed already, or stalls: then it is only dropped.
        let _ = timeout(CLOSE_LIMIT, self.socket.close(None)).await;
    }
}
