//! TLS 1.3 with raw Ed25519 public keys (RFC 7250): no certificates, no names, no expiry.
//!
//! Both sides prove possession of their key. The verifiers reject a key that was not dialed or is
//! not admitted *within* the handshake, so no application data reaches an unauthorised peer.

use std::sync::{Arc, LazyLock, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError,
    ServerConfig, SignatureScheme,
};

use super::identity::{Admission, Identity};
use crate::{End, NodeId};

/// The application protocol that both sides must negotiate (ALPN, RFC 7301).
pub(crate) const ALPN: &[u8] = b"selvedge/1";

/// The encoding of an Ed25519 SubjectPublicKeyInfo before the 32 bytes of the key (RFC 8410,
/// section 4).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// Returns the provider of the process. Each configuration refers to a provider, and each QUIC
/// connection has a configuration of its own, so they share one.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    Arc::clone(&PROVIDER)
}

/// Extracts the identity from a SubjectPublicKeyInfo.
pub(crate) fn node_id_of(spki: &[u8]) -> Option<NodeId> {
    spki.strip_prefix(&SPKI_PREFIX)?
        .try_into()
        .ok()
        .map(NodeId::new)
}

/// Returns the identity that the peer proved in a completed handshake.
pub(crate) fn peer_of(certificates: Option<&[CertificateDer<'_>]>) -> Option<NodeId> {
    node_id_of(certificates?.first()?)
}

fn certified_key(identity: &Identity) -> Result<Arc<CertifiedKey>, rustls::Error> {
    identity.certified_key(|private| {
        let key = rustls::crypto::ring::sign::any_supported_type(private)?;
        let mut spki = SPKI_PREFIX.to_vec();
        spki.extend_from_slice(identity.node_id().as_bytes());
        Ok(CertifiedKey::new(vec![CertificateDer::from(spki)], key))
    })
}

/// Stores the reason for which a verifier rejected the peer. quinn-proto reports only the text of
/// the alert.
pub(crate) type RefusalCell = Arc<OnceLock<End>>;

/// The configuration of a dialer that accepts only `expected`; `None` accepts every peer that
/// proves an identity.
pub(crate) fn client_config(
    identity: &Identity,
    expected: Option<NodeId>,
) -> Result<ClientConfig, rustls::Error> {
    recording_client_config(identity, expected, RefusalCell::default())
}

/// [`client_config`] for one connection, which stores a rejection in `refusal`.
pub(crate) fn recording_client_config(
    identity: &Identity,
    expected: Option<NodeId>,
    refusal: RefusalCell,
) -> Result<ClientConfig, rustls::Error> {
    let provider = provider();
    let policy = PeerPolicy::Dialed(expected);
    let verifier = Arc::new(Verifier::new(&provider, policy, refusal));
    let key = certified_key(identity)?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(
            rustls::client::AlwaysResolvesClientRawPublicKeys::new(key),
        ));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Session tickets save one round trip, but would admit a peer without a new proof of its key.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// The configuration of a listener that accepts the peers that `admission` admits.
pub(crate) fn server_config(
    identity: &Identity,
    admission: Admission,
) -> Result<ServerConfig, rustls::Error> {
    recording_server_config(identity, admission, RefusalCell::default())
}

/// [`server_config`] for one connection, which stores a rejection in `refusal`.
pub(crate) fn recording_server_config(
    identity: &Identity,
    admission: Admission,
    refusal: RefusalCell,
) -> Result<ServerConfig, rustls::Error> {
    let provider = provider();
    let policy = PeerPolicy::Admitted(admission);
    let verifier = Arc::new(Verifier::new(&provider, policy, refusal));
    let key = certified_key(identity)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(
            rustls::server::AlwaysResolvesServerRawPublicKeys::new(key),
        ));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    // Sessions are never resumed. The default storage allocates space for 256 sessions in advance:
    // 31 KiB for each configuration, and each QUIC connection has its own.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(config)
}

/// Converts a TLS error; a rejection by a [`Verifier`] yields its stored reason.
pub(crate) fn end_of(error: &rustls::Error) -> End {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => inner
            .downcast_ref::<TlsRefusal>()
            .map_or_else(|| unauthenticated(error), |refusal| refusal.0.clone()),
        rustls::Error::AlertReceived(alert) => End::Refused {
            detail: format!("TLS alert {alert:?}"),
        },
        _ => unauthenticated(error),
    }
}

fn unauthenticated(error: &rustls::Error) -> End {
    let detail = error.to_string();
    End::Unauthenticated {
        detail: operator_message(&detail).unwrap_or(&detail).to_owned(),
    }
}

/// Returns a message for operators that is clearer than the text of the library. Errors are
/// identified by their text, because quinn-proto reports nothing else.
pub(crate) fn operator_message(text: &str) -> Option<&'static str> {
    use rustls::PeerIncompatible as Cannot;
    let known = [
        (
            rustls::Error::PeerIncompatible(Cannot::IncorrectCertificateTypeExtension),
            "the peer has no raw public key (RFC 7250), only X.509 certificates or none at all",
        ),
        (
            rustls::Error::NoCertificatesPresented,
            "the peer presented no key",
        ),
        (
            rustls::Error::NoApplicationProtocol,
            "the peer uses another protocol (ALPN)",
        ),
        (
            rustls::Error::PeerIncompatible(Cannot::Tls12NotOfferedOrEnabled),
            "the peer does not support TLS 1.3",
        ),
        (
            rustls::Error::InvalidCertificate(CertificateError::BadEncoding),
            "the key of the peer is not an Ed25519 public key",
        ),
    ];
    let words = known.iter().find(|(error, _)| error.to_string() == text);
    words.map(|(_, words)| *words)
}

/// Transports an [`End`] through the TLS library.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct TlsRefusal(End);

#[derive(Debug)]
enum PeerPolicy {
    Dialed(Option<NodeId>),
    Admitted(Admission),
}

impl PeerPolicy {
    fn check(&self, found: NodeId) -> Result<(), End> {
        match self {
            Self::Dialed(Some(expected)) if *expected != found => Err(End::WrongPeer {
                expected: *expected,
                found,
            }),
            Self::Admitted(admission) if !admission.admits(&found) => {
                Err(End::NotAdmitted { peer: found })
            }
            Self::Dialed(_) | Self::Admitted(_) => Ok(()),
        }
    }
}

#[derive(Debug)]
struct Verifier {
    policy: PeerPolicy,
    /// Set by the first rejection; later rejections of a shared configuration do not replace it.
    refusal: RefusalCell,
    algorithms: rustls::crypto::WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn new(provider: &CryptoProvider, policy: PeerPolicy, refusal: RefusalCell) -> Self {
        Self {
            policy,
            refusal,
            algorithms: provider.signature_verification_algorithms,
        }
    }

    fn check(&self, end_entity: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let found = node_id_of(end_entity).ok_or(rustls::Error::InvalidCertificate(
            CertificateError::BadEncoding,
        ))?;
        self.policy.check(found).map_err(|end| {
            self.refusal.get_or_init(|| end.clone());
            let refusal = OtherError(Arc::new(TlsRefusal(end)));
            rustls::Error::InvalidCertificate(CertificateError::Other(refusal))
        })
    }

    fn check_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
    }
}

/// TLS 1.2 is not offered. If it were negotiated all the same, no signature would be accepted.
const NO_TLS12: rustls::Error =
    rustls::Error::PeerIncompatible(rustls::PeerIncompatible::ServerDoesNotSupportTls12Or13);

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(NO_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(NO_TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
