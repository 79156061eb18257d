//! Everything that touches a socket. Nothing outside this folder names rustls or quinn.

mod identity;
mod tls;

pub use identity::{Admission, Identity, IdentityError};
