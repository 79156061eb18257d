//! Compiled code is cached, and trusted only if it is private and complete.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use selvedge_wasm_host::{CacheDirError, Host, HostConfig, HostError, WasmFunction};

use crate::support::{component, config, failure, handler, patient};

fn cached_host(dir: &Path, bytes: u64) -> Result<Host, HostError> {
    Host::new(HostConfig {
        cache_dir: Some(dir.into()),
        cache_bytes: bytes,
        ..HostConfig::default()
    })
}

/// Loads with a fresh host, as after a restart.
fn load(dir: &Path, wasm: &[u8]) -> WasmFunction {
    let host = cached_host(dir, 1 << 30).expect("a host");
    host.load_bytes(wasm, config(patient()))
        .expect("the guest loads")
}

/// The error code that the guest returns, which shows that it is the right guest and runs.
fn code(function: &WasmFunction) -> String {
    failure(&mut function.instantiate().expect("starts"), 1, b"").to_string()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir)
        .expect("readable")
        .map(|entry| entry.expect("an entry").path())
        .collect()
}

fn only_file(dir: &Path) -> PathBuf {
    let files = files(dir);
    assert_eq!(files.len(), 1, "{files:?}");
    files[0].clone()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o7777
}

/// A directory that does not exist yet, below a fresh one.
fn fresh() -> (tempfile::TempDir, PathBuf) {
    let parent = tempfile::tempdir().expect("a directory");
    let dir = parent.path().join("a/cache");
    (parent, dir)
}

#[test]
fn code_is_compiled_once_and_kept_in_private_files() {
    for (wasm, text) in [
        (handler("(i32.const 7)"), "code 7: "),
        (component("(i32.const 64)"), "code 7: seven"),
    ] {
        let (_parent, dir) = fresh();
        let compiled = load(&dir, &wasm);
        assert!(!compiled.was_cached());
        assert_eq!((mode(&dir), mode(&only_file(&dir))), (0o700, 0o600));
        let cached = load(&dir, &wasm);
        assert!(cached.was_cached());
        assert!(code(&cached).contains(text) && code(&compiled).contains(text));
    }
}

#[test]
fn another_guest_is_another_file() {
    let (_parent, dir) = fresh();
    load(&dir, &handler("(i32.const 1)"));
    let other = load(&dir, &handler("(i32.const 2)"));
    assert!(!other.was_cached() && code(&other).contains("code 2"));
    assert_eq!(files(&dir).len(), 2);
}

#[test]
fn a_damaged_file_is_compiled_again_and_replaced() {
    let (_parent, dir) = fresh();
    let wasm = handler("(i32.const 7)");
    load(&dir, &wasm);
    let path = only_file(&dir);
    let whole = fs::read(&path).expect("readable");
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let damages = [
        Vec::new(),
        whole[..whole.len() - 1].to_vec(),
        whole[..20].to_vec(),
        flipped(0),
        flipped(9),
        flipped(40),
        flipped(whole.len() / 2),
        flipped(whole.len() - 1),
        b"garbage".to_vec(),
        vec![0; whole.len()],
    ];
    for (case, damaged) in damages.iter().enumerate() {
        fs::write(&path, damaged).expect("writable");
        let again = load(&dir, &wasm);
        assert!(!again.was_cached(), "damage {case} is detected");
        assert!(code(&again).contains("code 7"));
        assert!(load(&dir, &wasm).was_cached(), "damage {case} is repaired");
    }
    assert_eq!(fs::read(&path).expect("readable").len(), whole.len());
}

#[test]
fn a_file_that_others_may_write_is_not_trusted() {
    let (_parent, dir) = fresh();
    let wasm = handler("(i32.const 7)");
    load(&dir, &wasm);
    let path = only_file(&dir);
    for open in [0o666, 0o620, 0o602, 0o644] {
        fs::set_permissions(&path, Permissions::from_mode(open)).expect("ours");
        assert!(!load(&dir, &wasm).was_cached(), "mode {open:o}");
        assert_eq!(mode(&path), 0o600, "replaced by a private one");
    }
}

#[test]
fn a_link_in_the_place_of_a_file_is_not_followed() {
    let (parent, dir) = fresh();
    let wasm = handler("(i32.const 7)");
    load(&dir, &wasm);
    let path = only_file(&dir);
    let elsewhere = parent.path().join("elsewhere");
    fs::rename(&path, &elsewhere).expect("moved");
    symlink(&elsewhere, &path).expect("linked");
    assert!(!load(&dir, &wasm).was_cached());
    assert!(
        !fs::symlink_metadata(&path).expect("there").is_symlink(),
        "replaced by a file"
    );
}

#[test]
fn a_directory_in_the_place_of_a_file_costs_only_the_cache() {
    let (_parent, dir) = fresh();
    let wasm = handler("(i32.const 7)");
    load(&dir, &wasm);
    let path = only_file(&dir);
    fs::remove_file(&path).expect("removed");
    fs::create_dir(&path).expect("made");
    for _ in 0..2 {
        let function = load(&dir, &wasm);
        assert!(!function.was_cached() && code(&function).contains("code 7"));
    }
    assert_eq!(files(&dir).len(), 1, "no temporary file is left");
}

#[test]
fn a_directory_that_is_open_to_others_is_refused() {
    let (_parent, dir) = fresh();
    fs::create_dir_all(&dir).expect("made");
    for open in [0o777, 0o755, 0o710] {
        fs::set_permissions(&dir, Permissions::from_mode(open)).expect("ours");
        let error = cached_host(&dir, 1).expect_err("refused");
        let HostError::CacheDir {
            reason: CacheDirError::NotPrivate { mode },
            ..
        } = &error
        else {
            panic!("{error:?}")
        };
        assert_eq!(*mode, open);
        assert!(error.to_string().ends_with("set mode 700"), "{error}");
    }
}

#[test]
fn a_link_or_a_file_is_no_cache_directory() {
    let parent = tempfile::tempdir().expect("a directory");
    let link = parent.path().join("link");
    symlink(parent.path(), &link).expect("linked");
    let linked = cached_host(&link, 1).expect_err("refused");
    assert!(matches!(
        linked,
        HostError::CacheDir {
            reason: CacheDirError::NotADirectory,
            ..
        }
    ));
    let file = parent.path().join("file");
    fs::write(&file, "").expect("written");
    assert!(matches!(
        cached_host(&file, 1),
        Err(HostError::CacheDir { .. })
    ));
}

#[test]
fn the_directory_keeps_its_size_limit_and_the_newest_file() {
    let (_parent, dir) = fresh();
    let host = cached_host(&dir, 1).expect("a host");
    for n in 0..5 {
        let wasm = handler(&format!("(i32.const {n})"));
        host.load_bytes(&wasm, config(patient())).expect("loads");
        assert_eq!(files(&dir).len(), 1);
        assert!(
            host.load_bytes(&wasm, config(patient()))
                .expect("loads")
                .was_cached()
        );
    }
}
