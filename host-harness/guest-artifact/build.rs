//! Compiles the guest with a cargo of its own and wraps it into a component.

#[path = "build/guest.rs"]
mod guest;

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use guest::PREBUILT;
use serde_json::{Value, json};
use workspace_recovery_plugin::tools::list;

fn main() {
    if let Err(error) = run() {
        // One line each, or cargo shows the first line only.
        println!("cargo::error={}", error.to_string().replace('\n', " "));
        // A failed exit makes cargo show the inner compiler's words.
        std::process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("../..").canonicalize()?;
    let out = PathBuf::from(variable("OUT_DIR")?);

    println!("cargo::rerun-if-env-changed={PREBUILT}");
    for input in ["src", "wit", "Cargo.toml", "Cargo.lock", "rust-toolchain.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");

    let (component, tools) = match env::var_os(PREBUILT) {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", Path::new(&path).display());
            let component = fs::read(&path)
                .map_err(|error| format!("{PREBUILT} names a file that cannot be read: {error}"))?;
            // It was built of other sources, for all that is known.
            (component, "None".to_owned())
        }
        None => (guest::build(&root, &out.join("guest"))?, format!("Some({:?})", tools())),
    };
    fs::write(out.join("plugin.wasm"), component)?;
    fs::write(out.join("tools.rs"), tools)?;
    Ok(())
}

/// The guest's tools as JSON, with the contract's names for their fields.
fn tools() -> String {
    let tools = list().into_iter().map(|tool| {
        json!({
            "name": tool.name,
            "title": tool.title,
            "description": tool.description,
            "input_schema": tool.input_schema,
            "output_schema": tool.output_schema,
            "read_only": tool.read_only,
            "destructive": tool.destructive,
            "idempotent": tool.idempotent,
            "open_world": tool.open_world,
        })
    });
    Value::Array(tools.collect()).to_string()
}

fn variable(name: &str) -> Result<OsString, Box<dyn Error>> {
    env::var_os(name).ok_or_else(|| format!("{name} is not set; this program is to be run by cargo").into())
}
