//! Answers that are kept for a while: a client over HTTP that has lost its connection comes back for them.

use std::collections::VecDeque;
use std::time::Duration;

use rmcp::model::ServerJsonRpcMessage;
use rmcp::transport::streamable_http_server::session::{ServerSseMessage, SessionId};
use tokio::time::Instant;

/// How long an answer is kept. Clients come back within seconds; whoever has changed networks needs some minutes.
const KEPT_FOR: Duration = Duration::from_secs(5 * 60);
/// Answers of all sessions together, each of which weighs something besides its text.
const MAX_ANSWERS: usize = 4096;
/// The same in bytes, as they are sent: some two hundred of the longest. In memory they are about twice as long.
const MAX_BYTES: usize = 16 << 20;

/// Answers of all sessions, oldest first. Those that have become too old lie here until somebody asks or answers.
#[derive(Default)]
pub(super) struct AnswerBuffer {
    answers: VecDeque<BufferedAnswer>,
    bytes: usize,
}

/// An answer, as the event that it is sent in.
pub(super) struct BufferedAnswer {
    session: SessionId,
    event: ServerSseMessage,
    bytes: usize,
    since: Instant,
}

impl BufferedAnswer {
    /// `id` is the event's.
    pub(super) fn new(session: &SessionId, id: String, answer: ServerJsonRpcMessage) -> Self {
        // One that is not JSON would not be sent either.
        let bytes = serde_json::to_vec(&answer).map_or(0, |text| text.len());
        let event = ServerSseMessage::new(id, answer);
        Self { session: session.clone(), event, bytes, since: Instant::now() }
    }
}

impl AnswerBuffer {
    /// Keeps an answer, and no more than there is room for.
    pub(super) fn push(&mut self, answer: BufferedAnswer) {
        self.bytes += answer.bytes;
        self.answers.push_back(answer);
        self.drop_surplus();
    }

    /// The event of a session's stream that has this id.
    pub(super) fn find(&mut self, session: &SessionId, id: &str) -> Option<ServerSseMessage> {
        self.drop_surplus();
        let mut answers = self.answers.iter();
        let kept =
            answers.find(|kept| kept.session == *session && kept.event.event_id.as_deref() == Some(id));
        kept.map(|kept| kept.event.clone())
    }

    /// Drops all answers of a session.
    pub(super) fn forget(&mut self, session: &SessionId) {
        self.answers.retain(|kept| kept.session != *session);
        self.bytes = self.answers.iter().map(|kept| kept.bytes).sum();
    }

    fn drop_surplus(&mut self) {
        while let Some(oldest) = self.answers.front() {
            let room = self.answers.len() <= MAX_ANSWERS && self.bytes <= MAX_BYTES;
            if room && oldest.since.elapsed() < KEPT_FOR {
                return;
            }
            self.bytes -= oldest.bytes;
            self.answers.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use rmcp::model::{CallToolResult, ContentBlock, RequestId, ServerResult};
    use tokio::time::advance;

    use super::*;

    fn answer(session: &str, id: usize) -> BufferedAnswer {
        let result = CallToolResult::success(vec![ContentBlock::text("x".repeat(100))]);
        let answer =
            ServerJsonRpcMessage::response(ServerResult::CallToolResult(result), RequestId::Number(1));
        let kept = BufferedAnswer::new(&session.into(), id.to_string(), answer);
        assert!((100..300).contains(&kept.bytes), "{}", kept.bytes);
        kept
    }

    /// Which of those up to an id are there.
    fn found(buffer: &mut AnswerBuffer, session: &str, up_to: usize) -> Vec<usize> {
        (0..up_to).filter(|id| buffer.find(&session.into(), &id.to_string()).is_some()).collect()
    }

    #[test]
    fn as_many_answers_are_kept_as_there_is_room_for_and_the_oldest_go_first() {
        let mut buffer = AnswerBuffer::default();
        for id in 0..MAX_ANSWERS + 2 {
            buffer.push(answer("one", id));
        }
        assert_eq!(buffer.answers.len(), MAX_ANSWERS);
        assert_eq!(found(&mut buffer, "one", 4), [2, 3]);
    }

    #[test]
    fn as_many_bytes_are_kept_as_there_is_room_for_and_the_oldest_go_first() {
        let mut buffer = AnswerBuffer::default();
        for id in 0..6 {
            buffer.push(BufferedAnswer { bytes: MAX_BYTES / 3, ..answer("one", id) });
        }
        assert_eq!(found(&mut buffer, "one", 6), [3, 4, 5]);
        buffer.push(BufferedAnswer { bytes: MAX_BYTES + 1, ..answer("one", 6) });
        assert_eq!((buffer.answers.len(), buffer.bytes), (0, 0), "it is longer than all room");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_kept_for_five_minutes() {
        let mut buffer = AnswerBuffer::default();
        buffer.push(answer("one", 0));
        advance(KEPT_FOR / 2).await;
        buffer.push(answer("one", 1));
        assert_eq!(found(&mut buffer, "one", 2), [0, 1]);
        advance(KEPT_FOR / 2).await;
        assert_eq!(found(&mut buffer, "one", 2), [1]);
        assert_eq!(buffer.answers.len(), 1);
    }

    #[test]
    fn an_answer_is_found_in_its_own_session_and_forgotten_with_it() {
        let mut buffer = AnswerBuffer::default();
        for session in ["one", "other"] {
            buffer.push(answer(session, 0));
        }
        buffer.push(answer("one", 1));
        assert_eq!(found(&mut buffer, "other", 2), [0]);
        let bytes = buffer.bytes;
        buffer.forget(&"one".into());
        assert_eq!((found(&mut buffer, "one", 2), found(&mut buffer, "other", 2)), (vec![], vec![0]));
        assert!(buffer.bytes > 0 && buffer.bytes < bytes);
    }
}
