//! Callbacks of a hub that panic: they affect the one event that they were called for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use selvedge_hub::{Address, Hub, Identity, LaneId, NodeId};

const PATIENCE: Duration = Duration::from_secs(20);

fn identity() -> Identity {
    Identity::generate().expect("randomness")
}

/// Sends a message both ways.
fn assert_connected(one: (&Hub, NodeId), other: (&Hub, NodeId)) {
    for (from, to) in [(one, other), (other, one)] {
        let sender = from.0.endpoint(to.1).expect("a peer");
        sender
            .send(LaneId::FIRST, "hello".into())
            .expect("it has room");
        let receiver = to.0.endpoint(from.1).expect("a peer");
        let received = receiver.recv_timeout(PATIENCE).expect("it arrives");
        assert_eq!(received.payload, "hello");
    }
}

#[test]
fn a_hub_whose_callback_for_events_panics_goes_on() {
    let called = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&called);
    let [home, first, second] = [(); 3].map(|()| identity());
    let ids = [&home, &first, &second].map(Identity::node_id);
    let hub = Hub::builder(home)
        .listen("tcp://127.0.0.1:0")
        .and_then(|it| it.peer(ids[1], &[]))
        .and_then(|it| it.peer(ids[2], &[]))
        .map(|it| {
            it.on_event(move |_| {
                counter.fetch_add(1, Ordering::Relaxed);
                panic!("a test");
            })
        })
        .and_then(|it| it.start())
        .expect("it starts");
    let dial = |own: Identity| {
        let addresses: Vec<Address> = hub.addresses().to_vec();
        let builder = Hub::builder(own).peer_at(ids[0], addresses);
        builder.and_then(|it| it.start()).expect("it starts")
    };
    let peer = dial(first.clone());
    assert_connected((&hub, ids[0]), (&peer, ids[1]));
    // An orderly end makes the hub replace the endpoint, which takes its actor.
    assert!(peer.close(PATIENCE));
    drop(peer);
    for (own, id) in [(first, ids[1]), (second, ids[2])] {
        let peer = dial(own);
        let endpoint = peer.endpoint(ids[0]).expect("a peer");
        endpoint
            .send(LaneId::FIRST, "again".into())
            .expect("it has room");
        assert!(endpoint.flush(PATIENCE).is_ok());
        assert!(hub.endpoint(id).is_some());
    }
    assert!(called.load(Ordering::Relaxed) >= 4);
}
