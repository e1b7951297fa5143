//! Hostile plugins: each runs into its limit, and the engine it ran on still runs the next plugin.

use std::time::Duration;

use workspace_recovery::bindings::Connection;
use workspace_recovery::engine::{
    Engine, EngineOptions, HostFault, Limit, Plugin, PluginError, Step, StepError,
};
use workspace_recovery::journal::{Answer, Export, Journal, Output, Request};
use workspace_recovery::limits::{
    CORE_INSTANCES, HOST_CALLS, INPUT_BYTES, JOURNAL_BYTES, MEMORY_BYTES, OUT_LIST_ITEMS, OUT_STRING_BYTES,
    TABLE_ELEMENTS,
};

use crate::builders::default_policy;
use crate::support::{
    Handmade, LATEST_BUILD, PUBLISH_BINDING, check_connection, engine, journal, step, unbound,
};

/// Steps a hostile plugin, then an honest one on the same engine, and returns how the hostile one ended.
fn ends(hostile: &Plugin, export: &Export, journal: &Journal) -> StepError {
    let error = hostile.step(export, journal).unwrap_err();
    honest_plugin_still_runs(engine());
    error
}

fn ends_at(hostile: &Handmade<'_>) -> StepError {
    ends(&hostile.load(), &check_connection(), &Journal::new())
}

fn honest_plugin_still_runs(engine: &Engine) {
    let honest = engine.load(&Handmade::default().component()).unwrap();
    for _ in 0..3 {
        assert_eq!(step(&honest), Ok(Step::Done(Output::CheckConnection(Connection::Reuse))));
    }
}

#[test]
fn an_endless_loop_runs_out_of_fuel() {
    let hostile = Handmade { check_connection: "(loop (br 0)) (unreachable)", ..Handmade::default() };
    assert_eq!(ends_at(&hostile), StepError::Limit(Limit::Fuel));
}

#[test]
fn a_bulk_copy_pays_fuel_for_each_byte() {
    let fill = "(memory.fill (i32.const 0) (i32.const 1) (i32.const 131072))";
    let hostile =
        Handmade { check_connection: &format!("(loop {fill} (br 0)) (unreachable)"), ..Handmade::default() };
    assert_eq!(ends_at(&hostile), StepError::Limit(Limit::Fuel));
}

#[test]
fn a_step_that_outlasts_the_deadline_is_the_hosts_fault() {
    // So short that the fuel lasts longer.
    let options = EngineOptions { step_deadline: Duration::from_millis(2), ..EngineOptions::default() };
    let engine = Engine::new(options).unwrap();
    let hostile = Handmade { check_connection: "(loop (br 0)) (unreachable)", ..Handmade::default() };
    let hostile = engine.load(&hostile.component()).unwrap();
    let fault = StepError::HostFault(HostFault::Deadline(Duration::from_millis(2)));
    assert_eq!(step(&hostile), Err(fault));
    honest_plugin_still_runs(&engine);
}

#[test]
fn a_memory_that_grows_too_far_ends_the_call() {
    let grow = "(loop (drop (memory.grow (i32.const 16))) (br 0)) (unreachable)";
    let hostile = Handmade { check_connection: grow, ..Handmade::default() };
    // Two pages at first, then sixteen more at a time.
    let wanted = MEMORY_BYTES + 2 * 65_536;
    assert_eq!(ends_at(&hostile), StepError::Limit(Limit::Memory { wanted }));
}

#[test]
fn a_memory_that_is_too_large_from_the_start_ends_the_call() {
    let hostile = Handmade { memory: "257", ..Handmade::default() };
    assert_eq!(ends_at(&hostile), StepError::Limit(Limit::Memory { wanted: MEMORY_BYTES + 65_536 }));
}

#[test]
fn a_memory_that_cannot_grow_traps_instead_of_telling_the_plugin() {
    // The plugin would answer "redial" if it saw that growing failed.
    let grow = "(i32.eq (memory.grow (i32.const 1)) (i32.const -1))";
    let hostile = Handmade { memory: "2 2", check_connection: grow, ..Handmade::default() };
    assert!(matches!(ends_at(&hostile), StepError::PluginFault { .. }));
}

#[test]
fn a_table_that_grows_too_far_ends_the_call() {
    let grow = "(drop (table.grow $t (ref.null func) (i32.const 10001))) (i32.const 0)";
    let hostile = Handmade { items: "(table $t 0 funcref)", check_connection: grow, ..Handmade::default() };
    assert_eq!(ends_at(&hostile), StepError::Limit(Limit::Table { wanted: TABLE_ELEMENTS + 1 }));
}

#[test]
fn deep_recursion_ends_the_call() {
    let deep = "(func $deep (param i32) (result i32) (i32.add (call $deep (local.get 0)) (i32.const 1)))";
    let hostile =
        Handmade { items: deep, check_connection: "(call $deep (i32.const 0))", ..Handmade::default() };
    assert_eq!(ends_at(&hostile), StepError::Limit(Limit::Stack));
}

#[test]
fn deep_recursion_is_survived_on_a_thread_of_two_mebibytes() {
    let deep = "(func $deep (param i32) (result i32) (i32.add (call $deep (local.get 0)) (i32.const 1)))";
    let hostile =
        Handmade { items: deep, check_connection: "(call $deep (i32.const 0))", ..Handmade::default() };
    let plugin = hostile.load();
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(move || step(&plugin)).unwrap();
    assert_eq!(thread.join().unwrap(), Err(StepError::Limit(Limit::Stack)));
}

#[test]
fn a_trap_is_the_plugins_fault_and_says_where() {
    let items = "(func $culprit unreachable)";
    let hostile =
        Handmade { items, check_connection: "(call $culprit) (i32.const 0)", ..Handmade::default() };
    let StepError::PluginFault { reason, backtrace } = ends_at(&hostile) else {
        panic!("not the plugin's fault")
    };
    assert!(reason.contains("unreachable"), "{reason}");
    assert!(backtrace.unwrap().contains("culprit"));
}

#[test]
fn a_string_that_is_not_utf_8_is_the_plugins_fault() {
    let items = format!(r#"{PUBLISH_BINDING} (data (i32.const 8) "\ff\fe")"#);
    let ask = "(call $publish_binding (i32.const 8) (i32.const 2) (i32.const 16)) (i32.const 0)";
    let hostile = Handmade { items: &items, check_connection: ask, ..Handmade::default() };
    assert!(matches!(ends_at(&hostile), StepError::PluginFault { .. }));
}

#[test]
fn a_request_with_a_giant_string_ends_the_call() {
    let bytes = OUT_STRING_BYTES + 1;
    let ask =
        format!("(call $publish_binding (i32.const 0) (i32.const {bytes}) (i32.const 16)) (i32.const 0)");
    let hostile =
        Handmade { items: PUBLISH_BINDING, memory: "32", check_connection: &ask, ..Handmade::default() };
    assert_eq!(ends_at(&hostile), StepError::Limit(Limit::OutString { bytes }));
}

#[test]
fn a_request_that_is_too_long_to_be_recorded_ends_the_call() {
    // Zero bytes, each of which takes six characters to write down.
    let bytes = OUT_STRING_BYTES / 2;
    let ask =
        format!("(call $publish_binding (i32.const 0) (i32.const {bytes}) (i32.const 16)) (i32.const 0)");
    let hostile =
        Handmade { items: PUBLISH_BINDING, memory: "32", check_connection: &ask, ..Handmade::default() };
    assert!(
        matches!(ends_at(&hostile), StepError::Limit(Limit::Request { bytes }) if bytes > OUT_STRING_BYTES)
    );
}

/// A result of `list-tools` with one tool, whose first string is `bytes` long.
fn giant_name(bytes: usize) -> String {
    format!(
        "(i32.store (i32.const 32) (i32.const 64)) (i32.store (i32.const 36) (i32.const 1))
         (i32.store (i32.const 64) (i32.const 0)) (i32.store (i32.const 68) (i32.const {bytes}))
         (i32.const 32)"
    )
}

#[test]
fn a_result_with_a_giant_string_ends_the_call() {
    let bytes = OUT_STRING_BYTES + 1;
    let hostile = Handmade { memory: "32", list_tools: &giant_name(bytes), ..Handmade::default() };
    let error = ends(&hostile.load(), &Export::ListTools, &Journal::new());
    assert_eq!(error, StepError::Limit(Limit::OutString { bytes }));
}

#[test]
fn a_result_that_is_larger_than_the_host_will_copy_ends_the_call() {
    let hostile = Handmade { memory: "128", list_tools: &giant_name(5 << 20), ..Handmade::default() };
    let error = ends(&hostile.load(), &Export::ListTools, &Journal::new());
    assert_eq!(error, StepError::Limit(Limit::Transfer));
}

#[test]
fn a_result_with_a_giant_list_ends_the_call() {
    let items = OUT_LIST_ITEMS + 1;
    let list = format!(
        "(i32.store (i32.const 32) (i32.const 64)) (i32.store (i32.const 36) (i32.const {items})) (i32.const 32)"
    );
    let hostile = Handmade { memory: "32", list_tools: &list, ..Handmade::default() };
    let error = ends(&hostile.load(), &Export::ListTools, &Journal::new());
    assert_eq!(error, StepError::Limit(Limit::OutList { items }));
}

#[test]
fn an_input_that_is_too_long_is_not_handed_in() {
    let honest = Handmade::default().load();
    let arguments = "x".repeat(INPUT_BYTES);
    let export = Export::CallTool { name: "stop_workspace".into(), arguments, policy: default_policy() };
    assert!(matches!(ends(&honest, &export, &Journal::new()), StepError::Limit(Limit::Input { .. })));
}

#[test]
fn a_flood_of_host_calls_ends_the_call_before_the_next_one_is_made() {
    let ask = "(loop (call $latest_build (i32.const 0) (i32.const 16)) (br 0)) (unreachable)";
    let hostile = Handmade { items: LATEST_BUILD, check_connection: ask, ..Handmade::default() }.load();
    let mut journal = Journal::new();
    let request = Request::LatestBuild { check_start: false };
    assert_eq!(hostile.step(&check_connection(), &journal), Ok(Step::Request(request.clone())));
    for _ in 0..HOST_CALLS {
        journal.append(request.clone(), unbound(), None).unwrap();
    }
    assert_eq!(ends(&hostile, &check_connection(), &journal), StepError::Limit(Limit::HostCalls));
    assert!(journal.append(request, unbound(), None).is_err());
}

#[test]
fn a_journal_that_could_not_hold_another_answer_ends_the_call_before_the_request_is_made() {
    let bytes = OUT_STRING_BYTES / 8;
    let ask = format!(
        "(loop (call $publish_binding (i32.const 0) (i32.const {bytes}) (i32.const 16)) (br 0)) (unreachable)"
    );
    let hostile =
        Handmade { items: PUBLISH_BINDING, memory: "32", check_connection: &ask, ..Handmade::default() };
    let hostile = hostile.load();
    let mut journal = Journal::new();
    let error = loop {
        match hostile.step(&check_connection(), &journal) {
            Ok(Step::Request(request)) => {
                journal.append(request, Answer::PublishBinding(Ok(true)), None).unwrap();
            }
            ended => break ended.unwrap_err(),
        }
    };
    assert_eq!(error, StepError::Limit(Limit::Journal));
    assert!(journal.bytes() < JOURNAL_BYTES);
    honest_plugin_still_runs(engine());
}

#[test]
fn nothing_survives_from_one_step_to_the_next() {
    let count = "(global.set $n (i32.add (global.get $n) (i32.const 1)))
                 (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 1)))
                 (i32.ne (i32.const 2) (i32.add (global.get $n) (i32.load (i32.const 0))))";
    let items = "(global $n (mut i32) (i32.const 0))";
    let plugin = Handmade { items, check_connection: count, ..Handmade::default() }.load();
    for _ in 0..10 {
        assert_eq!(step(&plugin), Ok(Step::Done(Output::CheckConnection(Connection::Reuse))));
    }
}

#[test]
fn a_nan_has_the_same_bits_on_every_machine() {
    // The processors of x86 make a negative one here, those of ARM a positive one.
    let nan = "(i32.reinterpret_f32 (f32.div (local.get $x) (local.get $x)))";
    let body = format!(
        "(local $x f32) (local.set $x (f32.convert_i32_s (i32.sub (local.get 1) (i32.const 5))))
         (i32.ne {nan} (i32.const 0x7fc00000))"
    );
    let plugin = Handmade { check_connection: &body, ..Handmade::default() }.load();
    assert_eq!(step(&plugin), Ok(Step::Done(Output::CheckConnection(Connection::Reuse))));
}

#[test]
fn more_threads_than_slots_wait_for_their_turn() {
    let engine = Engine::new(EngineOptions { concurrent_steps: 2, ..EngineOptions::default() }).unwrap();
    let plugin = engine.load(&Handmade::default().component()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..200 {
                    assert!(step(&plugin).is_ok());
                }
            });
        }
    });
}

#[test]
fn the_plugins_state_after_a_suspension_is_thrown_away() {
    let ask = "(call $latest_build (i32.const 1) (i32.const 16)) (i32.const 1)";
    let plugin = Handmade { items: LATEST_BUILD, check_connection: ask, ..Handmade::default() }.load();
    let request = Request::LatestBuild { check_start: true };
    for _ in 0..3 {
        assert_eq!(step(&plugin), Ok(Step::Request(request.clone())));
    }
    let done = plugin.step(&check_connection(), &journal([(request, unbound())]));
    assert_eq!(done, Ok(Step::Done(Output::CheckConnection(Connection::Redial))));
}

/// A sound component with one more core module in it, which is instantiated `count` times.
fn with_instances(module: &str, count: u8) -> Vec<u8> {
    let mut component = Handmade::default().component();
    let module = wat::parse_str(module).unwrap();
    // Section 1 is a core module; it is the second, after the plugin's own.
    component.extend([1, u8::try_from(module.len()).unwrap()]);
    component.extend(module);
    // Section 2 is a list of core instances: each of module 1, without arguments.
    component.extend([2, 1 + 3 * count, count]);
    component.extend([0, 1, 0].repeat(usize::from(count)));
    component
}

#[test]
fn a_component_of_more_memories_than_a_slot_has_is_refused() {
    assert!(engine().load(&with_instances("(module)", 1)).is_ok());
    let error = engine().load(&with_instances("(module (memory 1))", 1)).unwrap_err();
    assert!(matches!(error, PluginError::NotCompiled { .. }), "{error}");
}

#[test]
fn a_component_of_more_instances_than_a_slot_has_is_refused() {
    let surplus = u8::try_from(CORE_INSTANCES).unwrap();
    assert!(engine().load(&with_instances("(module)", surplus - 1)).is_ok());
    let error = engine().load(&with_instances("(module)", surplus)).unwrap_err();
    assert!(matches!(error, PluginError::NotCompiled { .. }), "{error}");
}
