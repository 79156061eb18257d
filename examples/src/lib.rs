//! Selvedge examples.
#![forbid(unsafe_code)]
