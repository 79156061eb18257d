//! The configuration of a zipper: any text gives a configuration or an error with a place.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../zipper/src/config/mod.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod config;
/// What the configuration uses of the wire format.
mod wire {
    pub const TEXT_LEN_MAX: usize = 1024;
}

fuzz_target!(|text: &str| {
    if let Err(error) = config::ZipperConfig::parse(text, "fuzz.yaml", &[]) {
        assert!(error.to_string().starts_with("fuzz.yaml"), "{error}");
    }
});
