//! Selvedge zipper.
