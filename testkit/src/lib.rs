//! Selvedge testkit.
#![forbid(unsafe_code)]
