//! One endpoint whose transport is replaced by another protocol while it sends: no message is lost,
//! repeated or reordered, and the sender is not interrupted.
//!
//! `cargo run -p selvedge-examples --example swap_transport`
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "printing is what this program does"
)]

use std::error::Error;

use selvedge_driver::{
    Admission, Driver, DriverConfig, Identity, LaneId, SessionConfig, bind, dialers,
};

const MESSAGES: u64 = 200_000;

fn main() -> Result<(), Box<dyn Error>> {
    let (alice, bob) = (Identity::generate()?, Identity::generate()?);
    let driver = Driver::new(DriverConfig::default())?;
    let config = SessionConfig::default();
    let to_bob = driver.endpoint(config.clone(), alice.node_id(), bob.node_id())?;
    let to_alice = driver.endpoint(config, bob.node_id(), alice.node_id())?;

    // Bob attaches every connection, which replaces the one before.
    let mut listening = Vec::new();
    for scheme in ["tcp", "quic", "tcp+plain"] {
        let address = format!("{scheme}://127.0.0.1:0").parse()?;
        let listener = bind(&address, &bob, &Admission::anyone())?;
        let endpoint = to_alice.clone();
        listening.push(driver.listen(listener, move |connected| {
            if let Err(error) = endpoint.attach(connected) {
                eprintln!("{error}");
            }
        })?);
    }
    let dialers = dialers(&alice);

    let sending = to_bob.clone();
    let sender = std::thread::spawn(move || {
        (0..MESSAGES).try_for_each(|n| sending.send(LaneId::FIRST, n.to_le_bytes().to_vec().into()))
    });
    let (mut received, mut lost, mut out_of_order, mut next) = (0, 0, 0, 0);
    let mut swaps = listening.iter();
    while received < MESSAGES {
        // The first two connections carry a quarter of the messages each, the third the rest.
        if received * 4 >= MESSAGES * (3 - swaps.len() as u64)
            && let Some(listener) = swaps.next()
        {
            let dialed = driver.dial_blocking(&dialers, listener.address(), Some(bob.node_id()))?;
            println!("after {received} messages: {}", dialed.info().scheme);
            to_bob.attach(dialed)?;
        }
        let message = to_alice.recv()?;
        let number = u64::from_le_bytes(message.payload[..].try_into()?);
        lost += number.saturating_sub(next);
        out_of_order += u64::from(number < next);
        next = number + 1;
        received += 1;
    }
    sender.join().map_err(|_| "the sender panicked")??;
    println!(
        "sent {MESSAGES}, received {received}, lost {lost}, repeated or reordered {out_of_order}"
    );
    if lost + out_of_order > 0 {
        return Err("the count is not perfect".into());
    }
    Ok(())
}
