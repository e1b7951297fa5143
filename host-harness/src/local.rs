//! A small control plane on this machine, with real agent processes.
//!
//! It keeps templates, workspaces, builds and agents in a SQLite file and serves the part of a Coder server's REST API
//! that a lifecycle client needs, on loopback and behind a token. A start build spawns agents as processes of their
//! own, a stop build ends them; what their status says is derived from their connection and its heartbeats. Agents
//! outlive the server and come back to it when it does.
//!
//! [`LocalControlPlane::start`] runs one inside this process, [`LocalControlPlane::find`] finds one that another
//! process runs on the same data folder, and [`LocalAdmin`] does what only this control plane can do: make templates,
//! send a signal to an agent, change the number of provisioners.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use admin::{AdminError, AgentSignal, CreatedTemplate, CreatedWorkspace, LocalAdmin, SignalledAgent};
pub use endpoint::Endpoint;
pub use error::LocalError;
pub use model::{AgentSpec, BuildSpec, OnCancel, ParameterSpec, TemplateSpec, VersionSpec};
pub use options::{AgentCommand, LocalOptions, LocalTimings};

mod admin;
pub mod agent;
mod agent_connections;
mod agent_protocol;
mod agent_registry;
mod api;
mod children;
mod db;
mod endpoint;
mod error;
mod jobs;
mod model;
mod options;
mod processes;
mod provisioners;
mod server_file;
mod server_state;
mod status;

/// How long a shutdown waits for requests that are being answered before it drops them.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// A running control plane. Dropping it ends the server at once and leaves agents running; prefer
/// [`shutdown`](Self::shutdown).
#[derive(Debug)]
pub struct LocalControlPlane {
    endpoint: Endpoint,
    state: Arc<server_state::ServerState>,
    stop: CancellationToken,
    server: JoinHandle<()>,
    // Held until the very end: the next server may start as soon as it is released.
    _lock: server_file::FolderLock,
}

impl LocalControlPlane {
    /// Starts a control plane in this process and returns when it answers requests. On a folder that was used before it
    /// goes on: builds that ran when the last server died are failed, queued builds wait on, agents come back.
    ///
    /// # Errors
    ///
    /// [`LocalError::AlreadyServed`] if another process serves the folder; else what could not be used.
    pub async fn start(options: LocalOptions) -> Result<Self, LocalError> {
        let data_dir = options.data_dir.clone();
        server_file::make_private_folder(&data_dir)?;
        let lock = loop {
            if let Some(lock) = server_file::FolderLock::take(&data_dir)? {
                break lock;
            }
            // None: whoever had it has just let it go.
            if let Some(endpoint) = Self::find(&data_dir).await? {
                return Err(LocalError::AlreadyServed { data_dir, endpoint });
            }
        };
        let previous = Endpoint::read(&data_dir)?;
        let listener = bind(options.port, previous.as_ref()).await?;
        let token = previous.map_or_else(server_file::new_token, |previous| previous.token);
        let endpoint = Endpoint::new(port_of(&listener)?, token, std::process::id());

        let stop = CancellationToken::new();
        let state = server_state::ServerState::open(options, endpoint.clone(), stop.clone())?;
        endpoint.write(&data_dir)?;
        let server = tokio::spawn(serve_until(listener, api::router(state.clone()), stop.clone()));
        jobs::resume(&state);
        Ok(Self { endpoint, state, stop, server, _lock: lock })
    }

    /// Finds the control plane that serves `data_dir`, in whichever process. None: nobody does.
    ///
    /// # Errors
    ///
    /// The folder is locked, but nobody answers within 5 s; or its files cannot be read.
    pub async fn find(data_dir: &Path) -> Result<Option<Endpoint>, LocalError> {
        server_file::find(data_dir).await
    }

    /// Where `data_dir` is or will be served, whether or not it is now: the next server takes the same address, if it
    /// is free, and the same token. For a folder that was never served, both are chosen here.
    ///
    /// # Errors
    ///
    /// The folder or its files cannot be used, or the first server on it has locked it and does not answer within 5 s.
    pub async fn will_serve(data_dir: &Path) -> Result<Endpoint, LocalError> {
        server_file::make_private_folder(data_dir)?;
        loop {
            if let Some(endpoint) = Endpoint::read(data_dir)? {
                return Ok(endpoint);
            }
            if let Some(_lock) = server_file::FolderLock::take(data_dir)? {
                // Somebody may have written it between the look and the lock.
                if let Some(endpoint) = Endpoint::read(data_dir)? {
                    return Ok(endpoint);
                }
                let endpoint = Endpoint::new(
                    port_of(&bind(None, None).await?)?,
                    server_file::new_token(),
                    server_file::NOBODY,
                );
                endpoint.write(data_dir)?;
                return Ok(endpoint);
            }
            // None: whoever had the lock has just let it go.
            if let Some(endpoint) = Self::find(data_dir).await? {
                return Ok(endpoint);
            }
        }
    }

    /// Starts a control plane, tells `on_ready` where it answers, and serves until SIGINT or SIGTERM.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub async fn serve(options: LocalOptions, on_ready: impl FnOnce(&Endpoint)) -> Result<(), LocalError> {
        let plane = Self::start(options).await?;
        on_ready(plane.endpoint());
        processes::terminated().await;
        plane.shutdown().await;
        Ok(())
    }

    /// The base address, such as `http://127.0.0.1:40123`.
    pub fn url(&self) -> &str {
        &self.endpoint.url
    }

    /// The token that requests carry in the header `Coder-Session-Token`.
    pub fn token(&self) -> &str {
        &self.endpoint.token
    }

    /// Address, token and process.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A client for what only this control plane can do.
    pub fn admin(&self) -> LocalAdmin {
        LocalAdmin::new(&self.endpoint)
    }

    /// Ends the server: no new requests, open streams are dropped, running builds are failed at the next start. With
    /// `stop_agents_on_exit` every agent process is gone when it returns.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        if tokio::time::timeout(SHUTDOWN_GRACE, &mut self.server).await.is_err() {
            self.server.abort();
        }
        // Last, so that no build can start another one.
        if self.state.options.stop_agents_on_exit {
            processes::end_all(&self.state).await;
        }
    }
}

impl Drop for LocalControlPlane {
    fn drop(&mut self) {
        self.stop.cancel();
        self.server.abort();
    }
}

/// Binds the port asked for, or the previous one if it is still free: agents look for the server there.
async fn bind(port: Option<u16>, previous: Option<&Endpoint>) -> Result<TcpListener, LocalError> {
    let listen = |port| TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    if let Some(port) = port {
        return listen(port).await.map_err(|error| LocalError::Bind { port, error });
    }
    if let Some(port) = previous.and_then(Endpoint::port)
        && let Ok(listener) = listen(port).await
    {
        return Ok(listener);
    }
    listen(0).await.map_err(|error| LocalError::Bind { port: 0, error })
}

fn port_of(listener: &TcpListener) -> Result<u16, LocalError> {
    Ok(listener.local_addr().map_err(|error| LocalError::Bind { port: 0, error })?.port())
}

async fn serve_until(listener: TcpListener, router: axum::Router, stop: CancellationToken) {
    // What is shown in a terminal goes out at once, and does not wait for what was shown before it to arrive.
    let listener = listener.tap_io(|connection| {
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(%error, "a connection stays slow");
        }
    });
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!("the local control plane ended: {error}");
    }
}
