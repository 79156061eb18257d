//! Examples of Selvedge: see the folder `examples` of this package.
#![forbid(unsafe_code)]
