//! Numeric functions: their types, errors and limits.

use selvedge_wasm_host::{CallError, LoadError, NumericFunction, NumericType};

use crate::support::{config, host, impatient, wasm};

fn load(text: &str, export: &str) -> Result<NumericFunction, LoadError> {
    host().load_numeric_bytes(&wasm(text), export, config(impatient()))
}

fn twice(ty: &str) -> NumericFunction {
    let text = format!(
        r#"(module (func (export "f") (param {ty}) (result {ty}) ({ty}.add (local.get 0) (local.get 0))))"#
    );
    load(&text, "f").expect("loads")
}

#[test]
fn every_numeric_type_is_accepted_and_returned() {
    for ty in ["f64", "f32", "i32", "i64"] {
        let mut function = twice(ty);
        assert_eq!(function.signature().0.to_string(), ty);
        assert_eq!(function.call(21.0), Ok(42.0), "{ty}");
        assert_eq!(function.call(-21.0), Ok(-42.0), "{ty}");
    }
}

#[test]
fn parameter_and_result_may_differ() {
    let text = r#"(module (func (export "f") (param i32) (result f64) (f64.convert_i32_s (local.get 0))))"#;
    let mut function = load(text, "f").expect("loads");
    assert_eq!(function.signature(), (NumericType::I32, NumericType::F64));
    assert_eq!(function.call(-3.0), Ok(-3.0));
}

#[test]
fn a_number_that_the_parameter_cannot_hold_is_refused_without_running() {
    let mut function = twice("i32");
    for value in [
        0.5,
        f64::NAN,
        f64::INFINITY,
        2_147_483_648.0,
        -2_147_483_649.0,
    ] {
        let error = function.call(value).expect_err("no i32");
        assert!(matches!(
            error,
            CallError::NotRepresentable {
                wanted: NumericType::I32,
                ..
            }
        ));
        assert!(!error.recycled());
    }
    assert_eq!(
        function.call(-2_147_483_648.0),
        Ok(0.0),
        "the lowest i32 is one, and wraps"
    );
    assert_eq!(function.stats().refused, 5);
    assert!(twice("i64").call(9_223_372_036_854_775_808.0).is_err());
}

#[test]
fn a_numeric_function_that_loops_is_stopped_and_recycled() {
    let text = r#"(module (global $n (mut f64) (f64.const 0))
        (func (export "f") (param f64) (result f64)
          (if (f64.lt (local.get 0) (f64.const 0)) (then (loop (br 0))))
          (global.set $n (f64.add (global.get $n) (local.get 0)))
          (global.get $n)))"#;
    let mut sum = load(text, "f").expect("loads");
    assert_eq!((sum.call(1.0), sum.call(2.0)), (Ok(1.0), Ok(3.0)));
    let error = sum.call(-1.0).expect_err("loops");
    assert!(matches!(error, CallError::DeadlineExceeded { .. }));
    assert!(error.recycled());
    assert_eq!(sum.call(5.0), Ok(5.0), "fresh");
    let stats = sum.stats();
    assert_eq!(
        (
            stats.calls,
            stats.handled,
            stats.deadline_exceeded,
            stats.recycled
        ),
        (4, 3, 1, 1)
    );
    assert_eq!(
        sum.fresh().expect("starts").call(7.0),
        Ok(7.0),
        "shares the code, not the memory"
    );
}

#[test]
fn a_missing_or_wrong_export_is_named_with_the_existing_ones() {
    let text = r#"(module (func (export "two") (param f64 f64) (result f64) (local.get 0)))"#;
    let error = load(text, "triple").expect_err("missing");
    assert_eq!(
        error.to_string(),
        "the guest does not export triple (a function of one number, such as func(f64) -> f64); it exports two"
    );
    let error = load(text, "two").expect_err("two numbers");
    let LoadError::WrongExport { found, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(found, "func(f64, f64) -> f64");
}

#[test]
fn a_numeric_function_imports_nothing() {
    let text = r#"(module (import "env" "now" (func))
        (func (export "f") (param f64) (result f64) (local.get 0)))"#;
    let error = load(text, "f").expect_err("imports");
    assert!(matches!(&error, LoadError::ImportNotGranted { import, .. } if import == "env.now"));
}

#[test]
fn a_component_has_no_numeric_functions() {
    assert!(matches!(
        load("(component)", "f"),
        Err(LoadError::WrongKind)
    ));
}

#[test]
fn a_stopped_numeric_function_refuses_further_calls() {
    let mut function = twice("f64");
    function.stop_handle().stop();
    assert_eq!(function.call(1.0), Err(CallError::Stopped));
}
