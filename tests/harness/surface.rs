//! What the built component asks for and offers, and that its bytes do not depend on where it was built.

#[path = "../../host-harness/guest-artifact/build/guest.rs"]
mod guest;

use std::fs;
use std::path::{Path, PathBuf};

use guest_artifact::COMPONENT;
use wit_component::DecodedWasm;
use wit_parser::{Resolve, WorldItem, WorldKey};
use workspace_recovery::engine::Step;
use workspace_recovery::journal::{Export, Journal, Output};

use crate::support::engine;

/// Set to 1, it makes the test write the list instead of comparing it.
const REWRITE: &str = "UPDATE_SURFACE";

/// What makes up the workspace, for a build elsewhere.
const SOURCES: [&str; 8] =
    ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "clippy.toml", "src", "wit", "tests", "host-harness"];

#[test]
fn the_component_imports_and_exports_the_listed_functions_and_nothing_else() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/harness/surface.txt");
    let surface = surface(COMPONENT);
    if std::env::var_os(REWRITE).is_some_and(|value| value == "1") {
        fs::write(&path, &surface).unwrap();
    }
    let listed = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        surface, listed,
        "the component's functions changed; if they should, run this test with {REWRITE}=1 and check the list in"
    );
}

#[test]
fn the_tools_that_are_known_without_asking_are_those_that_the_component_lists() {
    let plugin = engine().load(COMPONENT).unwrap();
    let Step::Done(Output::ListTools(listed)) = plugin.step(&Export::ListTools, &Journal::new()).unwrap()
    else {
        panic!("it asks for something")
    };
    assert_eq!(plugin.known_tools(), Some(listed));
}

#[test]
fn a_build_in_another_folder_gives_the_same_bytes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let elsewhere = scratch.path().join("a folder").join("elsewhere");
    for source in SOURCES {
        copy(&root.join(source), &elsewhere.join(source));
    }
    let target_dir = scratch.path().join("target");
    let component = guest::build(&elsewhere.canonicalize().unwrap(), &target_dir).unwrap();
    assert!(component == COMPONENT, "{} bytes here, {} elsewhere", COMPONENT.len(), component.len());
}

#[test]
fn the_component_tells_nothing_of_the_machine_that_built_it() {
    let home = std::env::var("HOME").unwrap();
    for folder in [env!("CARGO_MANIFEST_DIR"), &home] {
        let found = COMPONENT.windows(folder.len()).any(|bytes| bytes == folder.as_bytes());
        assert!(folder.len() < 2 || !found, "the component holds {folder}");
    }
}

/// One line for each function: where it stands, and its name.
fn surface(component: &[u8]) -> String {
    let DecodedWasm::Component(resolve, world) = wit_component::decode(component).unwrap() else {
        panic!("not a component");
    };
    let world = &resolve.worlds[world];
    let mut lines: Vec<String> = world
        .imports
        .iter()
        .flat_map(|(key, item)| functions("import", &resolve, key, item))
        .chain(world.exports.iter().flat_map(|(key, item)| functions("export", &resolve, key, item)))
        .collect();
    lines.sort();
    lines.join("\n") + "\n"
}

fn functions(side: &str, resolve: &Resolve, key: &WorldKey, item: &WorldItem) -> Vec<String> {
    let name = resolve.name_world_key(key);
    match item {
        // An interface of types only is listed too, by its name alone.
        WorldItem::Interface { id, .. } if resolve.interfaces[*id].functions.is_empty() => {
            vec![format!("{side} {name}")]
        }
        WorldItem::Interface { id, .. } => {
            let functions = resolve.interfaces[*id].functions.keys();
            functions.map(|function| format!("{side} {name} {function}")).collect()
        }
        _ => vec![format!("{side} {name}")],
    }
}

fn copy(from: &Path, to: &PathBuf) {
    if from.is_dir() {
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        }
        return;
    }
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(from, to).unwrap();
}
