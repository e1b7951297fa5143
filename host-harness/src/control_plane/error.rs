//! Errors of a control plane, decided by status, never by text.

use std::fmt;
use std::time::Duration;

use crate::bindings::{FieldProblem, ReadError, Refusal};
use crate::clock::millis;

/// Why the control plane gave no answer, or a refusal. Decided by status and transport, never by text. Each says what
/// to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The credentials are not accepted: they never were since this client was made, or are not any more for minutes.
    /// How they are renewed.
    #[error("the control plane does not accept the token: {0}")]
    Unauthorized(String),
    /// The credentials have worked, and are not accepted any more, for less than five minutes: who waits may go on
    /// waiting for new ones. How they are renewed.
    #[error("the control plane does not accept the token any more: {0}")]
    TokenExpired(String),
    /// This user may not.
    #[error("the control plane forbids it: {}; an administrator of the deployment can allow it", sentence(.0))]
    Forbidden(Refusal),
    /// Absent, or hidden from this user: the two cannot be told apart.
    #[error("not found, or not visible to this user: check the name, and whose token is used")]
    NotFound,
    /// The workspace was deleted.
    #[error("the workspace was deleted: create a new one")]
    Gone,
    /// Another build of the workspace is in progress.
    #[error("another build of the workspace is in progress: try again when it has ended")]
    Conflict(Refusal),
    /// The request was refused for what it says.
    #[error("the control plane refused the request; change what it names: {}", sentence(.0))]
    Invalid(Refusal),
    /// Too many requests.
    #[error("the control plane limits the rate of requests: try again {}", later(.retry_after))]
    RateLimited {
        /// How long to wait, where it says so.
        retry_after: Option<Duration>,
    },
    /// No answer, or one that says "later". The request had no effect, or only reads.
    #[error("the control plane cannot be reached or cannot answer: {0}; try again, or look whether it runs")]
    Unavailable(String),
    /// A request with an effect was sent, and whether it had the effect is not known.
    #[error("the request was sent, but {0}; look whether it was done before asking again")]
    UnknownOutcome(Lost),
    /// The credentials are limited to scopes, and one is missing.
    #[error(
        "the token's scopes do not include `{scope}`, without which {lost}: make a token that has that scope as well"
    )]
    MissingScope {
        /// The scope.
        scope: &'static str,
        /// What is not possible without it, as a part of a sentence.
        lost: &'static str,
    },
    /// The workspace was set aside for want of use.
    #[error("the workspace is dormant, and cannot be used: activate it first, in the browser")]
    Dormant,
    /// Something in front of the control plane, such as a proxy or a firewall, answered in its place. What it said, and
    /// what to do.
    #[error("something in front of the control plane answers in its place: {0}")]
    Intercepted(String),
    /// The additional headers that something in front of the control plane wants cannot be had. Nothing was sent.
    #[error("no additional headers for what is in front of the control plane: {0}")]
    Headers(String),
    /// What answered does not speak the control plane's API.
    #[error("this does not look like a Coder deployment: {0}; check the URL")]
    NotCoder(String),
    /// No encrypted connection came about. Nothing was sent.
    #[error("no encrypted connection to the control plane: {0}")]
    Tls(String),
    /// Anything else.
    #[error("the control plane answered with status {status}: {}", sentence(.refusal))]
    Other {
        /// The HTTP status.
        status: u16,
        /// What it said.
        refusal: Refusal,
    },
}

/// What came of a request whose outcome is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lost {
    /// No answer, or none that can be read. Why, as a part of a sentence.
    NoAnswer(String),
    /// The control plane failed at it, or something on the way did.
    Failed {
        /// The HTTP status, in words.
        status: String,
        /// What it said, if it was the control plane.
        refusal: Option<Refusal>,
    },
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer(why) => write!(f, "no answer came: {why}"),
            Self::Failed { status, refusal: None } => write!(f, "was answered with status {status}"),
            Self::Failed { status, refusal: Some(said) } => {
                write!(f, "was answered with status {status}: {}", sentence(said))
            }
        }
    }
}

impl ApiError {
    /// An effect that got no answer, or none that can be read.
    pub fn no_answer(why: impl Into<String>) -> Self {
        Self::UnknownOutcome(Lost::NoAnswer(why.into()))
    }

    /// Whether this says that authenticated requests do not work now, whatever was asked for.
    pub fn is_away(&self) -> bool {
        matches!(
            self,
            Self::Unauthorized(_)
                | Self::TokenExpired(_)
                | Self::Unavailable(_)
                | Self::UnknownOutcome(_)
                | Self::NotCoder(_)
                | Self::Intercepted(_)
                | Self::Headers(_)
                | Self::Tls(_)
        )
    }

    /// Whether asking the same again a little later may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::RateLimited { .. })
    }

    /// How long to wait before asking again, where the control plane says so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after } => *retry_after,
            _ => None,
        }
    }
}

impl From<ApiError> for ReadError {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Unauthorized(_) | ApiError::TokenExpired(_) => Self::Unauthorized,
            ApiError::Forbidden(_) => Self::Forbidden,
            ApiError::NotFound | ApiError::Gone => Self::NotFound,
            ApiError::Unavailable(_) | ApiError::UnknownOutcome(_) => Self::Unavailable(None),
            ApiError::RateLimited { retry_after } => Self::Unavailable(retry_after.map(millis)),
            ApiError::Conflict(_)
            | ApiError::Invalid(_)
            | ApiError::MissingScope { .. }
            | ApiError::Dormant
            | ApiError::Intercepted(_)
            | ApiError::Headers(_)
            | ApiError::NotCoder(_)
            | ApiError::Tls(_)
            | ApiError::Other { .. } => Self::Other(error.to_string()),
        }
    }
}

/// A refusal that is only a sentence.
pub(crate) fn refusal(message: impl Into<String>) -> Refusal {
    Refusal { message: message.into(), detail: None, validations: Vec::new(), template: None }
}

fn later(retry_after: &Option<Duration>) -> String {
    match retry_after {
        // Rounded up: a little too late is never refused.
        Some(pause) => format!("in {} s", pause.as_secs() + u64::from(pause.subsec_nanos() > 0)),
        None => "later".to_owned(),
    }
}

/// As a part of a longer sentence: without the full stop that control planes end with.
fn sentence(refusal: &Refusal) -> String {
    let mut text = refusal.message.trim_end_matches('.').to_owned();
    if let Some(detail) = refusal.detail.as_deref().filter(|detail| *detail != refusal.message) {
        text = format!("{text} ({})", detail.trim_end_matches('.'));
    }
    for FieldProblem { field, detail } in &refusal.validations {
        text = format!("{text}; {field}: {detail}");
    }
    text
}
