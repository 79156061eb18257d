//! Selvedge endpoint.
