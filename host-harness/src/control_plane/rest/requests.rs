//! Requests: what is shown with each, what an answer or its absence means, and what is done about a token that is
//! refused.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Response, Url};
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::time::{Instant, timeout};

use super::error::RestError;
use super::failure::{innermost, lost, not_answered};
use super::headers::Headers;
use super::options::RestOptions;
use super::page::first_words;
use super::socket::{self, Socket};
use super::statuses::{self, Asked};
use super::token::Token;
use super::wire;
use crate::control_plane::ApiError;

/// Limit of one request. A control plane whose database hangs answers nothing at all; a healthy one answers within a
/// second.
pub(super) const REQUEST_LIMIT: Duration = Duration::from_secs(15);
/// Limit of an answer's body: a workspace with hundreds of agents stays far below.
const MAX_BODY_BYTES: usize = 8 << 20;
/// How long it may take to find out whose a new token is before a request with an effect is made again: whoever asked
/// for that has looked at the workspace directly before.
const RENEWAL_LIMIT: Duration = Duration::from_secs(1);
/// For how long it is believed that the deployment's database is there, or away: a deployment counts what is asked of
/// it.
const DATABASE_KNOWN: Duration = Duration::from_secs(1);

const TOKEN_HEADER: HeaderName = HeaderName::from_static("coder-session-token");

/// One request.
#[derive(Clone, Copy)]
pub(super) struct Request<'a, B = ()> {
    pub(super) method: &'a Method,
    pub(super) path: &'a [&'a str],
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) body: Option<&'a B>,
}

/// An answer's body, and its time.
type Answer<T> = (T, Option<u64>);

/// Makes requests of one deployment with one user's token.
pub(super) struct Requests {
    client: Client,
    /// Ends with `/api/v2/`.
    pub(super) base: Url,
    pub(super) token: Token,
    headers: Headers,
    /// Until when requests of a method and path would be refused for asking too often. Deployments count per path.
    limited: Mutex<HashMap<(Method, String), Instant>>,
    /// [`RestOptions::when_away`].
    when_away: Option<String>,
    /// Held while a new token is looked at.
    renewing: tokio::sync::Mutex<()>,
    /// Whether the database was there when that was looked at last.
    database: tokio::sync::Mutex<Option<(Instant, Result<(), ApiError>)>>,
}

impl<'a> Request<'a> {
    pub(super) fn get(path: &'a [&'a str], query: &'a [(&'a str, &'a str)]) -> Self {
        Self { method: &Method::GET, path, query, body: None }
    }
}

impl<B> Request<'_, B> {
    /// Whether it asks for more than a read.
    fn effect(&self) -> bool {
        self.method != Method::GET
    }
}

impl Requests {
    pub(super) fn new(options: &RestOptions) -> Result<Self, RestError> {
        let base = options.base()?;
        Ok(Self {
            client: options.client(&base)?,
            base,
            token: Token::new(options.token.clone())?,
            headers: Headers::new(options)?,
            limited: Mutex::default(),
            when_away: options.when_away.clone(),
            renewing: tokio::sync::Mutex::default(),
            database: tokio::sync::Mutex::default(),
        })
    }

    /// One request with the token. A token that is refused is looked up anew, and the request made once more.
    pub(super) async fn request<T: DeserializeOwned>(
        &self,
        request: Request<'_, impl Serialize>,
    ) -> Result<Answer<T>, ApiError> {
        let mut shown = self.token.shown();
        let mut repeated = false;
        loop {
            let said = match self.send(&request, Some(&shown)).await {
                Err(ApiError::Unauthorized(said)) => said,
                answer => {
                    if answer.is_ok() {
                        self.token.has_worked();
                    }
                    return answer;
                }
            };
            shown = self.again(shown, &said, &mut repeated, request.effect()).await?;
        }
    }

    /// A request that needs no token.
    pub(super) async fn ask_openly<T: DeserializeOwned>(&self, path: &[&str]) -> Result<Answer<T>, ApiError> {
        self.send(&Request::get(path, &[]), None).await
    }

    /// The websocket at an address.
    pub(super) async fn socket(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        asked: Asked,
    ) -> Result<Socket, ApiError> {
        let mut shown = self.token.shown();
        let mut repeated = false;
        loop {
            let error = match timeout(REQUEST_LIMIT, self.open(path, query, asked, &shown)).await {
                Ok(Ok(socket)) => return Ok(socket),
                Ok(Err(error)) => error,
                Err(_) => {
                    return Err(ApiError::Unavailable("no answer to a request for a websocket".to_owned()));
                }
            };
            match error {
                ApiError::Unauthorized(said) => {
                    shown = self.again(shown, &said, &mut repeated, false).await?;
                }
                // What a terminal's address says to a token that is no good, too.
                ApiError::NotFound if !repeated => match self.renewed(&shown).await {
                    Some(new) => (shown, repeated) = (new, true),
                    None => return Err(error),
                },
                error => return Err(error),
            }
        }
    }

    async fn open(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        asked: Asked,
        token: &HeaderValue,
    ) -> Result<Socket, ApiError> {
        let shown = self.headers.shown().await?;
        let answer = self.open_with(path, query, asked, token, &shown).await;
        if answer.as_ref().is_err_and(is_from_elsewhere)
            && let Some(new) = self.headers.renewed(&shown).await
        {
            return self.open_with(path, query, asked, token, &new).await;
        }
        answer
    }

    async fn open_with(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        asked: Asked,
        token: &HeaderValue,
        headers: &HeaderMap,
    ) -> Result<Socket, ApiError> {
        let request = self.client.get(self.url(path)?).query(query);
        let request = request.headers(with_token(headers, Some(token)));
        match socket::open(request).await? {
            socket::Opened::Socket(socket) => Ok(*socket),
            socket::Opened::Refused(response) => {
                let (status, headers) = (response.status(), response.headers().clone());
                let body = body_of(response).await.unwrap_or_default();
                Err(statuses::refused(status, &headers, &body, asked, &self.base))
            }
        }
    }

    async fn send<T: DeserializeOwned>(
        &self,
        asked: &Request<'_, impl Serialize>,
        token: Option<&HeaderValue>,
    ) -> Result<Answer<T>, ApiError> {
        let shown = self.headers.shown().await?;
        let answer = self.send_with(asked, token, &shown).await;
        // Not for an effect, which is asked for directly after a look.
        if !asked.effect()
            && answer.as_ref().is_err_and(is_from_elsewhere)
            && let Some(new) = self.headers.renewed(&shown).await
        {
            return self.send_with(asked, token, &new).await;
        }
        answer
    }

    async fn send_with<T: DeserializeOwned>(
        &self,
        asked: &Request<'_, impl Serialize>,
        token: Option<&HeaderValue>,
        headers: &HeaderMap,
    ) -> Result<Answer<T>, ApiError> {
        let effect = asked.effect();
        let url = self.url(asked.path)?;
        let place = (asked.method.clone(), url.path().to_owned());
        self.may_ask(&place)?;
        tracing::debug!(method = %asked.method, path = %url.path(), "asks");
        let mut request =
            self.client.request(asked.method.clone(), url).query(asked.query).timeout(REQUEST_LIMIT);
        request = request.headers(with_token(headers, token));
        if let Some(body) = asked.body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| self.not_answered(&error, effect))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = body_of(response).await;
        if !status.is_success() {
            let asked = if effect { Asked::Effect } else { Asked::Read };
            let error = statuses::refused(status, &headers, &body.unwrap_or_default(), asked, &self.base);
            self.heed(place, &error);
            return Err(error);
        }
        // What was asked for was done; only the answer got lost.
        let body = body.map_err(|error| lost(error, effect))?;
        let parsed = serde_json::from_slice(&body).map_err(|error| {
            let what = format!("its answer cannot be read ({error}): it is {}", first_words(&body));
            if effect { ApiError::no_answer(what) } else { ApiError::NotCoder(what) }
        })?;
        Ok((parsed, wire::date(&headers)))
    }

    /// A token was refused. Answers with which one to try once more, or why not: the refusal says nothing of a token
    /// while the database is away.
    async fn again(
        &self,
        used: HeaderValue,
        said: &str,
        repeated: &mut bool,
        effect: bool,
    ) -> Result<HeaderValue, ApiError> {
        let looking = self.renewed(&used);
        let new =
            if effect { timeout(RENEWAL_LIMIT, looking).await.unwrap_or_default() } else { looking.await };
        if new.is_none() {
            self.database_is_there().await?;
        }
        if *repeated || (effect && new.is_none()) {
            return Err(self.token.refused(said));
        }
        *repeated = true;
        // The same one, if the database may have come back only after it was refused.
        Ok(new.unwrap_or(used))
    }

    /// The token to use, if that is another one by now than `used`, and of the same user.
    async fn renewed(&self, used: &HeaderValue) -> Option<HeaderValue> {
        let _one = self.renewing.lock().await;
        let shown = self.token.shown();
        if shown != *used {
            return Some(shown);
        }
        let new = self.token.new_one(used)?;
        // What goes on was begun as that user.
        if let Some(user) = self.token.user() {
            let whose = self.send::<wire::User>(&Request::get(&["users", "me"], &[]), Some(&new)).await;
            let why = match whose {
                Ok((now, _)) if now.id == user => None,
                Ok((now, _)) => Some(format!(
                    "the token that is there now is that of another user, {}: start again to work as that user",
                    now.username
                )),
                Err(ApiError::Unauthorized(_)) => {
                    Some("the token that is there now is not accepted either".to_owned())
                }
                Err(error) => Some(format!("whose the token is that is there now cannot be told: {error}")),
            };
            if let Some(why) = why {
                self.token.not_taken(why);
                return None;
            }
        }
        tracing::info!("the token was not accepted any more; there is a new one, which is used from now on");
        self.token.take(new.clone());
        Some(new)
    }

    /// Whether the database is there, without which older deployments accept no token. What is asked needs none.
    async fn database_is_there(&self) -> Result<(), ApiError> {
        let mut known = self.database.lock().await;
        if let Some((at, there)) = &*known
            && at.elapsed() < DATABASE_KNOWN
        {
            return there.clone();
        }
        let there = match self.ask_openly::<IgnoredAny>(&["users", "first"]).await {
            Err(ApiError::Unavailable(why)) => Err(ApiError::Unavailable(format!(
                "it accepts no token at the moment, as while its database is away ({why})"
            ))),
            // It has looked into its database.
            _ => Ok(()),
        };
        *known = Some((Instant::now(), there.clone()));
        there
    }

    /// Refuses a request that the deployment would refuse anyway, for asking too often.
    fn may_ask(&self, place: &(Method, String)) -> Result<(), ApiError> {
        let now = Instant::now();
        let mut limited = self.limited.lock().unwrap_or_else(PoisonError::into_inner);
        limited.retain(|_, until| *until > now);
        match limited.get(place) {
            Some(until) => Err(ApiError::RateLimited { retry_after: Some(*until - now) }),
            None => Ok(()),
        }
    }

    /// Notes for how long a place must not be asked again.
    fn heed(&self, place: (Method, String), error: &ApiError) {
        if let Some(pause) = error.retry_after() {
            let mut limited = self.limited.lock().unwrap_or_else(PoisonError::into_inner);
            limited.insert(place, Instant::now() + pause);
        }
    }

    fn url(&self, path: &[&str]) -> Result<Url, ApiError> {
        let mut url = self.base.clone();
        // Segments are escaped: an id from elsewhere cannot lead to another path.
        match url.path_segments_mut() {
            Ok(mut segments) => segments.pop_if_empty().extend(path),
            Err(()) => return Err(ApiError::NotCoder("its URL has no path".to_owned())),
        };
        Ok(url)
    }

    /// A request that got no answer at all, with what the options say of a deployment that is not there.
    fn not_answered(&self, error: &reqwest::Error, effect: bool) -> ApiError {
        match (not_answered(error, effect), &self.when_away) {
            (ApiError::Unavailable(why), Some(what)) if error.is_connect() => {
                ApiError::Unavailable(format!("{why}; {what}"))
            }
            (error, _) => error,
        }
    }
}

/// The headers of a request. The token's is the client's own.
fn with_token(headers: &HeaderMap, token: Option<&HeaderValue>) -> HeaderMap {
    let mut headers = headers.clone();
    headers.remove(TOKEN_HEADER);
    headers.extend(token.map(|token| (TOKEN_HEADER, token.clone())));
    headers
}

/// Whether something answered that other headers may content: a proxy, or a page to log in that it leads to.
fn is_from_elsewhere(error: &ApiError) -> bool {
    matches!(error, ApiError::Intercepted(_) | ApiError::NotCoder(_))
}

/// Reads a body up to its limit.
async fn body_of(mut response: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| innermost(&error))? {
        if body.len() + chunk.len() > MAX_BODY_BYTES {
            return Err(format!("its answer is longer than {MAX_BODY_BYTES} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
