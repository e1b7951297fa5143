//! The numbers of calls: those in the store, and those that are kept nowhere.

use crate::journal::record::CallId;

/// Numbers of calls that are kept nowhere begin here; stores do not get so far.
pub(super) const UNSTORED: u64 = 1 << 63;

/// The number in the store of a call with this number.
pub(super) fn stored_id(number: u64) -> Option<CallId> {
    (number < UNSTORED).then_some(number)
}
