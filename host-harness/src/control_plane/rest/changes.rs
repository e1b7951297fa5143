//! Announcements of changes, from the websocket that sends a workspace anew whenever something of it changes.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{BoxStream, once, unfold};
use reqwest::{Client, Url};
use serde::Deserialize;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::REQUEST_LIMIT;
use super::socket::{self, Opened, Socket};

/// A connection on which nothing has come for this long is given up: pings come every 15 s.
const SILENCE: Duration = Duration::from_secs(45);

/// A message, of which nothing but its kind is of use: the workspace in it lacks the time at which it was true.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
}

/// The stream at that address. It ends if it cannot be opened.
pub(super) fn changes(client: Client, url: Url) -> BoxStream<'static, ()> {
    let opened = once(async move {
        match timeout(REQUEST_LIMIT, socket::open(&client, url, &[])).await {
            Ok(Ok(Opened::Socket(socket))) => Some(socket),
            Ok(Ok(Opened::Refused(_)) | Err(_)) | Err(_) => None,
        }
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
