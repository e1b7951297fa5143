//! What the harness tests share: an engine, plugins written by hand, and answers.

use std::sync::LazyLock;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;
use workspace_recovery::bindings::Binding;
use workspace_recovery::engine::{Engine, EngineOptions, Plugin, Step, StepError};
use workspace_recovery::journal::{Answer, Export, Journal, Request};

/// The folder of the contract.
pub const WIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/wit");

/// One engine for all tests: that a hostile plugin was stepped on it must not matter to any other test.
pub fn engine() -> &'static Engine {
    static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::new(EngineOptions::default()).unwrap());
    &ENGINE
}

/// A plugin written by hand, in the text form of WebAssembly. Each field has the default of a plugin that asks for
/// nothing and answers at once.
pub struct Handmade<'a> {
    /// Imports, functions, globals, tables, data.
    pub items: &'a str,
    /// Limits of the memory, in pages.
    pub memory: &'a str,
    /// Body of `list-tools`, which leaves the address of a list on the stack.
    pub list_tools: &'a str,
    /// Body of `check-connection`. Locals 0 and 1 are its argument; it leaves an enum on the stack.
    pub check_connection: &'a str,
}

impl Default for Handmade<'_> {
    fn default() -> Self {
        Self { items: "", memory: "2", list_tools: "(i32.const 0)", check_connection: "(i32.const 0)" }
    }
}

impl Handmade<'_> {
    /// The core module of the plugin.
    pub fn module(&self) -> Vec<u8> {
        let Self { items, memory, list_tools, check_connection } = self;
        let text = format!(
            r#"(module
              {items}
              (memory (export "memory") {memory})
              (global $heap (mut i32) (i32.const 65536))
              (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (global.set $heap (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
                (global.get $heap)
                (global.set $heap (i32.add (global.get $heap) (local.get 3))))
              (func (export "workspace-recovery:plugin/tools@0.1.0#list-tools") (result i32) {list_tools})
              (func (export "workspace-recovery:plugin/tools@0.1.0#call-tool") (param i32) (result i32)
                unreachable)
              (func (export "workspace-recovery:plugin/recovery@0.1.0#classify-failure") (param i32) (result i32)
                unreachable)
              (func (export "workspace-recovery:plugin/recovery@0.1.0#check-connection") (param i32 i32) (result i32)
                {check_connection}))"#
        );
        wat::parse_str(text).unwrap()
    }

    /// The plugin as a component.
    pub fn component(&self) -> Vec<u8> {
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_dir(WIT).unwrap();
        componentize(&mut self.module(), &mut resolve, package)
    }

    /// The plugin, loaded.
    pub fn load(&self) -> Plugin {
        engine().load(&self.component()).unwrap()
    }
}

/// A component of the world that `wit` describes, made from a module in text form.
pub fn component(wit: &str, module: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("test.wit", wit).unwrap();
    componentize(&mut wat::parse_str(module).unwrap(), &mut resolve, package)
}

fn componentize(module: &mut Vec<u8>, resolve: &mut Resolve, package: wit_parser::PackageId) -> Vec<u8> {
    let world = resolve.select_world(&[package], None).unwrap();
    embed_component_metadata(module, resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().validate(true).module(module).unwrap().encode().unwrap()
}

/// The import of `latest-build`: `(call $latest_build (i32.const CHECK_START) (i32.const WHERE_TO_WRITE))`.
pub const LATEST_BUILD: &str = r#"(import "workspace-recovery:plugin/workspace@0.1.0" "latest-build" (func $latest_build (param i32 i32)))"#;

/// The import of `publish-binding`: a string's address and length, and where to write.
pub const PUBLISH_BINDING: &str = r#"(import "workspace-recovery:plugin/workspace@0.1.0" "publish-binding"
    (func $publish_binding (param i32 i32 i32)))"#;

/// The call of a [`Handmade`] plugin that most tests make.
pub fn check_connection() -> Export {
    Export::CheckConnection { cached: "agent".into() }
}

/// An answer to `latest-build`.
pub fn unbound() -> Answer {
    Answer::LatestBuild(Ok(Binding::Unbound))
}

/// A journal of these requests and answers.
pub fn journal<const N: usize>(entries: [(Request, Answer); N]) -> Journal {
    let mut journal = Journal::new();
    for (request, answer) in entries {
        journal.append(request, answer, None).unwrap();
    }
    journal
}

/// Steps a fresh call of `check-connection`.
pub fn step(plugin: &Plugin) -> Result<Step, StepError> {
    plugin.step(&check_connection(), &Journal::new())
}
