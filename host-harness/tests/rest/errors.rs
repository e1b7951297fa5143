//! Errors are told apart, and each says what to do.

use std::time::Duration;

use workspace_recovery::bindings::ReadError;
use workspace_recovery::control_plane::rest::{RestClient, RestOptions};
use workspace_recovery::control_plane::{ApiError, ControlPlane, NewBuild, NewTerminal};

use crate::TOKEN;
use crate::client::stop;
use crate::replay::{Kind, Reply, Server};
use crate::stage::Frozen;
use crate::tls::{self, Identity};
use crate::transcript::recorded;

async fn read(reply: Reply) -> ApiError {
    Server::start(move |_| reply.clone()).await.client().workspace("w").await.unwrap_err()
}

/// The error, whose text has to have each of these in it.
fn says(error: &ApiError, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{text:?} has no {part:?}");
    }
    assert!(!text.contains(TOKEN) && !format!("{error:?}").contains(TOKEN));
}

#[tokio::test]
async fn each_error_says_what_happened_and_what_to_do() {
    let (gone, limits) = ("08-deleted-missing-forbidden", "13a-rate-limit");
    says(&read(recorded(gone, 31)).await, &["does not accept the token", "log in again"]);
    says(
        &read(Reply::json(403, serde_json::json!({"message": "No."}))).await,
        &["forbids it: No; an administrator"],
    );
    says(&read(recorded(gone, 17)).await, &["not found", "check the name"]);
    says(&read(recorded(gone, 5)).await, &["deleted", "create a new one"]);
    says(&read(recorded("05-stop-start-conflicts", 1)).await, &["another build", "when it has ended"]);
    says(&read(recorded("09-parameters", 49)).await, &["refused", "region"]);
    says(&read(recorded(limits, 1)).await, &["try again in 60 s"]);
    says(&read(Reply::text(503, "")).await, &["503", "look whether it runs"]);
    let lost = Server::in_order([Reply::text(504, "")]).await.client().create_build("w", &stop()).await;
    says(&lost.unwrap_err(), &["504", "look whether it was done before asking again"]);
}

#[tokio::test]
async fn what_is_no_deployment_is_told_as_that_whatever_it_answers() {
    let redirect = |to: &str| Reply::text(302, "").header("location", to);
    says(
        &read(redirect("/login?redirect=secret")).await,
        &["Coder deployment", "/login", "log in", "check the URL"],
    );
    says(&read(redirect("https://sso.example.com/x?a=secret")).await, &["https://sso.example.com", "proxy"]);
    for reply in [redirect("/login?redirect=secret"), redirect("https://sso.example.com/x?a=secret")] {
        assert!(!read(reply).await.to_string().contains("secret"));
    }
    says(&read(Reply::text(307, "")).await, &["redirects elsewhere"]);
    says(&read(Reply::text(200, "<!doctype html>")).await, &["Coder deployment", "check the URL"]);
    says(&read(Reply::json(200, serde_json::json!({"other": "service"}))).await, &["check the URL"]);
    // What a Go server answers to plain http on its https port.
    says(&read(Reply::text(400, "Client sent an HTTP request to an HTTPS server.")).await, &["use https"]);
    for reply in [Reply::text(200, "<html>"), Reply::text(404, "")] {
        let error = Server::in_order([reply]).await.client().deployment_info().await.unwrap_err();
        says(&error, &["check the URL"]);
    }
}

#[tokio::test]
async fn what_a_proxy_says_is_told_as_its_own_with_its_first_words_and_what_to_do() {
    let page =
        |status, title: &str| Reply::text(status, &format!("<html><head><title>{title}</title></head>"));
    for (status, title, parts) in [
        (401, "Invalid IAP credentials", &["in front", "Invalid IAP credentials", "additional headers"][..]),
        (403, "Access denied", &["in front", "Access denied", "let this program through"]),
        (407, "Who are you", &["in front", "Who are you", "name and a password"]),
        (413, "Too Large", &["in front", "Too Large", "8 KiB"]),
        (414, "Too Long", &["in front", "Too Long", "8 KiB"]),
        (431, "Too Large", &["in front", "Too Large", "8 KiB"]),
        (404, "Nothing here", &["does not look like", "Nothing here", "check the URL"]),
        (502, "Bad gateway", &["502", "Bad gateway", "try again"]),
        (504, "Gateway timeout", &["504", "Gateway timeout", "try again"]),
        (418, "Teapot", &["418", "Teapot"]),
        (200, "Welcome", &["does not look like", "Welcome", "check the URL"]),
    ] {
        says(&read(page(status, title)).await, parts);
    }
    says(&read(Reply::text(426, "")).await, &["does not pass websockets on", "Upgrade"]);
    let lost = Server::in_order([page(504, "Too late")]).await.client().create_build("w", &stop()).await;
    says(&lost.unwrap_err(), &["504", "Too late", "look whether it was done"]);
}

#[tokio::test]
async fn a_terminal_that_a_proxy_refuses_is_told_as_that_and_a_page_at_its_address_is_quoted() {
    let wanted = NewTerminal { session: "s".into(), command: "c".into(), height: 1, width: 1 };
    let open = async |status| {
        let reply = Reply::text(status, "<title>No way</title>");
        Server::in_order([reply]).await.client().open_terminal("a", &wanted).await.err().unwrap()
    };
    for status in [401, 403, 414, 431] {
        let error = open(status).await;
        assert!(
            matches!(error, ApiError::Intercepted(_)) && error.to_string().contains("No way"),
            "{error:?}"
        );
    }
    for status in [404, 502, 503] {
        let error = open(status).await;
        assert!(
            matches!(error, ApiError::Unavailable(_)) && error.to_string().contains("No way"),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_token_whose_scopes_do_not_include_its_own_user_is_told_which_one_is_missing() {
    let server = Server::start(|_| recorded("24-scoped-tokens-2026", 1)).await;
    let error = server.client().user().await.unwrap_err();
    says(&error, &["scopes", "`user:read`", "make a token"]);
    assert!(!error.is_away());
}

#[tokio::test]
async fn a_port_on_which_something_else_listens_is_the_wrong_url() {
    let url = tls::speaking(b"-ERR unknown command\r\n").await;
    let client = RestClient::new(&url, TOKEN).unwrap();
    says(&client.workspace("w").await.unwrap_err(), &["does not speak HTTP", "check the URL"]);
    let posted = client.create_build("w", &stop()).await.unwrap_err();
    assert!(matches!(posted, ApiError::UnknownOutcome(_)), "nobody knows what it made of it: {posted:?}");
    let nobody = RestClient::new("http://127.0.0.1:1", TOKEN).unwrap().workspace("w").await.unwrap_err();
    assert!(matches!(nobody, ApiError::Unavailable(_)), "{nobody:?}");
}

#[tokio::test]
async fn an_encrypted_connection_that_does_not_come_about_says_why() {
    let tls = async |options: &RestOptions| {
        let client = RestClient::with_options(options).unwrap();
        let error = client.create_build("w", &stop()).await.unwrap_err();
        assert!(matches!(error, ApiError::Tls(_)), "{error:?}");
        assert_eq!(
            client.workspace("w").await.unwrap_err(),
            error,
            "nothing was sent, whatever was asked for"
        );
        assert!(matches!(ReadError::from(error.clone()), ReadError::Other(_)));
        error
    };
    let trusted = Identity::new(&["localhost"], tls::Validity::Now);
    let strange = trusted.serve(|_| Reply::silence()).await;
    says(&tls(&RestOptions::new(&strange, TOKEN)).await, &["authority that is not trusted", "CA file"]);
    for (names, validity, parts) in [
        (["localhost"], tls::Validity::Past, ["expired", "clock"]),
        (["localhost"], tls::Validity::Future, ["not valid yet", "clock"]),
        (["elsewhere"], tls::Validity::Now, ["another name", "use the name"]),
    ] {
        let identity = Identity::new(&names, validity);
        let url = identity.serve(|_| Reply::silence()).await;
        says(&tls(&identity.options(&url)).await, &parts);
    }
    let authority = Identity::of_an_authority("localhost");
    let url = authority.serve(|_| Reply::silence()).await;
    says(&tls(&authority.options(&url)).await, &["CA:FALSE"]);
    let plain =
        Server::start(|_| Reply::silence()).await.url.replace("http://127.0.0.1", "https://localhost");
    says(&tls(&RestOptions::new(plain, TOKEN)).await, &["does not encrypt", "check the port"]);
}

#[tokio::test]
async fn plain_http_to_a_port_that_encrypts_is_the_wrong_url() {
    let url = Identity::new(&["localhost"], tls::Validity::Now).serve(|_| Reply::silence()).await;
    let client = RestClient::new(&url.replace("https", "http"), TOKEN).unwrap();
    let error = client.workspace("w").await.unwrap_err();
    says(&error, &["does not speak HTTP", "check the URL"]);
}

#[tokio::test]
async fn a_rate_limit_is_heeded_for_its_path_and_no_other_and_no_longer_than_five_minutes() {
    let clock = Frozen::new();
    let limited = |pause: &str| recorded("13a-rate-limit", 1).header("Retry-After", pause);
    let made = || recorded("05-stop-start-conflicts", 7);
    let in_time = || recorded("05-stop-start-conflicts", 6);
    let server =
        Server::in_order([limited("60"), in_time(), limited("90"), made(), limited("86400"), in_time()])
            .await;
    let client = server.client();
    let left = |error: ApiError| match error {
        ApiError::RateLimited { retry_after } => retry_after.unwrap().as_secs(),
        other => panic!("{other:?}"),
    };
    assert_eq!(left(client.workspace("w").await.unwrap_err()), 60);
    clock.pass(Duration::from_secs(20)).await;
    assert_eq!(left(client.workspace("w").await.unwrap_err()), 40, "not asked");
    client.workspace("other").await.unwrap();
    // An effect is limited like a read, and is not sent before its time either.
    assert_eq!(left(client.create_build("w", &stop()).await.unwrap_err()), 90);
    clock.pass(Duration::from_secs(89)).await;
    assert_eq!(left(client.create_build("w", &stop()).await.unwrap_err()), 1);
    assert_eq!(server.requests().len(), 3);
    clock.pass(Duration::from_secs(1)).await;
    client.create_build("w", &stop()).await.unwrap();
    assert_eq!(left(client.workspace("w").await.unwrap_err()), 300);
    clock.pass(Duration::from_secs(300)).await;
    client.workspace("w").await.unwrap();
    assert_eq!(server.requests().len(), 6);
}

#[tokio::test]
async fn a_rate_limit_may_be_given_as_a_time() {
    let date = |time: &str| {
        recorded("13a-rate-limit", 1)
            .header("Date", "Mon, 23 Nov 2026 05:11:41 GMT")
            .header("Retry-After", time)
    };
    for (time, seconds) in [
        ("Mon, 23 Nov 2026 05:12:11 GMT", Some(30)),
        ("Mon, 23 Nov 2026 05:00:00 GMT", Some(0)),
        ("soon", None),
    ] {
        let retry_after = seconds.map(Duration::from_secs);
        assert_eq!(read(date(time)).await, ApiError::RateLimited { retry_after }, "{time}");
    }
}

#[tokio::test]
async fn a_request_that_gets_no_answer_ends_after_fifteen_seconds() {
    let clock = Frozen::new();
    let server = Server::start(|_| Reply { kind: Kind::Silence, ..Reply::text(0, "") }).await;
    let client = server.client();
    let build: NewBuild = stop();
    let both = async { tokio::join!(client.workspace("w"), client.create_build("w", &build)) };
    let (read, posted) = clock.within(Duration::from_secs(16), both).await;
    assert!(matches!(read, Err(ApiError::Unavailable(_))), "{read:?}");
    assert!(matches!(posted, Err(ApiError::UnknownOutcome(_))), "{posted:?}");
}
