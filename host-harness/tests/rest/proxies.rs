//! Proxies that the environment names.
//!
//! The environment belongs to the whole process, so each test runs itself again with one of its own.

use std::process::Command;

use futures_util::StreamExt;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use workspace_recovery::control_plane::rest::{RestClient, RestOptions};
use workspace_recovery::control_plane::{ApiError, ControlPlane};

use crate::TOKEN;
use crate::replay::{Reply, Server, What};
use crate::tls::{Identity, Validity};
use crate::transcript::recorded;

/// In the environment of a test that was run by itself.
const AGAIN: &str = "RUN_BY_ITSELF";

/// Runs a test again with this environment, unless it was run so already. Answers whether it has to go on.
fn with_environment(test: &str, variables: &[(&str, &str)]) -> bool {
    if std::env::var_os(AGAIN).is_some() {
        return true;
    }
    let mut again = Command::new(std::env::current_exe().unwrap());
    for proxy in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        again.env_remove(proxy).env_remove(proxy.to_uppercase());
    }
    let name = format!("proxies::{test}");
    let again = again.args(["--exact", &name, "--nocapture"]).env(AGAIN, "1").envs(variables.iter().copied());
    let output = again.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    false
}

/// Takes this port. Whatever host is asked for, `target` is who answers. Of each connection the first line is told.
async fn proxy(port: u16, target: String) -> tokio::sync::mpsc::UnboundedReceiver<String> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let (told, asked) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (target, told) = (target.clone(), told.clone());
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut first = String::new();
                stream.read_line(&mut first).await.unwrap();
                told.send(first.clone()).unwrap();
                let mut server = TcpStream::connect(target).await.unwrap();
                if first.starts_with("CONNECT ") {
                    let mut line = String::new();
                    while stream.read_line(&mut line).await.unwrap() > 2 {
                        line.clear();
                    }
                    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                } else {
                    server.write_all(first.as_bytes()).await.unwrap();
                }
                let _ = copy_bidirectional(&mut stream, &mut server).await;
            });
        }
    });
    asked
}

/// A port that is free now.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The port in the variable, of a proxy on this machine.
fn port_in(variable: &str) -> u16 {
    std::env::var(variable).unwrap().rsplit(':').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn encrypted_requests_and_websockets_go_through_a_tunnel_in_which_the_proxy_sees_nothing() {
    let address = format!("http://127.0.0.1:{}", free_port());
    let test = "encrypted_requests_and_websockets_go_through_a_tunnel_in_which_the_proxy_sees_nothing";
    if !with_environment(test, &[("HTTPS_PROXY", &address)]) {
        return;
    }
    let identity = Identity::new(&["coder.test"], Validity::Now);
    let url = identity.serve(|asked| if asked.path.ends_with("watch-ws") { watch() } else { read() }).await;
    let mut asked = proxy(port_in("HTTPS_PROXY"), url.replace("https://localhost", "127.0.0.1")).await;
    let client = RestClient::with_options(&identity.options("https://coder.test")).unwrap();
    client.workspace("w").await.unwrap();
    assert_eq!(client.changes("w").unwrap().count().await, 1);
    // One tunnel may serve both.
    assert_eq!(asked.recv().await.unwrap(), "CONNECT coder.test:443 HTTP/1.1\r\n");
}

#[tokio::test]
async fn plain_requests_and_websockets_are_passed_on() {
    let address = format!("http://127.0.0.1:{}", free_port());
    if !with_environment("plain_requests_and_websockets_are_passed_on", &[("HTTP_PROXY", &address)]) {
        return;
    }
    let server = Server::start(|asked| if asked.path.ends_with("watch-ws") { watch() } else { read() }).await;
    let mut asked = proxy(port_in("HTTP_PROXY"), server.url.replace("http://", "")).await;
    let options = RestOptions { allow_plain_http: true, ..RestOptions::new("http://coder.test", TOKEN) };
    let client = RestClient::with_options(&options).unwrap();
    client.workspace("w").await.unwrap();
    assert_eq!(asked.recv().await.unwrap(), "GET http://coder.test/api/v2/workspaces/w HTTP/1.1\r\n");
    assert_eq!(client.changes("w").unwrap().count().await, 1);
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn this_machine_is_not_asked_for_at_a_proxy() {
    // Nobody listens there.
    let nowhere = "http://127.0.0.1:1";
    let variables = [("HTTP_PROXY", nowhere), ("HTTPS_PROXY", nowhere), ("ALL_PROXY", nowhere)];
    if !with_environment("this_machine_is_not_asked_for_at_a_proxy", &variables) {
        return;
    }
    Server::start(|_| read()).await.client().workspace("w").await.unwrap();
    let identity = Identity::new(&["localhost"], Validity::Now);
    let url = identity.serve(|_| read()).await;
    RestClient::with_options(&identity.options(&url)).unwrap().workspace("w").await.unwrap();
    // Any other host is.
    let elsewhere = RestClient::with_options(&identity.options("https://coder.test")).unwrap();
    let refused = elsewhere.workspace("w").await.unwrap_err();
    assert!(matches!(&refused, ApiError::Unavailable(why) if why.contains("refused")), "{refused:?}");
}

fn read() -> Reply {
    recorded("05-stop-start-conflicts", 6)
}

fn watch() -> Reply {
    Reply::socket([What::Text(json!({"type": "data"}).to_string())])
}
