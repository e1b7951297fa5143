//! Messages that come on lines, and what is wrong with those that cannot be read, also over HTTP. `rmcp` would pass
//! most of the lines over in silence, and its client would wait for an answer for ever.

use rmcp::model::{ErrorData, RequestId};
use rmcp::service::{RoleServer, RxJsonRpcMessage, TxJsonRpcMessage};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// The longest line. Far more than any tool takes, so that what is too long is refused by the tool that it is for.
const MAX_LINE_BYTES: usize = 16 * 1024 * 1024;

/// Reads lines.
pub(super) struct Lines<R> {
    read: BufReader<R>,
    /// What has come of the next line.
    line: Vec<u8>,
    /// Nothing more of it is kept.
    too_long: bool,
}

/// What is wrong with what should be a message.
#[derive(Debug)]
pub(super) struct Unreadable {
    id: Option<RequestId>,
    why: ErrorData,
    /// Nobody waits for an answer to a notification or a response, and answering one could go on for ever.
    answered: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(read: R) -> Self {
        Self { read: BufReader::new(read), line: Vec::new(), too_long: false }
    }

    /// The next message; `None` at the end. Whoever gives up in mid-wait loses nothing.
    pub(super) async fn next(&mut self) -> Option<Result<RxJsonRpcMessage<RoleServer>, Unreadable>> {
        loop {
            let whole = self.next_line().await?;
            let line = std::mem::take(&mut self.line);
            if !whole {
                let why = format!("a message has at most {MAX_LINE_BYTES} bytes");
                return Some(Err(Unreadable::new(ErrorData::invalid_request(why, None))));
            }
            if !line.trim_ascii().is_empty() {
                return Some(message(&line));
            }
        }
    }

    /// Reads the next line, and answers whether it is whole. `None`: there is no other.
    async fn next_line(&mut self) -> Option<bool> {
        loop {
            let come = self.read.fill_buf().await.unwrap_or_else(|error| {
                tracing::warn!(%error, "the client cannot be heard any more");
                &[]
            });
            if come.is_empty() {
                return None;
            }
            let end = come.iter().position(|byte| *byte == b'\n');
            let text = &come[..end.unwrap_or(come.len())];
            self.too_long |= self.line.len() + text.len() > MAX_LINE_BYTES;
            if self.too_long {
                self.line = Vec::new();
            } else {
                self.line.extend_from_slice(text);
            }
            let length = text.len() + usize::from(end.is_some());
            self.read.consume(length);
            if end.is_some() {
                return Some(!std::mem::take(&mut self.too_long));
            }
        }
    }
}

impl Unreadable {
    fn new(why: ErrorData) -> Self {
        Self { id: None, why, answered: true }
    }

    /// Why, without anything that stood in the line: that may be secret.
    pub(super) fn why(&self) -> &str {
        &self.why.message
    }

    /// What to answer, if anything.
    pub(super) fn answer(self) -> Option<TxJsonRpcMessage<RoleServer>> {
        self.answered.then(|| self.error())
    }

    /// What is wrong, for a transport that answers everything.
    pub(super) fn error(self) -> TxJsonRpcMessage<RoleServer> {
        TxJsonRpcMessage::<RoleServer>::error(self.why, self.id)
    }
}

/// Reads a message.
pub(super) fn message(line: &[u8]) -> Result<RxJsonRpcMessage<RoleServer>, Unreadable> {
    if let Ok(message) = serde_json::from_slice(line) {
        return Ok(message);
    }
    let value = serde_json::from_slice::<Value>(line).map_err(|error| {
        Unreadable::new(ErrorData::parse_error(format!("this is no JSON: {error}"), None))
    })?;
    let is_response = value.get("result").is_some() || value.get("error").is_some();
    let is_notification = value["method"].is_string() && value.get("id").is_none();
    Err(Unreadable {
        id: value.get("id").and_then(|id| serde_json::from_value(id.clone()).ok()),
        why: ErrorData::invalid_request(wrong(&value), None),
        answered: !is_response && !is_notification,
    })
}

/// What is wrong with JSON that is no message.
fn wrong(value: &Value) -> &'static str {
    let params = &value["params"];
    match value {
        Value::Array(_) => "batches are not taken: send each message by itself",
        Value::Object(_) if value["jsonrpc"] != "2.0" => "`jsonrpc` has to be \"2.0\"",
        Value::Object(_) if !value["method"].is_string() => "`method` has to be a string",
        Value::Object(_) if !params.is_null() && !params.is_object() => "`params` has to be an object",
        Value::Object(_) if !matches!(params["_meta"], Value::Null | Value::Object(_)) => {
            "`params._meta` has to be an object"
        }
        Value::Object(_) => "`id` has to be a string or a whole number, and `params` what the method takes",
        _ => "a message is an object",
    }
}
