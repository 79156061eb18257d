//! Selvedge driver.
