//! Tests that need a process of their own, because they count its descriptors.

use std::process::Command;

/// Tells the child that it is one.
const ALONE: &str = "SELVEDGE_TEST_ALONE";

/// Runs `body` in a process that runs no other test and may open so many descriptors.
///
/// `test` is the caller's own name, as the test runner knows it: the child is the same program.
pub(crate) fn alone(test: &str, descriptors: usize, body: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return body();
    }
    let output = Command::new("sh")
        .args(["-c", "ulimit -n \"$0\" && exec \"$@\""])
        .arg(descriptors.to_string())
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let is_run = output.status.success() && said.contains("1 passed");
    assert!(
        is_run,
        "{test}, alone: {}\n{said}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// How many descriptors this process has open.
pub(crate) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
