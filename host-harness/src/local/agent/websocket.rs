//! The agent's websockets to the control plane.

use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::local::agent_protocol::AgentConfig;
use crate::local::endpoint::Endpoint;

/// Opens a websocket to the control plane, wherever it is now.
pub(super) async fn open(config: &AgentConfig, path: &str) -> Option<Socket> {
    dial(config, path).await.ok()
}

pub(super) async fn dial(config: &AgentConfig, path: &str) -> Result<Socket, End> {
    let endpoint = Endpoint::read(&config.data_dir).ok().flatten().ok_or(End::Lost)?;
    let url = format!("{}{path}", endpoint.url.replacen("http", "ws", 1));
    let mut request = url.into_client_request().map_err(|_| End::Lost)?;
    let token = HeaderValue::from_str(&format!("Bearer {}", config.token)).map_err(|_| End::Lost)?;
    request.headers_mut().insert("Authorization", token);
    // What is shown in a terminal goes out at once.
    match tokio_tungstenite::connect_async_with_config(request, None, true).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(answer))
            if matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::GONE) =>
        {
            Err(End::Retired)
        }
        Err(_) => Err(End::Lost),
    }
}

pub(super) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Why a connection ended.
pub(super) enum End {
    /// The server is away, or closed: try again.
    Lost,
    /// The server has no use for this agent: its workspace was stopped, or is not known.
    Retired,
    /// Everything was said: the agent is ending.
    Said,
}
