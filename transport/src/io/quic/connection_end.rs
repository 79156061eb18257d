//! Conversion of the errors of lost QUIC connections to [`End`].

use std::io;

use quinn_proto::{ConnectionError, TransportErrorCode, VarInt};

use crate::End;
use crate::io::tls::{self, RefusalCell};

/// Application error code of an orderly close: all sent data was acknowledged.
pub(super) const CODE_CLOSED: VarInt = VarInt::from_u32(0);

/// Application error code of a violation of the stream rules; the reason phrase states the rule.
pub(super) const CODE_MISBEHAVED: VarInt = VarInt::from_u32(1);

/// The range of TLS alerts among the transport errors (RFC 9001, section 4.8).
const CRYPTO_ERRORS: std::ops::Range<u64> = 0x100..0x200;

/// Converts the error of a lost connection. `refusal` holds the reason of this side's verifier, if
/// it rejected the peer.
pub(super) fn end_of(error: ConnectionError, refusal: &RefusalCell) -> End {
    match error {
        ConnectionError::VersionMismatch => End::Unauthenticated {
            detail: "the peer supports no common QUIC version".to_owned(),
        },
        ConnectionError::TransportError(error) => {
            if let Some(end) = refusal.get() {
                return end.clone();
            }
            protocol_violation(error)
        }
        ConnectionError::ConnectionClosed(close) => {
            let text = close.to_string();
            match close.error_code {
                TransportErrorCode::NO_ERROR => End::PeerClosed,
                TransportErrorCode::CONNECTION_REFUSED | TransportErrorCode::INVALID_TOKEN => {
                    End::Refused { detail: text }
                }
                code if CRYPTO_ERRORS.contains(&u64::from(code)) => End::Refused { detail: text },
                _ => End::broken(io::Error::new(io::ErrorKind::ConnectionAborted, text)),
            }
        }
        ConnectionError::ApplicationClosed(close) if close.error_code == CODE_CLOSED => {
            End::PeerClosed
        }
        ConnectionError::ApplicationClosed(close) => End::broken(io::Error::new(
            io::ErrorKind::ConnectionAborted,
            close.to_string(),
        )),
        ConnectionError::Reset => End::broken(io::ErrorKind::ConnectionReset.into()),
        ConnectionError::TimedOut => End::TimedOut,
        ConnectionError::LocallyClosed => End::Closed,
        error @ ConnectionError::CidsExhausted => End::broken(io::Error::other(error)),
    }
}

/// Converts a transport error that this side detected.
fn protocol_violation(error: quinn_proto::TransportError) -> End {
    if CRYPTO_ERRORS.contains(&u64::from(error.code)) || error.reason.starts_with("TLS error") {
        let detail =
            tls::operator_message(&error.reason).map_or_else(|| error.to_string(), str::to_owned);
        return End::Unauthenticated { detail };
    }
    let what = match error.code {
        TransportErrorCode::INTERNAL_ERROR => {
            return End::broken(io::Error::other(error.to_string()));
        }
        TransportErrorCode::FLOW_CONTROL_ERROR => "QUIC flow control",
        TransportErrorCode::STREAM_LIMIT_ERROR => "QUIC stream limits",
        TransportErrorCode::STREAM_STATE_ERROR => "QUIC stream states",
        TransportErrorCode::FINAL_SIZE_ERROR => "QUIC final sizes",
        TransportErrorCode::FRAME_ENCODING_ERROR => "QUIC frame encoding",
        TransportErrorCode::TRANSPORT_PARAMETER_ERROR => "QUIC transport parameters",
        TransportErrorCode::CONNECTION_ID_LIMIT_ERROR => "QUIC connection id limits",
        TransportErrorCode::CRYPTO_BUFFER_EXCEEDED => "too much TLS data",
        TransportErrorCode::AEAD_LIMIT_REACHED => "too many forged packets",
        _ => "a rule of QUIC",
    };
    tracing::debug!(%error, "the peer violated QUIC");
    End::Misbehaved { what }
}
