//! What all parts of a running server share.

use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::agent_registry::AgentRegistry;
use super::children::Children;
use super::db::{Db, Identity, Template};
use super::endpoint::Endpoint;
use super::error::LocalError;
use super::model::{TemplateSpec, VersionSpec};
use super::options::LocalOptions;
use super::provisioners::Provisioners;

/// How many changes a watcher may be behind before it skips some.
const CHANGES: usize = 256;

/// The template that a new data folder begins with.
const FIRST_TEMPLATE: &str = "shell";

#[derive(Debug)]
pub(super) struct ServerState {
    pub options: LocalOptions,
    pub endpoint: Endpoint,
    pub identity: Identity,
    pub db: Db,
    pub agents: AgentRegistry,
    pub provisioners: Provisioners,
    pub children: Children,
    /// Ids of workspaces of which something has changed.
    pub changes: broadcast::Sender<String>,
    pub stop: CancellationToken,
}

impl ServerState {
    pub fn open(
        options: LocalOptions,
        endpoint: Endpoint,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, LocalError> {
        let prepare = || {
            let db = Db::open(&options.data_dir.join("control.db"))?;
            let identity = Identity::find_or_make(&db.get())?;
            seed(&mut db.get())?;
            Ok((db, identity))
        };
        let (db, identity) =
            prepare().map_err(|error| LocalError::Database { data_dir: options.data_dir.clone(), error })?;
        Ok(Arc::new(Self {
            identity,
            db,
            agents: AgentRegistry::default(),
            provisioners: Provisioners::new(options.provisioners),
            children: Children::default(),
            changes: broadcast::Sender::new(CHANGES),
            stop,
            options,
            endpoint,
        }))
    }

    /// Tells those who watch the workspace. Nobody may be watching.
    pub fn changed(&self, workspace: &str) {
        let _ = self.changes.send(workspace.to_owned());
    }
}

/// A new control plane has a template, so that a workspace can be made at once.
fn seed(db: &mut Connection) -> rusqlite::Result<()> {
    if Template::all(db)?.is_empty() {
        let spec = TemplateSpec {
            name: FIRST_TEMPLATE.to_owned(),
            version: VersionSpec::default(),
            ..TemplateSpec::default()
        };
        Template::insert(db, &spec)?;
    }
    Ok(())
}
