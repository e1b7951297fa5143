//! Asks the user, where the client can: a verdict to do so is of no use to a model that cannot.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ClientResult, ContentBlock, ElicitRequest,
    ElicitRequestParams, ElicitResult, ElicitationAction, ElicitationSchema, InputRequest,
    InputRequiredResult, ServerRequest,
};
use rmcp::service::{Peer, PeerRequestOptions, RequestContext, RoleServer, ServiceError};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::progress::{Progress, WaitsFor};
use super::{Server, is_stateless, results};
use crate::policy::LONGEST_COMMAND_SECONDS;

/// The name of the question, and of the field that the answer is in.
const QUESTION: &str = "answer";
/// How long the user may think: as long as the longest command runs. A question that is held for ever would be one too
/// many in each of its client's windows.
const PATIENCE: Duration = Duration::from_secs(LONGEST_COMMAND_SECONDS as u64);
/// Characters of a command that the user is shown: enough to know it again.
const COMMAND_SHOWN: usize = 200;
/// How long a client may take to hear that a question is withdrawn: one that reads at all reads at once.
const WITHDRAWAL: Duration = Duration::from_secs(1);

/// The questions that users have not answered in time, and the answers that have come since, by chat. What is answered
/// is told with the next call in the chat.
#[derive(Clone, Default)]
pub(super) struct Questions(Arc<Mutex<HashMap<String, Late>>>);

enum Late {
    Unanswered,
    /// What there is to tell of the user.
    Answered(String),
}

impl Questions {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Late>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_open(&self, chat: &str) -> bool {
        matches!(self.all().get(chat), Some(Late::Unanswered))
    }

    /// Waits for an answer that its call did not wait for, and keeps it.
    fn await_late(&self, chat: &str, about: String, asked: impl Future<Output = Answered> + Send + 'static) {
        self.all().insert(chat.to_owned(), Late::Unanswered);
        let (questions, chat) = (self.clone(), chat.to_owned());
        tokio::spawn(async move {
            let answered = asked.await;
            let mut all = questions.all();
            match answered {
                Ok(Some(answer)) => {
                    let said = said(&answer);
                    all.insert(chat, Late::Answered(format!("{about}\n{said}")));
                }
                // The client has gone, or cannot ask after all.
                Ok(None) | Err(_) => {
                    all.remove(&chat);
                }
            }
        });
    }

    /// Adds to a result what the user has said since.
    pub(super) fn tell(&self, chat: &str, result: &mut CallToolResult) {
        let mut all = self.all();
        if let Some(Late::Answered(_)) = all.get(chat)
            && let Some(Late::Answered(said)) = all.remove(chat)
        {
            if let Some(Value::Object(data)) = &mut result.structured_content {
                data.insert("user_answered".to_owned(), json!(said));
            }
            result.content.push(ContentBlock::text(said));
        }
    }
}

/// Asks the user what the verdict wants to know, if the client can, and adds the answer to what the model is told. A
/// user who takes longer than a client may wait for a tool is told of as that; what comes later is told with the next
/// call.
pub(super) async fn ask(
    about: About<'_>,
    told: CallToolResult,
    server: &Server,
    progress: &mut Progress,
    context: &RequestContext<RoleServer>,
) -> CallToolResponse {
    let Some(question) = question_for(about.question(), context) else { return told.into() };
    if is_stateless(context) {
        // These clients are not asked in mid-request: the request ends with the question, and comes again with the
        // answer.
        let request = InputRequest::Elicitation(ElicitRequest::new(question));
        let state = told.structured_content.unwrap_or_default().to_string();
        return InputRequiredResult::new(Some(BTreeMap::from([(QUESTION.to_owned(), request)])), Some(state))
            .into();
    }
    let (questions, data) = (&server.shared.questions, told.structured_content.clone().unwrap_or_default());
    if questions.is_open(about.chat) {
        return with_words(data, "The user was asked before, and has not answered yet. Wait for the user.")
            .into();
    }
    // Withdrawn when nobody wants to know any more.
    let wanted = CancellationToken::new();
    let mut asked =
        Box::pin(put(question, context.peer.clone(), wanted.clone(), server.shared.closing.clone()));
    let answered = tokio::select! {
        answered = &mut asked => Some(answered),
        never = progress.tell(WaitsFor::User) => match never {},
        () = sleep(server.shared.host.driver().host_calls().timings().user_patience) => None,
        () = server.gone(context) => {
            wanted.cancel();
            Some(asked.as_mut().await)
        }
    };
    match answered {
        Some(Ok(Some(answer))) => with_answer(data, &answer).into(),
        Some(Ok(None)) => told.into(),
        Some(Err(error)) => {
            tracing::warn!(%error, "the user could not be asked");
            with_words(data, "The user could not be asked.").into()
        }
        None => {
            questions.await_late(about.chat, about.reminder(), asked);
            let words = "The user was asked, and has not answered yet. Wait for the user: the answer will be told with the \
                         next call.";
            with_words(data, words).into()
        }
    }
}

/// The user's answer; `None` if nobody wants to know it any more.
type Answered = Result<Option<ElicitResult>, ServiceError>;

/// Puts a question to the user, and waits for the answer. One that is not answered in time, or that nobody wants to
/// know any more, is withdrawn: else the client would go on showing it.
async fn put(
    question: ElicitRequestParams,
    peer: Peer<RoleServer>,
    unwanted: CancellationToken,
    closing: CancellationToken,
) -> Answered {
    let request = ServerRequest::ElicitRequest(ElicitRequest::new(question));
    let mut asked = peer.send_cancellable_request(request, PeerRequestOptions::no_options()).await?;
    let (answer, reason) = tokio::select! {
        answer = &mut asked.rx => {
            return match answer.map_err(|_| ServiceError::TransportClosed)?? {
                ClientResult::ElicitResult(answer) => Ok(Some(answer)),
                _ => Err(ServiceError::UnexpectedResponse),
            };
        }
        () = sleep(PATIENCE) => (Some(ElicitResult::new(ElicitationAction::Cancel)), "it took too long"),
        () = unwanted.cancelled() => (None, "nobody waits for the answer any more"),
        () = closing.cancelled() => (None, "the server ends"),
    };
    match timeout(WITHDRAWAL, asked.cancel(Some(reason.to_owned()))).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a question was not withdrawn"),
        Err(_) => tracing::debug!("a question was not withdrawn: the client does not read"),
    }
    Ok(answer)
}

/// The answer to a question that an earlier request ended with. The state comes from the client and goes nowhere but
/// back to it, so that nothing rests on its being genuine.
pub(super) fn answered(request: &CallToolRequestParams) -> Option<CallToolResult> {
    let answer = request.input_responses.as_ref()?.get(QUESTION)?;
    let state = request.request_state.as_deref().and_then(|state| serde_json::from_str::<Value>(state).ok());
    let told = state.filter(Value::is_object).unwrap_or_else(|| json!({}));
    Some(match serde_json::from_value::<ElicitResult>(answer.clone()) {
        Ok(answer) => with_answer(told, &answer),
        Err(error) => results::error_result(format!("the user's answer cannot be read: {error}")),
    })
}

/// What the user is asked about: a command that could not be run.
pub(super) struct About<'a> {
    pub(super) chat: &'a str,
    pub(super) command: &'a str,
    /// What its model was told. That is for the model, and therefore quoted.
    pub(super) told: &'a str,
}

impl About<'_> {
    fn question(&self) -> String {
        format!(
            "This command could not be run in your workspace: {}\n\nThe model that wanted to run it was told: {}",
            self.short(),
            self.told
        )
    }

    /// What the model is reminded of when the answer comes late.
    fn reminder(&self) -> String {
        format!(
            "An answer of the user to the question what to do, since this command could not be run: {}",
            self.short()
        )
    }

    fn short(&self) -> String {
        let mut short = self.command.chars().take(COMMAND_SHOWN).collect::<String>();
        if short.len() < self.command.len() {
            short += " ...";
        }
        short
    }
}

/// The question as a form, for a client that can show one.
fn question_for(message: String, context: &RequestContext<RoleServer>) -> Option<ElicitRequestParams> {
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
    Some(ElicitRequestParams::FormElicitationParams { meta: None, message, requested_schema: schema })
}

/// What the model is told, with what the user said to it.
fn with_answer(mut told: Value, answer: &ElicitResult) -> CallToolResult {
    let said = said(answer);
    told["user"] = json!({ "action": answer.action, "answer": answer.content.as_ref().map(|content| &content[QUESTION]) });
    with_words(told, &said)
}

/// What the user said, for the model.
fn said(answer: &ElicitResult) -> String {
    let said = answer.content.as_ref().and_then(|content| content[QUESTION].as_str());
    match (&answer.action, said) {
        // A form that was sent off empty says nothing that the model could do.
        (ElicitationAction::Accept, Some(said)) if !said.trim().is_empty() => {
            format!("The user has been asked already, and answers: {said}\nDo as the user says.")
        }
        (ElicitationAction::Decline, _) => {
            "The user has been asked already, and does not want to answer: leave the workspace as it is."
                .to_owned()
        }
        _ => "The user has been asked already, and gave no answer: leave the workspace as it is.".to_owned(),
    }
}

fn with_words(told: Value, said: &str) -> CallToolResult {
    let text = match told["error"].as_str() {
        Some(error) => format!("{error}\n{said}"),
        None => said.to_owned(),
    };
    results::structured_error(told, text)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use rmcp::model::{
        CancelledNotificationParam, ClientCapabilities, ClientConfig, ErrorData, Implementation,
    };
    use rmcp::service::{NotificationContext, RoleClient};
    use rmcp::{ClientHandler, ServerHandler, ServiceExt};
    use tokio::io::AsyncWriteExt;
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
    use tokio::time::Instant;

    use super::*;

    struct Asks;

    impl ServerHandler for Asks {}

    /// A client whose user does not answer. It tells when a question has come, and when it is withdrawn.
    struct NeverAnswers(UnboundedSender<&'static str>);

    impl ClientHandler for NeverAnswers {
        fn get_info(&self) -> ClientConfig {
            let capabilities = ClientCapabilities::builder().enable_elicitation().build();
            ClientConfig::new(capabilities, Implementation::new("test", "1"))
        }

        async fn create_elicitation(
            &self,
            _request: ElicitRequestParams,
            _context: RequestContext<RoleClient>,
        ) -> Result<ElicitResult, ErrorData> {
            self.0.send("asked").unwrap();
            pending().await
        }

        async fn on_cancelled(
            &self,
            _params: CancelledNotificationParam,
            _context: NotificationContext<RoleClient>,
        ) {
            self.0.send("withdrawn").unwrap();
        }
    }

    #[test]
    fn an_answer_that_cannot_be_read_and_one_without_what_it_was_about_are_told() {
        let request = |answer: Value| {
            let responses = BTreeMap::from([(QUESTION.to_owned(), answer)]);
            CallToolRequestParams::new("execute").with_input_responses(responses)
        };
        let told = |request| answered(&request).unwrap().structured_content.unwrap();
        let state = json!({ "error": "it is gone" }).to_string();
        let unreadable = told(request(json!({ "action": "perhaps" })).with_request_state(state.clone()));
        assert!(unreadable["error"].as_str().unwrap().starts_with("the user's answer cannot be read: "));
        let answer = json!({ "action": "accept", "content": { "answer": "wait" } });
        let user = json!({ "action": "accept", "answer": "wait" });
        for odd in [None, Some("{"), Some("7")] {
            let request = (odd.into_iter())
                .fold(request(answer.clone()), |request, odd| request.with_request_state(odd));
            assert_eq!(told(request), json!({ "user": user }), "{odd:?}");
        }
        let whole = told(request(answer).with_request_state(state));
        assert_eq!(whole, json!({ "error": "it is gone", "user": user }));
        assert!(answered(&CallToolRequestParams::new("execute")).is_none());
    }

    fn never() -> CancellationToken {
        CancellationToken::new()
    }

    fn asking(message: String) -> ElicitRequestParams {
        let requested_schema = ElicitationSchema::builder().required_string(QUESTION).build().unwrap();
        ElicitRequestParams::FormElicitationParams { meta: None, message, requested_schema }
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_nobody_answers_is_withdrawn_after_an_hour() {
        let (here, there) = tokio::io::duplex(4096);
        let (told, mut hears) = unbounded_channel();
        let (server, client) = tokio::join!(Asks.serve(here), NeverAnswers(told).serve(there));
        let (server, client) = (server.unwrap(), client.unwrap());
        let begun = Instant::now();
        let put = put(asking("what now?".to_owned()), server.peer().clone(), never(), never());
        let answer = put.await.unwrap().unwrap();
        assert_eq!((answer.action, answer.content), (ElicitationAction::Cancel, None));
        assert!(begun.elapsed() >= PATIENCE && begun.elapsed() < PATIENCE + WITHDRAWAL);
        assert_eq!(hears.recv().await, Some("asked"));
        assert_eq!(timeout(WITHDRAWAL, hears.recv()).await, Ok(Some("withdrawn")));
        client.cancel().await.unwrap();
        server.cancel().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_does_not_keep_a_question_that_nobody_wants() {
        let (here, mut there) = tokio::io::duplex(4096);
        let begin = json!({
            "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
                "protocolVersion": "2025-11-25", "capabilities": { "elicitation": {} },
                "clientInfo": { "name": "test", "version": "1" },
            },
        });
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        there.write_all(format!("{begin}\n{initialized}\n").as_bytes()).await.unwrap();
        let server = Asks.serve(here).await.unwrap();
        // Longer than what can be written to somebody who does not read.
        let question = asking("what now? ".repeat(1000));
        let unwanted = never();
        unwanted.cancel();
        let put = timeout(2 * WITHDRAWAL, put(question, server.peer().clone(), unwanted, never()));
        assert!(put.await.expect("it is given up").unwrap().is_none());
        drop(there);
        server.cancel().await.unwrap();
    }
}
