//! A server that gives prepared answers in order, and keeps what it was asked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Request, State};
use axum::response::Response;
use serde_json::{Value, json};

/// One answer. A fixture for its test to change.
pub struct Reply {
    /// The value of `Date`, if there is to be one.
    pub date: Option<String>,
    /// JSON; an object with the single key `_text` is sent as that text.
    pub body: Value,
    status: u16,
    retry_after: Option<String>,
    kind: Kind,
}

enum Kind {
    Http,
    Terminal,
    /// These text messages, and then the end.
    Messages(Vec<Value>),
    HangUp,
}

impl Reply {
    /// A body that is not JSON.
    pub fn text(status: u16, text: &str) -> Self {
        Self { date: None, body: json!({ "_text": text }), status, retry_after: None, kind: Kind::Http }
    }

    /// No answer: the connection is closed.
    pub fn hang_up() -> Self {
        Self { kind: Kind::HangUp, ..Self::text(0, "") }
    }

    /// A terminal that says `hi`, repeats one frame and breaks off.
    pub fn terminal() -> Self {
        Self { kind: Kind::Terminal, ..Self::text(101, "") }
    }

    /// A websocket on which these come, and then nothing but the end.
    pub fn messages(messages: Vec<Value>) -> Self {
        Self { kind: Kind::Messages(messages), ..Self::text(101, "") }
    }
}

/// The answer in the exchange of that index in a recording; of a terminal, the answer to its handshake.
pub fn recorded(file: &str, index: usize) -> Reply {
    let path = format!("{}/tests/transcripts/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let recording: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let exchange = &recording["exchanges"][index];
    let answer = exchange.get("response").unwrap_or(&exchange["handshake"]);
    let header = |name: &str| answer["headers"][name].as_str().map(str::to_owned);
    Reply {
        date: header("Date"),
        body: answer["body"].clone(),
        status: answer["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap(),
        retry_after: header("Retry-After"),
        kind: Kind::Http,
    }
}

/// What a real server sent on the websocket that a workspace is watched by.
pub fn recorded_watch() -> Vec<Value> {
    let path = format!("{}/tests/transcripts/11-watch-events.json", env!("CARGO_MANIFEST_DIR"));
    let recording: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let sent = recording["exchanges"].as_array().unwrap().iter();
    sent.filter(|exchange| exchange["event"] == "watch-ws: message")
        // Of most messages the recording keeps the kind only.
        .map(|sent| match &sent["message"] {
            Value::Null => json!({ "type": sent["message_type"], "data": {} }),
            message => message.clone(),
        })
        .collect()
}

/// What the server was asked.
#[derive(Clone)]
pub struct Asked {
    /// With the query.
    pub path: String,
    /// The token's header.
    pub token: Option<String>,
    /// Null if there was none.
    pub body: Value,
}

/// The server; ends with the test.
pub struct Server {
    /// Where it listens.
    pub url: String,
    shared: Arc<Shared>,
}

struct Shared {
    replies: Mutex<VecDeque<Reply>>,
    asked: Mutex<Vec<Asked>>,
}

impl Server {
    /// Starts it on a free port.
    pub async fn start(replies: VecDeque<Reply>) -> Self {
        let shared = Arc::new(Shared { replies: Mutex::new(replies), asked: Mutex::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(shared.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, shared }
    }

    /// What it was asked until now.
    pub fn requests(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let token = parts.headers.get("coder-session-token").map(|token| token.to_str().unwrap().to_owned());
    let path = parts.uri.path_and_query().unwrap().to_string();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    shared.asked.lock().unwrap().push(Asked { path, token, body });
    let reply = shared.replies.lock().unwrap().pop_front().unwrap();
    match reply.kind {
        Kind::Http => http(&reply),
        Kind::Messages(messages) => {
            let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await.unwrap();
            upgrade.on_upgrade(async move |mut socket| {
                for message in messages {
                    socket.send(Message::text(message.to_string())).await.unwrap();
                }
            })
        }
        Kind::Terminal => {
            let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await.unwrap();
            upgrade.on_upgrade(terminal)
        }
        // Ends the task that serves the connection, and so the connection, without a word.
        Kind::HangUp => std::panic::resume_unwind(Box::new("hang up")),
    }
}

fn http(reply: &Reply) -> Response {
    let mut response = Response::builder().status(reply.status);
    for (name, value) in [("date", &reply.date), ("retry-after", &reply.retry_after)] {
        if let Some(value) = value {
            response = response.header(name, value);
        }
    }
    let (kind, body) = match reply.body["_text"].as_str() {
        Some(text) => ("text/html", text.to_owned()),
        None => ("application/json", reply.body.to_string()),
    };
    response.header("content-type", kind).body(Body::from(body)).unwrap()
}

async fn terminal(mut socket: WebSocket) {
    socket.send(Message::Binary("hi\r\n".into())).await.unwrap();
    let frame = socket.recv().await.unwrap().unwrap();
    let binary = matches!(frame, Message::Binary(_));
    let frame: Value = serde_json::from_slice(&frame.into_data()).unwrap();
    socket
        .send(Message::Binary(json!({ "binary": binary, "frame": frame }).to_string().into()))
        .await
        .unwrap();
    // Dropped without a close frame, as a real server does at the end of a command.
}
