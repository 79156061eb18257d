//! Three nodes, each of which embeds a hub and nothing else, send around a ring and to all.
//!
//! `cargo run -p selvedge-examples --example three_nodes`
#![allow(clippy::print_stdout, reason = "printing is what this program does")]

use std::error::Error;

use selvedge_hub::{Endpoint, Hub, Identity, LaneId};

fn main() -> Result<(), Box<dyn Error>> {
    let names = ["alice", "bob", "carol"];
    let keys = [
        Identity::generate()?,
        Identity::generate()?,
        Identity::generate()?,
    ];

    // Each node listens on both protocols, and dials the nodes before it: QUIC first, then TCP.
    let mut hubs: Vec<Hub> = Vec::new();
    for (i, key) in keys.iter().enumerate() {
        let mut builder = Hub::builder(key.clone())
            .listen("quic://127.0.0.1:0")?
            .listen("tcp://127.0.0.1:0")?;
        for (j, peer) in keys.iter().enumerate().filter(|&(j, _)| j != i) {
            let addresses = hubs.get(j).map(|hub| hub.addresses().to_vec());
            builder = builder.peer_at(peer.node_id(), addresses.unwrap_or_default())?;
        }
        hubs.push(builder.start()?);
    }
    let to = |i: usize, j: usize| hubs[i].endpoint(keys[j].node_id()).ok_or("not a peer");

    // Around the ring. Sending does not wait for a connection: the message does.
    let send = |from: &Endpoint, text: String| from.send(LaneId::FIRST, text.into());
    let mut text = String::from("round");
    for i in 0..3 {
        let next = (i + 1) % 3;
        send(&to(i, next)?, text)?;
        let received = to(next, i)?.recv()?;
        text = format!(
            "{} {}",
            String::from_utf8_lossy(&received.payload),
            names[next]
        );
    }
    println!("{text}");

    // To all.
    for j in [1, 2] {
        send(&to(0, j)?, "hello from alice".into())?;
        let received = to(j, 0)?.recv()?;
        println!(
            "{} received: {}",
            names[j],
            String::from_utf8_lossy(&received.payload)
        );
    }
    Ok(())
}
