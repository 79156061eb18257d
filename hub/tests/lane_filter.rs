//! Filters of a hub: one for each endpoint, also for the successor of an endpoint that has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use selvedge_hub::{
    Endpoint, FilterAction, Hub, HubBuilder, Identity, LaneConfig, LaneFilter, LaneId, Message,
    SessionConfig,
};

/// Far longer than anything here takes; only a bug makes a test wait that long.
const PATIENCE: Duration = Duration::from_secs(30);

/// The filtered lane.
const CONTROL: LaneId = LaneId::FIRST;

const DATA: LaneId = match LaneId::new(1) {
    Some(lane) => lane,
    None => LaneId::FIRST,
};

fn builder(identity: &Identity) -> HubBuilder {
    Hub::builder(identity.clone()).session(SessionConfig {
        lanes: vec![LaneConfig::default(); 2],
        ..SessionConfig::default()
    })
}

/// A filter that answers with its number, queues "queue" and panics at "panic".
fn answering(endpoint: &Endpoint, number: u64) -> LaneFilter {
    let endpoint = endpoint.clone();
    LaneFilter::new(CONTROL, move |payload| {
        assert_ne!(payload, "panic", "requested by the test");
        if payload == "queue" {
            return FilterAction::Queue;
        }
        let answered = endpoint.try_send(CONTROL, number.to_string().into());
        answered.expect("there is room");
        FilterAction::Consume
    })
}

/// A hub whose filters answer, and one that is connected to it.
fn two() -> (Hub, Hub) {
    let [own, peer] = [(); 2].map(|()| Identity::generate().expect("randomness"));
    let made = Arc::new(AtomicU64::new(0));
    let filtering = builder(&own)
        .lane_filter(move |endpoint| answering(endpoint, made.fetch_add(1, Ordering::Relaxed)))
        .listen("tcp://127.0.0.1:0")
        .and_then(|it| it.peer(peer.node_id(), &[]));
    let filtering = filtering.expect("an address").start().expect("a hub");
    let dialing = builder(&peer).peer_at(own.node_id(), filtering.addresses().to_vec());
    let dialing = dialing.expect("a peer").start().expect("a hub");
    (filtering, dialing)
}

fn endpoint(at: &Hub, to: &Hub) -> Endpoint {
    at.endpoint(to.node_id()).expect("a peer")
}

fn recv(at: &Endpoint) -> Message {
    at.recv_timeout(PATIENCE).expect("a message")
}

#[test]
fn a_filter_answers_while_nobody_reads_and_queues_what_it_returns() {
    let (filtering, dialing) = two();
    let to_filter = endpoint(&dialing, &filtering);
    for text in ["queue", "a", "b"] {
        to_filter.send(DATA, text.into()).expect("it is open");
        to_filter.send(CONTROL, text.into()).expect("it is open");
    }
    for _ in 0..2 {
        assert_eq!(recv(&to_filter).payload, "0");
    }
    let reading = endpoint(&filtering, &dialing);
    let mut queued: Vec<_> = (0..4).map(|_| recv(&reading)).collect();
    queued.sort_by_key(|it| it.lane);
    let expected = [
        (CONTROL, "queue"),
        (DATA, "queue"),
        (DATA, "a"),
        (DATA, "b"),
    ];
    let expected = expected.map(|(lane, text)| Message {
        lane,
        payload: text.into(),
    });
    assert_eq!(queued, expected);
}

#[test]
fn an_endpoint_that_replaces_one_with_a_panicked_filter_has_a_filter_of_its_own() {
    let (filtering, dialing) = two();
    let first = endpoint(&dialing, &filtering);
    first.send(CONTROL, "panic".into()).expect("it is open");
    assert!(first.wait_closed(PATIENCE).is_some());
    // Both hubs replace the endpoint that has ended; a message may be lost with one that ends.
    let answer = std::iter::from_fn(|| {
        let to_filter = endpoint(&dialing, &filtering);
        let _has_ended = to_filter.try_send(CONTROL, "a".into());
        Some(to_filter.recv_timeout(Duration::from_millis(100)).ok())
    });
    let answer = answer.flatten().next().expect("it is tried without limit");
    assert_eq!(answer.payload, "1");
}
