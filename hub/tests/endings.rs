//! What a hub does when an endpoint ends, and when the hub is closed.

use std::time::Duration;

use selvedge_hub::{CloseReason, Endpoint, Event, Hub, Identity, Inbox, Incoming, LaneId};

/// Far longer than anything here takes; only a bug makes a test wait that long.
const PATIENCE: Duration = Duration::from_secs(30);

fn identity() -> Identity {
    Identity::generate().expect("randomness")
}

fn dialing(own: &Identity, peer: &Identity, at: &str) -> Hub {
    let builder = Hub::builder(own.clone()).peer(peer.node_id(), &[at]);
    builder.expect("a peer").start().expect("a hub")
}

#[test]
fn an_aborted_endpoint_does_not_keep_a_closing_hub_from_delivering_to_others() {
    let own = identity();
    let mut peers = [identity(), identity()];
    // The endpoint that the hub waits for first is the one that is aborted.
    peers.sort_by_key(|it| *it.node_id().as_bytes());
    let mut builder = Hub::builder(own.clone())
        .listen("tcp://127.0.0.1:0")
        .expect("an address");
    for peer in &peers {
        builder = builder.peer(peer.node_id(), &[]).expect("a peer");
    }
    let hub = builder.start().expect("a hub");
    let at = hub.addresses()[0].to_string();
    let [bad, good] = peers.each_ref().map(|it| hub.endpoint(it.node_id()));
    let (bad, good) = (bad.expect("a peer"), good.expect("a peer"));
    for n in 0..10_u8 {
        let sent = good.send(LaneId::FIRST, vec![n; 1 << 20].into());
        sent.expect("there is room");
    }
    bad.send(LaneId::FIRST, "never delivered".into()).unwrap();
    hub.wind_down();
    bad.abort();
    assert_eq!(bad.wait_closed(PATIENCE), Some(CloseReason::Aborted));
    let (peer, node) = (peers[1].clone(), own.node_id());
    let reading = std::thread::spawn(move || {
        let reader = dialing(&peer, &own, &at);
        let from = reader.endpoint(node).expect("a peer");
        let read = |_| from.recv_timeout(PATIENCE).map(|it| it.payload.len());
        let lens = (0..10).map(read).collect::<Result<Vec<_>, _>>();
        assert_eq!(lens, Ok(vec![1 << 20; 10]));
    });
    assert!(!hub.close(PATIENCE), "one was aborted");
    assert_eq!(good.wait_closed(Duration::ZERO), Some(CloseReason::Local));
    reading.join().expect("all arrived");
}

/// Answers each message with the same payload.
struct Echo(Endpoint);

impl Inbox for Echo {
    fn on_messages(&mut self, incoming: &mut Incoming<'_>) {
        while let Some(message) = incoming.take(LaneId::FIRST) {
            let answered = self.0.try_send(message.lane, message.payload);
            answered.expect("there is room for one");
        }
    }

    fn on_event(&mut self, _event: Event) {}
}

#[test]
fn a_hub_without_events_keeps_none() {
    let host = identity();
    let hub = Hub::builder(host.clone())
        .guests(1)
        .without_events()
        .inbox(|endpoint| Box::new(Echo(endpoint.clone())))
        .listen("tcp://127.0.0.1:0")
        .expect("an address");
    let hub = hub.start().expect("a hub");
    let at = hub.addresses()[0].to_string();
    // The second guest is admitted once the mesh has processed the end of the first.
    for text in ["first", "second"] {
        let guest = dialing(&identity(), &host, &at);
        let to_host = guest.endpoint(host.node_id()).expect("a peer");
        to_host
            .send(LaneId::FIRST, text.into())
            .expect("it is open");
        let echo = to_host.recv_timeout(PATIENCE).expect("the echo");
        assert_eq!(echo.payload, text);
        assert!(guest.close(PATIENCE), "the echo acknowledges");
    }
    assert!(hub.events().is_empty());
}
