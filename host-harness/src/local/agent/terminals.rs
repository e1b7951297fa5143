//! Terminals of an agent: each a command on a pseudo terminal, which outlives those who look at it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use pty_process::{OwnedReadPty, OwnedWritePty, Size};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Child;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::super::agent_protocol::{AgentConfig, OpenTerminal, TerminalInput};
use super::websocket;

/// How much output a terminal keeps for those who attach later, in bytes. A reader that is further behind holds the
/// command up.
const SCROLLBACK: usize = 64 * 1024;
/// After a command's end, output that does not come within this time is not its own.
const DRAIN: Duration = Duration::from_millis(50);

/// The terminals of this agent, by the id that a client chose.
#[derive(Clone)]
pub(super) struct Terminals {
    config: Arc<AgentConfig>,
    open: Arc<Mutex<BTreeMap<String, Arc<Terminal>>>>,
}

struct Terminal {
    input: mpsc::Sender<TerminalInput>,
    output: watch::Sender<Output>,
    group: Option<Pid>,
}

/// The last of a terminal's output. Positions count from its beginning.
#[derive(Default)]
struct Output {
    kept: VecDeque<u8>,
    start: u64,
    ended: bool,
    /// How far each reader is.
    readers: BTreeMap<u64, u64>,
    next_reader: u64,
}

impl Terminals {
    pub fn new(config: Arc<AgentConfig>) -> Self {
        Self { config, open: Arc::default() }
    }

    /// Connects a terminal to the websocket that the server waits for, and opens it before if it does not exist.
    pub async fn attach(self, request: OpenTerminal) {
        let path = format!("/api/local/agent/terminals/{}", request.id);
        let Some(mut socket) = websocket::open(&self.config, &path).await else { return };
        let (terminal, reader) = match self.find_or_open(&request) {
            Ok(found) => found,
            Err(error) => {
                let _ = socket.send(Message::binary(format!("cannot open a terminal: {error}\r\n"))).await;
                let _ = socket.close(None).await;
                return;
            }
        };
        pump(&mut socket, &terminal, reader).await;
        terminal.output.send_modify(|output| {
            output.readers.remove(&reader);
        });
    }

    /// Ends all commands.
    pub fn end(&self) {
        for terminal in lock(&self.open).values() {
            if let Some(group) = terminal.group {
                // One that has just ended by itself is as good.
                let _ = kill_process_group(group, Signal::KILL);
            }
        }
    }

    fn find_or_open(&self, request: &OpenTerminal) -> Result<(Arc<Terminal>, u64), pty_process::Error> {
        let mut open = lock(&self.open);
        let terminal = match open.get(&request.reconnect) {
            Some(terminal) => terminal.clone(),
            None => {
                let terminal = self.start(request)?;
                open.insert(request.reconnect.clone(), terminal.clone());
                terminal
            }
        };
        let mut reader = 0;
        terminal.output.send_modify(|output| reader = output.add_reader());
        Ok((terminal, reader))
    }

    fn start(&self, request: &OpenTerminal) -> Result<Arc<Terminal>, pty_process::Error> {
        let (pty, pts) = pty_process::open()?;
        pty.resize(Size::new(request.height, request.width))?;
        let shell = std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
        let mut command = pty_process::Command::new(shell).current_dir(&self.config.home);
        for (name, value) in &self.config.variables {
            command = command.env(name, value);
        }
        if std::env::var_os("TERM").is_none() {
            command = command.env("TERM", "xterm-256color");
        }
        if !request.command.is_empty() {
            command = command.arg("-c").arg(&request.command);
        }
        let child = command.spawn(pts)?;
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let (read, write) = pty.into_split();
        let (input, inputs) = mpsc::channel(64);
        let terminal = Arc::new(Terminal { input, output: watch::Sender::default(), group });
        tokio::spawn(write_input(write, inputs));
        tokio::spawn(self.clone().run(request.reconnect.clone(), terminal.clone(), child, read));
        Ok(terminal)
    }

    /// Reads the output until the command has ended, then forgets the terminal.
    async fn run(self, id: String, terminal: Arc<Terminal>, mut child: Child, mut pty: OwnedReadPty) {
        let mut buffer = vec![0; 8 * 1024];
        loop {
            tokio::select! {
                biased;
                // Fails when the command and all who share its terminal have ended.
                read = pty.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => break,
                    Ok(length) => terminal.print(&buffer[..length]).await,
                },
                _ = child.wait() => {
                    while let Ok(Ok(length @ 1..)) = timeout(DRAIN, pty.read(&mut buffer)).await {
                        terminal.print(&buffer[..length]).await;
                    }
                    break;
                }
            }
        }
        lock(&self.open).remove(&id);
        terminal.output.send_modify(|output| output.ended = true);
        // Reaps it. It has closed its terminal; should it live on, it does so unseen.
        let _ = child.wait().await;
    }
}

impl Terminal {
    /// Adds to the output; waits while a reader is too far behind.
    async fn print(&self, bytes: &[u8]) {
        let mut changes = self.output.subscribe();
        // The sender lives as long as this terminal, so the wait cannot fail.
        let _ = changes.wait_for(|output| output.has_room(bytes.len())).await;
        drop(changes);
        self.output.send_modify(|output| output.add(bytes));
    }
}

impl Output {
    fn add_reader(&mut self) -> u64 {
        self.next_reader += 1;
        self.readers.insert(self.next_reader, self.start);
        self.next_reader
    }

    fn end(&self) -> u64 {
        self.start + self.kept.len() as u64
    }

    fn has_room(&self, length: usize) -> bool {
        let slowest = self.readers.values().min().copied().unwrap_or(self.end());
        self.end() - slowest + length as u64 <= SCROLLBACK as u64
    }

    fn add(&mut self, bytes: &[u8]) {
        self.kept.extend(bytes);
        let surplus = self.kept.len().saturating_sub(SCROLLBACK);
        self.kept.drain(..surplus);
        self.start += surplus as u64;
    }

    fn unread(&self, reader: u64) -> Vec<u8> {
        let position = self.readers.get(&reader).copied().unwrap_or(self.end());
        let skip = usize::try_from(position - self.start).unwrap_or(usize::MAX);
        self.kept.iter().skip(skip).copied().collect()
    }

    fn is_news(&self, reader: u64) -> bool {
        self.ended || self.readers.get(&reader).is_some_and(|position| *position < self.end())
    }
}

/// Copies between a terminal and its websocket until either ends. Only the end of the command closes the websocket
/// properly: that is how the server knows it from the end of the agent.
async fn pump(socket: &mut websocket::Socket, terminal: &Terminal, reader: u64) {
    let mut changes = terminal.output.subscribe();
    loop {
        tokio::select! {
            news = next_output(&mut changes, reader) => {
                let Some((bytes, ended)) = news else { return };
                let length = bytes.len() as u64;
                if length > 0 {
                    if socket.send(Message::binary(bytes)).await.is_err() {
                        return;
                    }
                    terminal.output.send_modify(|output| {
                        if let Some(position) = output.readers.get_mut(&reader) {
                            *position += length;
                        }
                    });
                } else if ended {
                    let _ = socket.close(None).await;
                    return;
                }
            }
            message = socket.next() => match message {
                Some(Ok(Message::Binary(json))) => {
                    if let Ok(input) = serde_json::from_slice(&json) {
                        // A terminal that has ended takes no input.
                        let _ = terminal.input.send(input).await;
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    }
}

/// What the reader has not read, and whether the command has ended. Waits until there is news.
async fn next_output(changes: &mut watch::Receiver<Output>, reader: u64) -> Option<(Vec<u8>, bool)> {
    let output = changes.wait_for(|output| output.is_news(reader)).await.ok()?;
    Some((output.unread(reader), output.ended))
}

async fn write_input(mut pty: OwnedWritePty, mut inputs: mpsc::Receiver<TerminalInput>) {
    while let Some(input) = inputs.recv().await {
        if let (Some(height), Some(width)) = (input.height, input.width) {
            // A size that the system refuses leaves the old one.
            let _ = pty.resize(Size::new(height, width));
        }
        if pty.write_all(input.data.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
