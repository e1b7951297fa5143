//! Announcements of changes, from the websocket that sends a workspace anew whenever something of it changes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{BoxStream, once, unfold};
use serde::Deserialize;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::requests::Requests;
use super::socket::Socket;
use super::statuses::Asked;

/// A connection on which nothing has come for this long is given up: pings come every 15 s.
const SILENCE: Duration = Duration::from_secs(45);

/// A message, of which nothing but its kind is of use: the workspace in it lacks the time at which it was true.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
}

/// The stream of a workspace. It ends if it cannot be opened.
pub(super) fn changes(requests: Arc<Requests>, workspace: &str) -> BoxStream<'static, ()> {
    let workspace = workspace.to_owned();
    let opened = once(async move {
        requests.socket(&["workspaces", &workspace, "watch-ws"], &[], Asked::Read).await.ok()
    });
    // The workspace as it is comes first.
    opened.filter_map(std::future::ready).flat_map(|socket| unfold(socket, next)).boxed()
}

async fn next(mut socket: Socket) -> Option<((), Socket)> {
    loop {
        match timeout(SILENCE, socket.next()).await {
            Ok(Some(Ok(Message::Text(text)))) => {
                if serde_json::from_str(&text).is_ok_and(|event: Event<'_>| event.kind != "ping") {
                    return Some(((), socket));
                }
            }
            // Pings are answered by the socket itself.
            Ok(Some(Ok(Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_)))) => {}
            Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) | Err(_) => return None,
        }
    }
}
