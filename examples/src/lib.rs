//! Selvedge examples.
