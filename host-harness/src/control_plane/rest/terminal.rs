//! A terminal over a websocket.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::{SinkExt, StreamExt};
use reqwest::{Client, Response, Url};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::socket::{self, Socket};
use crate::control_plane::{ApiError, NewTerminal, Terminal};

/// For how long a terminal may take to be closed.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

pub(super) enum Opened {
    Terminal(Box<dyn Terminal>),
    /// An ordinary answer instead of a websocket: its status says why.
    Refused(Response),
}

struct WebTerminal {
    socket: Socket,
}

pub(super) async fn open(client: &Client, url: Url, wanted: &NewTerminal) -> Result<Opened, ApiError> {
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
    Ok(match socket::open(client, url, &query).await? {
        socket::Opened::Socket(socket) => Opened::Terminal(Box::new(WebTerminal { socket })),
        socket::Opened::Refused(response) => Opened::Refused(response),
    })
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
