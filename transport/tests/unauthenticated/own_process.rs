//! Runs tests in a process of their own, because they count or exhaust its descriptors.

use std::process::Command;

/// The environment variable that marks the child process.
const OWN_PROCESS: &str = "SELVEDGE_TEST_OWN_PROCESS";

/// Runs `body` in a child process that runs no other test and has a limit of `descriptors`.
///
/// `test` is the path of the calling test; the child process is the same program.
pub(crate) fn in_own_process(test: &str, descriptors: usize, body: impl FnOnce()) {
    if std::env::var_os(OWN_PROCESS).is_some() {
        return body();
    }
    let output = Command::new("sh")
        .args(["-c", "ulimit -n \"$0\" && exec \"$@\""])
        .arg(descriptors.to_string())
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(OWN_PROCESS, "1")
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let is_run = output.status.success() && stdout.contains("1 passed");
    assert!(
        is_run,
        "{test}, in its own process: {}\n{stdout}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The number of open descriptors of this process.
pub(crate) fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
