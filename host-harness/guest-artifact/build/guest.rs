//! How the guest becomes a component. Used by the build script, and by the test that builds it in another folder.
//!
//! The bytes do not depend on the folders of the machine, so that a component can be named by its hash. The nested
//! cargo has its own target *and* build folder: sharing one with the outer cargo, which holds its lock, would hang for
//! ever.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The guest needs no operating system: this target brings no imports of its own, WASI would.
const TARGET: &str = "wasm32-unknown-unknown";
const PACKAGE: &str = "workspace-recovery-plugin";
/// Names a finished component to be used in place of a build.
pub const PREBUILT: &str = "GUEST_COMPONENT";

/// Builds the guest of the workspace at `root` and wraps it into a component. `target_dir` is the nested cargo's alone.
pub fn build(root: &Path, target_dir: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    require_target()?;
    let module = build_module(root, target_dir)?;
    encode(&fs::read(module)?)
}

/// Sees that the standard library for the target is there; asks rustup for it if not.
fn require_target() -> Result<(), Box<dyn Error>> {
    if target_is_installed()? {
        return Ok(());
    }
    let toolchain = env::var("RUSTUP_TOOLCHAIN").unwrap_or_default();
    let command = if toolchain.is_empty() {
        format!("rustup target add {TARGET}")
    } else {
        format!("rustup target add --toolchain {toolchain} {TARGET}")
    };
    let mut words = command.split(' ');
    // A failure, rustup itself missing included, shows in the second look.
    let _ = Command::new(words.next().unwrap_or_default()).args(words).status();
    if target_is_installed()? {
        return Ok(());
    }
    Err(format!("the Rust target {TARGET} is not installed; run `{command}`, or set {PREBUILT} to a finished component")
        .into())
}

/// rustc prints the folder whether it exists or not.
fn target_is_installed() -> Result<bool, Box<dyn Error>> {
    let output = Command::new(tool("RUSTC", "rustc"))
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()?;
    Ok(output.status.success() && Path::new(String::from_utf8(output.stdout)?.trim()).is_dir())
}

fn build_module(root: &Path, target_dir: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let mut cargo = Command::new(tool("CARGO", "cargo"));
    // Settings meant for the outer build: other targets, profiles, flags that break the link.
    for (name, _) in env::vars_os() {
        let foreign = ["CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_", "CARGO_INCREMENTAL"];
        if name.to_str().is_some_and(|name| foreign.iter().any(|prefix| name.starts_with(prefix))) {
            cargo.env_remove(name);
        }
    }
    let status = cargo
        .current_dir(root)
        .args(["build", "--package", PACKAGE, "--lib", "--release", "--locked", "--target", TARGET])
        .env("CARGO_TARGET_DIR", target_dir)
        .env("CARGO_BUILD_BUILD_DIR", target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", rust_flags(root)?)
        .env_remove("RUSTFLAGS")
        // Empty, not removed: so they mask a wrapper from a configuration file too.
        .env("RUSTC_WRAPPER", "")
        .env("RUSTC_WORKSPACE_WRAPPER", "")
        .status()?;
    if !status.success() {
        return Err(format!(
            "building the guest ({PACKAGE} for {TARGET}) failed; the compiler's words are above"
        )
        .into());
    }
    Ok(target_dir.join(TARGET).join("release").join("workspace_recovery_plugin.wasm"))
}

/// Flags that take the folders of this machine out of the bytes, and a stack that fits a guest of shallow calls.
fn rust_flags(root: &Path) -> Result<OsString, Box<dyn Error>> {
    let home = env::var_os("HOME").or_else(|| env::var_os("USERPROFILE")).map(PathBuf::from);
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(home?.join(".cargo")));
    let sysroot = Command::new(tool("RUSTC", "rustc")).args(["--print", "sysroot"]).output()?;
    let mut prefixes = vec![(PathBuf::from(String::from_utf8(sysroot.stdout)?.trim()), "/rust")];
    if let Some(cargo_home) = cargo_home {
        // The registry's own folder has a name that depends on its address; the last match wins.
        prefixes.push((cargo_home.clone(), "/cargo"));
        let registries = fs::read_dir(cargo_home.join("registry/src")).into_iter().flatten().flatten();
        prefixes.extend(registries.map(|entry| (entry.path(), "/registry")));
    }
    prefixes.push((root.to_path_buf(), "/plugin"));

    let mut flags = OsString::from("-Clink-arg=-zstack-size=65536");
    for (from, to) in prefixes {
        flags.push("\u{1f}--remap-path-prefix=");
        flags.push(from);
        flags.push("=");
        flags.push(to);
    }
    Ok(flags)
}

fn encode(module: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let component = wit_component::ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| format!("the guest is no valid component: {error:#}"))?;
    Ok(component)
}

/// Cargo names itself and its compiler to build scripts; elsewhere the ones of the toolchain at hand do.
fn tool(variable: &str, name: &str) -> OsString {
    env::var_os(variable).unwrap_or_else(|| name.into())
}
