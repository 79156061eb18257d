//! The tables, in Markdown.

use std::fmt::Write;

use crate::programs::Unit;
use crate::results::{Compared, Results, Summary, Verdict};
use crate::rounds::Bout;
use crate::rows::{Of, ROWS};

/// All results: the goals, missed ones first, and then each program.
pub(crate) fn report(results: &Results) -> String {
    let mut text = String::new();
    let mut rows: Vec<Compared> = ROWS.iter().filter_map(|row| results.compare(row)).collect();
    rows.sort_by_key(|row| row.verdict() != Verdict::Misses);
    if !rows.is_empty() {
        text.push_str(
            "| work | ours | | peer | | ratio | M | S | |\n|---|---|---|---|---|---|---|---|---|\n",
        );
    }
    for row in &rows {
        text.push_str(&goal(row));
    }
    for bout in Bout::matching(&[], true) {
        let key = (bout.group, bout.size, bout.has_hog);
        let programs = bout.group.programs.iter();
        let ran = programs.filter_map(|it| Some((it.name, results.summary(key, it.name)?)));
        let ran: Vec<(&str, Summary)> = ran.collect();
        if !ran.is_empty() {
            text.push_str(&bout_table(&bout, &ran));
        }
    }
    text.push_str("\n`*`: fewer than 3 runs were quiet, so the noisy ones count too.\n");
    text
}

fn goal(row: &Compared) -> String {
    let sign = match row.row.of {
        Of::Rate => ">=",
        Of::Cpu | Of::P50 | Of::P99 => "<=",
    };
    let bound =
        |goal: Option<f64>| goal.map_or_else(|| "-".to_owned(), |goal| format!("{sign} {goal}"));
    let verdict = match row.verdict() {
        Verdict::Misses => "**missed**",
        Verdict::Must => "M",
        Verdict::Stretch => "S",
        Verdict::Report => "",
    };
    let (ours, peer) = (value(row.ours, row), value(row.peer, row));
    let noisy = if row.is_noisy { " *" } else { "" };
    let (work, names) = (row.row.work, (row.row.ours, row.row.peer));
    let (must, stretch) = (bound(row.row.must), bound(row.row.stretch));
    format!(
        "| {work} | {} | {ours} | {} | {peer} | {:.2}{noisy} | {must} | {stretch} | {verdict} |\n",
        names.0,
        names.1,
        row.ratio()
    )
}

fn value(value: f64, row: &Compared) -> String {
    match row.row.of {
        Of::Rate if row.unit == Unit::Gigabyte => bytes(value),
        Of::Rate => rate(value),
        Of::Cpu => cpu(value, row.unit),
        Of::P50 | Of::P99 => format!("{value:.1} us"),
    }
}

fn rate(per_second: f64) -> String {
    match per_second {
        0.0 => "-".to_owned(),
        1e6.. => format!("{:.2} M/s", per_second / 1e6),
        _ => format!("{:.1} k/s", per_second / 1e3),
    }
}

fn bytes(per_second: f64) -> String {
    format!("{:.0} MB/s", per_second / 1e6)
}

fn cpu(per_unit: f64, unit: Unit) -> String {
    match (unit, per_unit) {
        (Unit::Gigabyte, _) => format!("{per_unit:.2} s/GB"),
        (Unit::RoundTrip | Unit::Message, 10_000.0..) => format!("{:.1} us", per_unit / 1e3),
        (Unit::RoundTrip | Unit::Message, _) => format!("{per_unit:.0} ns"),
    }
}

/// A table of one bout; the others are compared with the first program.
fn bout_table(bout: &Bout, ran: &[(&str, Summary)]) -> String {
    let mut text = format!("\n{}, {}", bout.group.title, length(bout.size));
    let hog = if bout.has_hog {
        ", one endless loop beside it"
    } else {
        ""
    };
    text.push_str(hog);
    let is_trip = bout.group.unit == Unit::RoundTrip;
    let head = if is_trip { "p50 | p99" } else { "rate | bytes" };
    let columns = format!("program | {head} | to the first | CPU | cores | lost | errors | runs");
    let ruler = "|---".repeat(columns.matches('|').count() + 1);
    let of = if is_trip { Of::P50 } else { Of::Rate };
    let first = ran
        .first()
        .and_then(|(_, it)| it.value(of, bout.group.unit));
    let written = writeln!(text, "\n\n| {columns} |\n{ruler}|");
    debug_assert!(written.is_ok(), "memory takes it");
    for (name, it) in ran {
        let figures = match (it.p50_us, it.p99_us) {
            (Some(p50), Some(p99)) if is_trip => format!("{p50:.1} us | {p99:.1} us"),
            _ => format!(
                "{} | {}",
                rate(it.messages_per_second),
                bytes(it.bytes_per_second)
            ),
        };
        let ratio = it
            .value(of, bout.group.unit)
            .zip(first)
            .map_or(1.0, |(it, first)| it / first);
        let noisy = if it.is_noisy() { " *" } else { "" };
        let name = match it.mtu {
            0.0 => (*name).to_owned(),
            mtu => format!("{name} (datagrams of {mtu:.0} B)"),
        };
        let cpu = cpu(it.cpu, bout.group.unit);
        let (cores, lost, errors) = (it.cores, it.packets_lost, it.send_errors);
        text.push_str(&format!(
            "| {name} | {figures} | {ratio:.3} | {cpu} | {cores:.2} | {lost:.0} | {errors:.0} | {} of {}{noisy} |\n",
            it.quiet, it.runs,
        ));
    }
    text
}

/// A length with its unit.
pub(crate) fn length(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}
