//! Additional headers, for what stands in front of a deployment.

use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt;
use workspace_recovery::control_plane::rest::{RestClient, RestError, RestOptions};
use workspace_recovery::control_plane::{ApiError, ControlPlane, NewTerminal};

use crate::TOKEN;
use crate::client::stop;
use crate::replay::{Asked, Reply, Server, What};
use crate::stage::Frozen;
use crate::transcript::{recorded, recorded_watch};

fn options(server: &Server) -> RestOptions {
    RestOptions {
        headers: vec![("Cf-Access-Client-Id".into(), "me".into()), ("X-Two".into(), "a=b".into())],
        ..RestOptions::new(&server.url, TOKEN)
    }
}

/// A command that prints what is in a file.
fn printing(file: &Path) -> Option<String> {
    Some(format!("cat {}", file.display()))
}

fn answers(asked: &Asked) -> Reply {
    match asked.path.as_str() {
        path if path.contains("/pty") => Reply::socket([What::Binary("hi".into())]),
        path if path.contains("watch-ws") => Reply::socket(recorded_watch()),
        path if path.ends_with("buildinfo") => recorded("01-setup-create-workspace", 1),
        _ if asked.method == "POST" => recorded("05-stop-start-conflicts", 7),
        _ => recorded("05-stop-start-conflicts", 6),
    }
}

#[tokio::test]
async fn they_go_with_every_request_and_every_websocket() {
    let server = Server::start(answers).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("headers");
    std::fs::write(&file, "Cf-Access-Client-Secret=s3=cret\n\nX-Two=c\n").unwrap();
    let client =
        RestClient::with_options(&RestOptions { header_command: printing(&file), ..options(&server) })
            .unwrap();
    client.deployment_info().await.unwrap();
    client.workspace("w").await.unwrap();
    client.create_build("w", &stop()).await.unwrap();
    let wanted = NewTerminal { session: "s".into(), command: "c".into(), height: 1, width: 1 };
    client.open_terminal("a", &wanted).await.unwrap();
    assert!(client.changes("w").unwrap().next().await.is_some());
    let requests = server.requests();
    assert_eq!(requests.len(), 5);
    for asked in requests {
        let shown = |name: &str| asked.headers.get(name).unwrap().to_str().unwrap().to_owned();
        assert_eq!(shown("cf-access-client-id"), "me", "{asked:?}");
        assert_eq!(shown("cf-access-client-secret"), "s3=cret", "{asked:?}");
        assert_eq!(shown("x-two"), "c", "what is printed comes after what is given");
    }
}

#[tokio::test]
async fn the_token_is_the_clients_own_whatever_the_headers_are() {
    let server = Server::start(answers).await;
    let headers = vec![("Coder-Session-Token".to_owned(), "another".to_owned())];
    let client =
        RestClient::with_options(&RestOptions { headers, ..RestOptions::new(&server.url, TOKEN) }).unwrap();
    client.workspace("w").await.unwrap();
    let shown: Vec<_> = server.requests()[0].headers.get_all("coder-session-token").iter().cloned().collect();
    assert_eq!(shown, [TOKEN]);
}

#[tokio::test]
async fn the_command_is_run_again_when_something_in_front_refuses_what_it_printed_but_not_all_the_time() {
    let clock = Frozen::new();
    let server = Server::start(|asked| match asked.headers.get("proxy-auth").map(|value| value.as_bytes()) {
        Some(b"new") => answers(asked),
        // To a page to log in, or with a page of its own.
        _ if asked.path.contains("/pty") => Reply::text(403, "<title>Access denied</title>"),
        _ => Reply::text(302, "").header("location", "https://login.example.com"),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let (file, runs) = (folder.path().join("headers"), folder.path().join("runs"));
    std::fs::write(&file, "Proxy-Auth=old").unwrap();
    let command = format!("echo run >> {}; cat {}", runs.display(), file.display());
    let client =
        RestClient::with_options(&RestOptions { header_command: Some(command), ..options(&server) }).unwrap();
    for _ in 0..3 {
        client.workspace("w").await.unwrap_err();
    }
    let times = || std::fs::read_to_string(&runs).unwrap().lines().count();
    assert_eq!(times(), 1);
    std::fs::write(&file, "Proxy-Auth=new").unwrap();
    clock.pass(Duration::from_secs(10)).await;
    client.workspace("w").await.unwrap();
    assert_eq!(times(), 2);
    let wanted = NewTerminal { session: "s".into(), command: "c".into(), height: 1, width: 1 };
    client.open_terminal("a", &wanted).await.unwrap();
    assert_eq!(times(), 2);
}

#[tokio::test]
async fn a_command_that_prints_no_headers_is_told_without_what_it_printed_and_nothing_is_sent() {
    let server = Server::start(answers).await;
    for (command, told) in [
        ("echo secret; exit 3", "exit status: 3"),
        ("echo secret", "line 1"),
        ("echo A=1; echo 'no name=secret'", "line 2"),
        ("printf 'A=\\001secret'", "line 1"),
    ] {
        let options = RestOptions { header_command: Some(command.into()), ..options(&server) };
        let error = RestClient::with_options(&options).unwrap().workspace("w").await.unwrap_err();
        assert!(matches!(error, ApiError::Headers(_)) && error.is_away(), "{error:?}");
        assert!(error.to_string().contains(told) && !error.to_string().contains("secret"), "{error}");
    }
    assert!(server.requests().is_empty());
    let headers = vec![("Bad name".to_owned(), "secret".to_owned())];
    let refused = RestClient::with_options(&RestOptions { headers, ..options(&server) }).unwrap_err();
    assert!(
        matches!(refused, RestError::Header { .. }) && !format!("{refused:?} {refused}").contains("secret")
    );
}
