//! Additional headers, for what stands in front of a deployment and wants to be shown something of its own.

use std::process::Stdio;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::error::RestError;
use super::options::RestOptions;
use crate::control_plane::ApiError;

/// How long the command may take: it may ask somebody else for what it prints.
const COMMAND_LIMIT: Duration = Duration::from_secs(15);
/// How long after it was run it is not run again, whatever is refused.
const RUN_AGAIN: Duration = Duration::from_secs(10);

/// What is sent with each request beside the token.
pub(super) struct Headers {
    fixed: HeaderMap,
    command: Option<Printer>,
}

/// A command that prints headers.
struct Printer {
    command: String,
    /// The deployment's address, which the command is told.
    url: String,
    /// What it printed last, together with the fixed ones, and when it was run.
    printed: Mutex<Option<(HeaderMap, Instant)>>,
}

impl Headers {
    pub(super) fn new(options: &RestOptions) -> Result<Self, RestError> {
        let mut fixed = HeaderMap::new();
        for (name, value) in &options.headers {
            insert(&mut fixed, name, value).map_err(|why| RestError::Header { name: name.clone(), why })?;
        }
        let command = options.header_command.clone().map(|command| Printer {
            command,
            url: options.url.clone(),
            printed: Mutex::default(),
        });
        Ok(Self { fixed, command })
    }

    /// Those to send now.
    pub(super) async fn shown(&self) -> Result<HeaderMap, ApiError> {
        let Some(printer) = &self.command else { return Ok(self.fixed.clone()) };
        let mut printed = printer.printed.lock().await;
        match &*printed {
            Some((headers, _)) => Ok(headers.clone()),
            None => {
                let headers = printer.run(&self.fixed).await?;
                *printed = Some((headers.clone(), Instant::now()));
                Ok(headers)
            }
        }
    }

    /// Others than those that were used, if the command prints others by now: what it prints may be good for an hour
    /// only.
    pub(super) async fn renewed(&self, used: &HeaderMap) -> Option<HeaderMap> {
        let printer = self.command.as_ref()?;
        let mut printed = printer.printed.lock().await;
        let (headers, at) = printed.as_ref()?;
        if headers != used {
            return Some(headers.clone());
        }
        if at.elapsed() < RUN_AGAIN {
            return None;
        }
        match printer.run(&self.fixed).await {
            Ok(new) => {
                let changed = (new != *used).then(|| new.clone());
                *printed = Some((new, Instant::now()));
                changed
            }
            Err(error) => {
                tracing::warn!(%error, "the additional headers stay as they are");
                None
            }
        }
    }
}

impl Printer {
    async fn run(&self, fixed: &HeaderMap) -> Result<HeaderMap, ApiError> {
        let failed = |why: String| ApiError::Headers(format!("the command for them {why}"));
        let output = Command::new("/bin/sh")
            .arg("-c")
            .arg(&self.command)
            .env("CODER_URL", &self.url)
            .stdin(Stdio::null())
            // What it says there may be anything, and is not kept anywhere.
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = match timeout(COMMAND_LIMIT, output).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(failed(format!("cannot be run: {error}"))),
            Err(_) => return Err(failed(format!("did not end within {} s", COMMAND_LIMIT.as_secs()))),
        };
        if !output.status.success() {
            return Err(failed(format!("failed with {}; run it by hand to see why", output.status)));
        }
        let text = String::from_utf8(output.stdout).map_err(|_| failed("printed no text".to_owned()))?;
        let mut headers = fixed.clone();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let place = || format!("printed a line that is no header (line {})", number + 1);
            let (name, value) =
                line.split_once('=').ok_or_else(|| failed(format!("{}: NAME=VALUE", place())))?;
            insert(&mut headers, name, value).map_err(|why| failed(format!("{}: {why}", place())))?;
        }
        Ok(headers)
    }
}

/// Adds a header. What is wrong is told without its value.
fn insert(headers: &mut HeaderMap, name: &str, value: &str) -> Result<(), &'static str> {
    let name: HeaderName =
        name.trim().parse().map_err(|_| "its name has characters that no header's name has")?;
    let mut value =
        HeaderValue::from_str(value.trim()).map_err(|_| "its value has characters that no header has")?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(())
}
