//! A terminal over a websocket, on a connection of the same client that makes all other requests.

use async_trait::async_trait;
use futures_util::{SinkExt, StreamExt};
use reqwest::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use reqwest::{Client, Response, StatusCode, Upgraded, Url};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

use super::innermost;
use crate::control_plane::{ApiError, NewTerminal, Terminal};

pub(super) enum Opened {
    Terminal(Box<dyn Terminal>),
    /// An ordinary answer instead of a websocket: its status says why.
    Refused(Response),
}

struct WebTerminal {
    socket: WebSocketStream<Upgraded>,
}

pub(super) async fn open(client: &Client, url: Url, wanted: &NewTerminal) -> Result<Opened, ApiError> {
    let key = generate_key();
    let (height, width) = (wanted.height.to_string(), wanted.width.to_string());
    let query = [
        ("reconnect", wanted.session.as_str()),
        ("height", &height),
        ("width", &width),
        ("command", &wanted.command),
    ];
    let response = client
        .get(url)
        .query(&query)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, &key)
        .send()
        .await
        .map_err(|error| ApiError::Unavailable(innermost(&error)))?;
    if response.status() == StatusCode::OK {
        return Err(ApiError::NotCoder("it does not open a terminal".to_owned()));
    }
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Opened::Refused(response));
    }
    let accepted = derive_accept_key(key.as_bytes());
    if response
        .headers()
        .get(SEC_WEBSOCKET_ACCEPT)
        .is_none_or(|answer| answer.as_bytes() != accepted.as_bytes())
    {
        return Err(ApiError::NotCoder("its websocket answer does not belong to the request".to_owned()));
    }
    let stream = response.upgrade().await.map_err(|error| ApiError::Unavailable(innermost(&error)))?;
    let socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
    Ok(Opened::Terminal(Box::new(WebTerminal { socket })))
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
        // If it cannot be closed, it is closed already.
        let _ = self.socket.close(None).await;
    }
}
