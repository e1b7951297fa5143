//! One attempt to reach an agent: a terminal on it in which a shell waits for what is typed.

use tokio::time::{Instant, timeout_at};

use crate::chat::session::{BOOTSTRAP, GREETING, find};
use crate::control_plane::{ApiError, ControlPlane, NewTerminal, Terminal};
use crate::plain::plain;
use crate::policy::Timings;

/// Wide enough that no program wraps its lines.
const WIDTH: u16 = 250;
const HEIGHT: u16 = 50;
/// How much of what a terminal says instead of greeting is kept: its beginning.
const MAX_SAID: usize = 64 * 1024;
/// How much of that is quoted, in characters.
const MAX_QUOTED: usize = 500;

/// Why a terminal was not greeted in.
pub(super) enum NoGreeting {
    /// It could not be opened.
    Refused(ApiError),
    /// It ended. What it had said.
    Ended { said: String },
    /// It says something else, and stays open.
    SaysElse { said: String },
}

/// Opens a terminal on the agent and waits for its greeting. May wait for ever: a dead agent that still reads connected
/// gives a terminal that stays silent. What was opened in vain waits for input, which it will never get; it does nothing.
pub(super) async fn greeted(
    plane: &dyn ControlPlane,
    agent: &str,
    timings: &Timings,
) -> Result<Box<dyn Terminal>, NoGreeting> {
    let wanted = NewTerminal {
        // A new one each time: a session of the server's is never attached to, it ends with its terminal.
        session: uuid::Uuid::new_v4().to_string(),
        command: BOOTSTRAP.to_owned(),
        height: HEIGHT,
        width: WIDTH,
    };
    let mut terminal = plane.open_terminal(agent, &wanted).await.map_err(NoGreeting::Refused)?;
    let mut said = Vec::new();
    // Once something was said, there is a shell that has begun; it may take its time, but not for ever.
    let mut patience: Option<Instant> = None;
    loop {
        let piece = match patience {
            None => terminal.next().await,
            Some(until) => match timeout_at(until, terminal.next()).await {
                Ok(piece) => piece,
                Err(_) => return Err(NoGreeting::SaysElse { said: quoted(&said) }),
            },
        };
        let Ok(Some(piece)) = piece else { return Err(NoGreeting::Ended { said: quoted(&said) }) };
        said.extend_from_slice(&piece);
        if find(&said, GREETING.as_bytes()).is_some() {
            return Ok(terminal);
        }
        said.truncate(MAX_SAID);
        patience = Some(Instant::now() + timings.shell_limit);
    }
}

/// Text of a terminal, safe to show, and short.
fn quoted(said: &[u8]) -> String {
    let said = plain(&String::from_utf8_lossy(said));
    let lines: Vec<_> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut text = lines.join("\n");
    if let Some((at, _)) = text.char_indices().nth(MAX_QUOTED) {
        text.truncate(at);
        text.push_str(" ...");
    }
    text
}
