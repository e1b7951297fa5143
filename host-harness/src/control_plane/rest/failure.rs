//! Requests that failed: without an answer, or with one that is none of the API's.
//!
//! What went wrong is told by the types of the causes, never by their texts.

use std::error::Error;

use reqwest::Url;
use reqwest::header::{HeaderMap, LOCATION};
use rustls::{CertificateError, InvalidMessage, OtherError};

use crate::control_plane::ApiError;

/// A request that got no answer at all. `effect`: it asks for more than a read.
pub(super) fn not_answered(error: &reqwest::Error, effect: bool) -> ApiError {
    if let Some(tls) = cause::<rustls::Error>(error) {
        return ApiError::Tls(tls_problem(tls));
    }
    // Without a connection nothing was sent.
    let effect = effect && !error.is_connect();
    let no_http = cause::<hyper::Error>(error).is_some_and(hyper::Error::is_parse);
    if no_http && !effect {
        return ApiError::NotCoder("what answers does not speak HTTP".to_owned());
    }
    lost(innermost(error), effect)
}

/// An answer that did not come, or not to its end.
pub(super) fn lost(why: String, effect: bool) -> ApiError {
    if effect { ApiError::no_answer(why) } else { ApiError::Unavailable(why) }
}

/// An answer that sends the client elsewhere. It does not go: the token is for one address.
pub(super) fn redirected(headers: &HeaderMap, base: &Url) -> ApiError {
    let target = headers.get(LOCATION).and_then(|location| base.join(location.to_str().ok()?).ok());
    let text = match target {
        // Its query may hold secrets.
        Some(target) if target.origin() == base.origin() => {
            format!("it redirects to {}, perhaps to a page to log in", target.path())
        }
        Some(target) => format!(
            "it redirects to {}: if that is the deployment, use that address; if it is a page to log in, a proxy in \
             front of the deployment wants to be passed first",
            target.origin().ascii_serialization()
        ),
        None => "it redirects elsewhere".to_owned(),
    };
    ApiError::NotCoder(text)
}

/// The cause at the bottom, which says what happened; those above it repeat the URL.
pub(super) fn innermost(error: &(dyn Error + 'static)) -> String {
    causes(error).last().unwrap_or(error).to_string()
}

pub(super) fn cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// The error and what caused it. An error in an `io::Error` counts as its cause, which it does not by itself.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| {
        let error: &'a (dyn Error + 'static) = *error;
        match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(within) => Some(within),
            None => error.source(),
        }
    })
}

/// What is wrong with the encrypted connection, and what to do.
fn tls_problem(error: &rustls::Error) -> String {
    use CertificateError as Bad;
    match error {
        rustls::Error::InvalidCertificate(bad) => match bad {
            // Or by one that only has the name of one that is.
            Bad::UnknownIssuer | Bad::BadSignature => {
                "its certificate was made by an authority that is not trusted here: give that \
                                   authority's certificate as a CA file"
                    .to_owned()
            }
            Bad::Expired | Bad::ExpiredContext { .. } => {
                "its certificate has expired: have it renewed, or set this machine's clock right".to_owned()
            }
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                "its certificate is not valid yet: set this machine's clock right".to_owned()
            }
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                "its certificate is for another name: use the name that the deployment's certificate is for"
                    .to_owned()
            }
            // Many self-made ones are an authority's own, which are no server's.
            Bad::Other(OtherError(why)) => format!(
                "its certificate is not accepted ({why}): if it is self-made, it has to be a server's, with CA:FALSE"
            ),
            other => format!("its certificate is not accepted ({other})"),
        },
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "what answers on this port does not encrypt: check the port, or use http if it is meant to be"
                .to_owned()
        }
        other => other.to_string(),
    }
}
