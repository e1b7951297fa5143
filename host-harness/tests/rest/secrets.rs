//! The token is sent, and shown nowhere.

use std::io::Write;
use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;
use tracing_subscriber::fmt::MakeWriter;
use workspace_recovery::chat::ChatHost;
use workspace_recovery::control_plane::ControlPlane;
use workspace_recovery::control_plane::rest::{RestClient, RestOptions};
use workspace_recovery::driver::Driver;
use workspace_recovery::policy::Timings;
use workspace_recovery::store::Store;

use crate::TOKEN;
use crate::client::stop;
use crate::replay::{Reply, Server, What};
use crate::tls::{Identity, Validity};
use crate::transcript::recorded;
use crate::verdicts::{plugin, tools};

/// Everything that is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn no_log_level_error_debug_output_or_file_shows_the_token() {
    let log = Log::default();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone()).finish();
    let _logged = tracing::subscriber::set_default(subscriber);
    // Were there only one subscriber, then what another test's thread logs first would be taken for what nobody wants.
    let _wants_all = tracing::Dispatch::new(tracing_subscriber::registry());
    let folder = tempfile::tempdir().unwrap();
    let mut shown = Vec::new();

    // Every way in which a request can go, with the errors that come of it.
    for reply in [
        recorded("05-stop-start-conflicts", 6),
        recorded("05-stop-start-conflicts", 7),
        recorded("08-deleted-missing-forbidden", 31),
        recorded("08-deleted-missing-forbidden", 58),
        recorded("09-parameters", 49),
        recorded("13a-rate-limit", 1),
        Reply::text(302, "").header("location", "/login"),
        Reply::text(200, "<html>"),
        Reply::text(502, ""),
        Reply::hang_up(),
        Reply::socket([What::Binary("hi".into())]),
    ] {
        let server = Server::start(move |_| reply.clone()).await;
        let client = server.client();
        shown.push(format!("{client:?} {:?}", client.workspace("w").await));
        shown.push(format!(
            "{:?}",
            client.create_build("w", &stop()).await.map_err(|error| error.to_string())
        ));
        shown.push(format!("{:?}", client.deployment_info().await));
        shown.push(format!("{:?}", client.deployment()));
        assert_eq!(server.requests()[0].token.as_deref(), Some(TOKEN));
    }
    // Additional headers are as secret.
    let refuses = Server::start(|_| Reply::text(403, "<title>No</title>")).await;
    let headers = vec![("X-Secret".to_owned(), TOKEN.to_owned())];
    let options = RestOptions { headers, ..RestOptions::new(&refuses.url, "another") };
    let client = RestClient::with_options(&options).unwrap();
    shown.push(format!("{options:?} {client:?} {:?}", client.workspace("w").await));
    let identity = Identity::new(&["localhost"], Validity::Past);
    let options = identity.options(&identity.serve(|_| Reply::silence()).await);
    let refused = RestClient::with_options(&options).unwrap().workspace("w").await;
    shown.push(format!("{options:?} {refused:?}"));
    for url in ["http://coder.example.com", "not a url", "https://a:b@coder.example.com"] {
        let error = RestClient::with_options(&RestOptions::new(url, TOKEN)).unwrap_err();
        shown.push(format!("{error:?} {error}"));
    }

    // A kept call and a verdict, with all that is written of them.
    let server = Server::start(|asked| match asked {
        asked if asked.path.ends_with("/users/me") => recorded("01-setup-create-workspace", 7),
        asked if asked.path.ends_with("/pty") => recorded("12b-pty-dead-and-hung", 29),
        asked if asked.method == "POST" => recorded("08-deleted-missing-forbidden", 58),
        _ => recorded("05-stop-start-conflicts", 6),
    })
    .await;
    let store = Store::open(&folder.path().join("store.db")).unwrap();
    store.update("ana", |chat| chat.bind(Some("w"))).await.unwrap();
    let driver = Driver::new(plugin(), Arc::new(server.client()), store, Timings::shortened(60));
    let chat = ChatHost::new(driver.clone()).chat("ana", tools());
    let interrupt = CancellationToken::new();
    let stopped = chat.call_tool("stop_workspace", "{}", &interrupt).await.unwrap();
    shown.push(format!("{stopped:?}"));
    let execute = workspace_recovery::chat::Execute { command: "true".into(), ..Default::default() };
    shown.push(format!("{:?}", chat.execute(&execute, &interrupt).await.unwrap_err()));
    driver.leave().await.unwrap();

    assert!(shown.iter().all(|text| !text.contains(TOKEN)), "{shown:#?}");
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("TRACE"), "every level was listened to: {logged}");
    assert!(!logged.contains(TOKEN), "{logged}");
    let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(!files.is_empty());
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(TOKEN.len()).any(|window| window == TOKEN.as_bytes()), "{}", file.display());
    }
}
