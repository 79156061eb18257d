//! A zipper that follows the script of a test, and clients of it.
#![allow(dead_code, reason = "each test file uses a part of it")]

mod replies;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use replies::{GROUP, announcement, progress};
use selvedge_client::lanes::{CONTROL, DATA, PAYLOAD_MAX, session_config};
use selvedge_client::settlement::{InstanceId, ReportKind, RouteEpoch, SequenceSet};
use selvedge_client::wire::settlement::{
    FEATURE_SETTLEMENT, FlowId, FlowOpening, MessageMarks, ReportMessage, RouteBinding,
    RoutedHeader, RoutedMessage, SettlementMessage, is_settlement,
};
use selvedge_client::wire::{Negotiated, Rejection, WireMessage};
use selvedge_client::{Client, ClientOptions, SettlementLevel, Tag};
use selvedge_hub::{Address, Endpoint, Hub, HubEvent, Identity, LaneId, NodeId};

/// Far longer than any step takes; it only expires in case of a bug.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const TAG: Tag = Tag(0x10);
pub(crate) const LEVEL: SettlementLevel = SettlementLevel::Processed;

/// A zipper that a test drives.
pub(crate) struct ScriptedZipper {
    identity: Identity,
    hub: Hub,
}

impl ScriptedZipper {
    pub(crate) fn new() -> Self {
        Self::at(
            Identity::generate().expect("randomness"),
            "tcp://127.0.0.1:0",
        )
    }

    fn at(identity: Identity, address: &str) -> Self {
        let hub = Hub::builder(identity.clone())
            .session(session_config(16 << 20, PAYLOAD_MAX))
            .guests(10)
            .listen(address)
            .expect("an address");
        let hub = hub.start().expect("a hub");
        Self { identity, hub }
    }

    /// Ends the process, and starts another one with the same key and address.
    pub(crate) fn restart(self) -> Self {
        self.suspend()()
    }

    /// Ends the process. Another one with the same key and address is started by the result.
    pub(crate) fn suspend(self) -> impl FnOnce() -> Self {
        let address = self.hub.addresses()[0].to_string();
        let Self { identity, hub } = self;
        drop(hub);
        move || Self::at(identity, &address)
    }

    pub(crate) fn addresses(&self) -> Vec<Address> {
        self.hub.addresses().to_vec()
    }

    pub(crate) fn node(&self) -> NodeId {
        self.hub.node_id()
    }

    /// Admits the next client that introduces itself.
    pub(crate) fn admit(&self, features: u64) -> ClientLink {
        let mut link = self.accept();
        link.admit(self.node(), features);
        link
    }

    /// Refuses the next client that introduces itself.
    pub(crate) fn reject(&self, why: Rejection) {
        let mut link = self.accept();
        link.receive_handshake();
        let rejected = WireMessage::Rejected {
            code: why as u16,
            message: "not now".into(),
        };
        link.send_bytes(CONTROL, rejected.encode().expect("it is short"));
    }

    /// The next client that connects.
    pub(crate) fn accept(&self) -> ClientLink {
        loop {
            let event = self.hub.events().recv_timeout(PATIENCE);
            if let HubEvent::Up { peer } = event.expect("a client connects") {
                return ClientLink::new(self.hub.endpoint(peer).expect("it is connected"));
            }
        }
    }

    /// Connects a client, and admits it with settlement.
    pub(crate) fn connect(&self, options: ClientOptions) -> (Client, ClientLink) {
        let connecting = std::thread::spawn(|| Client::connect(options));
        let link = self.admit(FEATURE_SETTLEMENT);
        let client = connecting.join().expect("it does not panic");
        (client.expect("it is admitted"), link)
    }

    /// Connects a source whose messages are to be settled.
    pub(crate) fn connect_source(&self) -> (Client, ClientLink) {
        self.connect(ClientOptions {
            level: Some(LEVEL),
            ..ClientOptions::source("source", self.addresses())
        })
    }

    /// Connects a function, which introduces its process.
    pub(crate) fn connect_function(
        &self,
        change: impl FnOnce(&mut ClientOptions),
    ) -> (Client, ClientLink) {
        let mut options = ClientOptions::function("f", vec![TAG], self.addresses());
        change(&mut options);
        let (client, mut link) = self.connect(options);
        link.receive_instance();
        (client, link)
    }
}

/// A client from the point of view of its zipper.
pub(crate) struct ClientLink {
    pub(crate) endpoint: Endpoint,
    unread: VecDeque<(LaneId, Bytes)>,
    instance: Option<InstanceId>,
}

impl ClientLink {
    fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            unread: VecDeque::new(),
            instance: None,
        }
    }

    fn receive_handshake(&mut self) {
        let is_handshake =
            |bytes| matches!(WireMessage::decode(bytes), Ok(WireMessage::Handshake(_)));
        while !is_handshake(self.receive(CONTROL)) {}
    }

    fn admit(&mut self, node: NodeId, features: u64) {
        self.receive_handshake();
        let ack = WireMessage::HandshakeAck {
            name: "zipper".into(),
            node: *node.as_bytes(),
            negotiated: Some(Negotiated {
                version: 3,
                features,
            }),
        };
        self.send_bytes(CONTROL, ack.encode().expect("it is short"));
    }

    fn send_bytes(&self, lane: LaneId, bytes: Bytes) {
        self.endpoint.send(lane, bytes).expect("it is open");
    }

    /// Receives the next message of a lane.
    pub(crate) fn receive(&mut self, lane: LaneId) -> Bytes {
        let received = self.try_receive(lane, PATIENCE);
        received.expect("the client sends a message")
    }

    /// Receives the next message of a lane that arrives in time.
    pub(crate) fn try_receive(&mut self, lane: LaneId, timeout: Duration) -> Option<Bytes> {
        let until = Instant::now() + timeout;
        loop {
            let at = self.unread.iter().position(|(on, _)| *on == lane);
            if let Some(at) = at {
                return self.unread.remove(at).map(|(_, bytes)| bytes);
            }
            let left = until.saturating_duration_since(Instant::now());
            let message = self.endpoint.recv_timeout(left).ok()?;
            self.unread.push_back((message.lane, message.payload));
        }
    }

    pub(crate) fn receive_settlement(&mut self, lane: LaneId) -> SettlementMessage {
        loop {
            let bytes = self.receive(lane);
            if is_settlement(&bytes) {
                return SettlementMessage::decode(bytes).expect("it is well-formed");
            }
        }
    }

    pub(crate) fn send(&self, message: SettlementMessage) {
        self.send_bytes(CONTROL, message.encode().expect("it is valid"));
    }

    pub(crate) fn receive_opening(&mut self) -> FlowOpening {
        match self.receive_settlement(DATA) {
            SettlementMessage::FlowOpen(opening) => opening,
            other => panic!("no flow is opened: {other:?}"),
        }
    }

    /// Receives a message of a flow: its number and its payload.
    pub(crate) fn receive_live(&mut self) -> (u64, Bytes) {
        let bytes = self.receive(DATA);
        let message = RoutedMessage::read(&bytes).expect("a message of a flow");
        let (_, payload) = message.split_body(bytes).expect("it is well-formed");
        (message.sequence, payload)
    }

    /// Announces one group with one instance.
    pub(crate) fn announce(&mut self, opening: &FlowOpening) {
        self.send(announcement(opening));
        match self.receive_settlement(CONTROL) {
            SettlementMessage::Confirm { label, version, .. } => {
                assert_eq!((label, version), (opening.label, 1));
            }
            other => panic!("the announcement is not confirmed: {other:?}"),
        }
    }

    /// All messages below a number are settled.
    pub(crate) fn settle(&self, opening: &FlowOpening, below: u64) {
        self.send(progress(opening, below, below));
    }

    pub(crate) fn receive_instance(&mut self) {
        match self.receive_settlement(CONTROL) {
            SettlementMessage::Instance(notice) => self.instance = Some(notice.instance),
            other => panic!("the function does not introduce its process: {other:?}"),
        }
    }

    fn send_bind(&self, label: u32, route: u32) {
        self.send(SettlementMessage::Bind(RouteBinding {
            label,
            epoch: RouteEpoch {
                attachment: 1,
                route,
            },
            flow: FlowId {
                source: [7; 32],
                process: 1,
                tag: TAG,
                target: None,
            },
            group: GROUP,
            level: LEVEL,
            instance: self.instance.expect("it has introduced itself"),
            home: [8; 32],
            name: "f".into(),
            hops_left: 1,
        }));
    }

    /// Binds the function to a route of a flow. Returns the answer.
    pub(crate) fn bind(&mut self, label: u32, route: u32) -> ReportMessage {
        self.send_bind(label, route);
        loop {
            let report = self.receive_report();
            // News of an earlier route may be under way.
            if report.report.kind != ReportKind::News {
                assert_eq!(
                    (report.label, report.report.kind),
                    (label, ReportKind::Answer)
                );
                return report;
            }
        }
    }

    /// Binds the function to a route, and renews its lease.
    pub(crate) fn bind_with_lease(&mut self, label: u32, route: u32) -> ReportMessage {
        let answer = self.bind(label, route);
        self.renew(&answer);
        answer
    }

    pub(crate) fn renew(&self, report: &ReportMessage) {
        let (label, stamp) = (report.label, report.report.stamp);
        self.send(SettlementMessage::Renew { label, stamp });
    }

    pub(crate) fn receive_report(&mut self) -> ReportMessage {
        match self.receive_settlement(CONTROL) {
            SettlementMessage::Report(report) => report,
            other => panic!("no report: {other:?}"),
        }
    }

    /// Receives reports until all messages below a number are processed.
    pub(crate) fn await_processed(&mut self, below: u64) {
        let mut processed = SequenceSet::default();
        while processed.first_missing(0) < below {
            processed.insert_all(&self.receive_report().report.processed);
        }
        assert_eq!(processed, SequenceSet::from(0..below));
    }

    /// Sends a message on a route, with its number as payload.
    pub(crate) fn route(&self, label: u32, sequence: u64) {
        let header = RoutedHeader::new(label, sequence, MessageMarks::default());
        let bytes = [header.bytes(), &sequence.to_be_bytes()].concat();
        self.send_bytes(DATA, bytes.into());
    }
}

impl ClientLink {
    /// Uses the process of another client.
    pub(crate) fn pretend(&mut self, other: &mut Self) {
        std::mem::swap(&mut self.instance, &mut other.instance);
    }

    /// Binds the function to a route that it refuses.
    pub(crate) fn bind_refused(&mut self, label: u32) -> SettlementMessage {
        self.send_bind(label, 1);
        self.receive_settlement(CONTROL)
    }
}
