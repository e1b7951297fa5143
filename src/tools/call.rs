//! One tool call under way: reading, waiting, issuing, and giving way to other people's builds.
//!
//! Everything that ends the call early is an [`Outcome`] in the place of an error.

use crate::build;
use crate::contract::{
    Binding, Build, BuildWait, JobStatus, Parameter, Policy, ReadError, Refusal, Snapshot, Transition,
    TransitionError, WaitEnd,
};
use crate::host::Host;
use crate::tools::names::has;
use crate::tools::outcome::{Outcome, sentence};

/// A call and what it has seen so far.
pub struct Call<'a> {
    pub host: &'a dyn Host,
    pub policy: &'a Policy,
    /// Whether reads ask for what would refuse a start.
    pub check_start: bool,
    /// The build that was last waited for without having been issued here.
    pub awaited: Option<String>,
    /// How often this call may still wait for somebody else, or decide again.
    rounds: u32,
    /// Whether a start that succeeded was the newest thing that was seen.
    pub is_up: bool,
    /// What may still become of the build that was last waited for as this call's own, if it has not succeeded.
    pub hope: Hope,
    /// The newest build that was read. None: nothing was read yet.
    seen: Option<String>,
    /// A build was issued, so that the call has an effect to tell of.
    issued: bool,
}

/// What may still become of a build that has not succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hope {
    /// It may still succeed.
    GoesOn,
    /// It failed, and nothing speaks against another try.
    Failed,
    /// It is over, and another try is not this chat's to make: somebody canceled it, it is gone, or the chat has left.
    Over,
}

/// How a request for a build ended, other than by a refusal.
pub enum Issued {
    Accepted(Build),
    /// Another build came first.
    Other(InTheWay),
}

/// What keeps a build from being made.
pub enum InTheWay {
    /// This one is newer, or in progress.
    Build(Build),
    /// The control plane says that there is one, in these words if it gave any, and shows none.
    Unseen(Option<Refusal>),
}

impl InTheWay {
    /// The build, if it was seen.
    pub fn build(&self) -> Option<&Build> {
        match self {
            Self::Build(build) => Some(build),
            Self::Unseen(_) => None,
        }
    }

    /// Why a conditional stop or restart stops nothing.
    pub fn reason(&self) -> String {
        match self {
            Self::Build(_) => "Another build began after the agent's status was read.".into(),
            Self::Unseen(said) => unseen(said.as_ref()),
        }
    }
}

/// How a build of this call's came to its end, where that does not end the call: it succeeded, or it is a start in
/// whose place there is somebody else's.
pub struct Finished {
    /// A sentence for the model if the chat or the workspace changed hands in the meantime.
    pub notice: Option<String>,
    /// Why what the build did is not so any more, if it is not.
    pub overtaken: Option<Outcome>,
    /// The workspace with somebody else's start, which has come after this one and may succeed. This one did not.
    pub another: Option<Snapshot>,
}

impl<'a> Call<'a> {
    pub fn new(host: &'a dyn Host, policy: &'a Policy) -> Self {
        let rounds = policy.conflict_rounds;
        Self {
            host,
            policy,
            check_start: false,
            awaited: None,
            rounds,
            is_up: false,
            hope: Hope::GoesOn,
            seen: None,
            issued: false,
        }
    }

    /// Reads the workspace. Whatever is not a workspace of this chat ends the call.
    pub fn read(&mut self) -> Result<Snapshot, Outcome> {
        match self.host.latest_build(self.check_start) {
            Ok(Binding::Bound(snapshot)) => {
                self.seen = Some(snapshot.latest.id.clone());
                self.is_up = build::is_started(&snapshot.latest);
                Ok(snapshot)
            }
            Ok(Binding::Unbound) if self.seen.is_none() => {
                Err(Outcome::refused(format!("This chat has no workspace.{}", self.creation())))
            }
            Ok(Binding::Unbound | Binding::Rebound) => Err(self.rebound()),
            Ok(Binding::Deleted) => {
                self.is_up = false;
                Err(self.deleted())
            }
            Err(error) => {
                let text = format!("The workspace could not be read: {}", build::read_failure(&error));
                match &self.seen {
                    Some(seen) => Err(Outcome::failed(text).with("build_id", seen.as_str())),
                    None => Err(Outcome::refused(text)),
                }
            }
        }
    }

    /// Waits for whatever is in progress, until nothing is.
    pub fn settle(&mut self, mut snapshot: Snapshot) -> Result<Snapshot, Outcome> {
        while build::in_progress(&snapshot.latest) {
            snapshot = self.wait_for_other(&snapshot.latest)?;
        }
        Ok(snapshot)
    }

    /// Waits for a build that this call did not issue, and reads the world again: what it then shows counts, whatever
    /// became of the wait.
    pub fn wait_for_other(&mut self, other: &Build) -> Result<Snapshot, Outcome> {
        self.take_round(|| keeps_coming(other))?;
        self.publish(other)?;
        let wait = self.host.wait_for_build(&other.id, self.policy.build_limit_ms);
        self.awaited = Some(other.id.clone());
        if let Ok(BuildWait { build: Some(build), .. }) = &wait {
            self.is_up = build::is_started(build);
        }
        let end = wait.as_ref().map(|wait| wait.end);
        if end == Ok(WaitEnd::Interrupted) {
            return Err(interrupted(other));
        }
        let snapshot = self.read()?;
        if build::in_progress(&snapshot.latest) && !matches!(end, Ok(WaitEnd::Reached | WaitEnd::Gone)) {
            return Err(not_ended(&snapshot.latest, wait.as_ref().err()));
        }
        Ok(snapshot)
    }

    /// Gives way to a build that came first: waits for it if it is in progress, and reads again.
    pub fn give_way(&mut self, other: InTheWay) -> Result<Snapshot, Outcome> {
        match other {
            InTheWay::Build(other) if build::in_progress(&other) => return self.wait_for_other(&other),
            InTheWay::Build(other) => self.take_round(|| keeps_coming(&other))?,
            InTheWay::Unseen(said) => self.take_round(|| never_seen(said.as_ref()))?,
        }
        self.read()
    }

    /// Asks for a build, on the strength of the build that was decided on.
    pub fn issue(
        &mut self,
        to: Transition,
        rests_on: &str,
        parameters: &[Parameter],
        template: Option<&str>,
    ) -> Result<Issued, Outcome> {
        let verb = build::transition_name(&to).to_owned();
        match self.host.issue_transition(to, rests_on, parameters) {
            Ok(build) => {
                // One whose answer was lost may have succeeded before it was found.
                (self.issued, self.is_up) = (true, build::is_started(&build));
                self.seen = Some(build.id.clone());
                Ok(Issued::Accepted(build))
            }
            Err(TransitionError::Superseded(other) | TransitionError::Conflict(Some(other))) => {
                Ok(Issued::Other(InTheWay::Build(other)))
            }
            Err(TransitionError::Conflict(None)) => Ok(Issued::Other(InTheWay::Unseen(None))),
            Err(TransitionError::UnseenConflict(said)) => Ok(Issued::Other(InTheWay::Unseen(Some(said)))),
            Err(TransitionError::Rebound) => Err(self.rebound()),
            Err(TransitionError::Interrupted) => {
                let text = format!("The call was interrupted before a {verb} build was asked for.");
                Err(Outcome::failed(text).with("interrupted", true))
            }
            Err(TransitionError::Expired) => {
                let text = format!("The call is too old to ask for a {verb} build now. Call the tool again.");
                Err(Outcome::failed(text).with("expired", true))
            }
            Err(TransitionError::Gone) => Err(self.deleted()),
            Err(TransitionError::Unavailable(pause)) => {
                let later = build::later(pause);
                let text = format!(
                    "The control plane could not be reached or could not answer, and no {verb} build was made.{later}"
                );
                Err(if self.issued { Outcome::failed(text) } else { Outcome::refused(text) })
            }
            Err(
                TransitionError::Forbidden(refusal)
                | TransitionError::Invalid(refusal)
                | TransitionError::Policy(refusal)
                | TransitionError::Other(refusal),
            ) => Err(Outcome::failed_request(&refusal, template)),
        }
    }

    /// Waits for a build that this call issued, until it has succeeded.
    pub fn finish(&mut self, own: &Build, limit_ms: u32) -> Result<Finished, Outcome> {
        self.hope = Hope::GoesOn;
        if let Err(outcome) = self.publish(own) {
            return Err(outcome.adding(&format!("The {} goes on by itself.", build::name(own))));
        }
        let wait = self.host.wait_for_build(&own.id, limit_ms);
        if let Ok(BuildWait { build: Some(build), .. }) = &wait {
            self.is_up = build::is_started(build);
        }
        if wait.as_ref().is_ok_and(|wait| wait.end == WaitEnd::Interrupted) {
            return Err(interrupted(own));
        }
        let fresh = self.host.latest_build(false);
        match &fresh {
            Ok(Binding::Bound(snapshot)) => self.is_up = build::is_started(&snapshot.latest),
            Ok(Binding::Deleted) => self.is_up = false,
            _ => {}
        }
        let known = last_known(own, &wait, &fresh);
        if build::succeeded(known) {
            let (notice, overtaken) = (change_of_hands(&fresh), overtaken(own, &fresh));
            return Ok(Finished { notice, overtaken, another: None });
        }
        if build::in_progress(known) {
            return Err(match &wait {
                Ok(BuildWait { end: WaitEnd::Gone, .. }) => {
                    self.hope = Hope::Over;
                    let text = format!("The {} is gone from the control plane.", build::name(own));
                    Outcome::failed(text).with("build_id", own.id.as_str())
                }
                wait => not_ended(known, wait.as_ref().err()),
            });
        }
        let failed = known.clone();
        let changed_hands = change_of_hands(&fresh);
        self.hope = match &changed_hands {
            None if !build::was_canceled(&failed) => Hope::Failed,
            _ => Hope::Over,
        };
        if let Some(another) = another_start(own, fresh) {
            // As one that is awaited: if it is not up either, it is not started again.
            self.awaited = Some(another.latest.id.clone());
            return Ok(Finished { notice: None, overtaken: None, another: Some(another) });
        }
        let outcome = match own.transition {
            Transition::Start => Outcome::failed_start(&failed),
            _ => Outcome::failed_build(&failed),
        };
        Err(match changed_hands {
            Some(notice) => outcome.adding(&notice),
            None => outcome,
        })
    }

    /// A further sentence that names the tool to create a workspace with, if the chat has one.
    fn creation(&self) -> String {
        match self.policy.create_tool.as_deref().filter(|tool| has(self.policy, tool)) {
            Some(tool) => format!(" Make one with {tool}."),
            None => String::new(),
        }
    }

    fn deleted(&self) -> Outcome {
        let text = format!("The workspace of this chat was deleted.{}", self.creation());
        if self.issued { Outcome::failed(text) } else { Outcome::refused(text) }
    }

    fn rebound(&self) -> Outcome {
        let text = "This chat is not bound to the workspace any more; it was left as it is.";
        let outcome = Outcome::failed(text).with("rebound", true);
        match &self.seen {
            Some(seen) => outcome.with("build_id", seen.as_str()),
            None => outcome,
        }
    }

    /// Lets the chat's listeners follow a build. It is no reason to fail when that cannot be written, but it is one
    /// when the chat has gone elsewhere.
    fn publish(&self, build: &Build) -> Result<(), Outcome> {
        match self.host.publish_binding(&build.id) {
            Ok(false) => Err(self.rebound().with("build_id", build.id.as_str())),
            Ok(true) | Err(_) => Ok(()),
        }
    }

    /// Takes one of the rounds in which the call gives way. `in_the_way` says what it gives way to once too often.
    fn take_round(&mut self, in_the_way: impl FnOnce() -> Outcome) -> Result<(), Outcome> {
        match self.rounds.checked_sub(1) {
            Some(left) => {
                self.rounds = left;
                Ok(())
            }
            None => Err(in_the_way()),
        }
    }
}

fn keeps_coming(other: &Build) -> Outcome {
    let other_name = build::name(other);
    let text = format!("Other builds keep coming first, now {other_name}; no further build was asked for.");
    Outcome::failed(text).with("build_id", other.id.as_str())
}

/// The end of a call that was refused for the sake of a build again and again, while there was none to be seen: there
/// is no build that it could name.
fn never_seen(said: Option<&Refusal>) -> Outcome {
    let outcome = Outcome::failed(format!("{} No build was made.", unseen(said)));
    match said.and_then(|said| said.detail.as_deref()).filter(|detail| !detail.trim().is_empty()) {
        Some(detail) => outcome.with("detail", detail),
        None => outcome,
    }
}

fn unseen(said: Option<&Refusal>) -> String {
    let claim = "The control plane says that another build is in progress, but shows none";
    match said.map(|said| said.message.trim()).filter(|message| !message.is_empty()) {
        Some(message) => format!("{claim}. It said: {}", build::full_stop(message)),
        None => format!("{claim}."),
    }
}

/// The row that was read after the wait counts more than the wait, but an end that was seen stays an end.
fn last_known<'b>(
    own: &'b Build,
    wait: &'b Result<BuildWait, ReadError>,
    fresh: &'b Result<Binding, ReadError>,
) -> &'b Build {
    let read = match fresh {
        Ok(Binding::Bound(snapshot)) if snapshot.latest.id == own.id => Some(&snapshot.latest),
        _ => None,
    };
    let waited = wait.as_ref().ok().and_then(|wait| wait.build.as_ref());
    let candidates = [read, waited];
    let ended = candidates.into_iter().flatten().find(|build| !build::in_progress(build));
    ended.or(read).or(waited).unwrap_or(own)
}

fn change_of_hands(fresh: &Result<Binding, ReadError>) -> Option<String> {
    match fresh {
        Ok(Binding::Unbound | Binding::Rebound) => {
            Some("This chat is not bound to the workspace any more; its binding was left as it is.".into())
        }
        Ok(Binding::Deleted) => Some("The workspace was deleted in the meantime.".into()),
        Ok(Binding::Bound(_)) | Err(_) => None,
    }
}

/// A newer build, or the end of the workspace, takes back what a start or a stop did.
fn overtaken(own: &Build, fresh: &Result<Binding, ReadError>) -> Option<Outcome> {
    match fresh {
        Ok(Binding::Bound(snapshot)) if snapshot.latest.id != own.id => {
            Some(Outcome::overtaken(own, &snapshot.latest))
        }
        Ok(Binding::Deleted) if own.transition == Transition::Start => {
            let text = format!("The {} succeeded, but the workspace was deleted after it.", build::name(own));
            Some(Outcome::failed(text).with("build_id", own.id.as_str()))
        }
        _ => None,
    }
}

/// Somebody else's start that came after one of ours.
fn another_start(own: &Build, fresh: Result<Binding, ReadError>) -> Option<Snapshot> {
    let starts = |build: &Build| build.transition == Transition::Start;
    match fresh {
        Ok(Binding::Bound(snapshot)) if snapshot.latest.id != own.id => {
            (starts(own) && starts(&snapshot.latest)).then_some(snapshot)
        }
        _ => None,
    }
}

fn interrupted(build: &Build) -> Outcome {
    let text = match build.status {
        JobStatus::Unknown(_) => format!("The call was interrupted. {}", sentence(&build::unfinished(build))),
        _ => format!("The call was interrupted while {} went on; it goes on by itself.", build::name(build)),
    };
    Outcome::failed(text).with("interrupted", true).with("build_id", build.id.as_str())
}

fn not_ended(build: &Build, wait_error: Option<&ReadError>) -> Outcome {
    let text = match wait_error {
        Some(error) => format!(
            "The wait for {} could not go on: {} {}",
            build::name(build),
            build::read_failure(error),
            match build.status {
                JobStatus::Unknown(_) => sentence(&build::unfinished(build)),
                _ => "The build itself goes on.".into(),
            }
        ),
        None => format!("The time to wait is over. {}", sentence(&build::unfinished(build))),
    };
    Outcome::failed(text).with("build_id", build.id.as_str())
}
