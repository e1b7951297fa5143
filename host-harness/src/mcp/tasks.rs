//! Tasks: the calls of clients that ask for the result when they like. A task is a kept call by its number, so that it
//! outlives the server.

use jiff::Timestamp;
use rmcp::model::{
    CallToolResponse, CreateTaskResult, DetailedTask, ErrorData, GetTaskResult, JsonObject, Task,
    TaskPayload, TaskStatus,
};
use rmcp::service::{RequestContext, RoleServer};
use serde::Serialize;
use serde_json::Value;

use super::{Server, http, results};
use crate::clock::millis;
use crate::journal::Output;
use crate::journal::record::{CallId, Failure, Outcome};
use crate::store::{CallRow, CallState, KEEP_ENDED};

/// What the name of a task begins with. The call's number comes after it, and then its time: nobody comes upon the
/// tasks of others by counting.
const PREFIX: &str = "call-";
/// How often a client should ask: about as often as something new happens.
const POLL_MS: u64 = 1000;

impl Server {
    /// The answer to a request whose call has become a task.
    pub(super) fn task_of(&self, id: CallId) -> CallToolResponse {
        match self.shared.host.driver().host_calls().store().call(id) {
            Ok(Some(row)) => CreateTaskResult::new(self.task(&row)).into(),
            Ok(None) => results::error_result(format!("call {id} is gone")).into(),
            Err(error) => results::error_result(error).into(),
        }
    }

    /// How a task is now.
    pub(super) async fn task_now(
        &self,
        name: &str,
        context: &RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        let row = self.task_call(name, context).await?;
        let payload =
            match self.shared.host.driver().host_calls().store().outcome(row.id).map_err(internal)? {
                None => TaskPayload::Working,
                Some((outcome, _)) => payload(&row.tool, outcome),
            };
        Ok(GetTaskResult::new(DetailedTask::new(self.task(&row), payload)))
    }

    /// Interrupts a task deliberately: nothing is started or stopped any more. It ends by itself soon.
    pub(super) async fn interrupt_task(
        &self,
        name: &str,
        context: &RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let row = self.task_call(name, context).await?;
        self.shared.host.driver().interrupt(row.id).await.map(drop).map_err(internal)
    }

    /// The call that a task stands for, if it is one of the client's chat.
    pub(super) async fn task_call(
        &self,
        name: &str,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallRow, ErrorData> {
        let unknown = || ErrorData::invalid_params(format!("there is no task \"{name}\""), None);
        let id = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<CallId>().ok());
        let row = self.shared.host.driver().host_calls().store().call(id.ok_or_else(unknown)?);
        let row = row.map_err(internal)?.filter(|row| task_name(row) == name).ok_or_else(unknown)?;
        let chat = tokio::select! {
            chat = self.chat(context) => chat.map_err(internal)?,
            () = self.gone(context) => return Err(internal("the request was cancelled")),
        };
        let is_its = match chat {
            Some(chat) => chat.name() == row.chat,
            // One that has not chosen its workspace again yet has come back for what it began.
            None => !http::keeps_nothing(context),
        } && self.tools().await.map_err(internal)?.plugin.names.contains(&row.tool);
        if is_its { Ok(row) } else { Err(unknown()) }
    }

    fn task(&self, row: &CallRow) -> Task {
        let time = |ms: u64| {
            let time = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
            time.unwrap_or(Timestamp::UNIX_EPOCH).to_string()
        };
        let task = Task::new(task_name(row), TaskStatus::Working, time(row.created_ms), time(row.touched_ms))
            .with_ttl_ms(millis(KEEP_ENDED).into())
            .with_poll_interval_ms(POLL_MS);
        let heard = || self.shared.last_progress.last(row.id).filter(|_| row.state != CallState::Ended);
        let elsewhere = || {
            let other = row.state != CallState::Ended && !self.shared.host.driver().carries(row.id);
            other.then(|| {
                "another host carries it; if that is gone, this one will, in less than a minute".to_owned()
            })
        };
        let waits_for = self.shared.host.driver().host_calls().store().waits_for(row);
        // How the task is does not depend on these words.
        match waits_for.ok().flatten().or_else(heard).or_else(elsewhere) {
            Some(message) => task.with_status_message(message),
            None => task,
        }
    }
}

fn task_name(row: &CallRow) -> String {
    format!("{PREFIX}{}-{:x}", row.id, row.created_ms)
}

/// What became of a call. One that was interrupted and knows what it had done until then says so in its result.
fn payload(tool: &str, outcome: Outcome) -> TaskPayload {
    let called = match outcome {
        Outcome::Failed(Failure::Interrupted) => return TaskPayload::Cancelled,
        Outcome::Failed(failure) => Err(failure.into()),
        Outcome::Done { result: Output::CallTool(result) } => Ok(result),
        Outcome::Done { .. } => {
            return TaskPayload::Failed { error: object(&internal("this call is no tool's")) };
        }
    };
    TaskPayload::Completed { result: object(&results::of_plugin_call(tool, called)) }
}

pub(super) fn object(value: &impl Serialize) -> JsonObject {
    match serde_json::to_value(value) {
        Ok(Value::Object(object)) => object,
        // Results and errors of the protocol are objects.
        _ => JsonObject::new(),
    }
}

fn internal(error: impl ToString) -> ErrorData {
    ErrorData::internal_error(error.to_string(), None)
}
