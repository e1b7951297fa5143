//! A server that gives prepared answers, and keeps what it was asked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::serve::ListenerExt;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};
use workspace_recovery::control_plane::rest::RestClient;

use crate::TOKEN;
use crate::transcript::recorded;

/// One answer. A fixture for its test to change.
#[derive(Clone)]
pub struct Reply {
    pub status: u16,
    /// JSON; an object with the single key `_text` is sent as that text.
    pub body: Value,
    /// `Date` and others.
    pub headers: Vec<(String, String)>,
    pub kind: Kind,
}

#[derive(Clone)]
pub enum Kind {
    Http,
    /// A websocket, on which this comes.
    Socket(Vec<Frame>),
    /// A terminal, which answers what is typed into it.
    Terminal(Typed),
    /// No answer: the connection is closed.
    HangUp,
    /// No answer: the connection stays open.
    Silence,
}

/// What a terminal shows: at first, and then of each text that is typed.
pub type Typed = Arc<Mutex<dyn FnMut(Option<&str>) -> Shows + Send>>;

/// What a terminal shows next.
pub enum Shows {
    Text(String),
    /// This, and then the connection breaks off.
    Last(String),
}

/// Something that happens on a websocket, so long after the request.
#[derive(Clone, Debug)]
pub struct Frame {
    pub at: Duration,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    Text(String),
    Binary(String),
    Ping,
    /// The next frame that the client sends is repeated, with a note whether it was binary.
    Repeat,
    Close(u16, String),
    /// The connection stays open, and nothing comes any more. Without it the connection breaks off.
    Nothing,
}

impl Reply {
    /// An answer of JSON.
    pub fn json(status: u16, body: Value) -> Self {
        Self { status, body, headers: Vec::new(), kind: Kind::Http }
    }

    /// A body that is not JSON.
    pub fn text(status: u16, text: &str) -> Self {
        Self::json(status, json!({ "_text": text }))
    }

    pub fn hang_up() -> Self {
        Self { kind: Kind::HangUp, ..Self::text(0, "") }
    }

    pub fn silence() -> Self {
        Self { kind: Kind::Silence, ..Self::text(0, "") }
    }

    /// A websocket on which these come at once, and then nothing but the end.
    pub fn socket(frames: impl IntoIterator<Item = What>) -> Self {
        let frames = frames.into_iter().map(|what| Frame { at: Duration::ZERO, what });
        Self::timed_socket(frames.collect())
    }

    pub fn timed_socket(frames: Vec<Frame>) -> Self {
        Self { kind: Kind::Socket(frames), ..Self::text(101, "") }
    }

    /// A terminal that says `hi`, repeats one frame and breaks off.
    pub fn terminal() -> Self {
        Self::socket([What::Binary("hi\r\n".into()), What::Repeat])
    }

    pub fn typed(typed: impl FnMut(Option<&str>) -> Shows + Send + 'static) -> Self {
        Self { kind: Kind::Terminal(Arc::new(Mutex::new(typed))), ..Self::text(101, "") }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// What the server was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    /// With the query.
    pub path: String,
    /// The token's header.
    pub token: Option<String>,
    /// All of them, by names in small letters.
    pub headers: HeaderMap,
    /// Null if there was none.
    pub body: Value,
    pub at: Instant,
}

/// The server; ends with the test.
#[derive(Clone)]
pub struct Server {
    /// Where it listens.
    pub url: String,
    shared: Arc<Shared>,
}

type Answers = Box<dyn FnMut(&Asked) -> Reply + Send>;

struct Shared {
    answers: Mutex<Answers>,
    first: Mutex<Answers>,
    asked: Mutex<Vec<Asked>>,
    typed: Mutex<Vec<Value>>,
}

impl Server {
    /// Starts it on a free port.
    pub async fn start(answers: impl FnMut(&Asked) -> Reply + Send + 'static) -> Self {
        let shared = Arc::new(Shared {
            answers: Mutex::new(Box::new(answers)),
            first: Mutex::new(Box::new(|_| recorded("26-database-outage-2026", 0))),
            asked: Mutex::default(),
            typed: Mutex::default(),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(shared.clone());
        let listener = listener.tap_io(|connection| connection.set_nodelay(true).unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, shared }
    }

    /// One that gives these answers, in order.
    pub async fn in_order(replies: impl IntoIterator<Item = Reply>) -> Self {
        let mut replies: VecDeque<_> = replies.into_iter().collect();
        Self::start(move |asked| replies.pop_front().unwrap_or_else(|| panic!("too much: {asked:?}"))).await
    }

    /// Answers so from now on.
    pub fn answer(&self, answers: impl FnMut(&Asked) -> Reply + Send + 'static) {
        *self.shared.answers.lock().unwrap() = Box::new(answers);
    }

    /// Says of its database from now on: whether there is a first user needs no token, and is no part of what
    /// [`requests`](Self::requests) answers.
    pub fn says_of_its_database(&self, first: impl FnMut(&Asked) -> Reply + Send + 'static) {
        *self.shared.first.lock().unwrap() = Box::new(first);
    }

    /// What it was asked until now.
    pub fn requests(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// What was typed, and what else was sent on websockets that stayed open.
    pub fn typed(&self) -> Vec<Value> {
        self.shared.typed.lock().unwrap().clone()
    }

    pub fn client(&self) -> RestClient {
        RestClient::new(&self.url, TOKEN).unwrap()
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let at = Instant::now();
    let (mut parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let asked = Asked {
        method: parts.method.to_string(),
        path: parts.uri.path_and_query().unwrap().to_string(),
        token: parts.headers.get("coder-session-token").map(|token| token.to_str().unwrap().to_owned()),
        headers: parts.headers.clone(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
        at,
    };
    let reply = if asked.path == "/api/v2/users/first" {
        assert!(asked.token.is_none(), "it needs none");
        shared.first.lock().unwrap()(&asked)
    } else {
        shared.asked.lock().unwrap().push(asked.clone());
        shared.answers.lock().unwrap()(&asked)
    };
    match reply.kind {
        Kind::Http => http(&reply),
        Kind::Socket(frames) => {
            let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await.unwrap();
            upgrade.on_upgrade(move |socket| async move { play(socket, frames, at, &shared).await })
        }
        Kind::Terminal(typed) => {
            let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await.unwrap();
            upgrade.on_upgrade(move |socket| async move { converse(socket, typed, &shared).await })
        }
        // Ends the task that serves the connection, and so the connection, without a word.
        Kind::HangUp => std::panic::resume_unwind(Box::new("hang up")),
        Kind::Silence => std::future::pending().await,
    }
}

fn http(reply: &Reply) -> Response {
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(name, value);
    }
    let (kind, body) = match reply.body["_text"].as_str() {
        Some(text) => ("text/html", text.to_owned()),
        None => ("application/json", reply.body.to_string()),
    };
    response.header("content-type", kind).body(Body::from(body)).unwrap()
}

async fn converse(mut socket: WebSocket, typed: Typed, shared: &Shared) {
    let mut text = None;
    loop {
        let shows = typed.lock().unwrap()(text.as_deref());
        let (Shows::Text(shown) | Shows::Last(shown)) = &shows;
        if !shown.is_empty() && socket.send(Message::Binary(shown.clone().into())).await.is_err() {
            return;
        }
        if let Shows::Last(_) = shows {
            return;
        }
        let Some(Ok(frame)) = socket.recv().await else { return };
        let Ok(frame) = serde_json::from_slice::<Value>(&frame.into_data()) else { continue };
        text = frame["data"].as_str().map(str::to_owned);
        shared.typed.lock().unwrap().push(frame);
    }
}

/// Dropped without a close frame in the end, as a real server does at the end of a command.
async fn play(mut socket: WebSocket, frames: Vec<Frame>, begun: Instant, shared: &Shared) {
    for Frame { at, what } in frames {
        // What the client sends meanwhile is read: else its pings would not be answered.
        let come = sleep_until(begun + at);
        tokio::pin!(come);
        loop {
            tokio::select! {
                biased;
                () = &mut come => break,
                message = socket.recv() => if !matches!(message, Some(Ok(_))) { return },
            }
        }
        let sent = match what {
            What::Text(text) => socket.send(Message::text(text)).await,
            What::Binary(text) => socket.send(Message::Binary(text.into())).await,
            What::Ping => socket.send(Message::Ping("1".into())).await,
            What::Close(code, reason) => {
                socket.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await
            }
            What::Repeat => {
                let Some(Ok(frame)) = socket.recv().await else { return };
                let binary = matches!(frame, Message::Binary(_));
                let frame: Value = serde_json::from_slice(&frame.into_data()).unwrap();
                let repeated = json!({ "binary": binary, "frame": frame }).to_string();
                socket.send(Message::Binary(repeated.into())).await
            }
            What::Nothing => {
                while let Some(Ok(frame)) = socket.recv().await {
                    shared.typed.lock().unwrap().extend(serde_json::from_slice::<Value>(&frame.into_data()));
                }
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}
