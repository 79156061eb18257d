//! The configuration of a zipper: any text gives a configuration or an error with a place.
#![no_main]

use libfuzzer_sys::fuzz_target;
use selvedge_zipper::config::ZipperConfig;

fuzz_target!(|text: &str| {
    if let Err(error) = ZipperConfig::parse(text, "fuzz.yaml", &[]) {
        assert!(error.to_string().starts_with("fuzz.yaml"), "{error}");
    }
});
