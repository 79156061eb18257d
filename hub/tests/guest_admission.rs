//! Guests that have not been admitted: their buffer, their time and their slots.

use std::time::Duration;

use selvedge_hub::{
    CloseReason, Endpoint, GuestAdmission, Hub, HubBuilder, HubEvent, Identity, LaneConfig, LaneId,
    NodeId, SessionConfig, TryRecvError,
};

/// Far longer than anything here takes; only a bug makes a test wait that long.
const PATIENCE: Duration = Duration::from_secs(30);

const DATA: LaneId = match LaneId::new(1) {
    Some(lane) => lane,
    None => LaneId::FIRST,
};

fn builder() -> HubBuilder {
    let identity = Identity::generate().expect("randomness");
    Hub::builder(identity).session(SessionConfig {
        lanes: vec![LaneConfig::default(); 2],
        ..SessionConfig::default()
    })
}

/// A hub that accepts guests.
fn host(admission: GuestAdmission) -> Hub {
    let builder = builder().guests(10).guest_admission(admission);
    let builder = builder.listen("tcp://127.0.0.1:0").expect("an address");
    builder.start().expect("a hub")
}

/// A guest of that hub, and its endpoint there.
fn guest(host: &Hub) -> (Hub, Endpoint) {
    let builder = builder().peer_at(host.node_id(), host.addresses().to_vec());
    let guest = builder.expect("another node").start().expect("a hub");
    let endpoint = guest.endpoint(host.node_id()).expect("a peer");
    (guest, endpoint)
}

/// Waits for an event of a hub.
fn wait_for(hub: &Hub, mut wanted: impl FnMut(&HubEvent) -> bool) {
    while !wanted(
        &hub.events()
            .recv_timeout(PATIENCE)
            .expect("the event comes"),
    ) {}
}

fn wait_for_guest(host: &Hub, guest: NodeId) -> Endpoint {
    wait_for(
        host,
        |it| matches!(it, HubEvent::Up { peer } if *peer == guest),
    );
    host.endpoint(guest).expect("it is up")
}

#[test]
fn a_guest_sends_on_further_lanes_when_it_is_admitted() {
    let host = host(GuestAdmission::default());
    let (guest, to_host) = guest(&host);
    let from_guest = wait_for_guest(&host, guest.node_id());
    to_host.send(DATA, "data".into()).expect("it is open");
    to_host
        .send(LaneId::FIRST, "token".into())
        .expect("it is open");
    let message = from_guest.recv_timeout(PATIENCE).expect("a message");
    assert_eq!(message.payload, "token");
    assert_eq!(from_guest.try_recv(), Err(TryRecvError::Empty));
    from_guest.admit(DATA);
    let message = from_guest.recv_timeout(PATIENCE).expect("a message");
    assert_eq!(message.payload, "data");
    wait_for(
        &host,
        |it| matches!(it, HubEvent::Admitted { peer } if *peer == guest.node_id()),
    );
}

#[test]
fn a_guest_that_is_not_admitted_in_time_is_closed_and_an_admitted_one_stays() {
    let host = host(GuestAdmission {
        timeout: Duration::from_secs(1),
        ..GuestAdmission::default()
    });
    let ((admitted, to_host), (mute, from_mute)) = (guest(&host), guest(&host));
    to_host
        .send(LaneId::FIRST, "token".into())
        .expect("it is open");
    let mut from_admitted = None;
    wait_for(&host, |it| {
        if let HubEvent::Up { peer } = it
            && *peer == admitted.node_id()
        {
            from_admitted = host.endpoint(*peer);
        }
        from_admitted.is_some()
    });
    let from_admitted = from_admitted.expect("it is up");
    from_admitted.admit(DATA);
    assert_eq!(
        from_mute.wait_closed(PATIENCE),
        Some(CloseReason::PeerAborted)
    );
    assert_eq!(host.endpoint(admitted.node_id()), Some(from_admitted));
    drop(mute);
}

#[test]
fn a_guest_replaces_one_that_waits_for_its_admission() {
    let host = host(GuestAdmission {
        timeout: 2 * PATIENCE,
        waiting_max: 1,
        ..GuestAdmission::default()
    });
    let (first, from_first) = guest(&host);
    wait_for_guest(&host, first.node_id()).admit(DATA);
    wait_for(&host, |it| matches!(it, HubEvent::Admitted { .. }));
    let (second, from_second) = guest(&host);
    wait_for_guest(&host, second.node_id());
    let (third, _from_third) = guest(&host);
    wait_for_guest(&host, third.node_id());
    assert_eq!(
        from_second.wait_closed(PATIENCE),
        Some(CloseReason::PeerAborted)
    );
    assert_eq!(from_first.wait_closed(Duration::ZERO), None);
}
