//! The certificate for the peers' QUIC, in files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub(crate) fn certificate(folder: &Path) -> PathBuf {
    folder.join("certificate.pem")
}

pub(crate) fn key(folder: &Path) -> PathBuf {
    folder.join("key.pem")
}

/// Creates a self-signed certificate for loopback.
pub(crate) fn make(folder: &Path) -> io::Result<()> {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).map_err(io::Error::other)?;
    fs::write(certificate(folder), made.cert.pem())?;
    fs::write(key(folder), made.signing_key.serialize_pem())
}

/// The server's certificate and key.
pub(crate) fn server(folder: &Path) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let shown = CertificateDer::from_pem_file(certificate(folder)).expect("the runner made it");
    let key = PrivateKeyDer::from_pem_file(key(folder)).expect("the runner made it");
    (vec![shown], key)
}

/// The root certificates of a client.
pub(crate) fn roots(folder: &Path) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for shown in server(folder).0 {
        roots.add(shown).expect("it is a certificate");
    }
    roots
}
