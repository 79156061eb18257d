//! The results of all runs: medians of the undisturbed ones.

use crate::programs::{Group, Unit};
use crate::rows::{Of, Row};
use crate::run::Record;

/// A run is noisy if other processes used more than this during it, in cores.
pub(crate) const FOREIGN_CORES_MAX: f64 = 0.15;

/// With fewer quiet runs than this the noisy ones count, too, and the table marks it.
pub(crate) const KEPT_MIN: usize = 3;

/// The medians of one program in one bout.
#[derive(Debug, Clone)]
pub(crate) struct Summary {
    pub(crate) runs: usize,
    /// The number of quiet runs.
    pub(crate) quiet: usize,
    pub(crate) messages_per_second: f64,
    pub(crate) bytes_per_second: f64,
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    /// Per unit of the group: nanoseconds per message or round trip, or seconds per gigabyte.
    pub(crate) cpu: f64,
    /// The same of each process; empty for results that do not have it.
    pub(crate) cpu_of_parts: Vec<f64>,
    pub(crate) cores: f64,
    pub(crate) packets_lost: f64,
    pub(crate) send_errors: f64,
    pub(crate) mtu: f64,
}

impl Summary {
    /// The value that a row compares.
    pub(crate) fn value(&self, of: Of, unit: Unit) -> Option<f64> {
        match of {
            Of::Rate if unit == Unit::Gigabyte => Some(self.bytes_per_second),
            Of::Rate => Some(self.messages_per_second),
            Of::Cpu => Some(self.cpu),
            Of::P50 => self.p50_us,
            Of::P99 => self.p99_us,
        }
    }

    /// Whether noisy runs were used because there were too few quiet ones.
    pub(crate) fn is_noisy(&self) -> bool {
        self.quiet < KEPT_MIN.min(self.runs)
    }
}

/// All runs, of one session or of several.
pub(crate) struct Results(pub(crate) Vec<Record>);

impl Results {
    /// The medians of a program, if it has run.
    pub(crate) fn summary(
        &self,
        (group, size, has_hog): (&Group, usize, bool),
        program: &str,
    ) -> Option<Summary> {
        let is_asked = |it: &&Record| {
            (it.group.as_str(), it.size, it.has_hog) == (group.name, size, has_hog)
                && it.program == program
        };
        let all: Vec<&Record> = self.0.iter().filter(is_asked).collect();
        let is_quiet = |it: &&Record| it.foreign_cores <= FOREIGN_CORES_MAX;
        let quiet: Vec<&Record> = all.iter().copied().filter(is_quiet).collect();
        let counted = if quiet.len() >= KEPT_MIN.min(all.len()) {
            &quiet
        } else {
            &all
        };
        let of = |pick: &dyn Fn(&Record) -> Option<f64>| {
            median(counted.iter().filter_map(|record| pick(record)).collect())
        };
        let cpu = |it: &Record, seconds: f64| match group.unit {
            Unit::RoundTrip | Unit::Message => seconds * 1e9 / it.messages as f64,
            Unit::Gigabyte => seconds * 1e9 / it.bytes as f64,
        };
        let of_part = |part: usize| of(&|it| Some(cpu(it, *it.cpu_seconds_of_parts.get(part)?)));
        Some(Summary {
            runs: all.len(),
            quiet: quiet.len(),
            messages_per_second: of(&|it| Some(it.messages as f64 / it.seconds))?,
            bytes_per_second: of(&|it| Some(it.bytes as f64 / it.seconds))?,
            p50_us: of(&|it| it.p50_us),
            p99_us: of(&|it| it.p99_us),
            cpu: of(&|it| Some(cpu(it, it.cpu_seconds)))?,
            cpu_of_parts: (0..).map_while(of_part).collect(),
            cores: of(&|it| Some(it.cpu_seconds / it.seconds))?,
            packets_lost: of(&|it| Some(it.packets_lost as f64))?,
            send_errors: of(&|it| Some(it.send_errors as f64))?,
            mtu: of(&|it| Some(f64::from(it.mtu)))?,
        })
    }

    /// The measured figures of a row.
    pub(crate) fn compare(&self, row: &'static Row) -> Option<Compared> {
        let group = Group::find(row.group)?;
        let bout = (group, row.size, row.has_hog);
        let (ours, peer) = (self.summary(bout, row.ours)?, self.summary(bout, row.peer)?);
        let values = match row.parts {
            Some(parts) => (
                *ours.cpu_of_parts.get(parts.0)?,
                *peer.cpu_of_parts.get(parts.1)?,
            ),
            None => (
                ours.value(row.of, group.unit)?,
                peer.value(row.of, group.unit)?,
            ),
        };
        Some(Compared {
            row,
            unit: group.unit,
            ours: values.0,
            peer: values.1,
            is_noisy: ours.is_noisy() || peer.is_noisy(),
        })
    }
}

/// A row with its figures.
#[derive(Clone, Copy)]
pub(crate) struct Compared {
    pub(crate) row: &'static Row,
    pub(crate) unit: Unit,
    pub(crate) ours: f64,
    pub(crate) peer: f64,
    pub(crate) is_noisy: bool,
}

/// The result of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// The required goal is missed.
    Misses,
    /// The required goal is met.
    Must,
    /// The desired goal is met.
    Stretch,
    /// There is no goal.
    Report,
}

impl Compared {
    /// Our value divided by the peer's.
    pub(crate) fn ratio(&self) -> f64 {
        self.ours / self.peer
    }

    pub(crate) fn verdict(&self) -> Verdict {
        let Some(must) = self.row.must else {
            return Verdict::Report;
        };
        let reaches = |goal: f64| match self.row.of {
            Of::Rate => self.ratio() >= goal,
            Of::Cpu | Of::P50 | Of::P99 => self.ratio() <= goal,
        };
        if !reaches(must) {
            return Verdict::Misses;
        }
        match self.row.stretch {
            Some(stretch) if reaches(stretch) => Verdict::Stretch,
            _ => Verdict::Must,
        }
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        len if len % 2 == 0 => Some(f64::midpoint(values[middle - 1], values[middle])),
        _ => Some(values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::ROWS;

    fn record(program: &str, messages: u64, foreign_cores: f64) -> Record {
        Record {
            group: "messages".to_owned(),
            size: 64,
            program: program.to_owned(),
            has_hog: false,
            round: 0,
            foreign_cores,
            seconds: 1.0,
            messages,
            bytes: 64 * messages,
            cpu_seconds: 1.0,
            cpu_seconds_of_parts: Vec::new(),
            p50_us: None,
            p99_us: None,
            packets_lost: 0,
            send_errors: 0,
            mtu: 0,
        }
    }

    #[test]
    fn rows_name_what_there_is() {
        for row in ROWS {
            let group = Group::find(row.group).unwrap();
            assert!(group.sizes.contains(&row.size), "{}", row.work);
            assert!(group.program(row.ours).is_some(), "{}", row.ours);
            let is_built = cfg!(feature = "peers")
                || !row.peer.contains("zenoh") && !row.peer.contains("async");
            assert_eq!(group.program(row.peer).is_some(), is_built, "{}", row.peer);
            let parts = |program: &str| group.program(program).unwrap().parts.len();
            let are_parts = |(ours, peer)| {
                ours < parts(row.ours) && peer < parts(row.peer) && row.of == Of::Cpu
            };
            assert!(row.parts.is_none_or(are_parts), "{}", row.work);
        }
    }

    #[test]
    fn processes_of_one_program_are_compared_by_their_own_times() {
        let of_relay = |it: &&Row| it.parts == Some((1, 0)) && it.size == 64;
        let row = ROWS.iter().find(of_relay).unwrap();
        let mut record = record(row.ours, 1000, 0.0);
        record.group = row.group.to_owned();
        let older = serde_json::to_value(&record).map(|mut it| {
            it.as_object_mut().unwrap().remove("cpu_seconds_of_parts");
            it
        });
        let older: Record = serde_json::from_value(older.unwrap()).unwrap();
        assert!(Results(vec![older.clone()]).compare(row).is_none());
        record.cpu_seconds_of_parts = vec![0.2, 0.3, 0.5];
        let compared = Results(vec![older, record]).compare(row).unwrap();
        assert_eq!((compared.ours, compared.peer), (3e5, 2e5));
    }

    #[test]
    fn noisy_runs_count_only_where_there_are_too_few_others() {
        let bout = (Group::find("messages").unwrap(), 64, false);
        let of = |messages: &[(u64, f64)]| {
            let records = messages
                .iter()
                .map(|&(messages, foreign)| record("a", messages, foreign));
            Results(records.collect()).summary(bout, "a").unwrap()
        };
        let quiet = of(&[(10, 0.0), (20, 0.1), (30, 0.15), (1000, 0.2)]);
        assert_eq!(
            (quiet.messages_per_second, quiet.quiet, quiet.runs),
            (20.0, 3, 4)
        );
        assert!(!quiet.is_noisy());
        let noisy = of(&[(10, 0.0), (20, 0.1), (30, 0.3), (40, 0.2)]);
        assert_eq!(noisy.messages_per_second, 25.0);
        assert!(noisy.is_noisy());
    }

    #[test]
    fn a_goal_is_reached_from_its_side() {
        let verdict = |of, ratio: f64| {
            let row = ROWS
                .iter()
                .find(|row| row.of == of && row.must.is_some())
                .unwrap();
            let unit = Unit::Message;
            let (ours, peer) = (row.must.unwrap() * ratio, 1.0);
            Compared {
                row,
                unit,
                ours,
                peer,
                is_noisy: false,
            }
            .verdict()
        };
        assert_eq!(verdict(Of::Rate, 0.99), Verdict::Misses);
        assert_eq!(verdict(Of::Rate, 100.0), Verdict::Stretch);
        assert_eq!(verdict(Of::P50, 1.01), Verdict::Misses);
        assert_eq!(verdict(Of::P50, 1.0), Verdict::Must);
    }
}
