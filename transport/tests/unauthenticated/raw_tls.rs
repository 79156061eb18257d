//! TLS clients that deviate from this project's: without a raw public key, with another protocol or
//! version.

use std::sync::Arc;

use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};

/// The ALPN protocol that a listener expects.
pub(crate) const ALPN: &[u8] = b"selvedge/1";

/// The deviation of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// It has an X.509 certificate.
    X509,
    /// It has no certificate and offers no raw public key.
    NoCertificate,
    /// It offers raw public keys but presents none.
    NoKey,
    /// It offers another ALPN protocol.
    Alpn,
    /// It offers no ALPN protocol.
    NoAlpn,
    /// It offers TLS 1.2 only.
    Tls12,
}

/// A client configuration that accepts any server and has the given deviation.
pub(crate) fn client(wrong: Wrong) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer));
    let key = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap();
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.as_ref().to_vec()));
    let pair = Ed25519KeyPair::from_pkcs8(key.as_ref()).unwrap();
    let mut config = match wrong {
        Wrong::X509 => builder
            .with_client_auth_cert(vec![self_signed(&pair)], private)
            .unwrap(),
        Wrong::NoCertificate => builder.with_no_client_auth(),
        Wrong::NoKey => builder.with_client_cert_resolver(Arc::new(Keyless)),
        Wrong::Alpn | Wrong::NoAlpn | Wrong::Tls12 => {
            let spki = CertificateDer::from(spki_of(&pair));
            let signer = rustls::crypto::ring::sign::any_supported_type(&private).unwrap();
            let key = Arc::new(CertifiedKey::new(vec![spki], signer));
            let resolver = rustls::client::AlwaysResolvesClientRawPublicKeys::new(key);
            builder.with_client_cert_resolver(Arc::new(resolver))
        }
    };
    config.alpn_protocols = match wrong {
        Wrong::Alpn => vec![b"h3".to_vec()],
        Wrong::NoAlpn => Vec::new(),
        _ => vec![ALPN.to_vec()],
    };
    config
}

/// Changes the ClientHello in `bytes` to offer TLS 1.2 only.
pub(crate) fn offer_tls12_only(bytes: &mut [u8]) {
    // supported_versions, 3 bytes long: one version of 2 bytes, TLS 1.3.
    const ONLY_13: [u8; 7] = [0, 43, 0, 3, 2, 3, 4];
    let at = bytes
        .windows(ONLY_13.len())
        .position(|window| window == ONLY_13);
    bytes[at.unwrap() + ONLY_13.len() - 1] = 3;
}

#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct Keyless;

impl ResolvesClientCert for Keyless {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A self-signed X.509 certificate (RFC 5280, section 4.1).
fn self_signed(key: &Ed25519KeyPair) -> CertificateDer<'static> {
    // The algorithm Ed25519 (RFC 8410), and a name that consists of a common name.
    let algorithm = der(0x30, &[&der(0x06, &[&[0x2b, 0x65, 0x70]])]);
    let common_name = der(0x06, &[&[0x55, 0x04, 0x03]]);
    let name = der(0x30, &[&common_name, &der(0x0c, &[b"peernode"])]);
    let name = der(0x30, &[&der(0x31, &[&name])]);
    let validity = [&b"200101000000Z"[..], b"491231235959Z"].map(|time| der(0x17, &[time]));
    let version_3 = der(0xa0, &[&der(0x02, &[&[2]])]);
    let body = der(
        0x30,
        &[
            &version_3,
            &der(0x02, &[&[1]]),
            &algorithm,
            &name,
            &der(0x30, &[&validity[0], &validity[1]]),
            &name,
            &spki_of(key),
        ],
    );
    let signature = der(0x03, &[&[0], key.sign(&body).as_ref()]);
    CertificateDer::from(der(0x30, &[&body, &algorithm, &signature]))
}

fn spki_of(key: &Ed25519KeyPair) -> Vec<u8> {
    let algorithm = der(0x30, &[&der(0x06, &[&[0x2b, 0x65, 0x70]])]);
    let bits = der(0x03, &[&[0], key.public_key().as_ref()]);
    der(0x30, &[&algorithm, &bits])
}

/// Encodes one value in DER.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let len = u16::try_from(content.len()).unwrap();
    let [high, low] = len.to_be_bytes();
    let header = match len {
        0..0x80 => vec![tag, low],
        _ => vec![tag, 0x82, high, low],
    };
    // Lengths from 128 to 255 are encoded in the long form with one byte.
    let header = match len {
        0x80..0x100 => vec![tag, 0x81, low],
        _ => header,
    };
    [header, content].concat()
}
