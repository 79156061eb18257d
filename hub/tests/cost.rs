//! What many hubs of one process cost.

#![cfg(target_os = "linux")]

use std::fs;
use std::sync::Arc;

use selvedge_hub::{Driver, DriverConfig, Hub, Identity};

const HUBS: usize = 1000;

fn threads() -> usize {
    fs::read_dir("/proc/self/task").expect("procfs").count()
}

/// Resident memory, in bytes.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:"));
    let kib = line.and_then(|it| it.trim().strip_suffix(" kB"));
    let kib: usize = kib.and_then(|it| it.parse().ok()).expect("a number");
    kib * 1024
}

/// Measured: 13 KiB each; with a thread and a mailbox of fixed length for each, 8.6 MiB.
#[test]
fn a_hub_on_a_shared_driver_costs_at_most_64_kib_and_no_thread() {
    let driver = Arc::new(Driver::new(DriverConfig::default()).expect("threads"));
    let start = || {
        let peer = Identity::generate().expect("randomness").node_id();
        Hub::builder(Identity::generate().expect("randomness"))
            .driver(Arc::clone(&driver))
            .peer(peer, &[])
            .and_then(|it| it.start())
            .expect("it starts")
    };
    let first = start();
    let before = (threads(), resident());
    let hubs: Vec<Hub> = (0..HUBS).map(|_| start()).collect();
    let each = (resident() - before.1) / HUBS;
    println!("{each} bytes for each hub");
    assert!(each <= 64 * 1024, "{each} bytes");
    assert_eq!(threads(), before.0);
    drop((first, hubs));
}
