//! What was seen of a world: what happened, what the checks need to know of it, and what they found wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;

use fnv::FnvHasher;

use super::invariants::{Check, Invariant, Violation};
use super::plane::IntentId;
use super::schedule::At;
use crate::bindings::Transition;
use crate::journal::record::CallId;

/// Violations that are kept of one world: the first ones tell.
const KEPT: usize = 20;

/// What was seen of a world.
pub struct Observer {
    /// Whether what happens is written down in words.
    pub(super) tell: bool,
    /// What happened, in words.
    pub lines: Vec<String>,
    /// A hash of all that happened.
    pub digest: Digest,
    /// How often what happened.
    pub counts: BTreeMap<&'static str, u64>,
    /// What must not happen, and did.
    pub violations: Vec<Violation>,
    /// What each host last read of each workspace.
    pub(super) reads: BTreeMap<(u64, String), Read>,
    /// When each host last read that this build of a workspace was the newest, and at rest.
    pub(super) rested: BTreeMap<(u64, String), At>,
    /// Requests for builds that were written down and have no answer yet.
    pub(super) open: BTreeMap<CallId, Opened>,
    /// Intents that count as never carried out.
    pub(super) given_up: BTreeSet<IntentId>,
    pub(super) intents: IntentId,
    /// How often each command has begun.
    pub(super) commands: BTreeMap<String, u32>,
    /// Commands that are said not to have begun.
    pub(super) never_begun: BTreeSet<String>,
    /// The agents on which a shell has greeted.
    pub(super) greeted: BTreeSet<String>,
}

pub(super) struct Read {
    pub(super) build: String,
    pub(super) number: u32,
    pub(super) at_rest: bool,
}

pub(super) struct Opened {
    pub(super) id: IntentId,
    pub(super) workspace: String,
    pub(super) to: Transition,
    pub(super) rests_on: String,
    pub(super) sent: u32,
}

/// The hash FNV-1a over what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub u64);

impl Default for Digest {
    fn default() -> Self {
        Self(FnvHasher::default().finish())
    }
}

impl Digest {
    /// Takes something in.
    pub fn add(&mut self, bytes: &[u8]) {
        let mut hasher = FnvHasher::with_key(self.0);
        hasher.write(bytes);
        self.0 = hasher.finish();
    }
}

impl Observer {
    /// Nothing was seen yet.
    pub fn new(tell: bool) -> Self {
        Self {
            tell,
            lines: Vec::new(),
            digest: Digest::default(),
            counts: BTreeMap::new(),
            violations: Vec::new(),
            reads: BTreeMap::new(),
            rested: BTreeMap::new(),
            open: BTreeMap::new(),
            given_up: BTreeSet::new(),
            commands: BTreeMap::new(),
            never_begun: BTreeSet::new(),
            greeted: BTreeSet::new(),
            intents: 0,
        }
    }

    /// Notes that something happened.
    pub fn note(&mut self, now: At, kind: &'static str, what: &[u64], text: impl FnOnce() -> String) {
        *self.counts.entry(kind).or_default() += 1;
        self.digest.add(&now.to_le_bytes());
        self.digest.add(kind.as_bytes());
        what.iter().for_each(|part| self.digest.add(&part.to_le_bytes()));
        if self.tell {
            self.lines.push(format!("{:>10.3} s  {}", now as f64 / 1000.0, text()));
        }
    }

    /// Notes what a check found wrong.
    pub fn check(&mut self, now: At, invariant: Invariant, check: Check) {
        let Err(what) = check else { return };
        if self.tell {
            self.lines.push(format!("{:>10.3} s  VIOLATION of {invariant}: {what}", now as f64 / 1000.0));
        }
        if self.violations.len() < KEPT {
            self.violations.push(Violation { invariant, at: now, what });
        }
    }
}
