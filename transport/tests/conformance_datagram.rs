//! The conformance suite over `quic://`, `udp://` and `udp+plain://`.

#![cfg(feature = "conformance")]
#![allow(clippy::unwrap_used, reason = "test harnesses panic like tests")]

use std::io;
use std::net::UdpSocket;

use selvedge_transport::conformance::{Abilities, Harness};
use selvedge_transport::{
    Address, Admission, Dialer, Identity, Listener, QuicDialer, QuicListener, UdpDialer,
    UdpListener, conformance_tests,
};

struct OverQuic;

struct OverUdp;

struct OverPlainUdp;

/// Sends datagrams unchanged.
struct RawSender(UdpSocket);

impl io::Write for RawSender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn raw_connection(address: &Address) -> Option<Box<dyn io::Write>> {
    let socket = UdpSocket::bind("127.0.0.1:0").ok()?;
    socket.connect(address.as_socket()?).ok()?;
    socket.set_nonblocking(true).ok()?;
    Some(Box::new(RawSender(socket)))
}

fn unreachable_address(scheme: &str) -> Option<Address> {
    let free = UdpSocket::bind("127.0.0.1:0").ok()?.local_addr().ok()?;
    Some(Address::socket(scheme, free))
}

impl Harness for OverQuic {
    fn abilities(&self) -> Abilities {
        Abilities {
            scheme: "quic",
            reliable: true,
            encrypted: true,
            authenticated: true,
            datagrams: true,
        }
    }

    fn listen(&self, identity: &Identity, admission: Admission) -> Box<dyn Listener> {
        Box::new(
            QuicListener::bind(
                &"quic://127.0.0.1:0".parse().unwrap(),
                identity.clone(),
                admission,
            )
            .unwrap(),
        )
    }

    fn dialer(&self, identity: &Identity) -> Box<dyn Dialer> {
        Box::new(QuicDialer::new(identity.clone()))
    }
    fn raw_connection(&self, address: &Address) -> Option<Box<dyn io::Write>> {
        raw_connection(address)
    }
    fn unreachable_address(&self) -> Option<Address> {
        unreachable_address("quic")
    }
}

fn udp_abilities(scheme: &'static str, encrypted: bool) -> Abilities {
    Abilities {
        scheme,
        reliable: false,
        encrypted,
        authenticated: true,
        datagrams: true,
    }
}

fn listen_by_udp(scheme: &str, identity: &Identity, admission: Admission) -> Box<dyn Listener> {
    let address = format!("{scheme}://127.0.0.1:0").parse().unwrap();
    Box::new(UdpListener::bind(&address, identity.clone(), admission).unwrap())
}

impl Harness for OverUdp {
    fn abilities(&self) -> Abilities {
        udp_abilities("udp", true)
    }

    fn listen(&self, identity: &Identity, admission: Admission) -> Box<dyn Listener> {
        listen_by_udp("udp", identity, admission)
    }

    fn dialer(&self, identity: &Identity) -> Box<dyn Dialer> {
        Box::new(UdpDialer::new(identity.clone()))
    }

    fn raw_connection(&self, address: &Address) -> Option<Box<dyn io::Write>> {
        raw_connection(address)
    }

    fn unreachable_address(&self) -> Option<Address> {
        unreachable_address("udp")
    }
}

impl Harness for OverPlainUdp {
    fn abilities(&self) -> Abilities {
        udp_abilities("udp+plain", false)
    }

    fn listen(&self, identity: &Identity, admission: Admission) -> Box<dyn Listener> {
        listen_by_udp("udp+plain", identity, admission)
    }

    fn dialer(&self, identity: &Identity) -> Box<dyn Dialer> {
        Box::new(UdpDialer::new(identity.clone()))
    }

    fn raw_connection(&self, address: &Address) -> Option<Box<dyn io::Write>> {
        raw_connection(address)
    }

    fn unreachable_address(&self) -> Option<Address> {
        unreachable_address("udp+plain")
    }
}

mod quic {
    use super::*;
    conformance_tests!(OverQuic);
}

mod udp {
    use super::*;
    conformance_tests!(OverUdp);
}

mod plain_udp {
    use super::*;
    conformance_tests!(OverPlainUdp);
}
