//! Finds and opens what a command works with: the data folder, the plugin, the control plane, the chats.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};

use super::deployment::Deployment;
use super::paths::absolute;
use crate::bindings::Tool;
use crate::chat::{Chat, ChatHost};
use crate::control_plane::ControlPlane;
use crate::control_plane::rest::{RestClient, RestOptions, TokenError, TokenSource};
use crate::driver::{DriveError, Driver, Inside};
use crate::engine::{Engine, EngineOptions, Plugin, PluginError};
use crate::local::{Endpoint, LocalAdmin, LocalControlPlane};
use crate::policy::{ChatTools, Timings};
use crate::store::Store;

/// The store's file in the data folder. The name is that of its first days.
pub const STORE_FILE: &str = "chats.db";
/// The folder of the deployments' folders, in the data folder.
const DEPLOYMENTS: &str = "deployments";

/// Where a command finds its things.
pub struct CommandContext {
    data: PathBuf,
    cache: Option<PathBuf>,
    plugin: Option<PathBuf>,
    shorten_times: u32,
    /// None: the local control plane.
    deployment: Option<Deployment>,
    /// The plugin that is being compiled behind the command.
    compiling: Mutex<Option<Plugin>>,
}

/// A control plane with everything that a command needs to work on it.
pub struct Host {
    pub plane: Arc<dyn ControlPlane>,
    /// None: it is a deployment.
    admin: Option<LocalAdmin>,
    pub driver: Driver,
    pub chats: ChatHost,
    pub store: Store,
}

impl CommandContext {
    pub fn new(
        data: Option<PathBuf>,
        plugin: Option<PathBuf>,
        shorten_times: u32,
        deployment: Option<Deployment>,
    ) -> anyhow::Result<Self> {
        let data = match data.or_else(|| user_folder("XDG_DATA_HOME", ".local/share")) {
            Some(data) => data,
            None => {
                bail!("no data folder: neither HOME nor XDG_DATA_HOME is set; name one with --data FOLDER")
            }
        };
        let cache = user_folder("XDG_CACHE_HOME", ".cache");
        Ok(Self { data, cache, plugin, shorten_times, deployment, compiling: Mutex::default() })
    }

    /// The folder of the local control plane.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The variable that the deployment's token comes from, if it does from one.
    pub fn token_variable(&self) -> Option<&'static str> {
        self.deployment.as_ref().and_then(Deployment::token_variable)
    }

    /// The folder of the chats and calls. Each deployment has one of its own, so that a chat, and a call that is
    /// carried on, can only ever be that deployment's.
    pub fn folder(&self) -> PathBuf {
        match &self.deployment {
            None => self.data.clone(),
            Some(deployment) => self.data.join(DEPLOYMENTS).join(deployment.folder()),
        }
    }

    /// Loads the plugin: the one from the command line, or the built-in one.
    pub fn load_plugin(&self) -> anyhow::Result<Plugin> {
        self.plugin(Engine::load)
    }

    /// Loads the plugin in this file.
    pub fn load_plugin_from(&self, file: &Path) -> anyhow::Result<Plugin> {
        self.plugin_from(Some(file), Engine::load)
    }

    /// As [`load_plugin`](Self::load_plugin), and compiles it behind what comes next.
    pub fn load_plugin_behind(&self) -> anyhow::Result<Plugin> {
        let plugin = self.plugin(Engine::load_behind)?;
        *self.compiling.lock().unwrap_or_else(PoisonError::into_inner) = Some(plugin.clone());
        Ok(plugin)
    }

    /// Waits until what is compiled behind the command is, and kept: else a machine on which each command is over soon
    /// would compile it again each time.
    pub async fn finish_compiling(&self) {
        let plugin = self.compiling.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(plugin) = plugin {
            // Whoever needed it has heard of it.
            let _ = plugin.ready().await;
        }
    }

    fn plugin(&self, load: fn(&Engine, &[u8]) -> Result<Plugin, PluginError>) -> anyhow::Result<Plugin> {
        self.plugin_from(self.plugin.as_deref(), load)
    }

    fn plugin_from(
        &self,
        file: Option<&Path>,
        load: fn(&Engine, &[u8]) -> Result<Plugin, PluginError>,
    ) -> anyhow::Result<Plugin> {
        let engine =
            Engine::new(EngineOptions { cache_dir: self.cache.clone(), ..EngineOptions::default() })?;
        match file {
            None => Ok(load(&engine, crate::PLUGIN)?),
            Some(file) => {
                let bytes = std::fs::read(file)
                    .with_context(|| format!("cannot read the plugin {}", file.display()))?;
                load(&engine, &bytes)
                    .with_context(|| format!("{} cannot be used as a plugin", file.display()))
            }
        }
    }

    /// How long everything takes.
    pub fn timings(&self) -> Timings {
        Timings::shortened(self.shorten_times)
    }

    /// All this as arguments for another process of this program, wherever it is started.
    pub fn arguments(&self) -> anyhow::Result<Vec<OsString>> {
        let mut arguments = vec!["--data".into(), absolute(&self.data)?.into()];
        if let Some(plugin) = &self.plugin {
            arguments.extend(["--plugin".into(), absolute(plugin)?.into()]);
        }
        if self.shorten_times > 1 {
            arguments.extend(["--shorten-times".into(), self.shorten_times.to_string().into()]);
        }
        if let Some(deployment) = &self.deployment {
            arguments.extend(deployment.arguments()?);
        }
        Ok(arguments)
    }

    /// And what it needs besides, as variables.
    pub fn variables(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        self.deployment.as_ref().map_or(Ok(Vec::new()), Deployment::variables)
    }

    /// Whether something has been kept in the data folder.
    pub fn has_store(&self) -> bool {
        self.folder().join(STORE_FILE).exists()
    }

    /// The store in the data folder, if something has been kept there.
    pub fn store(&self) -> anyhow::Result<Store> {
        if !self.has_store() {
            bail!(
                "{} has no calls yet: name the folder that you work in with --data, and the deployment with \
                 --coder-url, or bind a chat first",
                self.folder().display()
            );
        }
        Ok(Store::open(&self.folder().join(STORE_FILE))?)
    }

    /// The control plane, with its chats.
    pub async fn open(&self) -> anyhow::Result<Host> {
        let (client, admin) = self.connect().await?;
        self.host(client, admin).await
    }

    /// As [`open`](Self::open), also while the local control plane is not there, or never was.
    pub async fn open_ahead(&self) -> anyhow::Result<Host> {
        let (client, admin) = match &self.deployment {
            None => self.at(&LocalControlPlane::will_serve(&self.data).await?)?,
            Some(_) => self.connect().await?,
        };
        self.host(client, admin).await
    }

    async fn host(&self, client: RestClient, admin: Option<LocalAdmin>) -> anyhow::Result<Host> {
        let folder = self.folder();
        // What calls say and are given is for their user alone. A folder that is there is left as it is.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let store = Store::open(&folder.join(STORE_FILE))?;
        Ok(Host::new(client, admin, self.load_plugin_behind()?, store, self.timings()))
    }

    /// A client of the control plane, and of its operations if it is the local one.
    pub async fn connect(&self) -> anyhow::Result<(RestClient, Option<LocalAdmin>)> {
        if let Some(deployment) = &self.deployment {
            return Ok((deployment.connect()?, None));
        }
        let Some(endpoint) = LocalControlPlane::find(&self.data).await? else {
            bail!(
                "no local control plane serves {}: start one in another terminal with \
                 `workspace-recovery local serve`, name its folder with --data, or name a Coder deployment with \
                 --coder-url",
                self.data.display()
            );
        };
        self.at(&endpoint)
    }

    fn at(&self, endpoint: &Endpoint) -> anyhow::Result<(RestClient, Option<LocalAdmin>)> {
        let data = self.data.display();
        let how = format!("`workspace-recovery local serve` starts the local control plane of {data}");
        let token = Arc::new(LocalToken(endpoint.token.clone()));
        let options =
            RestOptions { when_away: Some(how), ..RestOptions::with_token_of(&endpoint.url, token) };
        Ok((RestClient::with_options(&options)?, Some(LocalAdmin::new(endpoint))))
    }
}

/// The token of a local control plane, which lives as long as its folder.
struct LocalToken(String);

impl TokenSource for LocalToken {
    fn token(&self) -> Result<String, TokenError> {
        Ok(self.0.clone())
    }

    fn renewal(&self) -> String {
        "the folder of the local control plane was made anew; start this program again".to_owned()
    }
}

impl Host {
    pub fn new(
        client: RestClient,
        admin: Option<LocalAdmin>,
        plugin: Plugin,
        store: Store,
        timings: Timings,
    ) -> Self {
        let plane: Arc<dyn ControlPlane> = Arc::new(client);
        let inside = Inside::of_variables(|name| std::env::var(name).ok());
        let driver = Driver::new(plugin, plane.clone(), store.clone(), timings).running_in(inside);
        let chats = ChatHost::new(driver.clone());
        Self { plane, admin, driver, chats, store }
    }

    /// The operations that only the local control plane has.
    pub fn admin(&self) -> anyhow::Result<&LocalAdmin> {
        self.admin.as_ref().context(
            "only the local control plane does that; on a deployment, workspaces are made and deleted with the Coder \
             command line or in the browser",
        )
    }

    /// The chat `name`, which has all tools of the plugin.
    pub async fn chat(&self, name: &str) -> Result<Chat, DriveError> {
        let names = self.driver.list_tools().await?.into_iter().map(|Tool { name, .. }| name).collect();
        Ok(self.chats.chat(name, ChatTools { names, ..ChatTools::default() }))
    }
}

/// This program's folder in the user's folder named by `variable`, or in its usual place under the home folder.
fn user_folder(variable: &str, usual: &str) -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set(variable).or_else(|| Some(set("HOME")?.join(usual)))?;
    Some(base.join("workspace-recovery"))
}
