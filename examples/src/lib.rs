//! Examples of Selvedge: see the folder `examples` of this package.
#![forbid(unsafe_code)]

/// The programs of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
mod readme {}
