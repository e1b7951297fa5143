//! `issue-transition`: the one request that changes the world, and the gate before it.

use std::time::Duration;

use tokio::time::Instant;

use crate::bindings::{Build, Parameter, Refusal, Transition, TransitionError};
use crate::clock::millis;
use crate::control_plane::{
    ApiError, BuildRead, ControlPlane, Lost, NewBuild, Workspace, is_active, refusal,
};
use crate::driver::error::DriveError;
use crate::driver::host_calls::{CallContext, HostCalls, IntentLog};
use crate::driver::reads::{DORMANT, start_version};
use crate::journal::Request;
use crate::journal::record::{BuildIntent, Failure, Intent};
use crate::store::{Admission, StoreError};

/// Builds looked through for a lost one. More than this many newer builds within a request's time in flight do not
/// occur: each must end before the next begins.
const BUILDS_SEEN: u32 = 50;
/// The control plane tells its time in whole seconds, so that it may have been later by so much.
const TRUNCATED: Duration = Duration::from_secs(1);
/// How long writing a request down may take, so that the read before it still counts as directly before sending. As a
/// rule it takes milliseconds.
const FRESH: Duration = Duration::from_secs(1);
/// The reason that a control plane records for a build whose request gave none.
const UNGIVEN_REASON: &str = "initiator";

type Issued = Result<Build, TransitionError>;

/// What became of a request for a build whose answer was lost.
pub(super) enum Reconciliation {
    /// It was made.
    Made(Build),
    /// Something else came about.
    Other(TransitionError),
    /// It was never made, and will not be any more.
    Never,
}

impl HostCalls {
    /// Asks for a build at most once. The decision rests on a build: if anything has changed since, nothing is sent.
    pub(super) async fn issue_transition(
        &self,
        call: &CallContext,
        request: &Request,
        intents: &dyn IntentLog,
    ) -> Result<Issued, DriveError> {
        let Request::IssueTransition { to, rests_on, parameters } = request else {
            return Ok(Err(TransitionError::Policy(refusal("Only builds can be issued."))));
        };
        let (intent, template) = match self.prepare(call, to, rests_on).await? {
            Ok(prepared) => prepared,
            Err(refused) => return Ok(Err(refused)),
        };
        let read = Instant::now();
        match intents.intend(request, Intent::Build(intent.clone())).await? {
            Admission::Granted => call.note_sent(),
            Admission::Interrupted => return Ok(Err(TransitionError::Interrupted)),
            Admission::Rebound => return Ok(Err(TransitionError::Rebound)),
        }
        if read.elapsed() > FRESH
            && let Some(refused) = self.refused_now(call, &intent).await?
        {
            return Ok(Err(refused));
        }
        self.send(call, &intent, parameters, template, intents).await
    }

    /// Looks at the workspace once more.
    async fn refused_now(
        &self,
        call: &CallContext,
        intent: &BuildIntent,
    ) -> Result<Option<TransitionError>, DriveError> {
        match self.read_workspace(call, &intent.workspace).await {
            Ok(workspace) => self.refused_there(&workspace, &intent.rests_on),
            Err(error) => Ok(Some(not_read(error))),
        }
    }

    /// The gate: looks whether the decision still holds, and collects what makes the build recognisable. Answers the
    /// workspace's template too.
    async fn prepare(
        &self,
        call: &CallContext,
        to: &Transition,
        rests_on: &str,
    ) -> Result<Result<(BuildIntent, Option<String>), TransitionError>, DriveError> {
        if !matches!(to, Transition::Start | Transition::Stop) {
            let text = "Only a start or a stop may be issued.";
            return Ok(Err(TransitionError::Policy(refusal(text))));
        }
        if let Some(refused) = self.refused_here(call)? {
            return Ok(Err(refused));
        }
        let Some(id) = call.workspace() else { return Ok(Err(TransitionError::Rebound)) };
        // Needed to recognise a build whose answer is lost; asked for now, because then it may not be readable.
        let user = match self.user().await {
            Ok(user) => user,
            Err(error) => return Ok(Err(not_read(error))),
        };
        let workspace = match self.read_workspace(call, id).await {
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
        let start = matches!(to, Transition::Start);
        let names_version = start_version(&workspace).filter(|_| start).map(str::to_owned);
        let latest = workspace.latest.build;
        let intent = BuildIntent {
            workspace: workspace.id,
            transition: to.clone(),
            user,
            version: names_version.clone().or(latest.template_version),
            names_version,
            after_stop: latest.transition == Transition::Stop,
            rests_on: latest.id,
            rests_on_number: latest.number,
            observed: workspace.observed,
        };
        Ok(Ok((intent, workspace.template)))
    }

    /// Sends the request, once, and finds out what became of it.
    async fn send(
        &self,
        call: &CallContext,
        intent: &BuildIntent,
        parameters: &[Parameter],
        template: Option<String>,
        intents: &dyn IntentLog,
    ) -> Result<Issued, DriveError> {
        let start = matches!(intent.transition, Transition::Start);
        let wanted = NewBuild {
            transition: intent.transition.clone(),
            template_version: intent.names_version.clone(),
            parameters: if start { parameters.to_vec() } else { Vec::new() },
        };
        // What remains between this look and the server is the residual window: the control plane knows no fencing.
        if !intents.may_send() {
            return Err(StoreError::LeaseLost.into());
        }
        match self.plane.create_build(&intent.workspace, &wanted).await {
            Ok(made) => Ok(Ok(Build { ours: true, ..made.build })),
            Err(ApiError::UnknownOutcome(lost)) => {
                tracing::warn!(
                    workspace = intent.workspace,
                    %lost,
                    "a request for a build has no known outcome; looking for it"
                );
                Ok(match self.reconcile(intent, Some(&lost)).await? {
                    Reconciliation::Made(build) => Ok(build),
                    Reconciliation::Other(error) => Err(error),
                    Reconciliation::Never => Err(never_made(lost)),
                })
            }
            Err(error) => Ok(Err(self.refused(call, error, intent, template).await?)),
        }
    }

    /// The refusals that this host knows by itself.
    fn refused_here(&self, call: &CallContext) -> Result<Option<TransitionError>, DriveError> {
        if call.interrupt().is_cancelled() {
            return Ok(Some(TransitionError::Interrupted));
        }
        let age = self.clock.now_ms().saturating_sub(call.created_ms());
        if !call.has_sent() && age > u64::from(millis(self.timings().send_limit)) {
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
    async fn refused(
        &self,
        call: &CallContext,
        error: ApiError,
        intent: &BuildIntent,
        template: Option<String>,
    ) -> Result<TransitionError, DriveError> {
        Ok(match error {
            ApiError::Conflict(said) => self.in_the_way(call, intent, said).await?,
            // A refused request names no template; the caller needs it to look up what is missing.
            ApiError::Invalid(mut refusal) => {
                refusal.template = refusal.template.or(template);
                TransitionError::Invalid(refusal)
            }
            // Older control planes put it in the words of their database.
            ApiError::Forbidden(_)
                if intent.transition == Transition::Start && self.is_dormant(call, intent).await =>
            {
                TransitionError::Forbidden(refusal(DORMANT))
            }
            error => not_read(error),
        })
    }

    async fn is_dormant(&self, call: &CallContext, intent: &BuildIntent) -> bool {
        self.read_workspace(call, &intent.workspace).await.is_ok_and(|workspace| workspace.dormant)
    }

    /// The build for whose sake the control plane refused a request. Where none is to be seen, it is looked for once
    /// more after a pause: whoever decides again does so on what is read then, and not at once.
    async fn in_the_way(
        &self,
        call: &CallContext,
        intent: &BuildIntent,
        said: Refusal,
    ) -> Result<TransitionError, DriveError> {
        if let Some(seen) = self.seen_in_the_way(call, intent).await? {
            return Ok(seen);
        }
        tokio::select! {
            biased;
            () = call.interrupt().cancelled() => {}
            () = tokio::time::sleep(self.timings().poll) => {}
        }
        let seen = self.seen_in_the_way(call, intent).await?;
        Ok(seen.unwrap_or(TransitionError::UnseenConflict(said)))
    }

    async fn seen_in_the_way(
        &self,
        call: &CallContext,
        intent: &BuildIntent,
    ) -> Result<Option<TransitionError>, DriveError> {
        let latest = match self.read_workspace(call, &intent.workspace).await {
            Ok(workspace) => self.marked(workspace.latest.build)?,
            Err(ApiError::Gone) => return Ok(Some(TransitionError::Gone)),
            Err(_) => return Ok(None),
        };
        Ok(if is_active(&latest.status) {
            Some(TransitionError::Conflict(Some(latest)))
        } else if latest.id != intent.rests_on {
            Some(TransitionError::Superseded(latest))
        } else {
            None
        })
    }

    /// Finds out what became of a request that was going to be sent, or was sent without an answer. Never sends it
    /// again.
    ///
    /// "It never happened" needs as much time of successful reads without it as a request can be in flight. `lost` is
    /// what came of the request, if that is known: it is told where nothing can be found out.
    pub(super) async fn reconcile(
        &self,
        intent: &BuildIntent,
        lost: Option<&Lost>,
    ) -> Result<Reconciliation, DriveError> {
        let begun = Instant::now();
        let mut readable_since = None;
        loop {
            match self.plane.builds(&intent.workspace, BUILDS_SEEN).await {
                Ok(builds) => {
                    let newer = builds.into_iter().filter(|read| read.build.number > intent.rests_on_number);
                    if let Some(lowest) = newer.min_by_key(|read| read.build.number) {
                        return Ok(if self.is_lost(intent, &lowest) {
                            Reconciliation::Made(Build { ours: true, ..lowest.build })
                        } else {
                            Reconciliation::Other(TransitionError::Superseded(self.marked(lowest.build)?))
                        });
                    }
                    let since = *readable_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= self.timings().in_flight {
                        return Ok(Reconciliation::Never);
                    }
                }
                Err(ApiError::Gone) => return Ok(Reconciliation::Other(TransitionError::Gone)),
                Err(_) => readable_since = None,
            }
            if begun.elapsed() > self.timings().reconcile_limit {
                let lost = lost.map(ToString::to_string);
                return Err(DriveError::Failed(Failure::Unresolved { lost }));
            }
            tokio::time::sleep(self.timings().poll).await;
        }
    }

    /// The newest build, as a verdict rests on it: ours as soon as a call has asked for it, and not only when the
    /// answer has come. Verdicts do not wait for their turn, so that a call may be about to ask, or be asking, at the
    /// same time.
    pub(super) fn newest(&self, workspace: &Workspace) -> Result<Build, StoreError> {
        let latest = &workspace.latest;
        // Looked at first: if the answer comes meanwhile, the build is known by then.
        let asked = if is_active(&latest.build.status) {
            self.store.asked(&self.plane.deployment(), &workspace.id)?
        } else {
            Vec::new()
        };
        let is_newer = |intent: &BuildIntent| latest.build.number > intent.rests_on_number;
        let is_asked = asked.iter().any(|intent| is_newer(intent) && self.is_lost(intent, latest));
        let build = self.marked(latest.build.clone())?;
        Ok(Build { ours: build.ours || is_asked, ..build })
    }

    /// Whether this build is the one asked for: made by this user, for this purpose, within the time that the request
    /// can have been in flight. Times are the control plane's own.
    fn is_lost(&self, intent: &BuildIntent, read: &BuildRead) -> bool {
        let in_flight = u64::from(millis(self.timings().in_flight + TRUNCATED));
        let in_time = match (intent.observed, read.created) {
            (Some(before), Some(created)) => created <= before.saturating_add(in_flight),
            // Without a clock to trust, the build's place in the order has to do.
            _ => true,
        };
        read.build.transition == intent.transition
            && read.initiator.as_deref() == Some(&intent.user)
            && read.reason.as_deref().is_none_or(|reason| reason == UNGIVEN_REASON)
            && (intent.version.is_none() || read.build.template_version == intent.version)
            && in_time
    }
}

/// The answer for a request that was sent and made no build: what the control plane said to it, if it said anything.
fn never_made(lost: Lost) -> TransitionError {
    match lost {
        Lost::NoAnswer(_) => TransitionError::Unavailable(None),
        Lost::Failed { status, refusal: said } => {
            let said = said.unwrap_or_else(|| refusal("What answered gave no reason."));
            let message = format!("The request failed with status {status}: {}", said.message);
            TransitionError::Other(Refusal { message, ..said })
        }
    }
}

/// The answer for a read before sending, or a plain refusal: in each case there is no build.
fn not_read(error: ApiError) -> TransitionError {
    match error {
        ApiError::Gone => TransitionError::Gone,
        ApiError::Forbidden(refusal) => TransitionError::Forbidden(refusal),
        ApiError::Invalid(refusal) => TransitionError::Invalid(refusal),
        ApiError::Conflict(said) => TransitionError::UnseenConflict(said),
        ApiError::RateLimited { retry_after } => TransitionError::Unavailable(retry_after.map(millis)),
        ApiError::Unavailable(_) | ApiError::UnknownOutcome(_) => TransitionError::Unavailable(None),
        ApiError::Unauthorized(_)
        | ApiError::TokenExpired(_)
        | ApiError::NotFound
        | ApiError::MissingScope { .. }
        | ApiError::Dormant
        | ApiError::Intercepted(_)
        | ApiError::Headers(_)
        | ApiError::NotCoder(_)
        | ApiError::Tls(_) => TransitionError::Other(refusal(error.to_string())),
        ApiError::Other { refusal, .. } => TransitionError::Other(refusal),
    }
}
