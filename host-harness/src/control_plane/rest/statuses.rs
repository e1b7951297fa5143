//! What each status of each address means, in one place. Statuses and the kind of a body decide, texts never do.
//!
//! "JSON" is the API's own error, an object with a `message`; "page" is anything else, as servers and the proxies in
//! front of them make for people. The years are servers of September 2025 (the 2.26 line) and of June 2026 (the 2.35
//! line). A cell tells what was recorded from them; a dash stands where nothing was, and the other year's meaning is
//! taken.
//!
//! | address | status | 2025 | 2026 |
//! |---|---|---|---|
//! | any with a token | 401 JSON | no valid token, a suspended user; any request while the database is away | - |
//! | any with a token | 500 JSON | - | any request while the database is away |
//! | `users/first`, without a token | 200 JSON | there is a user, so the database is there | the same |
//! | `users/first`, without a token | 500 JSON | - | the database is away |
//! | any | 429 JSON | asked too often: per address and path, `Retry-After` | - |
//! | `users/me` | 404 JSON | - | the token's scopes do not include its own user |
//! | `workspaces/{id}` | 404 JSON | unknown, or hidden from this user | - |
//! | `workspaces/{id}` | 410 JSON | deleted | - |
//! | `users/{owner}/workspace/{name}` | 404 JSON | unknown, hidden or deleted | - |
//! | `workspaces/{id}/builds`, POST | 400 JSON | refused for what it asks for | - |
//! | `workspaces/{id}/builds`, POST | 403 JSON | a start of a dormant workspace | the token's scopes do not allow it |
//! | `workspaces/{id}/builds`, POST | 409 JSON | another build is active, or came first | another build is active |
//! | `organizations/{id}/members/.../workspace-quota` | 404 JSON | - | the address is gone: no budget is known |
//! | `workspaceagents/{id}/pty` | 101 | a terminal; silent if the agent is dead or hangs but reads connected | the same |
//! | `workspaceagents/{id}/pty` | 400 JSON | a wrong parameter | - |
//! | `workspaceagents/{id}/pty` | 404 JSON | the token is not valid | - |
//! | `workspaceagents/{id}/pty` | 404 page | there is no such agent | there is no such agent, or it is not connected |
//! | `workspaceagents/{id}/pty` | 426 page | no websocket was asked for | - |
//! | `workspaceagents/{id}/pty` | 500 page | not the id of an agent | - |
//! | `workspaceagents/{id}/pty` | 502 page | the agent is not connected | - |
//!
//! What proxies in front of a deployment answer is nobody's recording: redirects to a page to log in, 401 with a page
//! where they want credentials of their own, 403 with a page of a firewall, 407 where they want a password, 413, 414
//! and 431 for long requests, addresses and headers, 426 where they drop `Upgrade`, 502 to 504 with a page where they
//! get no answer. Each is told as theirs, with the first words of the page. A 404 with a page anywhere else than at a
//! terminal is another server.
//!
//! So a page at a terminal's address says nothing about whether the agent exists or may be used: it did not answer, and
//! what the workspace read says of that very agent tells the cases apart.

use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{StatusCode, Url};

use super::failure::redirected;
use super::page::first_words;
use super::wire;
use crate::control_plane::{ApiError, Lost, refusal};

/// A rate limit is heeded for at most this long, whatever the answer says: one that asks for more is a mistake.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);

/// What kind of request was refused.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// A request that changes nothing.
    Read,
    /// A request that may have had an effect although it was refused.
    Effect,
    /// The websocket of a terminal.
    Terminal,
}

/// The error that a status other than success stands for. A 401 needs more than its status: it is the token's only if
/// the database is there, and has the deployment's words until that was looked at.
pub(super) fn refused(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    asked: Asked,
    base: &Url,
) -> ApiError {
    let said = wire::refusal(body);
    // Also for what is no answer of the API's: the status, and what the page says.
    let page = || format!("status {status} and {}", first_words(body));
    match (status.as_u16(), said) {
        (404 | 502..=504, None) if asked == Asked::Terminal => ApiError::Unavailable(format!(
            "no terminal, but {}, as for an agent that is not connected",
            page()
        )),
        (426, _) => ApiError::Other {
            status: 426,
            refusal: refusal(
                "a proxy in front of the deployment does not pass websockets on; whoever runs it has to let the headers \
                 Upgrade and Connection through",
            ),
        },
        (401, Some(said)) => ApiError::Unauthorized(said.message),
        (401, None) => ApiError::Intercepted(format!(
            "{}; it wants credentials of its own, which can be given as additional headers",
            page()
        )),
        (403, None) => ApiError::Intercepted(format!(
            "{}; whoever runs that proxy or firewall has to let this program through, or it wants additional headers",
            page()
        )),
        (407, None) => ApiError::Intercepted(format!(
            "{}; the proxy wants a name and a password, which belong into the proxy's address",
            page()
        )),
        (413 | 414 | 431, None) => ApiError::Intercepted(format!(
            "{}; whoever runs that proxy has to let requests through whose address and headers have 8 KiB",
            page()
        )),
        (404, None) => ApiError::NotCoder(page()),
        (403, Some(said)) => ApiError::Forbidden(said),
        (404, _) => ApiError::NotFound,
        (409, said) => ApiError::Conflict(said.unwrap_or_else(|| refusal("another build is in progress"))),
        (410, _) => ApiError::Gone,
        (429, _) => ApiError::RateLimited {
            retry_after: wire::retry_after(headers).map(|pause| pause.min(LONGEST_RETRY_AFTER)),
        },
        (400 | 406 | 412 | 422, Some(said)) => ApiError::Invalid(said),
        (400 | 406 | 412 | 422, None) if base.scheme() == "http" => {
            ApiError::NotCoder(format!("{}; if it encrypts on this port, use https", page()))
        }
        (400 | 406 | 412 | 422, None) => ApiError::NotCoder(page()),
        (300..=399, _) => redirected(headers, base),
        (500.., refusal) => {
            let status = match refusal {
                Some(_) => status.to_string(),
                // Something on the way: a control plane that fails says so in JSON.
                None => format!("{status} and {}", first_words(body)),
            };
            let failed = Lost::Failed { status, refusal };
            match asked {
                Asked::Effect => ApiError::UnknownOutcome(failed),
                Asked::Read | Asked::Terminal => ApiError::Unavailable(format!("it {failed}")),
            }
        }
        (code, said) => ApiError::Other { status: code, refusal: said.unwrap_or_else(|| refusal(page())) },
    }
}
