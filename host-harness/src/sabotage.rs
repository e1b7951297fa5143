//! Ways to break this code on purpose, so that tests can show that the simulator's checks see it. Only tests have this
//! module; each way is asked for in the one place where the rule lives that it breaks.

use std::cell::Cell;

/// A rule that is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// A policy calls an agent gone as soon as it is disconnected.
    Impatient,
    /// A dial calls an agent dead as soon as it is disconnected.
    Hasty,
    /// An intent is written down although the call was interrupted.
    IgnoresInterrupts,
    /// Requests for builds are sent without being written down.
    WritesNoIntents,
    /// A request without an answer is sent again.
    SendsAgain,
    /// It is not looked whether the build is still the newest one that a decision rests on.
    SkipsTheGate,
    /// Builds in progress are told as having succeeded.
    TellsTooEarly,
    /// An agent that reads as ready is taken for one on which commands run.
    SkipsTheProbe,
    /// Every call has its turn at once.
    IgnoresTurns,
    /// Calls of hosts that are gone are left where they are.
    LeavesOrphans,
    /// The last entry of a call is not written.
    LosesTheLastEntry,
    /// Results are empty.
    SaysNothing,
    /// A lease that has run out is as good as a current one.
    IgnoresLeases,
    /// A host takes over calls of whomever.
    IgnoresUsers,
    /// A call goes on on whichever plugin its host has.
    UpgradesCalls,
    /// Workspaces forget which commands have begun.
    ForgetsSessions,
    /// Whoever waits for a call's end looks for it without a pause.
    NeverPauses,
}

thread_local! {
    static SABOTAGE: Cell<Option<Sabotage>> = const { Cell::new(None) };
}

/// Breaks a rule in this thread from now on.
pub(crate) fn set(sabotage: Option<Sabotage>) {
    SABOTAGE.set(sabotage);
}

/// Whether this rule is to be broken.
pub(crate) fn is(sabotage: Sabotage) -> bool {
    SABOTAGE.get() == Some(sabotage)
}
