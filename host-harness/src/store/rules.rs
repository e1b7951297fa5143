//! The rules over rows, each within one transaction: which request to begin is a new call, whose turn it is, and what
//! is written with an entry.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::error::StoreError;
use super::transaction::{CallRow, CallState, HostId, HostRow, ReadTransaction, Transaction, Turn};
use crate::bindings::{Build, Transition};
use crate::journal::record::{CallId, CallRecord, Failure, Holder, Intent, Outcome};
use crate::journal::{Answer, Entry};
use crate::policy::MAX_WAITING_CALLS;

/// Calls that a host takes over from no other: they would end its own process half way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfEnding {
    /// The id of the workspace in which it runs.
    pub workspace: String,
    /// The tools that stop it.
    pub tools: Vec<String>,
}

impl SelfEnding {
    /// Whether a call, of the host's own deployment, is one of them.
    pub fn matches(&self, row: &CallRow) -> bool {
        row.pinned.workspace.as_ref() == Some(&self.workspace) && self.tools.contains(&row.tool)
    }
}

/// Whether a request that was to be written down may be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It was written down.
    Granted,
    /// The call was interrupted: nothing was written.
    Interrupted,
    /// The chat is not bound to the workspace any more: nothing was written.
    Rebound,
}

/// A call that is to be begun.
pub struct NewCall {
    /// What it is.
    pub record: CallRecord,
    /// The component that it runs on.
    pub component: Arc<[u8]>,
    /// It goes on whether or not anybody waits for it.
    pub detached: bool,
    /// The deliberate interrupt of whoever asks for it: one that is there when the call begins is noted with it.
    pub interrupt: CancellationToken,
}

/// What became of a request to begin a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BeginOutcome {
    /// It was begun, and has its turn.
    Active(CallId),
    /// It was begun, and waits for its turn.
    Queued(CallId, Turn),
    /// It is this call, which was begun before: by its key, or because it is an identical one that has not ended.
    Same(CallId),
    /// There is a call with the same key that does something else.
    KeyTaken(CallId),
    /// Too many wait already.
    Busy(Holder),
}

impl BeginOutcome {
    /// The call that does what was asked for, if one does.
    pub fn call(&self) -> Option<CallId> {
        match self {
            Self::Active(id) | Self::Queued(id, _) | Self::Same(id) => Some(*id),
            Self::KeyTaken(_) | Self::Busy(_) => None,
        }
    }
}

/// Points a chat at a build, if it is still bound to this workspace.
pub(super) fn publish(
    tx: &mut dyn Transaction,
    chat: &str,
    workspace: Option<&str>,
    build: String,
) -> Result<bool, StoreError> {
    match tx.chat(chat)? {
        Some(mut chat) if workspace.is_some() && chat.workspace.as_deref() == workspace => {
            (chat.build, chat.agent) = (Some(build), None);
            tx.put_chat(&chat)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

pub(super) fn begin(
    tx: &mut dyn Transaction,
    host: Option<HostId>,
    new: &NewCall,
    now: u64,
) -> Result<BeginOutcome, StoreError> {
    let record = &new.record;
    let (tool, arguments) = (record.call.name(), record.call.arguments());
    if let Some(key) = &record.key
        && let Some(id) = tx.call_by_key(&record.chat, key)?
    {
        let same = tx.call(id)?.is_some_and(|row| row.tool == tool && row.arguments == arguments);
        return Ok(if same { BeginOutcome::Same(id) } else { BeginOutcome::KeyTaken(id) });
    }
    let Some(workspace) = &record.pinned.workspace else {
        return Ok(BeginOutcome::Active(add(tx, host, new, CallState::Active, now)?));
    };
    let queue = tx.queue(&record.pinned.deployment, workspace)?;
    // One that is interrupted is ended by somebody's wish, which is not that of who asks after it.
    let same = |row: &&CallRow| {
        row.chat == record.chat && row.tool == tool && row.arguments == arguments && !row.interrupted
    };
    // One that has sent nothing is joined only if that is as good as the turn behind it: nothing else was asked for
    // since, and whoever acts for this user may carry it. Of whom nothing is known is taken for the same: else what is
    // asked for again while the control plane is away would be done twice.
    let as_good = |row: &&CallRow| {
        let (its, mine) = (&row.pinned.user, &record.pinned.user);
        same(row) && (its.is_none() || mine.is_none() || its == mine)
    };
    if record.key.is_none()
        && let Some(row) =
            queue.iter().find(|row| row.sent && same(row)).or_else(|| queue.last().filter(as_good))
    {
        if new.detached && !row.detached {
            tx.put_call(&CallRow { detached: true, ..row.clone() })?;
        }
        return Ok(BeginOutcome::Same(row.id));
    }
    let Some(turn) = Turn::behind(queue.iter()) else {
        return Ok(BeginOutcome::Active(add(tx, host, new, CallState::Active, now)?));
    };
    let waiting = queue.iter().filter(|row| row.state == CallState::Queued).count();
    if waiting >= MAX_WAITING_CALLS {
        return Ok(BeginOutcome::Busy(turn.holder));
    }
    Ok(BeginOutcome::Queued(add(tx, host, new, CallState::Queued, now)?, turn))
}

/// Adds a call that has ended already.
pub(super) fn keep(
    tx: &mut dyn Transaction,
    new: &NewCall,
    entries: &[Entry],
    outcome: &Outcome,
    now: u64,
) -> Result<CallId, StoreError> {
    let id = add(tx, None, new, CallState::Active, now)?;
    put_entries(tx, id, 0, entries, now)?;
    tx.end_call(id, outcome, now)?;
    Ok(id)
}

fn add(
    tx: &mut dyn Transaction,
    host: Option<HostId>,
    new: &NewCall,
    state: CallState,
    now: u64,
) -> Result<CallId, StoreError> {
    let record = &new.record;
    if !tx.has_component(&record.component)? {
        tx.put_component(&record.component, &new.component)?;
    }
    let row = CallRow {
        id: 0,
        tool: record.call.name().to_owned(),
        arguments: record.call.arguments().to_owned(),
        chat: record.chat.clone(),
        pinned: record.pinned.clone(),
        component: record.component.clone(),
        state,
        owner: host,
        interrupted: new.interrupt.is_cancelled(),
        sent: false,
        detached: new.detached,
        created_ms: record.created_ms,
        touched_ms: now,
        note: None,
    };
    tx.add_call(record, &row)
}

/// The unended calls at a call's workspace.
pub(super) fn queue(tx: &dyn ReadTransaction, row: &CallRow) -> Result<Vec<CallRow>, StoreError> {
    match &row.pinned.workspace {
        Some(workspace) => tx.queue(&row.pinned.deployment, workspace),
        None => Ok(Vec::new()),
    }
}

pub(super) fn put(
    tx: &mut dyn Transaction,
    row: &CallRow,
    now: u64,
    change: impl FnOnce(&mut CallRow),
) -> Result<(), StoreError> {
    let mut row = CallRow { touched_ms: now, ..row.clone() };
    change(&mut row);
    tx.put_call(&row)
}

/// Writes entries from an index on; answers the index after the last one. A build that was made is one of ours from
/// then on.
pub(super) fn put_entries(
    tx: &mut dyn Transaction,
    call: CallId,
    from: usize,
    entries: &[Entry],
    now: u64,
) -> Result<usize, StoreError> {
    for (index, entry) in (from..).zip(entries) {
        if let Answer::IssueTransition(Ok(build)) = &entry.answer {
            note_build(tx, build, entry.asked.intent.as_ref(), now)?;
        }
        tx.put_entry(call, index, entry)?;
    }
    Ok(from + entries.len())
}

/// Remembers a build as made here, and a restart if it is a start that follows a stop made here, by whichever tools.
fn note_build(
    tx: &mut dyn Transaction,
    build: &Build,
    intent: Option<&Intent>,
    now: u64,
) -> Result<(), StoreError> {
    if let Some(Intent::Build(intent)) = intent
        && intent.transition == Transition::Start
        && intent.after_stop
        && tx.is_own_build(&intent.rests_on)?
        && !tx.is_own_build(&build.id)?
    {
        tx.add_restart(&intent.workspace, now)?;
    }
    tx.add_own_build(&build.id, now)
}

/// Ends the calls without a host that nobody may carry on, because it is not known for whom they act. They have sent
/// nothing: a request for a build says for whom. Left alone they would hold up their workspaces for a day.
pub(super) fn end_unidentified(tx: &mut dyn Transaction, host: &HostRow, now: u64) -> Result<(), StoreError> {
    for row in tx.owned_by(None)? {
        if row.pinned.deployment == host.deployment && row.pinned.user.is_none() {
            tx.end_call(row.id, &Outcome::Failed(Failure::Unidentified), now)?;
        }
    }
    Ok(())
}

/// Ends calls that no host could carry on for so long.
pub(super) fn abandon_old(tx: &mut dyn Transaction, now: u64, after: Duration) -> Result<usize, StoreError> {
    let before = now.saturating_sub(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
    for host in tx.hosts()?.into_iter().filter(|host| host.lease_until_ms <= before) {
        tx.remove_host(host.id)?;
    }
    let left: Vec<_> = tx.owned_by(None)?.into_iter().filter(|row| row.touched_ms <= before).collect();
    let outcome = Outcome::Failed(Failure::Abandoned { hours: after.as_secs() / 3600 });
    for row in &left {
        tx.end_call(row.id, &outcome, now)?;
    }
    Ok(left.len())
}
