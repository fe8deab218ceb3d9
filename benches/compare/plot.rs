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
    value: fn(&Figures, &Task, Kind) -> Option<f64>,
}

const PLOTS: [Plot; 4] = [
    Plot {
        file: "requests.svg",
        title: "Requests a second",
        unit: Unit::Requests,
        value: |figures, task, kind| Some(figures.column(task, kind, |m| m.rate)?.median),
    },
    Plot {
        file: "latency.svg",
        title: "p99 of a request, µs",
        unit: Unit::Requests,
        value: |figures, task, kind| Some(figures.column(task, kind, |m| m.p99)?.median),
    },
    Plot {
        file: "cpu.svg",
        title: "CPU of a request, whole machine above no proxy, µs",
        unit: Unit::Requests,
        value: |figures, task, kind| figures.machine_above_none(task, kind),
    },
    Plot {
        file: "memory.svg",
        title: "Memory of the process for an idle connection, bytes",
        unit: Unit::Memory,
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
    let line = |kind: &Kind| {
        let point = |task: &Task| Some((task.connections as f64, (plot.value)(figures, task, *kind)?));
        (*kind, tasks.iter().filter_map(point).collect::<Vec<_>>())
    };
    let lines: Vec<_> = Kind::ALL.iter().map(line).filter(|(_, points)| points.len() > 1).collect();
    let values = lines.iter().flat_map(|(_, points)| points).map(|(_, value)| *value);
    let Some(most) = values.max_by(f64::total_cmp) else { return Ok(()) };
    let last = tasks.last().map_or(10, |task| task.connections) as f64;
    let first = tasks.first().map_or(1, |task| task.connections) as f64;
    let area = SVGBackend::new(path, (760, 440)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(plot.title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(72)
        .build_cartesian_2d((first..last).log_scale(), 0.0..most * 1.1)?;
    chart.configure_mesh().x_desc("connections").draw()?;
    for (kind, points) in lines {
        let color = color(kind);
        let drawn = chart.draw_series(LineSeries::new(points, color.stroke_width(2)))?;
        drawn.label(kind.name()).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color));
    }
    chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
    Ok(area.present()?)
}

fn color(kind: Kind) -> RGBColor {
    match kind {
        Kind::Direct => RGBColor(140, 140, 140),
        Kind::Drained => RGBColor(200, 30, 30),
        Kind::Single => RGBColor(150, 90, 30),
        Kind::Other => RGBColor(240, 150, 150),
        Kind::Haproxy => RGBColor(30, 90, 200),
        Kind::Nginx => RGBColor(20, 140, 60),
        Kind::Proxyd => RGBColor(220, 140, 20),
    }
}
