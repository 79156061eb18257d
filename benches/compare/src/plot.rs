//! The plot: the factor by which each row is better than its peer, on a logarithmic scale.

use std::fmt::Write;

use crate::results::{Compared, Results};
use crate::rows::{Of, ROWS};

const WIDTH: f64 = 760.0;
/// The horizontal range of the bars.
const LEFT: f64 = 340.0;
const RIGHT: f64 = 700.0;
const TOP: f64 = 58.0;
const STEP: f64 = 21.0;
/// Lines of the scale: powers of two.
const SCALE: [f64; 7] = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0];

/// Colours for light and dark pages, which follow the reader's setting without a script.
const STYLE: &str = "
text{font:12px system-ui,sans-serif;fill:#1f2328}
.v{paint-order:stroke;stroke:#fff;stroke-width:4px}
.h{font-weight:600;font-size:14px}.s{fill:#59636e}.e{text-anchor:end}.m{text-anchor:middle}
line{stroke:#d1d9e0}.one{stroke:#59636e;stroke-width:1.5}
.over{fill:#0b6e99}.under{fill:#c4622d}
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.v{stroke:#0d1117}.s{fill:#9198a1}
line{stroke:#3d444d}.one{stroke:#9198a1}.over{fill:#4ba3d9}.under{fill:#e08a4f}}
";

/// The factor by which ours is better: more messages, or less time.
fn better(row: &Compared) -> f64 {
    match row.row.of {
        Of::Rate => row.ratio(),
        Of::Cpu | Of::P50 | Of::P99 => row.ratio().recip(),
    }
}

fn x_of(ratio: f64) -> f64 {
    let (low, high) = (SCALE[0].log2(), SCALE[SCALE.len() - 1].log2());
    let part = (ratio.log2() - low) / (high - low);
    LEFT + part.clamp(0.0, 1.0) * (RIGHT - LEFT)
}

/// An SVG of the measured rows that have a bar; `None` without such rows.
pub(crate) fn plot(results: &Results) -> Option<String> {
    let rows = ROWS.iter().filter(|row| row.is_plotted);
    let rows: Vec<Compared> = rows.filter_map(|row| results.compare(row)).collect();
    if rows.is_empty() {
        return None;
    }
    draw(&rows).ok()
}

fn draw(rows: &[Compared]) -> Result<String, std::fmt::Error> {
    let is_limit = |row: &&Compared| row.row.peer.starts_with("raw");
    let (limits, peers): (Vec<&Compared>, Vec<&Compared>) = rows.iter().partition(is_limit);
    let parts = [
        ("beside others", peers),
        ("beside bare sockets, the limit", limits),
    ];
    let heads = parts.iter().filter(|(_, rows)| !rows.is_empty()).count();
    let bottom = TOP + STEP * (heads + rows.len()) as f64;
    let height = bottom + 30.0;
    let mut svg = String::new();
    writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"Selvedge against raw sockets and peers\"><style>{STYLE}</style>"
    )?;
    writeln!(
        svg,
        "<text class=\"h\" x=\"8\" y=\"20\">Selvedge: how many times as good</text>\
         <text class=\"s\" x=\"8\" y=\"38\">messages or bytes a second, or speed of a round trip; \
         both on one machine, in turn; logarithmic</text>"
    )?;
    for at in SCALE {
        let (x, class) = (x_of(at), if at == 1.0 { "one" } else { "" });
        writeln!(
            svg,
            "<line class=\"{class}\" x1=\"{x:.0}\" x2=\"{x:.0}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
             <text class=\"s m\" x=\"{x:.0}\" y=\"{:.0}\">{at}x</text>",
            bottom + 16.0
        )?;
    }
    let mut top = TOP;
    for (head, rows) in parts.iter().filter(|(_, rows)| !rows.is_empty()) {
        let (x, base) = (LEFT - 8.0, top + 15.0);
        writeln!(
            svg,
            "<text class=\"s e\" x=\"{x}\" y=\"{base}\">{head}</text>"
        )?;
        for row in rows {
            top += STEP;
            bar(&mut svg, top, row)?;
        }
        top += STEP;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

fn bar(svg: &mut String, top: f64, row: &Compared) -> std::fmt::Result {
    let (one, end) = (x_of(1.0), x_of(better(row)));
    let class = if better(row) >= 1.0 { "over" } else { "under" };
    let (from, width) = (one.min(end), (one - end).abs().max(1.0));
    let ours = row.row.ours.trim_start_matches("ours ");
    let ours = ours.split(", ").next().unwrap_or(ours);
    let name = format!("{}: {ours} / {}", row.row.work, row.row.peer);
    let (y, base) = (top + 4.0, top + 15.0);
    let mark = one.max(end) + 6.0;
    writeln!(
        svg,
        "<text class=\"e\" x=\"{:.0}\" y=\"{base}\">{name}</text>\
         <rect class=\"{class}\" x=\"{from:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"14\" rx=\"2\"/>\
         <text class=\"v\" x=\"{mark:.1}\" y=\"{base}\">{:.2}</text>",
        LEFT - 8.0,
        better(row)
    )
}
