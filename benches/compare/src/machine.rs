//! CPU time, as the kernel reports it.

use std::fs;
use std::time::Duration;

use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// A tick of `/proc/*/stat` (proc(5)): 100 per second on current Linux.
const TICK: Duration = Duration::from_millis(10);

/// User and system time of a process by its clock; `None` if it has ended.
pub(crate) fn cpu_of(process: u32) -> Option<Duration> {
    let pid = Pid::from_raw(i32::try_from(process).ok()?);
    let now = clock_getcpuclockid(pid).ok()?.now().ok()?;
    Some(now.into())
}

/// User and system time of all processes except these and this one, ended ones included: a parent's time
/// contains that of the children that it has waited for.
pub(crate) fn cpu_of_others(own: &[u32]) -> Duration {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Duration::ZERO;
    };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let others = numbers.filter(|number| !own.contains(number) && *number != std::process::id());
    TICK * others.filter_map(ticks_of).sum::<u32>()
}

fn ticks_of(process: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name, in brackets, may contain any character.
    let (_, fields) = stat.rsplit_once(") ")?;
    // utime, stime, cutime, cstime: fields 14 to 17; two fields precede the rest.
    let times = fields.split(' ').skip(11).take(4);
    times.map(|field| field.parse::<u32>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_uses_time() {
        let own = std::process::id();
        let before = cpu_of(own).unwrap();
        let mut number = 1_u64;
        while cpu_of(own).unwrap() < before + 3 * TICK {
            number = std::hint::black_box(number.wrapping_mul(3));
        }
        assert!(ticks_of(own).unwrap() >= 2);
        assert!(ticks_of(u32::MAX).is_none() && cpu_of(u32::MAX).is_none());
    }
}
