//! Selvedge testkit.
