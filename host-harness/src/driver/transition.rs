//! `issue-transition`: the one request that changes the world, and the gate before it.

use tokio::time::Instant;

use crate::bindings::{Build, Parameter, Transition, TransitionError};
use crate::control_plane::{
    ApiError, BuildRead, ControlPlane, NewBuild, Workspace, is_active, millis, refusal,
};
use crate::driver::DriveError;
use crate::driver::call::{Call, Performer};
use crate::driver::reads::start_version;

/// Builds looked through for a lost one. More than this many newer builds within a request's time in flight do not occur:
/// each must end before the next begins.
const BUILDS_SEEN: u32 = 50;
/// The reason that a control plane records for a build whose request gave none.
const UNGIVEN_REASON: &str = "initiator";

type Issued = Result<Build, TransitionError>;

impl Performer {
    /// Asks for a build at most once. The decision rests on the build `rests_on`: if anything has changed since, nothing is
    /// sent.
    pub(super) async fn issue_transition(
        &self,
        call: &Call,
        to: &Transition,
        rests_on: &str,
        parameters: &[Parameter],
    ) -> Result<Issued, DriveError> {
        if !matches!(to, Transition::Start | Transition::Stop) {
            let text = "Only a start or a stop may be issued.";
            return Ok(Err(TransitionError::Policy(refusal(text))));
        }
        if let Some(refused) = self.refused_here(call)? {
            return Ok(Err(refused));
        }
        let Some(id) = call.workspace() else { return Ok(Err(TransitionError::Rebound)) };
        // Needed to recognise a build whose answer is lost; asked for now, because then it may not be readable.
        let user = match self.plane.user().await {
            Ok(user) => user.id,
            Err(error) => return Ok(Err(not_read(error))),
        };
        let workspace = match self.read_workspace(id).await {
            Ok(workspace) => workspace,
            Err(error) => return Ok(Err(not_read(error))),
        };
        if let Some(refused) = self.refused_there(&workspace, rests_on)? {
            return Ok(Err(refused));
        }
        // Once more: the reads took time.
        if let Some(refused) = self.refused_here(call)? {
            return Ok(Err(refused));
        }
        if !call.sent().begin() {
            return Ok(Err(TransitionError::Interrupted));
        }
        let start = matches!(to, Transition::Start);
        let wanted = NewBuild {
            transition: to.clone(),
            template_version: start_version(&workspace).filter(|_| start).map(str::to_owned),
            parameters: if start { parameters.to_vec() } else { Vec::new() },
        };
        let sent = Instant::now();
        let made = match self.plane.create_build(id, &wanted).await {
            Ok(made) => made,
            Err(ApiError::UnknownOutcome(why)) => {
                tracing::warn!(workspace = id, why, "no answer to a request for a build; looking for it");
                let lost = Lost { wanted: &wanted, workspace: &workspace, user: &user, sent };
                match self.find_lost(&lost).await? {
                    Ok(found) => found,
                    Err(error) => return Ok(Err(error)),
                }
            }
            Err(error) => return Ok(Err(self.refused(error, &workspace).await?)),
        };
        self.store.note_own_build(&made.build.id)?;
        Ok(Ok(self.marked(made.build)?))
    }

    /// The refusals that this host knows by itself.
    fn refused_here(&self, call: &Call) -> Result<Option<TransitionError>, DriveError> {
        if call.interrupt().is_cancelled() {
            return Ok(Some(TransitionError::Interrupted));
        }
        if !call.sent().is_sent() && call.begun().elapsed() > self.timings().send_limit {
            return Ok(Some(TransitionError::Expired));
        }
        Ok((!self.still_bound(call)?).then_some(TransitionError::Rebound))
    }

    /// The refusals that the workspace as just read gives.
    fn refused_there(
        &self,
        workspace: &Workspace,
        rests_on: &str,
    ) -> Result<Option<TransitionError>, DriveError> {
        let latest = &workspace.latest.build;
        Ok(if latest.id != rests_on {
            Some(TransitionError::Superseded(self.marked(latest.clone())?))
        } else if is_active(&latest.status) {
            Some(TransitionError::Conflict(Some(self.marked(latest.clone())?)))
        } else {
            None
        })
    }

    /// What the control plane's refusal means for the plugin.
    async fn refused(&self, error: ApiError, before: &Workspace) -> Result<TransitionError, DriveError> {
        Ok(match error {
            ApiError::Conflict(_) => match self.read_workspace(&before.id).await {
                Ok(now) => {
                    let latest = self.marked(now.latest.build)?;
                    if is_active(&latest.status) {
                        TransitionError::Conflict(Some(latest))
                    } else if latest.id != before.latest.build.id {
                        TransitionError::Superseded(latest)
                    } else {
                        TransitionError::Conflict(None)
                    }
                }
                Err(ApiError::Gone) => TransitionError::Gone,
                Err(_) => TransitionError::Conflict(None),
            },
            // A refused request names no template; the caller needs it to look up what is missing.
            ApiError::Invalid(mut refusal) => {
                refusal.template = refusal.template.or_else(|| before.template.clone());
                TransitionError::Invalid(refusal)
            }
            error => not_read(error),
        })
    }

    /// Finds out what became of a request whose answer was lost. Never sends it again.
    ///
    /// "It never happened" needs as much time of successful reads without it as a request can be in flight.
    async fn find_lost(&self, lost: &Lost<'_>) -> Result<Result<BuildRead, TransitionError>, DriveError> {
        let rests_on = lost.workspace.latest.build.number;
        let mut readable_since = None;
        loop {
            match self.plane.builds(&lost.workspace.id, BUILDS_SEEN).await {
                Ok(builds) => {
                    let newer = builds.into_iter().filter(|read| read.build.number > rests_on);
                    if let Some(lowest) = newer.min_by_key(|read| read.build.number) {
                        let ours = self.is_lost(lost, &lowest);
                        return Ok(if ours {
                            Ok(lowest)
                        } else {
                            Err(TransitionError::Superseded(self.marked(lowest.build)?))
                        });
                    }
                    let since = *readable_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= self.timings().in_flight {
                        return Ok(Err(TransitionError::Unavailable(None)));
                    }
                }
                Err(ApiError::Gone) => return Ok(Err(TransitionError::Gone)),
                Err(_) => readable_since = None,
            }
            if lost.sent.elapsed() > self.timings().reconcile_limit {
                return Err(DriveError::Unresolved);
            }
            tokio::time::sleep(self.timings().poll).await;
        }
    }

    /// Whether this build is the one asked for: made by this user, for this purpose, within the time that the request can
    /// have been in flight. Times are the control plane's own.
    fn is_lost(&self, lost: &Lost<'_>, read: &BuildRead) -> bool {
        let version =
            lost.wanted.template_version.as_ref().or(lost.workspace.latest.build.template_version.as_ref());
        let in_flight = u64::from(millis(self.timings().in_flight));
        let in_time = match (lost.workspace.observed, read.created) {
            (Some(before), Some(created)) => created <= before.saturating_add(in_flight),
            // Without a clock to trust, the build's place in the order has to do.
            _ => true,
        };
        read.build.transition == lost.wanted.transition
            && read.initiator.as_deref() == Some(lost.user)
            && read.reason.as_deref().is_none_or(|reason| reason == UNGIVEN_REASON)
            && (version.is_none() || read.build.template_version.as_ref() == version)
            && in_time
    }
}

/// A request whose answer was lost.
struct Lost<'a> {
    wanted: &'a NewBuild,
    /// The workspace as read directly before sending.
    workspace: &'a Workspace,
    user: &'a str,
    sent: Instant,
}

/// The answer for a read before sending, or a plain refusal: in each case there is no build.
fn not_read(error: ApiError) -> TransitionError {
    match error {
        ApiError::Gone => TransitionError::Gone,
        ApiError::Forbidden(refusal) => TransitionError::Forbidden(refusal),
        ApiError::Invalid(refusal) => TransitionError::Invalid(refusal),
        ApiError::Conflict(_) => TransitionError::Conflict(None),
        ApiError::RateLimited { retry_after } => TransitionError::Unavailable(retry_after.map(millis)),
        ApiError::Unavailable(_) | ApiError::UnknownOutcome(_) => TransitionError::Unavailable(None),
        ApiError::Unauthorized | ApiError::NotFound | ApiError::NotCoder(_) => {
            TransitionError::Other(refusal(error.to_string()))
        }
        ApiError::Other { refusal, .. } => TransitionError::Other(refusal),
    }
}
