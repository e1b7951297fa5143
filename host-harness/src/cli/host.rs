//! Finds and opens what a command works with: the data folder, the plugin, the control plane, the chats.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};

use super::hosts;
use crate::bindings::Tool;
use crate::chat::{Chat, ChatHost};
use crate::control_plane::ControlPlane;
use crate::control_plane::rest::RestClient;
use crate::driver::Driver;
use crate::engine::{Engine, EngineOptions, Plugin};
use crate::local::{Endpoint, LocalAdmin, LocalControlPlane};
use crate::policy::{ChatTools, Timings};
use crate::store::Store;

/// The store's file in the data folder. The name is that of its first days.
pub const STORE_FILE: &str = "chats.db";

/// Where a command finds its things.
pub struct Place {
    data: PathBuf,
    cache: Option<PathBuf>,
    plugin: Option<PathBuf>,
    shorten_times: u32,
}

/// A control plane with everything that a command needs to work on it.
pub struct Host {
    pub plane: Arc<dyn ControlPlane>,
    pub admin: LocalAdmin,
    pub driver: Driver,
    pub chats: ChatHost,
    pub store: Store,
    pub tools: ChatTools,
}

impl Place {
    pub fn new(data: Option<PathBuf>, plugin: Option<PathBuf>, shorten_times: u32) -> anyhow::Result<Self> {
        let data = match data.or_else(|| user_folder("XDG_DATA_HOME", ".local/share")) {
            Some(data) => data,
            None => {
                bail!("no data folder: neither HOME nor XDG_DATA_HOME is set; name one with --data FOLDER")
            }
        };
        Ok(Self { data, cache: user_folder("XDG_CACHE_HOME", ".cache"), plugin, shorten_times })
    }

    /// The folder of the local control plane and of the chats.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Loads the plugin: the one from the command line, or the built-in one.
    pub fn load_plugin(&self) -> anyhow::Result<Plugin> {
        let engine =
            Engine::new(EngineOptions { cache_dir: self.cache.clone(), ..EngineOptions::default() })?;
        match &self.plugin {
            None => Ok(engine.load(crate::PLUGIN)?),
            Some(file) => {
                let bytes = std::fs::read(file)
                    .with_context(|| format!("cannot read the plugin {}", file.display()))?;
                engine.load(&bytes).with_context(|| format!("{} cannot be used as a plugin", file.display()))
            }
        }
    }

    /// The plugin file and the shortening of times, as arguments for another process of this program.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments = vec!["--data".into(), self.data.clone().into_os_string()];
        if let Some(plugin) = &self.plugin {
            arguments.extend(["--plugin".into(), plugin.clone().into_os_string()]);
        }
        if self.shorten_times > 1 {
            arguments.extend(["--shorten-times".into(), self.shorten_times.to_string().into()]);
        }
        arguments
    }

    /// The store in the data folder, if something has been kept there.
    pub fn store(&self) -> anyhow::Result<Store> {
        let file = self.data.join(STORE_FILE);
        if !file.exists() {
            bail!(
                "{} has no calls yet: name the folder that you work in with --data, or bind a chat first",
                self.data.display()
            );
        }
        Ok(Store::open(&file)?)
    }

    /// As [`open`](Self::open), and sees to it that calls which nobody carries are carried on.
    pub async fn open_and_tidy(&self) -> anyhow::Result<Host> {
        let host = self.open().await?;
        if host.driver.has_orphans().await? {
            hosts::start(self)?;
        }
        Ok(host)
    }

    /// The local control plane that serves the data folder, with the chats in that folder.
    pub async fn open(&self) -> anyhow::Result<Host> {
        let Some(endpoint) = LocalControlPlane::find(&self.data).await? else {
            bail!(
                "no local control plane serves {}: start one in another terminal with \
                 `workspace-recovery local serve`, or name its folder with --data",
                self.data.display()
            );
        };
        let store = Store::open(&self.data.join(STORE_FILE))?;
        let timings = Timings::shortened(self.shorten_times);
        Host::new(&endpoint, self.load_plugin()?, store, timings).await
    }
}

impl Host {
    pub async fn new(
        endpoint: &Endpoint,
        plugin: Plugin,
        store: Store,
        timings: Timings,
    ) -> anyhow::Result<Self> {
        let plane: Arc<dyn ControlPlane> = Arc::new(RestClient::new(&endpoint.url, &endpoint.token)?);
        let driver = Driver::new(plugin, plane.clone(), store.clone(), timings);
        let tools = driver.list_tools().await?.into_iter().map(|Tool { name, .. }| name);
        let tools = ChatTools { names: tools.collect(), ..ChatTools::default() };
        let chats = ChatHost::new(driver.clone());
        Ok(Self { plane, admin: LocalAdmin::new(endpoint), driver, chats, store, tools })
    }

    /// The chat `name`, which has all tools of the plugin.
    pub fn chat(&self, name: &str) -> Chat {
        self.chats.chat(name, self.tools.clone())
    }
}

/// This program's folder in the user's folder named by `variable`, or in its usual place under the home folder.
fn user_folder(variable: &str, usual: &str) -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set(variable).or_else(|| Some(set("HOME")?.join(usual)))?;
    Some(base.join("workspace-recovery"))
}
