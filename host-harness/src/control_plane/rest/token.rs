//! The token that is shown to a deployment, and how it fares there.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::header::HeaderValue;
use tokio::time::Instant;

use super::error::RestError;
use super::token_source::TokenSource;
use crate::control_plane::ApiError;

/// For how long a token that has worked may be refused before what waits is given up: long enough to log in again.
const TOKEN_PATIENCE: Duration = Duration::from_secs(300);

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
