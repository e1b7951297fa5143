//! How an agent is reached: a terminal on it in which a shell waits for what is typed. Commands are run in such a
//! terminal, and that one can be had is the proof that they can be.

use std::future::Future;
use std::pin::Pin;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Duration, Instant, timeout_at};

use crate::control_plane::{ApiError, ControlPlane, NewTerminal, Terminal};
use crate::policy::Timings;
use crate::sanitize::sanitize;

/// Run by the login shell of the workspace's user, whatever that is: bash, dash, zsh, fish, tcsh, ... Each takes this
/// for one command with one quoted argument. Whatever the shell says before the greeting is none of the command's
/// output. The greeting stands here as a sum, so that a shell which quotes the line it cannot run does not seem to
/// greet.
const BOOTSTRAP: &str = "exec /bin/sh -c 'stty -echo 2>/dev/null; echo workspace-recovery:$((1+1)); IFS= read -r w && eval \"$w\"'";
/// What the bootstrap shows, in a line of its own, when it waits for what is typed.
pub(crate) const GREETING: &str = "workspace-recovery:2";

/// Wide enough that no program wraps its lines.
const WIDTH: u16 = 250;
const HEIGHT: u16 = 50;
/// How much of what a terminal says instead of greeting is kept: its beginning.
const MAX_SAID: usize = 64 * 1024;
/// How much of that is quoted, in characters.
const MAX_QUOTED: usize = 500;
/// Terminals that are tried at the same time: a second one beside one that stays silent, as one in some hundreds does
/// on a healthy agent.
pub(crate) const AT_ONCE: usize = 2;
/// After so many terminals in a row that ended without a greeting there is no shell that runs commands. One or two may
/// have been cut.
pub(crate) const ENDED_AT_ONCE: u32 = 3;

/// What is said of a terminal that ended without a greeting.
pub(crate) const ENDED: &str = "the agent's terminal ended before it could be used";

/// How an attempt ended, and what follows from the attempts so far.
pub(crate) enum Attempted {
    /// A shell waits in this terminal.
    Greeted(Box<dyn Terminal>),
    /// The terminal says something else, and stays open. What it says.
    NoShell { said: String },
    /// The terminal ended. Another one is tried, although by now so many have that none of them runs a shell, if they
    /// are `enough`. What it had said.
    Ended { said: String, enough: bool },
    /// It could not be opened. Another one is tried if that may succeed a little later.
    Refused(ApiError),
}

type Attempt<'a> = Pin<Box<dyn Future<Output = Result<Box<dyn Terminal>, NoGreeting>> + Send + 'a>>;

/// Attempts to reach one agent, a few at the same time and with pauses between those that fail. It does nothing by
/// itself: whoever has it begins what is due.
pub(crate) struct Attempts<'a> {
    plane: &'a dyn ControlPlane,
    timings: &'a Timings,
    running: FuturesUnordered<Attempt<'a>>,
    /// How many in a row ended without a greeting.
    ended_at_once: u32,
    due: Instant,
    pause: Duration,
    /// None is begun: the last one failed in a way that waiting cannot cure.
    held: bool,
}

impl<'a> Attempts<'a> {
    /// None yet. The first one is due at once.
    pub(crate) fn new(plane: &'a dyn ControlPlane, timings: &'a Timings) -> Self {
        Self {
            plane,
            timings,
            running: FuturesUnordered::new(),
            ended_at_once: 0,
            due: Instant::now(),
            pause: timings.first_retry,
            held: false,
        }
    }

    /// When the next one is to be begun. `None`: not before one has ended.
    pub(crate) fn due(&self) -> Option<Instant> {
        (!self.held && self.running.len() < AT_ONCE).then_some(self.due)
    }

    /// Begins one.
    pub(crate) fn begin(&mut self, agent: &str, now: Instant) {
        let (plane, timings, agent) = (self.plane, self.timings, agent.to_owned());
        self.running.push(Box::pin(async move { greeted(plane, &agent, timings).await }));
        // If it stays silent, another one is tried beside it.
        self.due = now + timings.greeting_patience;
    }

    /// The end of the next one that ends; waits for ever if none runs. Cancel safe.
    pub(crate) async fn next(&mut self) -> Attempted {
        let Some(tried) = self.running.next().await else { return std::future::pending().await };
        match tried {
            Ok(terminal) => Attempted::Greeted(terminal),
            Err(NoGreeting::SaysElse { said }) => Attempted::NoShell { said },
            Err(NoGreeting::Ended { said }) => {
                self.ended_at_once += 1;
                self.repeat(None);
                Attempted::Ended { said, enough: self.ended_at_once >= ENDED_AT_ONCE }
            }
            Err(NoGreeting::Refused(error)) => {
                self.ended_at_once = 0;
                match curable(&error) {
                    true => self.repeat(error.retry_after()),
                    false => self.held = true,
                }
                Attempted::Refused(error)
            }
        }
    }

    /// The next one is due after this time, or after a pause that grows with each one that failed.
    fn repeat(&mut self, after: Option<Duration>) {
        self.due = Instant::now() + after.unwrap_or(self.pause);
        self.pause = (self.pause * 2).min(self.timings.poll);
    }

    /// What kept others from being begun is not held against the agent: the next one is due after a pause.
    pub(crate) fn release(&mut self) {
        if std::mem::take(&mut self.held) {
            self.due = Instant::now() + self.pause;
        }
    }
}

/// Whether an attempt that failed so may succeed a little later: the agent is not there, or nobody answered.
pub(crate) fn curable(error: &ApiError) -> bool {
    error.is_transient() || matches!(error, ApiError::UnknownOutcome(_))
}

/// Why an attempt failed. While the workspace can be read, the control plane is there, and what answers so at its
/// terminal's address is about the agent.
pub(crate) fn why_refused(error: &ApiError, readable: bool) -> String {
    match error {
        ApiError::Unavailable(why) if readable => format!("the agent's terminal cannot be used: {why}"),
        ApiError::NotFound => "the control plane knows no such agent, or hides it from this user".to_owned(),
        error => error.to_string(),
    }
}

/// What a terminal says that is none for commands.
pub(crate) fn no_shell(said: &str) -> String {
    match said {
        "" => "its terminals end at once, without a word, as with a login shell like /bin/false; the workspace's user \
               needs a login shell, and the workspace /bin/sh"
            .to_owned(),
        said => format!(
            "its terminal says \"{said}\"; the workspace's user needs a login shell that can run /bin/sh, and start-up \
             files that neither end it nor wait for input"
        ),
    }
}

/// Why a terminal was not greeted in.
pub(crate) enum NoGreeting {
    /// It could not be opened.
    Refused(ApiError),
    /// It ended. What it had said.
    Ended { said: String },
    /// It says something else, and stays open.
    SaysElse { said: String },
}

/// Opens a terminal on the agent and waits for its greeting. May wait for ever: a dead agent that still reads connected
/// gives a terminal that stays silent. What was opened in vain waits for input, which it will never get; it does
/// nothing.
pub(crate) async fn greeted(
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
    let said = sanitize(&String::from_utf8_lossy(said));
    let lines: Vec<_> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut text = lines.join("\n");
    if let Some((at, _)) = text.char_indices().nth(MAX_QUOTED) {
        text.truncate(at);
        text.push_str(" ...");
    }
    text
}

/// Where one text first stands in another.
pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::{BOOTSTRAP, GREETING};

    #[test]
    fn an_echo_of_the_bootstrap_does_not_seem_to_greet() {
        assert!(!BOOTSTRAP.contains(GREETING));
        // Quotes, exclamation marks and new lines mean different things to different shells.
        let argument = BOOTSTRAP.strip_prefix("exec /bin/sh -c '").unwrap().strip_suffix('\'').unwrap();
        assert!(!argument.contains(['\'', '!', '\n', '\\']));
    }
}
