//! What strangers can cause as often as they like is logged seldom, with its count. Pure: time is a
//! parameter.

use std::time::Duration;

use selvedge_transport::Instant;

const PERIOD: Duration = Duration::from_secs(1);

/// Counts, and says when to tell.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    count: u64,
    told_at: Option<Instant>,
}

impl Seldom {
    /// It has happened once more. Returns how often so far, if that was not told for a while.
    pub(crate) fn note(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.told_at.is_some_and(|at| now < at + PERIOD) {
            return None;
        }
        self.told_at = Some(now);
        Some(self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_others_with_their_count() {
        let (begin, mut seldom) = (Instant::now(), Seldom::default());
        let after = |millis| begin + Duration::from_millis(millis);
        let told = [0, 0, 999, 1000, 1001, 5000].map(|millis| seldom.note(after(millis)));
        assert_eq!(told, [Some(1), None, None, Some(4), None, Some(6)]);
    }
}
