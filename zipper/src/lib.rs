//! Selvedge zipper: routes tagged messages from Sources to StreamFunctions, over any topology of
//! zippers. What is here so far is pure: no sockets, no threads, no clock.

pub mod router;
pub mod tag;
pub mod wire;
