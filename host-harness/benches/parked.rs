//! Hibernation: how much memory and disk a parked call takes, and how soon another host has taken calls over.
//!
//! `cargo bench -p workspace-recovery --no-default-features --features plugin,store --bench parked -- --calls 1000000
//! --taken-over 100000`. Reads `/proc`, so it is for Linux. The stores are in the folder for temporary files, which
//! should be on a disk.

#![expect(clippy::unwrap_used, reason = "a benchmark that fails may panic")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use guest_artifact::COMPONENT;
use tokio::task::JoinSet;
use tokio::time::sleep;
use workspace_recovery::driver::Driver;
use workspace_recovery::engine::{Engine, EngineOptions};
use workspace_recovery::policy::Timings;
use workspace_recovery::store::{Listing, Store};

mod world;

use world::{Plane, chat_name, connect, policy};

/// Calls that are being begun, or run, at the same time. More would measure the memory of a crowd at the door.
const BEGINNING: usize = 256;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (mut calls, mut taken_over) = (10_000, 10_000);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap();
        match argument.as_str() {
            "--calls" => calls = value().parse().unwrap(),
            "--taken-over" => taken_over = value().parse().unwrap(),
            "--victim" => return victim(value().as_ref(), value().parse().unwrap()),
            other => panic!("unknown argument {other}"),
        }
    }
    park(calls);
    take_over(taken_over);
}

/// A host, and the control plane that it speaks to.
struct Host {
    plane: Arc<Plane>,
    driver: Driver,
    store: Store,
}

impl Host {
    fn new(file: &Path) -> Self {
        let store = Store::open(file).unwrap();
        let plane = Arc::new(Plane::stuck());
        let plugin = Engine::new(EngineOptions::default()).unwrap().load(COMPONENT).unwrap();
        // The whole crowd is read once a minute, which is what a control plane may just bear.
        let timings = Timings { poll: Duration::from_secs(60), ..Timings::default() };
        let driver = Driver::new(plugin, plane.clone(), store.clone(), timings);
        Self { plane, driver, store }
    }

    /// Begins so many calls, each in a chat and at a workspace of its own, and waits until all are parked and each
    /// workspace was looked at.
    async fn begin(&self, calls: usize) {
        let mut tasks = JoinSet::new();
        for first in 0..BEGINNING {
            let driver = self.driver.clone();
            tasks.spawn(async move {
                for number in (first..calls).step_by(BEGINNING) {
                    while driver.unended() > driver.parked() + BEGINNING {
                        sleep(Duration::from_millis(1)).await;
                    }
                    let chat = chat_name(number);
                    driver.begin(&chat, "stop_workspace", "{}", policy(), None).await.unwrap();
                }
            });
        }
        tasks.join_all().await;
        self.parked(calls).await;
        // Each was read twice: by the call, and for its wait.
        while self.plane.reads.load(Ordering::Relaxed) < 2 * calls as u64 {
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until so many calls are parked.
    async fn parked(&self, calls: usize) {
        while self.driver.parked() < calls {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

fn park(calls: usize) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.db");
    drop(Store::open(&file).unwrap());
    world::add_chats(&file, calls);
    let size = || std::fs::metadata(&file).unwrap().len();
    let empty_size = size();
    world::runtime().block_on(async {
        let host = Host::new(&file);
        host.driver.stand_by().await.unwrap();
        let empty = resident();
        let begun = Instant::now();
        host.begin(calls).await;
        let took = begun.elapsed();
        let full = resident();
        println!("{calls} calls were begun, and parked, in {took:.1?}");
        println!(
            "resident: {empty} bytes without calls, {full} with them, {} per parked call",
            (full - empty) / calls as u64
        );
        connect(&file).execute_batch("PRAGMA wal_checkpoint(PASSIVE)").unwrap();
        println!("on the disk: {} bytes per parked call", (size() - empty_size) / calls as u64);
        let begun = Instant::now();
        let last = host.store.calls(Listing::All, 1).unwrap().pop().unwrap().id;
        host.driver.interrupt(last).await.unwrap();
        host.driver.follow(last, &Default::default()).await.unwrap().unwrap();
        println!("one of them was interrupted, and had ended, in {:.1?}", begun.elapsed());
        host.driver.halt();
    });
}

/// Lets a host begin calls, kills it, and lets this process take them over.
fn take_over(calls: usize) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.db");
    drop(Store::open(&file).unwrap());
    world::add_chats(&file, calls);
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--victim".as_ref(), file.as_os_str(), calls.to_string().as_ref()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(victim.stdout.take().unwrap()), &mut said)
        .unwrap();
    assert_eq!(said, "all are parked\n");
    world::runtime().block_on(async {
        let host = Host::new(&file);
        host.driver.stand_by().await.unwrap();
        // Kills with SIGKILL.
        victim.kill().unwrap();
        victim.wait().unwrap();
        let lease = "SELECT lease_until_ms FROM host ORDER BY id";
        let free: i64 = connect(&file).query_row(lease, [], |row| row.get(0)).unwrap();
        host.parked(calls).await;
        println!(
            "{calls} calls of a killed host were parked again {} ms after its lease was free",
            now_ms() - free
        );
        while host.plane.reads.load(Ordering::Relaxed) < calls as u64 {
            sleep(Duration::from_millis(1)).await;
        }
        println!("each workspace was looked at again after {} ms", now_ms() - free);
        host.driver.halt();
    });
}

/// The host that is to be killed.
fn victim(file: &Path, calls: usize) {
    let runtime = world::runtime();
    let _host = runtime.block_on(async {
        let host = Host::new(file);
        host.begin(calls).await;
        host
    });
    println!("all are parked");
    // It must not outlive the one who is to kill it.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
}

/// The bytes of memory that this process has now.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
}

fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}
