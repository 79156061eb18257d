//! The conformance suite over `tcp://` and `tcp+plain://`.

#![cfg(feature = "conformance")]
#![allow(clippy::unwrap_used, reason = "test harnesses panic like tests")]

use std::io;
use std::net::{TcpListener as StdListener, TcpStream as StdStream};

use selvedge_transport::conformance::{Abilities, Harness};
use selvedge_transport::{
    Address, Admission, Dialer, Identity, Listener, TcpDialer, TcpListener, conformance_tests,
};

struct OverTcp {
    scheme: &'static str,
    encrypted: bool,
}

impl Harness for OverTcp {
    fn abilities(&self) -> Abilities {
        Abilities {
            scheme: self.scheme,
            reliable: true,
            encrypted: self.encrypted,
            authenticated: true,
            datagrams: false,
        }
    }

    fn listen(&self, identity: &Identity, admission: Admission) -> Box<dyn Listener> {
        let address = format!("{}://127.0.0.1:0", self.scheme).parse().unwrap();
        Box::new(TcpListener::bind(&address, identity.clone(), admission).unwrap())
    }

    fn dialer(&self, identity: &Identity) -> Box<dyn Dialer> {
        // The dialer serves both schemes; the suite dials only that of the listener.
        Box::new(TcpDialer::new(identity.clone()))
    }

    fn raw_connection(&self, address: &Address) -> Option<Box<dyn io::Write>> {
        let stream = StdStream::connect(address.as_socket()?).ok()?;
        stream.set_nonblocking(true).ok()?;
        Some(Box::new(stream))
    }

    fn unreachable_address(&self) -> Option<Address> {
        let free = StdListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?;
        Some(Address::socket(self.scheme, free))
    }
}

mod tls {
    use super::*;

    conformance_tests!(OverTcp {
        scheme: "tcp",
        encrypted: true,
    });
}

mod plain {
    use super::*;

    conformance_tests!(OverTcp {
        scheme: "tcp+plain",
        encrypted: false,
    });
}
