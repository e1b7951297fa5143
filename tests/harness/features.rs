//! wasmtime is built with what the engine needs. Another dependency could switch more on for everybody: some of it
//! costs time in every step, some of it lets plugins do more.

use std::collections::BTreeSet;
use std::process::Command;

#[test]
fn no_dependency_switches_on_features_of_wasmtime_that_we_do_without() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--workspace", "--offline", "--locked", "--all-features", "--edges", "normal"])
        .args(["--prefix", "none", "--format", "{p}|{f}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let features: BTreeSet<&str> = tree
        .lines()
        .filter(|line| line.starts_with("wasmtime v"))
        .filter_map(|line| line.split('|').nth(1))
        .flat_map(|features| features.trim_end_matches(" (*)").split(','))
        .collect();
    assert!(features.contains("pooling-allocator"), "the tree was not understood: {features:?}");
    for unwanted in
        ["backtrace", "gc", "threads", "component-model-async", "async", "cache", "profiling", "debug"]
    {
        assert!(!features.contains(unwanted), "wasmtime's feature {unwanted} is on");
    }
}
