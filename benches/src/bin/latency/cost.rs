//! The cost of round trips: time, and CPU time of all processes involved.

use std::io::Read;

/// The result of one run, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Summary {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    /// Per round trip, of all processes involved.
    pub(crate) cpu: f64,
}

impl Summary {
    pub(crate) fn new(mut times: Vec<u64>, cpu: u64) -> Self {
        times.sort_unstable();
        let at = |share: f64| times[(times.len() as f64 * share) as usize] as f64;
        Self {
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            cpu: cpu as f64,
        }
    }

    pub(crate) fn line(&self) -> String {
        format!("{} {} {} {}", self.p50, self.p99, self.p999, self.cpu)
    }

    pub(crate) fn read(line: &str) -> Option<Self> {
        let mut numbers = line.split_whitespace().map(|it| it.parse().ok());
        let mut next = || numbers.next().flatten();
        Some(Self {
            p50: next()?,
            p99: next()?,
            p999: next()?,
            cpu: next()?,
        })
    }
}

/// The minimum, the median and the maximum.
pub(crate) fn median(runs: &[Summary], pick: impl Fn(&Summary) -> f64) -> (f64, f64, f64) {
    let mut values: Vec<f64> = runs.iter().map(pick).collect();
    values.sort_by(f64::total_cmp);
    let last = values.len() - 1;
    (values[0], values[values.len() / 2], values[last])
}

/// The CPU time of a process's threads in nanoseconds, without those that have ended.
pub(crate) fn cpu(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let times = tasks.filter_map(|task| {
        let stat = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<u64>().ok()
    });
    times.sum()
}

/// Returns when the parent has ended or closed the pipe.
pub(crate) fn wait_for_parent() {
    let _end = std::io::stdin().read_to_end(&mut Vec::new());
}
