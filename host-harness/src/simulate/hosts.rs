//! The hosts of a world: each is a driver with a chat host, which may be killed and begun anew.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::dice::Dice;
use super::fault_gate::FaultGate;
use super::network::Network;
use super::plugins::Plugins;
use super::store::Disk;
use super::world_state::{SimulatedClock, WorldState};
use crate::chat::ChatHost;
use crate::clock::Clock;
use crate::control_plane::ControlPlane;
use crate::driver::Driver;
use crate::engine::Plugin;
use crate::policy::Timings;
use crate::store::{Backend, Store};

/// All hosts.
pub struct Hosts {
    world: Arc<WorldState>,
    plugins: Plugins,
    store: Store,
    fitting: Fitting,
    /// By number, from 1. `None`: it is down.
    running: Mutex<Vec<Option<Host>>>,
}

/// One life of a host. Cheap to clone.
#[derive(Clone)]
pub struct Host {
    /// What it passes to reach anything.
    pub gate: Arc<FaultGate>,
    /// Runs calls.
    pub driver: Driver,
    /// Runs commands.
    pub chats: ChatHost,
}

/// The parts of a host through which it reaches the rest of its world, and the times that it keeps to.
pub struct Seams {
    /// The plugin that its calls begin on.
    pub plugin: Plugin,
    /// Its way to the control plane.
    pub plane: Arc<dyn ControlPlane>,
    /// Its way to the store.
    pub backend: Arc<dyn Backend>,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// Its times.
    pub timings: Timings,
}

/// What is done to the parts of each host of a world before it begins.
pub type Fitting = Arc<dyn Fn(Seams, &Arc<WorldState>) -> Seams + Send + Sync>;

/// The times that hosts keep to. Real ones, but for those that cost the simulator most: how often a host looks around.
pub fn timings() -> Timings {
    Timings {
        poll: Duration::from_secs(5),
        lease: Duration::from_secs(60),
        news: Duration::from_secs(5),
        ..Timings::default()
    }
}

impl Hosts {
    /// Begins all hosts.
    pub fn begin(world: Arc<WorldState>, plugins: Plugins, store: Store, fitting: Fitting) -> Arc<Self> {
        let running = Mutex::new(vec![None; world.schedule.hosts as usize + 1]);
        let hosts = Arc::new(Self { world, plugins, store, fitting, running });
        for host in 1..=hosts.world.schedule.hosts {
            hosts.live(host, 0);
        }
        hosts
    }

    /// The host of this number, or the next one that is up.
    pub fn near(&self, number: u64) -> Option<Host> {
        let running = self.lock();
        let hosts = running.len() as u64 - 1;
        (0..hosts).find_map(|other| running[((number - 1 + other) % hosts + 1) as usize].clone())
    }

    /// The host of this number, if it is up.
    pub fn get(&self, number: u64) -> Option<Host> {
        self.lock().get(number as usize)?.clone()
    }

    /// Begins a life of a host, and sees to its end.
    fn live(self: &Arc<Self>, number: u64, life: u64) {
        let gate = Arc::new(FaultGate::new(self.world.clone(), number, life));
        let network = Network::new(self.world.clone(), gate.clone(), self.store.clone());
        let disk = Disk::new(self.world.clone(), gate.clone(), &self.store);
        // It is upgraded while it is down, or taken back to what it was before.
        let is_newer = Dice::new(self.world.schedule.seed, "plugin", &[number, life]).percent(40);
        let Plugins { older, newer } = self.plugins.clone();
        let (own, other) = if is_newer { (newer, older) } else { (older, newer) };
        let seams = Seams {
            plugin: own,
            plane: Arc::new(network),
            backend: Arc::new(disk),
            clock: Arc::new(SimulatedClock(self.world.clone())),
            timings: timings(),
        };
        let Seams { plugin, plane, backend, clock, timings } = (self.fitting)(seams, &self.world);
        let driver = Driver::with_clock(plugin, plane, Store::at(backend), timings, clock);
        driver.know(other);
        let chats = ChatHost::new(driver.clone());
        let host = Host { gate: gate.clone(), driver: driver.clone(), chats };
        self.lock()[number as usize] = Some(host);
        self.world.observer().note(self.world.now(), "host", &[number, life], || {
            let version = if is_newer { "newer" } else { "older" };
            format!("host {number} begins, with the {version} plugin")
        });
        let hosts = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = gate.death() => {}
                // It carries on what it finds; if it cannot enter the store yet, it tries again by itself.
                _ = driver.stand_by() => gate.death().await,
            }
            driver.halt();
            drop(driver);
            hosts.lock()[number as usize] = None;
            let now = hosts.world.now();
            hosts.world.observer().note(now, "death", &[number, life], || format!("host {number} is dead"));
            hosts.world.reach(hosts.world.until(gate.back())).await;
            hosts.live(number, life + 1);
        });
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Host>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
