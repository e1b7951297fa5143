//! Asks the user, where the client can: a verdict to do so is of no use to a model that cannot.

use std::collections::BTreeMap;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ElicitRequest, ElicitRequestParams,
    ElicitResult, ElicitationAction, ElicitationSchema, InputRequest, InputRequiredResult,
};
use rmcp::service::{RequestContext, RoleServer};
use serde_json::{Value, json};

use super::progress::{Progress, WaitsFor};
use super::{Server, answers, is_stateless};

/// The name of the question, and of the field that the answer is in.
const QUESTION: &str = "answer";

/// Asks the user what the verdict wants to know, if the client can, and adds the answer to what the model is told.
pub(super) async fn ask(
    message: &str,
    told: CallToolResult,
    server: &Server,
    progress: &mut Progress,
    context: &RequestContext<RoleServer>,
) -> CallToolResponse {
    let Some(question) = question(message, context) else { return told.into() };
    if is_stateless(context) {
        // These clients are not asked in mid-request: the request ends with the question, and comes again with the answer.
        let request = InputRequest::Elicitation(ElicitRequest::new(question));
        let state = told.structured_content.unwrap_or_default().to_string();
        return InputRequiredResult::new(Some(BTreeMap::from([(QUESTION.to_owned(), request)])), Some(state))
            .into();
    }
    let answer = tokio::select! {
        answer = context.peer.create_elicitation(question) => answer,
        never = progress.tell(WaitsFor::User) => match never {},
        () = server.gone(context) => return told.into(),
    };
    match answer {
        Ok(answer) => with_answer(told.structured_content.unwrap_or_default(), &answer).into(),
        Err(error) => {
            tracing::warn!(%error, "the user could not be asked");
            with_words(told.structured_content.unwrap_or_default(), "The user could not be asked.").into()
        }
    }
}

/// The answer to a question that an earlier request ended with. The state comes from the client and goes nowhere but back
/// to it, so that nothing rests on its being genuine.
pub(super) fn answered(request: &CallToolRequestParams) -> Option<CallToolResult> {
    let answer = request.input_responses.as_ref()?.get(QUESTION)?;
    let state = request.request_state.as_deref().and_then(|state| serde_json::from_str::<Value>(state).ok());
    let told = state.filter(Value::is_object).unwrap_or_else(|| json!({}));
    Some(match serde_json::from_value::<ElicitResult>(answer.clone()) {
        Ok(answer) => with_answer(told, &answer),
        Err(error) => answers::failed(format!("the user's answer cannot be read: {error}")),
    })
}

/// What to ask, of a client that can show a form.
fn question(message: &str, context: &RequestContext<RoleServer>) -> Option<ElicitRequestParams> {
    let elicitation = context.client_capabilities()?.elicitation?;
    // A client that names neither kind has forms: the first revisions knew nothing else.
    if elicitation.form.is_none() && elicitation.url.is_some() {
        return None;
    }
    let schema = ElicitationSchema::builder()
        .required_string_with(QUESTION, |answer| answer.title("Answer").description("What should be done?"))
        .build()
        .inspect_err(|error| tracing::error!(%error, "the question has no schema"))
        .ok()?;
    Some(ElicitRequestParams::FormElicitationParams {
        meta: None,
        // The verdict's words are for the model: they are quoted.
        message: format!(
            "A command could not be run in your workspace. The agent that wanted to run it was told: {message}"
        ),
        requested_schema: schema,
    })
}

/// What the model is told, with what the user said to it.
fn with_answer(mut told: Value, answer: &ElicitResult) -> CallToolResult {
    let said = answer.content.as_ref().and_then(|content| content[QUESTION].as_str());
    let said = match (&answer.action, said) {
        (ElicitationAction::Accept, Some(said)) => format!("The user was asked, and answers: {said}"),
        (ElicitationAction::Decline, _) => "The user was asked, and does not want to answer.".to_owned(),
        _ => "The user was asked, and gave no answer.".to_owned(),
    };
    told["user"] = json!({ "action": answer.action, "answer": answer.content.as_ref().map(|content| &content[QUESTION]) });
    with_words(told, &said)
}

fn with_words(told: Value, said: &str) -> CallToolResult {
    let text = match told["error"].as_str() {
        Some(error) => format!("{error}\n{said}"),
        None => said.to_owned(),
    };
    answers::told_error(told, text)
}
