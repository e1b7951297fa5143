//! Websockets on the connections of the same client that makes all other requests.

use reqwest::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use reqwest::{RequestBuilder, Response, StatusCode, Upgraded};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::failure::{innermost, not_answered};
use crate::control_plane::ApiError;

pub(super) type Socket = WebSocketStream<Upgraded>;

pub(super) enum Opened {
    Socket(Box<Socket>),
    /// An ordinary answer instead of a websocket: its status says why.
    Refused(Response),
}

/// Makes a request that asks for a websocket.
pub(super) async fn open(request: RequestBuilder) -> Result<Opened, ApiError> {
    let key = generate_key();
    let response = request
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, &key)
        .send()
        .await
        .map_err(|error| not_answered(&error, false))?;
    if response.status() == StatusCode::OK {
        return Err(ApiError::NotCoder("it does not open a websocket".to_owned()));
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
    Ok(Opened::Socket(Box::new(WebSocketStream::from_raw_socket(stream, Role::Client, None).await)))
}
