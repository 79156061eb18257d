//! A function of one number: the smallest guest there is. No ABI, no memory, nothing imported.

/// Three times `x`.
#[unsafe(no_mangle)]
pub extern "C" fn triple(x: f64) -> f64 {
    3.0 * x
}
