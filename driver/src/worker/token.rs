//! Tokens by which the poll identifies connections and listeners.
//!
//! The lowest bit distinguishes the two; the upper half is the generation of a connection's slot. The waker
//! has `usize::MAX`.

use mio::Token;

/// What a token identifies.
pub(super) enum TokenTarget {
    /// The index of a connection, and the generation of its slot.
    Connection(usize, u32),
    /// The index of a listener.
    Listener(usize),
}

pub(super) const fn connection(index: usize, generation: u32) -> Token {
    Token((generation as usize) << 32 | index << 1)
}

pub(super) const fn listener(index: usize) -> Token {
    Token(index << 1 | 1)
}

pub(super) const fn target(token: Token) -> TokenTarget {
    let index = (token.0 & 0xffff_ffff) >> 1;
    if token.0 & 1 == 1 {
        TokenTarget::Listener(index)
    } else {
        TokenTarget::Connection(index, (token.0 >> 32) as u32)
    }
}
