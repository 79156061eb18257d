//! Numbers on the command line, with errors that name what was expected.

use std::ops::RangeInclusive;

/// A parser of the whole numbers of a range.
pub(crate) fn number(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok();
        let number = number.filter(|number| range.contains(number));
        number.ok_or_else(|| match (range.start(), range.end()) {
            (0, &u64::MAX) => "expected a whole number, such as 10".into(),
            (start, end) => format!("expected a whole number from {start} to {end}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_outside_the_range_and_what_is_no_number_are_refused_with_the_range() {
        let parse = number(1..=10);
        assert_eq!(parse("10"), Ok(10));
        for text in ["0", "11", "x", "", "-1", "1.5", "99999999999999999999"] {
            let expected = "expected a whole number from 1 to 10";
            assert_eq!(parse(text), Err(expected.to_owned()), "{text}");
        }
        let any = number(0..=u64::MAX);
        assert_eq!(any("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(any("x"), Err("expected a whole number, such as 10".into()));
    }
}
