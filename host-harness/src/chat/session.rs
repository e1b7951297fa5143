//! One command, over as many terminals as it takes.
//!
//! The command lives in the workspace, apart from any terminal: see `session/workspace.sh`. A terminal that was cut is
//! replaced by another one, which goes on where the output broke off. The same text is typed into each until it is
//! known that the command has begun, and the workspace's side begins it at most once.

use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::chat::execution::{Began, Execute, ExecuteError, Executed};
use crate::chat::output::Output;
use crate::control_plane::{ApiError, Terminal};
use crate::policy::Timings;

mod records;
mod script;

use records::{Record, Records, Shown};
use script::Script;

/// Lines that the workspace's side takes.
const ARE_YOU_THERE: &str = "p\n";
const END_IT: &str = "e\n";
const DONE: &str = "d\n";
/// What was typed may take so much longer to be read, for each of so many bytes: what a slow shell needs, several times
/// over.
const TYPED_BYTES_A_SECOND: usize = 64 << 10;

/// A command that is run once.
pub(super) struct Session {
    script: Script,
    output: Output,
    began: Began,
    limit: Duration,
    /// Its time begins when it is first handed over.
    deadline: Option<Instant>,
    /// Its time is over, or its caller has given up, and it has been or has to be ended.
    ending: Option<Ending>,
    /// It was ended; whether something of it is left.
    ended: Option<bool>,
    /// All its output was told.
    is_reported: bool,
    /// Whether a terminal before this one may have begun it.
    handed_over_before: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    TimedOut,
    Interrupted,
}

/// How a terminal's part in a session ended.
pub(super) enum Attended {
    /// The command is over, or was ended because its time was.
    Over(Executed),
    /// The caller gave up; whether the command, or something of it, may still be running.
    Interrupted { running: bool },
    /// The terminal is of no use any more.
    Cut {
        /// Whether anything was heard of the workspace's side before.
        heard: bool,
    },
    /// The workspace does not know what became of the command: it was killed together with what watched it, or its
    /// notes are gone.
    Lost,
    /// What was typed arrived as something else. Nothing was run.
    Garbled,
    /// The workspace lacks what it takes to run a command.
    Refused(String),
}

impl Session {
    /// Nothing is sent yet.
    pub(super) fn new(execute: &Execute, limit: Duration, timings: &Timings) -> Result<Self, ExecuteError> {
        let script = Script::new(execute, timings.signal_grace)?;
        let output = Output::new(script.end());
        Ok(Self {
            script,
            output,
            began: Began::No,
            limit,
            deadline: None,
            ending: None,
            ended: None,
            is_reported: false,
            handed_over_before: false,
        })
    }

    /// Whether the command has begun, as far as that is known.
    pub(super) fn began(&self) -> Began {
        self.began
    }

    /// What it has put out, as far as that is known.
    pub(super) fn output(&self) -> String {
        self.output.text().0
    }

    /// Whether its time is over.
    pub(super) fn is_over_time(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Hands the command to the workspace over a terminal that has greeted, unless it has begun, and follows it.
    pub(super) async fn attend(
        &mut self,
        terminal: Box<dyn Terminal>,
        interrupt: &CancellationToken,
        timings: &Timings,
    ) -> Attended {
        let records = Records::new(self.script.mark());
        let mut line = Line { records, terminal, timings, unread: Vec::new(), heard: false };
        match self.converse(&mut line, interrupt).await {
            Ok(attended) => attended,
            // It may be open all the same, and the workspace's side in it would wait for more.
            Err(Silent) => {
                line.terminal.close().await;
                Attended::Cut { heard: line.heard }
            }
        }
    }

    async fn converse(
        &mut self,
        line: &mut Line<'_>,
        interrupt: &CancellationToken,
    ) -> Result<Attended, Silent> {
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + self.limit);
        let mut alive_until = Instant::now() + self.hand_over(line).await?;
        let mut asked = true;
        // Until when it has to be ended, and until when the last of its output may come after that.
        let (mut ended_by, mut told_by) = (None, None);
        loop {
            if self.ending.is_none() {
                self.ending = if interrupt.is_cancelled() {
                    Some(Ending::Interrupted)
                } else {
                    self.is_over_time().then_some(Ending::TimedOut)
                };
            }
            if self.ending.is_some() && ended_by.is_none() {
                line.type_in(END_IT).await?;
                // Three signals, and a look at what they have left.
                ended_by =
                    Some(Instant::now() + line.timings.signal_grace * 3 + line.timings.keep_alive_limit);
            }
            if let (Some(left), None) = (self.ended, told_by) {
                if left || self.is_reported {
                    return self.close(line, self.over(None, left)).await;
                }
                told_by = Some(Instant::now() + line.timings.signal_grace);
            }
            let shown = tokio::select! {
                biased;
                () = interrupt.cancelled(), if self.ending.is_none() => continue,
                shown = line.next() => shown?,
                () = sleep_until(told_by.or(ended_by).unwrap_or(deadline)) => match (self.ended, ended_by) {
                    (Some(left), _) => return self.close(line, self.over(None, left)).await,
                    (None, Some(_)) => return Err(Silent),
                    (None, None) => continue,
                },
                () = sleep_until(alive_until) => {
                    if asked {
                        return Err(Silent);
                    }
                    line.type_in(ARE_YOU_THERE).await?;
                    asked = true;
                    alive_until = Instant::now() + line.timings.keep_alive_limit;
                    continue;
                }
            };
            asked = false;
            alive_until = Instant::now() + line.timings.keep_alive;
            for piece in shown {
                if let Some(attended) = self.take(piece)? {
                    return self.close(line, attended).await;
                }
            }
        }
    }

    /// What the workspace has is fetched. If it cannot be told so, it removes it later.
    async fn close(&self, line: &mut Line<'_>, attended: Attended) -> Result<Attended, Silent> {
        let _ = line.type_in(DONE).await;
        line.terminal.close().await;
        Ok(attended)
    }

    /// Types what the workspace's side needs. Answers how long it may take to say something.
    async fn hand_over(&mut self, line: &mut Line<'_>) -> Result<Duration, Silent> {
        self.handed_over_before = self.began != Began::No;
        let from = self.output.cut();
        let frames =
            if self.began == Began::Yes { self.script.follow(from) } else { self.script.begin(from) };
        let typed: usize = frames.iter().map(String::len).sum();
        let last = frames.len() - 1;
        for (number, frame) in frames.iter().enumerate() {
            if number == last && self.began == Began::No {
                // Before this the workspace's side has no whole command.
                self.began = Began::Unknown;
            }
            line.type_in(frame).await?;
            // A terminal that echoes what is typed has to be read meanwhile.
            line.look()?;
        }
        let reading = Duration::from_secs((typed / TYPED_BYTES_A_SECOND) as u64);
        Ok(line.timings.keep_alive_limit + reading)
    }

    /// Takes one thing that was shown. Answers how the session ended, if it did.
    fn take(&mut self, shown: Shown) -> Result<Option<Attended>, Silent> {
        let record = match shown {
            // Of what the command has left in the background.
            Shown::Output(_) if self.is_reported => return Ok(None),
            Shown::Output(bytes) => {
                let code = self.output.push(&bytes);
                return Ok(code.and_then(|code| self.reported(Some(code))));
            }
            Shown::Record(record) => record,
        };
        match record {
            Record::Begun => self.began = Began::Yes,
            Record::Output { from, left_out } => self.output.chunk(from, left_out),
            Record::Alive => {}
            Record::Over(code) => return Ok(self.reported(code)),
            Record::Ended { left } => self.ended = Some(left),
            Record::NeverBegins => {
                self.began = Began::No;
                return Ok(Some(self.over(None, false)));
            }
            // What was to begin it has not come so far yet, or never will: another terminal finds out.
            Record::Unknown if self.began != Began::Yes => return Err(Silent),
            Record::Unknown => return Ok(Some(Attended::Lost)),
            // One that was typed into long ago, and comes to it only now.
            Record::TakenOver => return Err(Silent),
            // What was handed over before may run.
            Record::Garbled if self.handed_over_before => return Err(Silent),
            Record::Refused(_) if self.handed_over_before => return Ok(Some(Attended::Lost)),
            Record::Garbled => {
                self.began = Began::No;
                return Ok(Some(Attended::Garbled));
            }
            Record::Refused(why) => {
                self.began = Began::No;
                return Ok(Some(Attended::Refused(why)));
            }
        }
        Ok(None)
    }

    /// All output is told. While the command is being ended, what is left of it counts too.
    fn reported(&mut self, code: Option<i32>) -> Option<Attended> {
        self.is_reported = true;
        match (self.ending, self.ended, code) {
            (Some(_), None, _) => None,
            (Some(_), Some(left), _) => Some(self.over(None, left)),
            (None, _, Some(code)) => Some(self.over(Some(code), false)),
            (None, _, None) => Some(Attended::Lost),
        }
    }

    fn over(&self, exit_code: Option<i32>, left_running: bool) -> Attended {
        let exit_code = match self.ending {
            Some(Ending::Interrupted) => return Attended::Interrupted { running: left_running },
            Some(Ending::TimedOut) => None,
            None => exit_code,
        };
        let (output, truncated) = self.output.text();
        Attended::Over(Executed { output, exit_code, truncated, left_running })
    }
}

/// A terminal of which nothing more is to be expected.
struct Silent;

/// A terminal with the workspace's side in it.
struct Line<'a> {
    terminal: Box<dyn Terminal>,
    records: Records,
    timings: &'a Timings,
    /// What was shown and not looked at yet.
    unread: Vec<Shown>,
    /// Anything of it was heard.
    heard: bool,
}

impl Line<'_> {
    /// What is shown next.
    async fn next(&mut self) -> Result<Vec<Shown>, Silent> {
        if self.unread.is_empty() {
            let piece = self.terminal.next().await;
            self.read(piece)?;
        }
        Ok(std::mem::take(&mut self.unread))
    }

    /// Takes what has been shown, and does not wait for more.
    fn look(&mut self) -> Result<(), Silent> {
        while let Some(piece) = self.terminal.next().now_or_never() {
            self.read(piece)?;
        }
        Ok(())
    }

    fn read(&mut self, piece: Result<Option<Vec<u8>>, ApiError>) -> Result<(), Silent> {
        let Ok(Some(piece)) = piece else { return Err(Silent) };
        let shown = self.records.push(&piece);
        self.heard |= !shown.is_empty();
        self.unread.extend(shown);
        Ok(())
    }

    async fn type_in(&mut self, text: &str) -> Result<(), Silent> {
        match timeout(self.timings.keep_alive_limit, self.terminal.send(text)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Silent),
        }
    }
}
