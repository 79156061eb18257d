//! The frames of a TCP stream do not depend on how the stream is divided into reads.
#![no_main]

use libfuzzer_sys::fuzz_target;
use selvedge_transport::fuzzing::split;

fuzz_target!(|input: (u16, u16, &[u8])| {
    let (step, budget, stream) = input;
    let whole = split(stream, usize::MAX, usize::MAX);
    let cut = split(stream, usize::from(step), usize::from(budget));
    assert_eq!(whole.is_ok(), cut.is_ok());
    if let (Ok(whole), Ok(cut)) = (whole, cut) {
        assert_eq!(whole, cut);
    }
});
