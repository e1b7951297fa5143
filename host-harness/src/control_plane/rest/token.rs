//! The token that is shown to a deployment, and where a new one comes from when it is not accepted any more.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::header::HeaderValue;
use tokio::time::Instant;

use super::RestError;
use crate::control_plane::ApiError;

/// For how long a token that has worked may be refused before what waits is given up: long enough to log in again.
const TOKEN_PATIENCE: Duration = Duration::from_secs(300);

/// Where a token comes from. It is asked for when a client is made, and again each time that the deployment does not accept
/// the token which it gave before: a client outlives its first token where its source gives a new one.
///
/// A `String` is a source, too: one that never gives another token.
pub trait TokenSource: Send + Sync {
    /// The token as it is now. Spaces and line ends around it do not count. It is asked for between requests, so it must
    /// not take longer than reading a small file.
    fn token(&self) -> Result<String, TokenError>;

    /// How a new token gets here, as the end of a sentence that says that the old one is not accepted.
    fn renewal(&self) -> String;
}

/// Why a source gives no token: a sentence, which must not have the token in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TokenError(pub String);

impl TokenSource for String {
    fn token(&self) -> Result<String, TokenError> {
        Ok(self.clone())
    }

    fn renewal(&self) -> String {
        "log in again and use a new one".to_owned()
    }
}

/// A token in a file, which may be written anew at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFile(pub PathBuf);

impl TokenSource for TokenFile {
    fn token(&self) -> Result<String, TokenError> {
        let file = self.0.display();
        let text = std::fs::read_to_string(&self.0)
            .map_err(|error| TokenError(format!("cannot read the token from {file}: {error}")))?;
        match text.trim() {
            "" => Err(TokenError(format!("the token file {file} is empty"))),
            token => Ok(token.to_owned()),
        }
    }

    fn renewal(&self) -> String {
        format!("log in again and write the new one into {}, which is read again then", self.0.display())
    }
}

/// The token in use, and how it has fared.
pub(super) struct Token {
    source: Arc<dyn TokenSource>,
    state: Mutex<State>,
}

struct State {
    shown: HeaderValue,
    /// It was accepted at least once, or one before it was.
    worked: bool,
    /// Since when it has been refused without exception.
    refused_since: Option<Instant>,
    /// The id of its user, if it was asked for.
    user: Option<String>,
    /// Why a new token was not taken.
    not_taken: Option<String>,
}

impl Token {
    pub(super) fn new(source: Arc<dyn TokenSource>) -> Result<Self, RestError> {
        let shown = read(&*source)?;
        let state = State { shown, worked: false, refused_since: None, user: None, not_taken: None };
        Ok(Self { source, state: Mutex::new(state) })
    }

    pub(super) fn shown(&self) -> HeaderValue {
        self.state().shown.clone()
    }

    /// What the source gives now, if that is another token than `used`. What keeps it from being read is told with the
    /// refusal.
    pub(super) fn new_one(&self, used: &HeaderValue) -> Option<HeaderValue> {
        match read(&*self.source) {
            Ok(new) => (new != *used).then_some(new),
            Err(error) => {
                self.not_taken(error.to_string());
                None
            }
        }
    }

    pub(super) fn take(&self, new: HeaderValue) {
        let mut state = self.state();
        state.shown = new;
        state.not_taken = None;
    }

    /// Notes why the source's new token is not used.
    pub(super) fn not_taken(&self, why: String) {
        self.state().not_taken = Some(why);
    }

    pub(super) fn has_worked(&self) {
        let mut state = self.state();
        state.worked = true;
        (state.refused_since, state.not_taken) = (None, None);
    }

    pub(super) fn is_of(&self, user: &str) {
        self.state().user = Some(user.to_owned());
    }

    pub(super) fn user(&self) -> Option<String> {
        self.state().user.clone()
    }

    /// The deployment is well, and does not accept it. `said`: the deployment's own words.
    pub(super) fn refused(&self, said: &str) -> ApiError {
        let mut state = self.state();
        let since = *state.refused_since.get_or_insert_with(Instant::now);
        let mut why = match said.trim_end_matches('.') {
            "" => self.source.renewal(),
            said => format!("{} (it says: {said})", self.source.renewal()),
        };
        if let Some(not_taken) = &state.not_taken {
            why = format!("{why}; {not_taken}");
        }
        if state.worked && since.elapsed() < TOKEN_PATIENCE {
            ApiError::TokenExpired(why)
        } else {
            ApiError::Unauthorized(why)
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// Without the token.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").finish_non_exhaustive()
    }
}

fn read(source: &dyn TokenSource) -> Result<HeaderValue, RestError> {
    let token = source.token().map_err(RestError::NoToken)?;
    let mut shown = HeaderValue::from_str(token.trim()).map_err(|_| RestError::Token)?;
    if shown.is_empty() {
        return Err(RestError::Token);
    }
    shown.set_sensitive(true);
    Ok(shown)
}
