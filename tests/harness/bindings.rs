//! The bindings in `src/contract/bindings.rs` are generated from `wit/` and checked in: a build of the guest then needs
//! neither a macro nor a parser. This test keeps the two together.

use std::fs;
use std::path::{Path, PathBuf};

use wit_bindgen_core::wit_parser::Resolve;
use wit_bindgen_core::{Files, WorldGenerator};

/// Set to 1, it makes the test write the file instead of comparing it.
const REWRITE: &str = "UPDATE_BINDINGS";

#[test]
fn the_checked_in_bindings_are_those_of_the_contract() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("src/contract/bindings.rs");
    let generated = generate(&root.join("wit"));
    if std::env::var_os(REWRITE).is_some_and(|value| value == "1") {
        fs::write(&path, &generated).unwrap();
    }
    let checked_in = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        checked_in == generated,
        "src/contract/bindings.rs is not what wit/ generates; run `{REWRITE}=1 cargo test --package \
         workspace-recovery-plugin --test harness bindings` and check the file in"
    );
}

fn generate(wit: &PathBuf) -> String {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(wit).unwrap();
    let world = resolve.select_world(&[package], Some("plugin")).unwrap();
    let options = wit_bindgen_rust::Opts {
        generate_all: true,
        additional_derive_attributes: vec!["PartialEq".into(), "Eq".into()],
        ..Default::default()
    };
    let mut files = Files::default();
    options.build().generate(&mut resolve, world, &mut files).unwrap();
    let (_, contents) = files.iter().next().unwrap();
    String::from_utf8(contents.to_vec()).unwrap()
}
