//! What a deployment says about itself, and what this client misses in older ones.

use std::fmt;

use serde::Deserialize;

/// What a deployment says about itself. It says so to everybody: no token is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// Its version, as it writes it.
    pub version: String,
    /// The release that it is; `None` for versions of developers, which may have anything in them.
    pub release: Option<Release>,
    /// Its id, if it gives one.
    pub id: Option<String>,
    /// Its time when it said so, Unix milliseconds. `None`: it does not tell the time.
    pub observed: Option<u64>,
}

/// A release by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    /// The first number.
    pub major: u32,
    /// The second.
    pub minor: u32,
    /// The third.
    pub patch: u32,
}

/// Something that a deployment is too old for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// The release that has it.
    pub since: Release,
    /// What is lost without it.
    pub lost: &'static str,
}

#[derive(Deserialize)]
pub(super) struct BuildInfo {
    version: String,
    #[serde(default)]
    deployment_id: Option<String>,
}

/// What this client needs beyond what every deployment has, by release. No release is known to do harm.
const NEEDS: &[Shortfall] = &[Shortfall {
    since: Release { major: 2, minor: 22, patch: 0 },
    lost: "it does not announce changes of workspaces over a websocket: waits notice them up to two seconds late",
}];

impl Deployment {
    pub(super) fn new(info: BuildInfo, observed: Option<u64>) -> Self {
        let release = release(&info.version);
        Self { version: info.version, release, id: info.deployment_id.filter(|id| !id.is_empty()), observed }
    }

    /// What this client does without on this deployment. Nothing, if its release is not known.
    pub fn shortfalls(&self) -> Vec<Shortfall> {
        let older = |need: &&Shortfall| self.release.is_some_and(|release| release < need.since);
        NEEDS.iter().filter(older).copied().collect()
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// `v2.26.1+build` is a release; `v2.26.1-devel+build` and the like are not, nor is zero.
fn release(version: &str) -> Option<Release> {
    let (numbers, _build) = version.split_once('+').unwrap_or((version, ""));
    let mut numbers = numbers.strip_prefix('v').unwrap_or(numbers).split('.').map(|part| part.parse().ok());
    let mut next = || numbers.next().flatten();
    let release = Release { major: next()?, minor: next()?, patch: next()? };
    let known = numbers.next().is_none() && release > Release { major: 0, minor: 0, patch: 0 };
    known.then_some(release)
}
