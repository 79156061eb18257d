//! Selvedge transport.
