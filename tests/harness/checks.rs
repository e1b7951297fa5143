//! What is not a plugin is refused before it is compiled, in words that a person understands.

use workspace_recovery::engine::check::check;
use workspace_recovery::engine::{HostFault, PluginError, Refused, StepError};
use workspace_recovery::journal::{Export, Journal};
use workspace_recovery::limits::COMPONENT_BYTES;

use crate::support::{Handmade, LATEST_BUILD, PUBLISH_BINDING, component, engine};

/// What a file is refused for, and the sentence.
fn refusal(file: &[u8]) -> (Refused, String) {
    let refused = check(file).unwrap_err();
    let sentence = refused.to_string();
    match engine().load(file).unwrap_err() {
        PluginError::Refused(by_load) => assert_eq!(by_load, refused, "load and check must agree"),
        other => panic!("checked too late: {other}"),
    }
    (refused, sentence)
}

#[test]
fn a_sound_plugin_is_described() {
    let items = format!("{LATEST_BUILD} {PUBLISH_BINDING}");
    let report = check(&Handmade { items: &items, ..Handmade::default() }.component()).unwrap();
    assert_eq!(report.contract, "0.1.0");
    assert_eq!(report.imports, ["workspace/latest-build", "workspace/publish-binding"]);
    let exports =
        ["recovery/check-connection", "recovery/classify-failure", "tools/call-tool", "tools/list-tools"];
    assert_eq!(report.exports, exports);
    assert_eq!(report.sha256.len(), 64);
}

#[test]
fn garbage_is_not_webassembly() {
    for garbage in [&b""[..], b"\x7fELF", b"hello, world", b"\0as"] {
        assert_eq!(refusal(garbage).0, Refused::NotWasm);
    }
}

#[test]
fn a_truncated_or_damaged_component_is_invalid() {
    let whole = Handmade::default().component();
    assert!(matches!(refusal(&whole[..whole.len() / 2]).0, Refused::Invalid { .. }));
    let mut damaged = whole;
    damaged[10] ^= 0xff;
    assert!(matches!(refusal(&damaged).0, Refused::Invalid { .. }));
}

#[test]
fn no_damaged_byte_makes_the_host_panic() {
    let whole = Handmade::default().component();
    for index in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[index] ^= 0x55;
        // Either answer is fine, as long as there is one.
        let _ = check(&damaged);
    }
}

#[test]
fn a_core_module_is_told_apart_from_a_component() {
    let (refused, sentence) = refusal(&Handmade::default().module());
    assert_eq!(refused, Refused::CoreModule);
    assert!(sentence.contains("wasm-tools component new"), "{sentence}");
}

#[test]
fn a_file_that_is_too_large_is_not_even_parsed() {
    let bytes = COMPONENT_BYTES + 1;
    assert_eq!(refusal(&vec![0; bytes]).0, Refused::TooLarge { bytes });
}

#[test]
fn wasi_imports_are_named() {
    let wit = "package test:foreign; \
               world w { import wasi:cli/environment@0.2.0; import wasi:random/random@0.2.0; } \
               package wasi:cli@0.2.0 { interface environment { get: func() -> u32; } } \
               package wasi:random@0.2.0 { interface random { get: func() -> u64; } }";
    let foreign = component(
        wit,
        r#"(module (import "wasi:cli/environment@0.2.0" "get" (func (result i32)))
                   (import "wasi:random/random@0.2.0" "get" (func (result i64))))"#,
    );
    let (refused, sentence) = refusal(&foreign);
    let names = ["wasi:cli/environment@0.2.0", "wasi:random/random@0.2.0"].map(ToOwned::to_owned).to_vec();
    assert_eq!(refused, Refused::ForeignImports { names });
    assert!(sentence.contains("wasi:random/random@0.2.0"), "{sentence}");
}

#[test]
fn an_import_that_the_contract_does_not_have_is_named() {
    let wit = "package workspace-recovery:plugin@0.1.7; interface workspace { delete-everything: func(); } \
               world w { import workspace; }";
    let module =
        r#"(module (import "workspace-recovery:plugin/workspace@0.1.7" "delete-everything" (func)))"#;
    let names = vec!["workspace/delete-everything".to_owned()];
    assert_eq!(refusal(&component(wit, module)).0, Refused::ForeignImports { names });
}

#[test]
fn a_component_without_the_exports_is_told_which_are_missing() {
    let wit = "package workspace-recovery:plugin@0.1.0; interface recovery { check-connection: func(); } \
               world w { export recovery; }";
    let module = r#"(module (func (export "workspace-recovery:plugin/recovery@0.1.0#check-connection")))"#;
    let (refused, sentence) = refusal(&component(wit, module));
    let names =
        ["recovery/classify-failure", "tools/call-tool", "tools/list-tools"].map(ToOwned::to_owned).to_vec();
    assert_eq!(refused, Refused::MissingExports { names });
    assert!(sentence.contains("tools/call-tool"), "{sentence}");
}

#[tokio::test]
async fn functions_of_other_types_than_the_contracts_are_a_mismatch() {
    let wit = "package workspace-recovery:plugin@0.1.0; \
               interface tools { list-tools: func(); call-tool: func(); } \
               interface recovery { classify-failure: func(); check-connection: func(); } \
               world w { export tools; export recovery; }";
    let module = r#"(module
        (func (export "workspace-recovery:plugin/tools@0.1.0#list-tools"))
        (func (export "workspace-recovery:plugin/tools@0.1.0#call-tool"))
        (func (export "workspace-recovery:plugin/recovery@0.1.0#classify-failure"))
        (func (export "workspace-recovery:plugin/recovery@0.1.0#check-connection")))"#;
    let component = component(wit, module);
    let error = engine().load(&component).unwrap_err();
    assert!(matches!(error, PluginError::Mismatch { .. }), "{error}");

    // Compiled behind, it says so when it is waited for, and to whoever does not wait.
    let plugin = engine().load_behind(&component).unwrap();
    let fault = StepError::HostFault(HostFault::NotLoaded(error.to_string()));
    assert_eq!(plugin.step(&Export::ListTools, &Journal::new()), Err(fault));
    assert_eq!(plugin.ready().await.unwrap_err().to_string(), error.to_string());
    assert!(error.to_string().contains("contract 0.1.0"), "{error}");
}

#[test]
fn another_contract_version_is_refused_by_its_number() {
    let wit = "package workspace-recovery:plugin@0.2.0; interface tools { list-tools: func(); } \
               world w { export tools; }";
    let module = r#"(module (func (export "workspace-recovery:plugin/tools@0.2.0#list-tools")))"#;
    let (refused, sentence) = refusal(&component(wit, module));
    assert_eq!(refused, Refused::ContractVersion { found: "0.2.0".into() });
    assert!(sentence.contains("0.2.0") && sentence.contains("0.1.0"), "{sentence}");
}

#[test]
fn wasm_features_that_no_plugin_needs_are_refused() {
    for feature in [
        "(func (param v128))",
        "(memory i64 1)",
        "(memory 1 1 shared)",
        "(memory 1) (memory 1)",
        "(tag)",
        "(type (struct (field i32)))",
        "(table 1 (ref null any))",
    ] {
        let component = wat::parse_str(format!("(component (core module {feature}))")).unwrap();
        assert!(matches!(refusal(&component).0, Refused::Invalid { .. }), "{feature} was let in");
    }
}
