//! How costs grow with the number of connections, as SVG.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

use crate::contender::Kind;
use crate::report::Figures;
use crate::tasks::{Task, Unit};

/// One plot: its file, its title, and what of a task it shows.
struct Plot {
    file: &'static str,
    title: &'static str,
    unit: Unit,
    /// Each line of the grid is ten times the one below.
    log: bool,
    value: fn(&Figures, &Task, Kind) -> Option<f64>,
}

const PLOTS: [Plot; 4] = [
    Plot {
        file: "requests.svg",
        title: "Requests a second",
        unit: Unit::Requests,
        log: false,
        value: |figures, task, kind| Some(figures.column(task, kind, |m| m.rate)?.median),
    },
    Plot {
        file: "latency.svg",
        title: "p99 of a request, µs",
        unit: Unit::Requests,
        log: true,
        value: |figures, task, kind| Some(figures.column(task, kind, |m| m.p99)?.median),
    },
    Plot {
        file: "cpu.svg",
        title: "CPU of a request, whole machine above no proxy, µs",
        unit: Unit::Requests,
        log: false,
        value: |figures, task, kind| figures.machine_above_none(task, kind),
    },
    Plot {
        file: "memory.svg",
        title: "Memory of the process for an idle connection, bytes",
        unit: Unit::Memory,
        log: true,
        value: |figures, task, kind| Some(figures.column(task, kind, |m| m.rate)?.median),
    },
];

/// Draws all of which there are at least two points.
///
/// # Errors
/// A file cannot be written.
pub fn all(figures: &Figures, folder: &Path) -> Result<(), Box<dyn Error>> {
    PLOTS.iter().try_for_each(|plot| draw(plot, figures, &folder.join(plot.file)))
}

fn draw(plot: &Plot, figures: &Figures, path: &Path) -> Result<(), Box<dyn Error>> {
    let tasks = figures.tasks_of(plot.unit);
    let height = |value: f64| if plot.log { value.log10() } else { value };
    let line = |kind: &Kind| {
        let value =
            |task: &Task| (plot.value)(figures, task, *kind).filter(|value| !plot.log || *value >= 1.0);
        let point = |task: &Task| Some((task.connections as f64, height(value(task)?)));
        (*kind, tasks.iter().filter_map(point).collect::<Vec<_>>())
    };
    let lines: Vec<_> = Kind::ALL.iter().map(line).filter(|(_, points)| points.len() > 1).collect();
    let heights = || lines.iter().flat_map(|(_, points)| points).map(|(_, height)| *height);
    let Some(most) = heights().max_by(f64::total_cmp) else { return Ok(()) };
    let least = heights().fold(most, f64::min);
    let (bottom, top) = if plot.log { (least.floor(), most.ceil()) } else { (least.min(0.0), most * 1.1) };
    let rows = if plot.log { (top - bottom) as usize + 1 } else { 9 };
    let count = |tasks: Option<&Task>| tasks.map_or(1, |task| task.connections) as f64;
    let area = SVGBackend::new(path, (860, 440)).into_drawing_area();
    area.fill(&WHITE)?;
    let (left, right) = area.split_horizontally(730);
    let mut chart = ChartBuilder::on(&left)
        .caption(plot.title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(72)
        .build_cartesian_2d((count(tasks.first())..count(tasks.last())).log_scale(), bottom..top)?;
    let value = |height: f64| if plot.log { 10_f64.powf(height) } else { height };
    chart
        .configure_mesh()
        .max_light_lines(0)
        .y_labels(rows)
        .x_desc("connections")
        .x_label_formatter(&|connections| grouped(*connections))
        .y_label_formatter(&|height| grouped(value(*height)))
        .draw()?;
    for (place, (kind, points)) in (0..).zip(lines) {
        let color = color(kind);
        chart.draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?;
        chart.draw_series(points.into_iter().map(|point| Circle::new(point, 3, color.filled())))?;
        let y = 60 + 22 * place;
        right.draw(&PathElement::new([(0, y), (18, y)], color.stroke_width(2)))?;
        right.draw(&Text::new(kind.name(), (24, y - 6), ("sans-serif", 13)))?;
    }
    Ok(area.present()?)
}

/// With commas, as in the tables.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let (sign, digits) = digits.strip_prefix('-').map_or(("", &digits[..]), |digits| ("-", digits));
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    format!("{sign}{}", groups.join(","))
}

fn color(kind: Kind) -> RGBColor {
    match kind {
        Kind::Direct => RGBColor(140, 140, 140),
        Kind::Drained => RGBColor(200, 30, 30),
        Kind::Parked => RGBColor(120, 20, 90),
        Kind::Single => RGBColor(150, 90, 30),
        Kind::Other => RGBColor(240, 150, 150),
        Kind::Haproxy => RGBColor(30, 90, 200),
        Kind::Nginx => RGBColor(20, 140, 60),
        Kind::Proxyd => RGBColor(220, 140, 20),
    }
}
