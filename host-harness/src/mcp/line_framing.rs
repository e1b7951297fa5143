//! Messages that come on lines, and what is wrong with those that cannot be read, also over HTTP. `rmcp` would pass
//! most of the lines over in silence, and its client would wait for an answer for ever.

use rmcp::model::{ErrorData, RequestId};
use rmcp::service::{RoleServer, RxJsonRpcMessage, TxJsonRpcMessage};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

use super::request_outline::Outline;

/// The longest line. Far more than any tool takes, so that what is too long is refused by the tool that it is for.
const MAX_LINE_BYTES: usize = 16 * 1024 * 1024;

/// Reads lines.
pub(super) struct Lines<R> {
    read: BufReader<R>,
    /// What has come of the next line.
    line: Vec<u8>,
    /// Of one that is too long nothing more is kept than this.
    too_long: Option<Outline>,
}

/// What is wrong with what should be a message.
#[derive(Debug)]
pub(super) struct Unreadable {
    id: Option<RequestId>,
    why: ErrorData,
    answered: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(read: R) -> Self {
        Self { read: BufReader::new(read), line: Vec::new(), too_long: None }
    }

    /// The next message; `None` at the end. Whoever gives up in mid-wait loses nothing.
    pub(super) async fn next(&mut self) -> Option<Result<RxJsonRpcMessage<RoleServer>, Unreadable>> {
        loop {
            self.next_line().await?;
            let line = std::mem::take(&mut self.line);
            if let Some(outline) = self.too_long.take() {
                let why = format!("a message has at most {MAX_LINE_BYTES} bytes");
                return Some(Err(Unreadable::new(outline, ErrorData::invalid_request(why, None))));
            }
            if !line.trim_ascii().is_empty() {
                return Some(message(&line));
            }
        }
    }

    /// Reads the next line. `None`: there is no other.
    async fn next_line(&mut self) -> Option<()> {
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
            if self.too_long.is_none() && self.line.len() + text.len() > MAX_LINE_BYTES {
                self.too_long = Some(Outline::of(&std::mem::take(&mut self.line)));
            }
            match &mut self.too_long {
                Some(outline) => outline.read(text),
                None => self.line.extend_from_slice(text),
            }
            let length = text.len() + usize::from(end.is_some());
            self.read.consume(length);
            if end.is_some() {
                return Some(());
            }
        }
    }
}

impl Unreadable {
    fn new(outline: Outline, why: ErrorData) -> Self {
        Self { answered: outline.wants_answer(), id: outline.id, why }
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

/// Reads a message. Some programs write a mark before it that says in which encoding it is.
pub(super) fn message(line: &[u8]) -> Result<RxJsonRpcMessage<RoleServer>, Unreadable> {
    let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
    serde_json::from_slice(line).map_err(|_| {
        let why = match serde_json::from_slice::<Value>(line) {
            Ok(value) => ErrorData::invalid_request(wrong(&value), None),
            Err(error) => ErrorData::parse_error(format!("this is no JSON: {error}"), None),
        };
        Unreadable::new(Outline::of(line), why)
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
