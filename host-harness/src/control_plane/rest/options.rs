//! How a deployment is reached: its address, a token, whom to trust.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Certificate, Client, ClientBuilder, Url, redirect};

use super::error::RestError;
use super::failure::{cause, innermost};
use super::token_source::TokenSource;

/// Limit of making a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// What a [`RestClient`](super::RestClient) is made from.
///
/// The variables `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` are heeded, but never for this machine itself.
#[derive(Clone)]
pub struct RestOptions {
    /// The deployment's address, as one opens it in a browser.
    pub url: String,
    /// Where the session or API token of the user to act for comes from.
    pub token: Arc<dyn TokenSource>,
    /// A PEM file with certificates of authorities that are trusted as well as those of the system.
    pub ca_file: Option<PathBuf>,
    /// Names and values of headers that are sent with each request, for what stands in front of the deployment. They
    /// are shown nowhere.
    pub headers: Vec<(String, String)>,
    /// A command for `sh` that prints more of them, a line `NAME=VALUE` each; the variable `CODER_URL` tells it the
    /// address. It is run before the first request, and again when something in front of the deployment refuses what it
    /// printed.
    pub header_command: Option<String>,
    /// Whether the token may go unencrypted over a network.
    pub allow_plain_http: bool,
    /// What is said where no connection comes about, as a part of a sentence: how the deployment is started, for
    /// instance.
    pub when_away: Option<String>,
}

impl RestOptions {
    /// The safe defaults: a token that stays as it is, the system's authorities, and plain `http` for this machine
    /// only.
    pub fn new(url: impl Into<String>, token: impl Into<String>) -> Self {
        Self::with_token_of(url, Arc::new(token.into()))
    }

    /// The safe defaults, and a source that may give a new token when one is not accepted any more.
    pub fn with_token_of(url: impl Into<String>, token: Arc<dyn TokenSource>) -> Self {
        Self {
            url: url.into(),
            token,
            ca_file: None,
            headers: Vec::new(),
            header_command: None,
            allow_plain_http: false,
            when_away: None,
        }
    }

    /// The address of the API, which ends with `/api/v2/`.
    pub(super) fn base(&self) -> Result<Url, RestError> {
        let bad = || RestError::Url(self.url.clone());
        let mut base = Url::parse(&self.url).map_err(|_| bad())?;
        if !base.username().is_empty() || base.password().is_some() {
            return Err(RestError::UserInUrl);
        }
        match base.scheme() {
            "https" => {}
            "http" if self.allow_plain_http || is_loopback(&base) => {}
            "http" => return Err(RestError::Plain(self.url.clone())),
            _ => return Err(bad()),
        }
        base.set_query(None);
        base.set_fragment(None);
        base.path_segments_mut().map_err(|()| bad())?.pop_if_empty().extend(["api", "v2", ""]);
        Ok(base)
    }

    /// A web client that follows no redirects.
    pub(super) fn client(&self, base: &Url) -> Result<Client, RestError> {
        // Fails if a provider is installed already, which then is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let extra = self.extra_certificates()?;
        // Machines without any authority have their local control plane all the same.
        let only_extra = base.scheme() == "http" && is_loopback(base);
        match builder(base, extra.clone(), only_extra).build() {
            Err(error) if no_authorities(&error) && !extra.is_empty() => {
                builder(base, extra, true).build().map_err(|error| RestError::Client(innermost(&error)))
            }
            Err(error) if no_authorities(&error) => Err(RestError::NoAuthorities),
            made => made.map_err(|error| RestError::Client(innermost(&error))),
        }
    }

    fn extra_certificates(&self) -> Result<Vec<Certificate>, RestError> {
        let Some(path) = &self.ca_file else { return Ok(Vec::new()) };
        let unread = |why: String| RestError::CaFile { path: path.clone(), why };
        let pem = std::fs::read(path).map_err(|error| unread(error.to_string()))?;
        let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| unread(innermost(&error)))?;
        if certificates.is_empty() {
            return Err(RestError::NoCertificate(path.clone()));
        }
        Ok(certificates)
    }
}

// Without the token.
impl fmt::Debug for RestOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestOptions")
            .field("ca_file", &self.ca_file)
            .field("allow_plain_http", &self.allow_plain_http)
            .finish_non_exhaustive()
    }
}

/// A web client in the making. `only_extra`: none but those authorities are trusted, and not those of the system.
fn builder(base: &Url, extra: Vec<Certificate>, only_extra: bool) -> ClientBuilder {
    let builder = Client::builder().connect_timeout(CONNECT_LIMIT).redirect(redirect::Policy::none());
    // A proxy's loopback is not ours.
    let builder = if is_loopback(base) { builder.no_proxy() } else { builder };
    if only_extra { builder.tls_certs_only(extra) } else { builder.tls_certs_merge(extra) }
}

/// Whether a client could not be made for want of authorities: nothing else of what it is made from can be missing.
fn no_authorities(error: &reqwest::Error) -> bool {
    matches!(cause::<rustls::Error>(error), Some(rustls::Error::General(_)))
}

fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        None => false,
    }
}
