//! Files that are not stream functions are refused with the exact reason.

use std::time::Duration;

use selvedge_wasm_host::{FunctionConfig, GuestLimits, LoadError};

use crate::support::{config, handler, host, impatient, load_error, module, wasm};

#[test]
fn a_missing_file_is_named() {
    let error = host()
        .load("no/such.wasm", FunctionConfig::named("f"))
        .expect_err("missing");
    assert!(matches!(&error, LoadError::Read { path, .. } if path.ends_with("such.wasm")));
    assert_eq!(error.to_string(), "cannot read no/such.wasm");
}

#[test]
fn files_that_are_not_webassembly_are_refused_with_their_kind() {
    let cases: [(&[u8], &str); 6] = [
        (b"", "it is empty"),
        (b"\x7fELF\x02\x01\x01\x00\x00", "precompiled code"),
        (b"(module)", "text"),
        (b"\0asm", "truncated"),
        (b"\0asm\x02\0\0\0", "unknown version"),
        (&[0xA5; 4096], "its format is unknown"),
    ];
    for (bytes, expected) in cases {
        let error = load_error(bytes);
        assert!(
            matches!(&error, LoadError::NotWasm { looks_like } if looks_like.contains(expected)),
            "{error}"
        );
    }
}

#[test]
fn every_truncation_of_the_code_of_a_guest_is_refused() {
    let host = host();
    let whole = handler("(i32.const 0)");
    let mut loaded = Vec::new();
    for len in 0..whole.len() {
        match host.load_bytes(&whole[..len], config(impatient())) {
            Ok(_) => loaded.push(len),
            Err(
                LoadError::NotWasm { .. }
                | LoadError::Invalid { .. }
                // A cut between sections leaves a smaller module.
                | LoadError::UnknownAbi { .. }
                | LoadError::OnlyNumeric { .. },
            ) => {}
            Err(error) => panic!("cut at {len}: {error:?}"),
        }
    }
    // The last section holds names for debuggers, without which the guest is the same.
    assert_eq!(loaded.len(), 1, "{loaded:?}");
}

#[test]
fn every_flipped_byte_of_a_guest_is_refused_or_contained() {
    let host = host();
    let whole = handler(
        "(drop (call $emit (i32.const 1) (local.get $ptr) (local.get $len))) (i32.const 0)",
    );
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0xFF;
        if let Ok(function) = host.load_bytes(&damaged, config(impatient()))
            && let Ok(mut instance) = function.instantiate()
        {
            // Whatever the guest does, the host continues.
            let _ = instance.handle(1, b"payload");
        }
    }
}

#[test]
fn a_large_module_is_refused_unread() {
    let limits = GuestLimits {
        module_bytes: 100,
        ..GuestLimits::default()
    };
    let big = handler("(i32.const 0)");
    let error = host()
        .load_bytes(&big, config(limits.clone()))
        .expect_err("large");
    assert!(
        matches!(error, LoadError::TooLarge { limit: 100, bytes } if bytes == big.len() as u64)
    );

    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("big.wasm");
    std::fs::write(&path, &big).expect("written");
    let error = host().load(&path, config(limits)).expect_err("large");
    assert!(matches!(error, LoadError::TooLarge { limit: 100, .. }));
}

#[test]
fn a_module_that_would_take_too_long_to_compile_is_not_compiled() {
    let many = "(func)".repeat(101);
    let cases = [
        (
            many.as_str(),
            "the number of functions is 103, the limit is 101",
        ),
        (
            "(func (drop (i32.const 1)) (drop (i32.const 1)))",
            "the largest function in bytes is 8, the limit is 7",
        ),
    ];
    let limits = GuestLimits {
        module_functions: 101,
        function_bytes: 7,
        ..GuestLimits::default()
    };
    for (functions, expected) in cases {
        let bomb = module(&format!(
            r#"(func (export "handle") (param i32 i32 i32) (result i32) (i32.const 0)) {functions}"#
        ));
        let error = host()
            .load_bytes(&bomb, config(limits.clone()))
            .expect_err("refused");
        assert!(matches!(error, LoadError::TooComplex { .. }), "{error:?}");
        assert!(error.to_string().ends_with(expected), "{error}");
    }
}

#[test]
fn a_module_without_the_abi_is_refused_with_its_exports_and_the_required_ones() {
    let error = load_error(&wasm(
        r#"(module (func (export "main")) (memory (export "memory") 1))"#,
    ));
    let text = error.to_string();
    assert!(matches!(error, LoadError::UnknownAbi { .. }));
    assert!(
        text.contains("memory, alloc and handle") && text.ends_with("exports main, memory"),
        "{text}"
    );
}

#[test]
fn a_missing_export_is_named_with_its_type() {
    let handle = r#"(func (export "handle") (param i32 i32 i32) (result i32) (i32.const 0))"#;
    let cases = [
        (
            format!("(module {handle})"),
            "does not export memory (memory); it exports handle",
        ),
        (
            format!(r#"(module (memory (export "memory") 1) {handle})"#),
            "does not export alloc (func(i32) -> i32); it exports memory, handle",
        ),
    ];
    for (text, expected) in cases {
        let error = load_error(&wasm(&text));
        assert!(matches!(error, LoadError::MissingExport { .. }));
        assert!(error.to_string().ends_with(expected), "{error}");
    }
}

#[test]
fn an_export_of_another_type_is_refused() {
    let handle = r#"(func (export "handle") (param i32 i32 i32) (result i32) (i32.const 0))"#;
    let cases = [
        (
            r#"(func (export "handle") (param i32 i64) (result i32) (i32.const 0))"#.to_owned(),
            "handle",
            "func(i32, i64) -> i32",
        ),
        (
            r#"(global (export "handle") i32 (i32.const 0))"#.to_owned(),
            "handle",
            "global",
        ),
        (
            format!(r#"{handle} (func (export "init"))"#),
            "init",
            "func()",
        ),
        (
            format!(r#"{handle} (func (export "observe_at") (result i32) (i32.const 0))"#),
            "observe_at",
            "func() -> i32",
        ),
    ];
    for (rest, name, is) in cases {
        let error = load_error(&module(&rest));
        let LoadError::WrongExport { export, found, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!((export.as_str(), found.as_str()), (name, is));
    }
}

#[test]
fn a_64_bit_memory_is_refused() {
    let error = load_error(&wasm(
        r#"(module (memory (export "memory") i64 1)
            (func (export "alloc") (param i32) (result i32) (i32.const 0))
            (func (export "handle") (param i32 i32 i32) (result i32) (i32.const 0)))"#,
    ));
    assert!(
        matches!(&error, LoadError::WrongExport { found, .. } if found == "64-bit memory"),
        "{error}"
    );
}

#[test]
fn an_import_that_is_not_granted_is_named() {
    let error = load_error(&wasm(
        r#"(module (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "alloc") (param i32) (result i32) (i32.const 0))
            (func (export "handle") (param i32 i32 i32) (result i32) (i32.const 0)))"#,
    ));
    let LoadError::ImportNotGranted { import, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(import, "wasi_snapshot_preview1.fd_write");
}

#[test]
fn an_import_of_the_right_name_and_the_wrong_type_is_refused() {
    let error = load_error(&wasm(
        r#"(module (import "selvedge" "emit" (func (param i64)))
            (memory (export "memory") 1)
            (func (export "alloc") (param i32) (result i32) (i32.const 0))
            (func (export "handle") (param i32 i32 i32) (result i32) (i32.const 0)))"#,
    ));
    assert!(matches!(error, LoadError::Invalid { .. }), "{error:?}");
}

#[test]
fn a_start_function_that_loops_is_stopped_at_load() {
    let looping = module(
        r#"(func $start (loop (br 0))) (start $start)
           (func (export "handle") (param i32 i32 i32) (result i32) (i32.const 0))"#,
    );
    let error = load_error(&looping);
    assert!(matches!(error, LoadError::Start(_)));
    assert_eq!(
        error.to_string(),
        "the guest's instantiation failed: the guest did not finish within 200ms"
    );
}

#[test]
fn initialisers_that_fail_are_named() {
    let handle = r#"(func (export "handle") (param i32 i32 i32) (result i32) (i32.const 0))"#;
    let cases = [
        (
            r#"(func (export "_initialize") unreachable)"#,
            "guest's _initialize failed: the guest trapped",
        ),
        (
            r#"(func (export "init") (result i32) (i32.const 3))"#,
            "guest's init failed: the guest failed with code 3",
        ),
        (
            r#"(func (export "init") (result i32) (loop (br 0)) unreachable)"#,
            "guest's init failed: the guest did not finish",
        ),
        (
            r#"(func (export "observe_count") (result i32) unreachable)"#,
            "guest's observe_count failed",
        ),
        (
            r#"(func (export "observe_count") (result i32) (i32.const 1))"#,
            "guest's observe failed",
        ),
        (
            r#"(func (export "init") (result i32) (call $emit (i32.const 1) (i32.const 0) (i32.const 0)))"#,
            "guest's init failed: the guest trapped: emit outside handle",
        ),
    ];
    for (rest, expected) in cases {
        let error = load_error(&module(&format!("{rest} {handle}")));
        assert!(matches!(error, LoadError::Start(_)), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_guest_that_observes_too_much_is_refused() {
    let greedy = module(
        r#"(func (export "observe_count") (result i32) (i32.const 1000000))
           (func (export "observe_at") (param i32) (result i32) (local.get 0))
           (func (export "handle") (param i32 i32 i32) (result i32) (i32.const 0))"#,
    );
    let error = load_error(&greedy);
    assert!(
        matches!(error, LoadError::TooManyTags { limit: 1024 }),
        "{error:?}"
    );
}

#[test]
fn a_module_that_declares_more_memory_than_allowed_is_refused() {
    let limits = GuestLimits {
        memory_bytes: 4 << 20,
        deadline: Duration::from_secs(5),
        ..GuestLimits::default()
    };
    let cases = [
        r#"(memory (export "memory") 65)"#,
        r#"(memory (export "memory") 1) (table 10000000 funcref)"#,
    ];
    for rest in cases {
        let greedy = wasm(&format!(
            r#"(module {rest}
                (func (export "alloc") (param i32) (result i32) (i32.const 0))
                (func (export "handle") (param i32 i32 i32) (result i32) (i32.const 0)))"#
        ));
        let error = host()
            .load_bytes(&greedy, config(limits.clone()))
            .expect_err("refused");
        assert!(
            error
                .to_string()
                .contains("more than 4194304 bytes of memory"),
            "{error}"
        );
    }
}
