//! A plugin that is linked, and its exports.

use wasmtime::component::{
    Component, ComponentExportIndex, ComponentNamedList, Instance, Lift, Linker, Lower,
};
use wasmtime::{Engine, Store};

use super::imports::State;
use crate::bindings::{CallError, Connection, PluginPre, Tool, ToolResult, Verdict};
use crate::journal::{Export, Output};

/// What instances are made of, and where their exports are found.
///
/// The generated bindings look up all exports of an instance and compare the types of each with the contract's. A step
/// calls one, so it looks up that one; all of them are compared once, when the plugin is loaded.
pub(super) struct Linked {
    pre: PluginPre<State>,
    list_tools: ComponentExportIndex,
    call_tool: ComponentExportIndex,
    classify_failure: ComponentExportIndex,
    check_connection: ComponentExportIndex,
}

impl Linked {
    /// Links a component and finds its exports.
    pub(super) fn new(linker: &Linker<State>, component: &Component) -> wasmtime::Result<Self> {
        let pre = PluginPre::new(linker.instantiate_pre(component)?)?;
        let find = |interface: &str, function: &str| {
            let name = format!("workspace-recovery:plugin/{interface}@{}", super::check::CONTRACT_VERSION);
            let interface = component.get_export_index(None, &name);
            interface
                .and_then(|interface| component.get_export_index(Some(&interface), function))
                .ok_or_else(|| wasmtime::Error::msg(format!("{name} has no {function}")))
        };
        Ok(Self {
            list_tools: find("tools", "list-tools")?,
            call_tool: find("tools", "call-tool")?,
            classify_failure: find("recovery", "classify-failure")?,
            check_connection: find("recovery", "check-connection")?,
            pre,
        })
    }

    pub(super) fn engine(&self) -> &Engine {
        self.pre.engine()
    }

    /// Makes an instance and compares the types of all its exports with the contract's.
    pub(super) fn instantiate_checked(&self, store: &mut Store<State>) -> wasmtime::Result<()> {
        self.pre.instantiate(store).map(|_| ())
    }

    /// Makes an instance.
    pub(super) fn instantiate(&self, store: &mut Store<State>) -> wasmtime::Result<Instance> {
        self.pre.instance_pre().instantiate(store)
    }

    /// Calls an export of an instance.
    pub(super) fn call(
        &self,
        instance: Instance,
        store: &mut Store<State>,
        export: &Export,
    ) -> wasmtime::Result<Output> {
        let call = ExportCall { instance, store };
        Ok(match export {
            Export::ListTools => {
                let (tools,): (Vec<Tool>,) = call.typed(&self.list_tools, ())?;
                Output::ListTools(tools)
            }
            Export::CallTool { name, arguments, policy } => {
                let given = (name.as_str(), arguments.as_str(), policy);
                let (result,): (Result<ToolResult, CallError>,) = call.typed(&self.call_tool, given)?;
                Output::CallTool(result)
            }
            Export::ClassifyFailure { evidence, policy } => {
                let (verdict,): (Verdict,) = call.typed(&self.classify_failure, (evidence, policy))?;
                Output::ClassifyFailure(verdict)
            }
            Export::CheckConnection { cached } => {
                let (connection,): (Connection,) = call.typed(&self.check_connection, (cached.as_str(),))?;
                Output::CheckConnection(connection)
            }
        })
    }
}

/// A call that is about to be made.
struct ExportCall<'a> {
    instance: Instance,
    store: &'a mut Store<State>,
}

impl ExportCall<'_> {
    fn typed<Given, Got>(self, export: &ComponentExportIndex, given: Given) -> wasmtime::Result<Got>
    where
        Given: ComponentNamedList + Lower,
        Got: ComponentNamedList + Lift,
    {
        let Self { instance, store } = self;
        instance.get_typed_func::<Given, Got>(&mut *store, export)?.call(store, given)
    }
}
