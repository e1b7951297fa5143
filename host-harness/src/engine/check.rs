//! Checks a plugin before it is compiled and linked, so that a refusal is a sentence that a person understands.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};
use thiserror::Error;
use wasmparser::component_types::ComponentEntityType;
use wasmparser::types::{Types, TypesRef};
use wasmparser::{
    ComponentName, ComponentNameSectionReader, KnownCustom, Parser, Payload, ValidPayload, Validator,
};

use super::config::FEATURES;
use crate::limits::COMPONENT_BYTES;

/// The version of the contract in `wit/`, which this host serves.
pub const CONTRACT_VERSION: &str = "0.1.0";

/// The package of the contract.
const PACKAGE: &str = "workspace-recovery:plugin";

/// What a plugin may ask for.
const IMPORTS: [&str; 6] = [
    "waits/wait-for-agent",
    "waits/wait-for-build",
    "workspace/agent-status",
    "workspace/issue-transition",
    "workspace/latest-build",
    "workspace/publish-binding",
];

/// What a plugin must offer.
const EXPORTS: [&str; 4] =
    ["recovery/check-connection", "recovery/classify-failure", "tools/call-tool", "tools/list-tools"];

/// What a plugin is. Its imports are all that it can do.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// SHA-256 of the component, in hexadecimal.
    pub sha256: String,
    /// Length of the component, in bytes.
    pub bytes: usize,
    /// The name that the component gives itself, if it does.
    pub name: Option<String>,
    /// The version of the contract that it was built against.
    pub contract: String,
    /// The functions that it asks for, as `interface/function`, sorted.
    pub imports: Vec<String>,
    /// The functions that it offers, as `interface/function`, sorted.
    pub exports: Vec<String>,
}

/// Why a file is not taken for a plugin.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// Longer than [`COMPONENT_BYTES`].
    #[error("the file has {bytes} bytes; a plugin may have {COMPONENT_BYTES}")]
    TooLarge {
        /// The file's length.
        bytes: usize,
    },
    /// Does not begin as WebAssembly does.
    #[error(
        "the file is not WebAssembly; a plugin is a WebAssembly component, usually a file ending in .wasm"
    )]
    NotWasm,
    /// A module, which a component is made from.
    #[error(
        "the file is a core WebAssembly module, not a component; turn it into one with `wasm-tools component new`"
    )]
    CoreModule,
    /// Damaged, or uses something that plugins may not use.
    #[error("the file is not a valid plugin: {reason}")]
    Invalid {
        /// What the validator found, and where.
        reason: String,
    },
    /// Built against a contract that this host does not serve.
    #[error(
        "the plugin was built against contract {found}, and this host serves {CONTRACT_VERSION}; build it again"
    )]
    ContractVersion {
        /// The version that its names carry.
        found: String,
    },
    /// Asks for things that no plugin gets.
    #[error("the plugin asks for what this host does not give: {}; it may only import functions of {PACKAGE}", .names.join(", "))]
    ForeignImports {
        /// Its imports beyond the contract, sorted.
        names: Vec<String>,
    },
    /// Does not offer what a plugin must.
    #[error("the file is a component, but no complete plugin: it does not export {}", .names.join(", "))]
    MissingExports {
        /// The functions missing, sorted.
        names: Vec<String>,
    },
}

/// Checks a component and says what it is. It is neither compiled nor run; the bodies of its functions are looked at
/// when it is compiled.
pub fn check(component: &[u8]) -> Result<Report, Refused> {
    if component.len() > COMPONENT_BYTES {
        return Err(Refused::TooLarge { bytes: component.len() });
    }
    if !component.starts_with(b"\0asm") {
        return Err(Refused::NotWasm);
    }
    if Parser::is_core_wasm(component) {
        return Err(Refused::CoreModule);
    }
    let Surface { name, imports, exports } =
        surface(component).map_err(|error| Refused::Invalid { reason: error.to_string() })?;
    let contract = contract_version(imports.iter().chain(&exports))?;
    let imports = functions(&imports);
    let names: Vec<_> = imports.iter().filter(|name| !IMPORTS.contains(&name.as_str())).cloned().collect();
    if !names.is_empty() {
        return Err(Refused::ForeignImports { names });
    }
    let exports = functions(&exports);
    let names: Vec<_> =
        EXPORTS.into_iter().filter(|name| !exports.contains(*name)).map(ToOwned::to_owned).collect();
    if !names.is_empty() {
        return Err(Refused::MissingExports { names });
    }
    Ok(Report {
        sha256: hex(&Sha256::digest(component)),
        bytes: component.len(),
        name,
        contract: contract.unwrap_or_default(),
        imports: imports.into_iter().collect(),
        exports: exports.into_iter().collect(),
    })
}

/// A hash in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;

    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What a component shows to the outside.
struct Surface {
    name: Option<String>,
    imports: Vec<Item>,
    exports: Vec<Item>,
}

/// One import or export.
struct Item {
    /// As in the component, for instance `workspace-recovery:plugin/tools@0.1.0`.
    name: String,
    /// The functions of an interface. None for anything but an interface.
    functions: Option<Vec<String>>,
}

impl Item {
    /// Interface and version, if this is an interface of the contract, whatever its version.
    fn of_contract(&self) -> Option<(&str, &str)> {
        let name = self.name.strip_prefix(PACKAGE)?.strip_prefix('/')?;
        Some(name.split_once('@').unwrap_or((name, "")))
    }
}

fn surface(component: &[u8]) -> wasmparser::Result<Surface> {
    let mut validator = Validator::new_with_features(FEATURES);
    let mut depth = 0_usize;
    let (mut name, mut imports, mut exports) = (None, Vec::new(), Vec::new());
    let mut types = None;
    for payload in Parser::new(0).parse_all(component) {
        let payload = payload?;
        if let ValidPayload::End(at_end) = validator.payload(&payload)? {
            types = Some(at_end);
        }
        match &payload {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::CustomSection(section) if depth == 1 => {
                if let KnownCustom::ComponentName(names) = section.as_known() {
                    name = name.or_else(|| own_name(names));
                }
            }
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section.clone() {
                    imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section.clone() {
                    exports.push(export?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    let types = types.as_ref().map(Types::as_ref);
    let imported =
        |name: &str| types.and_then(|types| types.component_item_for_import(name)).map(|item| item.ty);
    let exported =
        |name: &str| types.and_then(|types| types.component_item_for_export(name)).map(|item| item.ty);
    let imports = imports.into_iter().map(|name| item(types, imported(&name), name)).collect();
    let exports = exports.into_iter().map(|name| item(types, exported(&name), name)).collect();
    Ok(Surface { name, imports, exports })
}

/// The name that a component gives itself in its names section, which is optional and not validated.
fn own_name(names: ComponentNameSectionReader<'_>) -> Option<String> {
    names.into_iter().flatten().find_map(|part| match part {
        ComponentName::Component { name, .. } => Some(name.to_owned()),
        _ => None,
    })
}

fn item(types: Option<TypesRef<'_>>, ty: Option<ComponentEntityType>, name: String) -> Item {
    let functions = match (types, ty) {
        (Some(types), Some(ComponentEntityType::Instance(interface))) => {
            let is_function = |ty: &ComponentEntityType| matches!(ty, ComponentEntityType::Func(_));
            let exports = &types[interface].exports;
            Some(
                exports
                    .iter()
                    .filter(|(_, item)| is_function(&item.ty))
                    .map(|(name, _)| name.clone())
                    .collect(),
            )
        }
        _ => None,
    };
    Item { name, functions }
}

/// The version of the contract that the items name. Versions that differ in the last place only differ in functions
/// added, so they are served as far as those go. None if no item is of the contract.
fn contract_version<'a>(items: impl Iterator<Item = &'a Item>) -> Result<Option<String>, Refused> {
    let minor = |version: &str| version.rsplit_once('.').map(|(minor, _)| minor.to_owned());
    let mut contract = None;
    for (_, version) in items.filter_map(Item::of_contract) {
        if minor(version) != minor(CONTRACT_VERSION) {
            return Err(Refused::ContractVersion { found: version.to_owned() });
        }
        contract = Some(version.to_owned());
    }
    Ok(contract)
}

/// All functions, as `interface/function` where the interface is of the contract. What is no such function goes by its
/// full name. An interface that holds only types asks for nothing and offers nothing.
fn functions(items: &[Item]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for item in items {
        match (item.of_contract(), &item.functions) {
            (Some((interface, _)), Some(functions)) => {
                names.extend(functions.iter().map(|function| format!("{interface}/{function}")));
            }
            _ => {
                names.insert(item.name.clone());
            }
        }
    }
    names
}
