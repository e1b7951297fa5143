//! A token that is not accepted: whose fault that is, and how a client gets another one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::json;
use workspace_recovery::bindings::ReadError;
use workspace_recovery::control_plane::rest::{RestClient, RestError, RestOptions, TokenFile};
use workspace_recovery::control_plane::{ApiError, ControlPlane, NewTerminal};

use crate::client::stop;
use crate::replay::{Asked, Reply, Server, What};
use crate::stage::Frozen;
use crate::transcript::{recorded, recorded_watch};

/// What a server of 2025 says to any token while its database is away, and to one that has expired.
const DATABASE_AWAY_2025: (&str, usize) = ("13-database-outage", 11);
const EXPIRED: (&str, usize) = ("08-deleted-missing-forbidden", 34);
/// What one of 2026 says while its database is away.
const DATABASE_AWAY_2026: (&str, usize) = ("26-database-outage-2026", 5);
const NO_FIRST_USER_READ: (&str, usize) = ("26-database-outage-2026", 3);

fn said((file, index): (&str, usize)) -> Reply {
    recorded(file, index)
}

/// A server that takes one token at a time, and a client that has its own from a file.
struct Renewable {
    server: Server,
    client: RestClient,
    file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Renewable {
    /// Takes the token "new", answers so to it, and refuses others as a real server does.
    async fn new(answers: impl Fn(&Asked) -> Reply + Send + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "old\n").unwrap();
        let server = Server::start(move |asked| match asked.token.as_deref() {
            Some("new") => answers(asked),
            // A terminal's address says so to strangers.
            _ if asked.path.contains("/pty") => recorded("12b-pty-dead-and-hung", 2),
            _ => said(EXPIRED),
        })
        .await;
        let client = of(&server, &file);
        Self { server, client, file, _folder: folder }
    }

    fn renew(&self) {
        std::fs::write(&self.file, "new\n").unwrap();
    }
}

fn of(server: &Server, file: &Path) -> RestClient {
    let options = RestOptions::with_token_of(&server.url, Arc::new(TokenFile(file.to_owned())));
    RestClient::with_options(&options).unwrap()
}

fn workspace(_: &Asked) -> Reply {
    recorded("05-stop-start-conflicts", 6)
}

#[tokio::test]
async fn a_read_is_made_once_more_with_the_token_that_is_in_the_file_by_now() {
    let it = Renewable::new(workspace).await;
    it.renew();
    it.client.workspace("w").await.unwrap();
    it.client.workspace("w").await.unwrap();
    let shown: Vec<_> = it.server.requests().into_iter().map(|asked| asked.token.unwrap()).collect();
    assert_eq!(shown, ["old", "new", "new"]);
}

#[tokio::test]
async fn a_build_is_asked_for_once_more_with_a_new_token_since_a_refused_one_made_none() {
    let it = Renewable::new(|_| recorded("05-stop-start-conflicts", 7)).await;
    let refused = it.client.create_build("w", &stop()).await;
    assert!(matches!(refused, Err(ApiError::Unauthorized(_))), "{refused:?}");
    assert_eq!(it.server.requests().len(), 1, "with the same token nothing is asked for twice");
    it.renew();
    it.client.create_build("w", &stop()).await.unwrap();
    assert_eq!(it.server.requests().len(), 3);
}

#[tokio::test]
async fn terminals_and_streams_of_changes_take_the_new_token_too() {
    let it = Renewable::new(|asked| match asked.path.contains("/pty") {
        true => Reply::socket([What::Binary("hi".into())]),
        false => Reply::socket(recorded_watch()),
    })
    .await;
    it.renew();
    let wanted = NewTerminal { session: "s".into(), command: "c".into(), height: 1, width: 1 };
    let mut terminal = it.client.open_terminal("a", &wanted).await.unwrap();
    assert_eq!(terminal.next().await.unwrap().as_deref(), Some(b"hi".as_slice()));
    // One that still has the old one.
    std::fs::write(&it.file, "old").unwrap();
    let stale = of(&it.server, &it.file);
    it.renew();
    assert!(stale.changes("w").unwrap().next().await.is_some());
}

#[tokio::test]
async fn what_runs_survives_a_token_that_is_renewed_within_five_minutes_and_is_told_of_the_token_meanwhile() {
    let clock = Frozen::new();
    let good = Arc::new(AtomicBool::new(true));
    let expires = good.clone();
    let server = Server::start(move |_| match expires.load(Ordering::SeqCst) {
        true => recorded("05-stop-start-conflicts", 6),
        false => said(EXPIRED),
    })
    .await;
    let client = server.client();
    client.workspace("w").await.unwrap();
    good.store(false, Ordering::SeqCst);
    for _ in 0..5 {
        let error = client.workspace("w").await.unwrap_err();
        assert!(matches!(error, ApiError::TokenExpired(_)), "{error:?}");
        assert!(error.is_away() && ReadError::from(error.clone()) == ReadError::Unauthorized);
        let text = error.to_string();
        assert!(text.contains("does not accept the token any more: log in again"), "{text}");
        assert!(
            text.contains("API key is invalid") || text.contains("signed out"),
            "in the server's words: {text}"
        );
        clock.pass(Duration::from_secs(60)).await;
    }
    let error = client.workspace("w").await.unwrap_err();
    assert!(matches!(error, ApiError::Unauthorized(_)), "{error:?}");
    good.store(true, Ordering::SeqCst);
    client.workspace("w").await.unwrap();
    good.store(false, Ordering::SeqCst);
    let error = client.workspace("w").await.unwrap_err();
    assert!(matches!(error, ApiError::TokenExpired(_)), "it has worked again: {error:?}");
}

#[tokio::test]
async fn a_token_is_not_blamed_while_the_database_is_away_whether_or_not_it_ever_worked() {
    for refusal in [DATABASE_AWAY_2025, DATABASE_AWAY_2026] {
        let server = Server::start(move |_| said(refusal)).await;
        server.says_of_its_database(|_| said(NO_FIRST_USER_READ));
        let client = server.client();
        let errors = [
            client.workspace("w").await.unwrap_err(),
            client.user().await.unwrap_err(),
            client.workspace_by_name("dev").await.unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, ApiError::Unavailable(_)), "{error:?}");
            assert!(!error.to_string().contains("log in"), "{error}");
        }
        server.answer(workspace);
        client.workspace("w").await.unwrap();
    }
}

#[tokio::test]
async fn a_token_that_was_refused_just_before_the_database_came_back_is_tried_once_more() {
    let mut first = true;
    let server = Server::start(move |asked| match std::mem::take(&mut first) {
        true => said(DATABASE_AWAY_2025),
        false => workspace(asked),
    })
    .await;
    server.client().workspace("w").await.unwrap();
}

#[tokio::test]
async fn that_a_deployment_tells_its_version_does_not_prove_the_token() {
    let server = Server::start(|asked| match asked.path.ends_with("/buildinfo") {
        true => recorded("01-setup-create-workspace", 1),
        false => said(EXPIRED),
    })
    .await;
    let client = server.client();
    client.deployment_info().await.unwrap();
    assert!(matches!(client.workspace("w").await, Err(ApiError::Unauthorized(_))));
}

#[tokio::test]
async fn a_new_token_of_another_user_is_not_used_since_what_goes_on_was_begun_as_the_first_one() {
    let user = |name: &str| {
        let mut reply = recorded("01-setup-create-workspace", 7);
        (reply.body["id"], reply.body["username"]) = (json!(format!("id of {name}")), json!(name));
        reply
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "ana").unwrap();
    let expired = Arc::new(AtomicBool::new(false));
    let is_expired = expired.clone();
    let server = Server::start(move |asked| match asked.token.as_deref() {
        Some("ana") if is_expired.load(Ordering::SeqCst) => said(EXPIRED),
        Some(name) if asked.path.ends_with("/users/me") => user(name.trim_end_matches("-again")),
        _ => workspace(asked),
    })
    .await;
    let client = of(&server, &file);
    assert_eq!(client.user().await.unwrap().name, "ana");
    expired.store(true, Ordering::SeqCst);
    std::fs::write(&file, "bo").unwrap();
    let refused = client.workspace("w").await.unwrap_err().to_string();
    assert!(refused.contains("another user, bo"), "{refused}");
    assert!(
        server
            .requests()
            .iter()
            .all(|asked| asked.token.as_deref() != Some("bo") || asked.path.ends_with("/me"))
    );
    std::fs::write(&file, "ana-again").unwrap();
    client.workspace("w").await.unwrap();
}

#[tokio::test]
async fn a_token_file_that_cannot_be_read_any_more_is_named() {
    let it = Renewable::new(workspace).await;
    std::fs::write(&it.file, "\n").unwrap();
    let refused = it.client.workspace("w").await.unwrap_err().to_string();
    assert!(refused.contains("log in again") && refused.contains("is empty"), "{refused}");
    assert!(refused.contains(it.file.to_str().unwrap()), "{refused}");
    it.renew();
    it.client.workspace("w").await.unwrap();
}

#[tokio::test]
async fn blanks_and_line_ends_around_a_token_are_none_of_it() {
    let server = Server::start(workspace).await;
    for token in ["new\n", " new\r\n", "\tnew "] {
        RestClient::new(&server.url, token).unwrap().workspace("w").await.unwrap();
    }
    assert!(server.requests().iter().all(|asked| asked.token.as_deref() == Some("new")));
    assert_eq!(RestClient::new(&server.url, " \n").unwrap_err(), RestError::Token);
}
