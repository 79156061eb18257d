//! Selvedge hub.
