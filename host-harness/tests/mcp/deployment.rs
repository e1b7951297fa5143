//! A deployment as the program sees it: the local control plane, behind a server that a test lets answer otherwise.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What a request is answered with.
pub enum Says {
    /// What the control plane says.
    Truth,
    /// That, with its JSON changed.
    Changed(Box<dyn FnOnce(&mut Value) + Send>),
    /// This status and message.
    Status(u16, &'static str),
    /// Nothing: the connection ends.
    Nothing,
    /// Nothing, for as long as the client waits.
    Silence,
}

/// Keeps a connection from being used for another request.
const CLOSE: &str = "Connection: close\r\n";

/// Decides on a request by its method and path.
type Answers = Box<dyn FnMut(&str) -> Says + Send>;

/// Ends with the test.
pub struct Deployment {
    pub url: String,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

struct Shared {
    /// Where the control plane listens.
    plane: String,
    answers: Mutex<Answers>,
    /// The only token that is taken for the control plane's own, and that one. None: its own is.
    token: Mutex<Option<(String, String)>>,
    asked: Mutex<Vec<String>>,
}

impl Deployment {
    /// One that says what the control plane at this URL says.
    pub async fn of(plane: &str) -> Self {
        let shared = Arc::new(Shared {
            plane: plane.replace("http://", ""),
            answers: Mutex::new(Box::new(|_| Says::Truth)),
            token: Mutex::default(),
            asked: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = shared.clone();
        let server = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let shared = serving.clone();
                // Who has gone needs no answer.
                tokio::spawn(async move { shared.serve(client).await.unwrap_or_default() });
            }
        });
        Self { url, shared, server }
    }

    /// Answers so from now on.
    pub fn says(&self, answers: impl FnMut(&str) -> Says + Send + 'static) {
        *self.shared.answers.lock().unwrap() = Box::new(answers);
    }

    /// Accepts this token from now on, and no other, in place of the control plane's own.
    pub fn takes(&self, token: &str, own: &str) {
        *self.shared.token.lock().unwrap() = Some((token.to_owned(), own.to_owned()));
    }

    /// How many requests of this sort there were.
    pub fn asked(&self, sort: fn(&str) -> bool) -> usize {
        self.shared.asked.lock().unwrap().iter().filter(|request| sort(request)).count()
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    /// One request: its connection then ends, so that the next one is decided on as well.
    async fn serve(&self, client: TcpStream) -> std::io::Result<()> {
        let mut client = BufReader::new(client);
        let mut head = read_head(&mut client).await?;
        if let Some((taken, own)) = self.token.lock().unwrap().clone() {
            head = with_token(&head, |shown| if shown == taken { own } else { "none".to_owned() });
        }
        let is_socket = head.to_ascii_lowercase().contains("\r\nupgrade:");
        let request = head.split(' ').take(2).collect::<Vec<_>>().join(" ");
        self.asked.lock().unwrap().push(request.clone());
        let says = self.answers.lock().unwrap()(&request);
        match says {
            Says::Nothing => Ok(()),
            Says::Silence => client.read_to_end(&mut Vec::new()).await.map(drop),
            Says::Status(status, message) => {
                let head = format!("HTTP/1.1 {status} \r\n{CLOSE}");
                client.write_all(&with_body(&head, &json!({ "message": message }))).await
            }
            Says::Truth if is_socket => {
                let mut plane = BufReader::new(self.ask(&head).await?);
                let mut answer = read_head(&mut plane).await?;
                if !answer.starts_with("HTTP/1.1 101 ") {
                    answer += CLOSE;
                }
                client.write_all(format!("{answer}\r\n").as_bytes()).await?;
                copy_bidirectional(&mut client, &mut plane).await.map(drop)
            }
            Says::Truth => {
                let mut plane = self.ask(&(head + CLOSE)).await?;
                copy_bidirectional(&mut client, &mut plane).await.map(drop)
            }
            Says::Changed(change) => {
                let mut answer = String::new();
                self.ask(&(head + CLOSE)).await?.read_to_string(&mut answer).await?;
                let (head, body) = answer.split_once("\r\n\r\n").unwrap();
                let mut body = serde_json::from_str(body).unwrap();
                change(&mut body);
                let kept = head.lines().filter(|line| !line.starts_with("content-length"));
                let head: String = kept.flat_map(|line| [line, "\r\n"]).collect();
                client.write_all(&with_body(&head, &body)).await
            }
        }
    }

    async fn ask(&self, head: &str) -> std::io::Result<TcpStream> {
        let mut plane = TcpStream::connect(&self.plane).await?;
        plane.write_all(format!("{head}\r\n").as_bytes()).await?;
        Ok(plane)
    }
}

/// The lines up to the empty one.
async fn read_head(stream: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut head = String::new();
    loop {
        let begin = head.len();
        if stream.read_line(&mut head).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if &head[begin..] == "\r\n" {
            head.truncate(begin);
            return Ok(head);
        }
    }
}

/// The lines with another token.
fn with_token(head: &str, change: impl FnOnce(&str) -> String) -> String {
    let line = head.lines().find_map(|line| line.strip_prefix("coder-session-token: "));
    line.map_or(head.to_owned(), |shown| head.replacen(shown, &change(shown), 1))
}

fn with_body(head: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Whether a workspace is read by its id, as dials and verdicts do.
pub fn is_read(request: &str) -> bool {
    request.strip_prefix("GET /api/v2/workspaces/").is_some_and(|id| !id.contains(['/', '?']))
}

/// Whether it is asked whose token this is.
pub fn is_user(request: &str) -> bool {
    request == "GET /api/v2/users/me"
}

/// Whether it is asked whether the database is there.
pub fn is_of_the_database(request: &str) -> bool {
    request == "GET /api/v2/users/first"
}

/// Whether a build is asked for.
pub fn is_build(request: &str) -> bool {
    request.starts_with("POST /api/v2/workspaces/") && request.ends_with("/builds")
}

/// Whether a terminal is asked for.
pub fn is_terminal(request: &str) -> bool {
    request.contains("/pty?")
}
