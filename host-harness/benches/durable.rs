//! What kept calls cost: whole stop calls over a store on the disk, with a control plane that answers at once.
//!
//! `cargo bench -p workspace-recovery --no-default-features --features plugin,store --bench durable`; filling a store
//! with a million ended calls takes some minutes of it. The store is in the folder for temporary files, which should be
//! on a disk.

#![expect(clippy::unwrap_used, reason = "a benchmark that fails may panic")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use guest_artifact::COMPONENT;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use workspace_recovery::driver::Driver;
use workspace_recovery::engine::{Engine, EngineOptions};
use workspace_recovery::policy::Timings;
use workspace_recovery::store::{Listing, Store};

mod world;

use world::{Plane, chat_name, connect, policy};

/// The most calls in flight.
const WORKSPACES: usize = 256;
/// Ended calls in the store that has a history.
const HISTORY: usize = 1_000_000;

/// A host with a store of its own.
struct Host {
    runtime: Runtime,
    plane: Arc<Plane>,
    store: Store,
    driver: Driver,
    file: PathBuf,
    _folder: TempDir,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("store.db");
        let store = Store::open(&file).unwrap();
        world::add_chats(&file, WORKSPACES);
        let plane = Arc::new(Plane::prompt(WORKSPACES));
        let plugin = Engine::new(EngineOptions::default()).unwrap().load(COMPONENT).unwrap();
        let driver = Driver::new(plugin, plane.clone(), store.clone(), Timings::default());
        Self { runtime: world::runtime(), plane, store, driver, file, _folder: folder }
    }

    /// Makes a number of calls at each of so many workspaces, one after the other there, all workspaces at once.
    fn run(&self, in_flight: usize, calls: u64, others: u32) -> Duration {
        self.runtime.block_on(async {
            let begun = Instant::now();
            let mut tasks = JoinSet::new();
            for number in 0..in_flight {
                let (plane, driver) = (self.plane.clone(), self.driver.clone());
                tasks.spawn(async move {
                    for _ in 0..calls {
                        plane.start_again(number, others);
                        stop(&driver, number).await;
                    }
                });
            }
            tasks.join_all().await;
            begun.elapsed()
        })
    }

    /// What the last call wrote: its host calls, and the bytes of its journal's columns.
    fn written(&self) -> (usize, usize) {
        let last = self.last();
        let entries = self.store.recording(last).unwrap().unwrap().entries.len();
        let sum = "SELECT sum(octet_length(request) + octet_length(answer) + ifnull(octet_length(intent), 0)) \
             FROM entry WHERE call = ?1";
        let bytes = connect(&self.file).query_row(sum, [last as i64], |row| row.get::<_, i64>(0)).unwrap();
        let bytes = usize::try_from(bytes).unwrap();
        (entries, bytes)
    }

    /// The number of the last call.
    fn last(&self) -> u64 {
        self.store.calls(Listing::All, 1).unwrap().pop().unwrap().id
    }
}

async fn stop(driver: &Driver, number: usize) {
    let (chat, token) = (chat_name(number), CancellationToken::new());
    let answer = driver.call_tool(&chat, "stop_workspace", "{}", policy(), &token).await;
    let result = answer.unwrap().unwrap();
    assert!(result.json.contains("\"stopped\":true"), "{result:?}");
}

fn calls(c: &mut Criterion) {
    let host = Host::new();
    in_flight(c, &host, "empty store");
    growth(c, &host, "empty store");
    let before = host.last();
    let begun = Instant::now();
    fill(&host.file, HISTORY);
    println!("{HISTORY} ended calls were added to {before} in {:.0?}", begun.elapsed());
    let bytes = std::fs::metadata(&host.file).unwrap().len();
    println!("the file has {bytes} bytes now: {} per ended call", bytes / (before + HISTORY as u64));
    in_flight(c, &host, "a million ended calls");
    growth(c, &host, "a million ended calls");
}

fn in_flight(c: &mut Criterion, host: &Host, store: &str) {
    let mut group = c.benchmark_group(format!("stop calls in flight, {store}"));
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    for count in [1, 16, WORKSPACES] {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter_custom(|iterations| host.run(count, iterations, 0));
        });
    }
    group.finish();
}

/// Calls that meet more and more builds of somebody else: each takes three host calls, one of them a wait.
fn growth(c: &mut Criterion, host: &Host, store: &str) {
    let mut group = c.benchmark_group(format!("host calls of one call, {store}"));
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    for others in [0, 1, 4, 9, 20] {
        host.run(1, 1, others);
        let (host_calls, bytes) = host.written();
        println!("{host_calls} host calls: {bytes} bytes of journal, {} each", bytes / host_calls);
        group.throughput(Throughput::Elements(host_calls as u64));
        // With 16 in flight, so that it is not the disk alone that is measured.
        group.bench_function(BenchmarkId::from_parameter(host_calls), |b| {
            b.iter_custom(|iterations| host.run(16, iterations, others) / 16);
        });
    }
    group.finish();
}

/// Adds copies of the first call to the store, each of another chat and workspace, as if it had been filled for weeks.
fn fill(file: &Path, count: usize) {
    const BATCH: usize = 10_000;
    let mut connection = connect(file);
    let first = connection.query_row("SELECT max(id) + 1 FROM call", [], |row| row.get::<_, i64>(0)).unwrap();
    let first = usize::try_from(first).unwrap();
    let columns = |table: &str, leave_out: &[&str]| {
        let mut names = connection.prepare("SELECT name FROM pragma_table_info(?1)").unwrap();
        let names = names.query_map([table], |row| row.get::<_, String>(0)).unwrap();
        let names = names.map(Result::unwrap).filter(|name| !leave_out.contains(&name.as_str()));
        names.collect::<Vec<_>>().join(", ")
    };
    let (of_call, of_entry) = (columns("call", &["id", "chat"]), columns("entry", &["call"]));
    let numbers = "WITH RECURSIVE n (id) AS (SELECT ?1 UNION ALL SELECT id + 1 FROM n WHERE id < ?2)";
    let calls = format!(
        "{numbers} INSERT INTO call (id, chat, {of_call}) SELECT n.id, 'old chat ' || n.id, {of_call} \
         FROM n, (SELECT {of_call} FROM call WHERE id = 1)"
    );
    let entries = format!(
        "{numbers} INSERT INTO entry (call, {of_entry}) SELECT n.id, {of_entry} \
         FROM n, (SELECT {of_entry} FROM entry WHERE call = 1)"
    );
    let builds = format!("{numbers} INSERT INTO own_build (id, at_ms) SELECT 'old build ' || id, 0 FROM n");
    for from in (first..first + count).step_by(BATCH) {
        let to = (from + BATCH).min(first + count) - 1;
        let transaction = connection.transaction().unwrap();
        for insert in [&calls, &entries, &builds] {
            transaction.execute(insert, [from as i64, to as i64]).unwrap();
        }
        transaction.commit().unwrap();
    }
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
}

criterion_group!(benches, calls);
criterion_main!(benches);
