//! Connections of clients over HTTP: one that begins a request and does not go on with it does not hold its connection
//! for ever, whether or not it knows the token.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::{Listener, ListenerExt};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower_http::timeout::RequestBodyTimeoutLayer;

/// How long a request's head may take, and how long its body may pause. As the next request's head is waited for from
/// the end of the one before, a connection also stays open unused for so long: longer than clients keep theirs (a
/// minute and a half, at most), so that none is closed under a request.
pub(super) const SLOWEST: Duration = Duration::from_secs(120);
/// Connections at the same time; others wait until one is closed. Half of the files that a program may usually have
/// open: calls need some, too.
const CONNECTIONS: usize = 512;

/// Serves connections until `end`; then those that are in mid-answer until they have ended.
pub(super) async fn serve(
    listener: TcpListener,
    app: Router,
    slowest: Duration,
    end: impl Future<Output = ()>,
) {
    let app = app.layer(RequestBodyTimeoutLayer::new(slowest));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(slowest);
    let open = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut listener = listener.tap_io(at_once);
    let mut end = pin!(end);
    loop {
        // The semaphore is never closed.
        let accepted = async { (room.clone().acquire_owned().await.ok(), listener.accept().await.0) };
        let (place, stream) = tokio::select! {
            accepted = accepted => accepted,
            () = &mut end => break,
        };
        let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app.clone()));
        let connection = open.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection failed");
            }
            drop(place);
        });
    }
    drop(listener);
    open.shutdown().await;
}

/// Events are small and each is waited for: gathering them into larger packets costs 40 ms.
fn at_once(connection: &mut TcpStream) {
    if let Err(error) = connection.set_nodelay(true) {
        tracing::debug!(%error, "answers may be delayed");
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Bytes;
    use axum::routing::post;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// What the server says until it closes the connection of a client that sends this and no more.
    async fn answer_to(begun: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let app = Router::new().route("/", post(|body: Bytes| async move { body }));
        let end = CancellationToken::new();
        let served =
            tokio::spawn(serve(listener, app, Duration::from_millis(50), end.clone().cancelled_owned()));
        client.write_all(begun.as_bytes()).await.unwrap();
        let mut answer = String::new();
        // Sooner than hyper by itself, which waits for a head for 30 s.
        let read = timeout(Duration::from_secs(5), client.read_to_string(&mut answer)).await;
        read.expect("the connection is closed").unwrap();
        end.cancel();
        served.await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_client_that_begins_a_request_and_waits_loses_its_connection() {
        let head = "POST / HTTP/1.1\r\nHost: me\r\n";
        for begun in ["", head] {
            assert_eq!(answer_to(begun).await, "");
        }
        let slow = "Failed to buffer the request body: data was not received within the designated timeout";
        for (body, status, text) in [("12", "400 Bad Request", slow), ("12345", "200 OK", "12345")] {
            let answer = answer_to(&format!("{head}Content-Length: 5\r\n\r\n{body}")).await;
            let (head, rest) = answer.split_once("\r\n\r\n").unwrap();
            assert_eq!((head.lines().next(), rest), (Some(&*format!("HTTP/1.1 {status}")), text));
        }
    }
}
