//! A transport that always wants to be called now does not starve the others.

mod support;

use std::io;
use std::sync::Arc;

use mio::{Registry, Token};
use selvedge_driver::{
    Address, DialError, DialTarget, Dialer, Dialers, End, FrameSink, FrameSource, Info, Instant,
    LaneId, NodeId, Phase, Progress, Role, SessionConfig, Transport, Turn,
};

use crate::support::{PATIENCE, Two};

/// Sends nothing, receives nothing, and is always due.
#[derive(Debug)]
struct AlwaysDue(Info, Instant);

impl Transport for AlwaysDue {
    fn info(&self) -> &Info {
        &self.0
    }

    fn phase(&self) -> Phase {
        Phase::Open
    }

    fn register(&mut self, _: &Registry, _: Token) -> io::Result<()> {
        Ok(())
    }

    fn deregister(&mut self, _: &Registry) -> io::Result<()> {
        Ok(())
    }

    fn send(&mut self, _: &mut Turn<'_>, _: &mut dyn FrameSource) -> Result<Progress, End> {
        Ok(Progress::Idle)
    }

    fn recv(&mut self, _: &mut Turn<'_>, _: &mut dyn FrameSink) -> Result<Progress, End> {
        Ok(Progress::Idle)
    }

    fn timeout(&self) -> Option<Instant> {
        Some(self.1)
    }

    fn on_timeout(&mut self, _: Instant) {}

    fn close(&mut self, _: Instant) {}
}

#[derive(Debug)]
struct AlwaysDueDialer(NodeId);

impl Dialer for AlwaysDueDialer {
    fn schemes(&self) -> &[&'static str] {
        &["due"]
    }

    fn dial(&self, now: Instant, _: &DialTarget) -> Result<Box<dyn Transport>, DialError> {
        let info = Info {
            scheme: "due",
            role: Role::Dialer,
            local: None,
            remote: None,
            peer: Some(self.0),
            reliable: true,
            encrypted: false,
            frame_max: 1024,
            datagram_max: 0,
        };
        Ok(Box::new(AlwaysDue(info, now)))
    }
}

#[test]
fn a_transport_that_is_always_due_does_not_starve_others() {
    let two = Two::new(1);
    two.connect(0);
    let (nobody, local) = (NodeId::new([9; 32]), NodeId::new([8; 32]));
    let dialers: Dialers = Arc::new([Arc::new(AlwaysDueDialer(nobody)) as _]);
    let address: Address = "due://127.0.0.1:1".parse().unwrap();
    let due = two.driver.dial_blocking(&dialers, &address, Some(nobody));
    let endpoint = two.driver.endpoint(SessionConfig::default(), local, nobody);
    let endpoint = endpoint.unwrap();
    endpoint.attach(due.unwrap()).unwrap();
    endpoint
        .send(LaneId::FIRST, "into the void".into())
        .unwrap();
    for n in 0..100_u64 {
        two.a.send(LaneId::FIRST, n.to_string().into()).unwrap();
        let received = two.b.recv_timeout(PATIENCE).unwrap();
        assert_eq!(received.payload, n.to_string());
    }
    endpoint.abort();
}
