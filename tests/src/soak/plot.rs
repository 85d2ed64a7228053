//! The chart of a run.

use std::{error::Error, ops::Range, path::Path};

use plotters::{
    backend::SVGBackend,
    chart::ChartBuilder,
    drawing::{DrawingArea, IntoDrawingArea},
    element::PathElement,
    series::LineSeries,
    style::{BLACK, BLUE, Color, RED, RGBColor, WHITE},
};

use super::{Report, Sample};

/// Draws memory, tasks, sockets, descriptors and locks over time into an SVG file; red lines are faults.
///
/// # Errors
///
/// Errors of the file system.
pub fn draw(report: &Report, file: &Path) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::new(file, (900, 1_200)).into_drawing_area();
    root.fill(&WHITE)?;
    let panels = root.split_evenly((6, 1));
    let draw = |panel: usize, name: &str, of: fn(&Sample) -> f64| line(&panels[panel], report, name, of);
    draw(0, "resident memory, MiB", |sample| sample.memory)?;
    draw(1, "heap in use, MiB", |sample| sample.heap)?;
    draw(2, "tasks", |sample| sample.tasks)?;
    draw(3, "sockets, including the proxies'", |sample| sample.sockets)?;
    draw(4, "file descriptors", |sample| sample.descriptors)?;
    draw(5, "locks per second", |sample| sample.locks)?;
    root.present()?;
    Ok(())
}

fn line(
    panel: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    report: &Report,
    name: &str,
    of: fn(&Sample) -> f64,
) -> Result<(), Box<dyn Error>> {
    let end = report.samples.last().map_or(1.0, |sample| sample.at);
    let highest = report.samples.iter().map(of).fold(1.0, f64::max) * 1.1;
    let values: Range<f64> = 0.0..highest;
    let mut chart = ChartBuilder::on(panel)
        .caption(name, ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..end, values)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(225, 225, 225))
        .axis_style(BLACK)
        .y_labels(5)
        .x_labels(10)
        .x_label_formatter(&|seconds| format!("{seconds:.0} s"))
        .draw()?;
    let marks = thinned(&report.faults).map(|(_, at)| (*at, highest * 0.05));
    chart.draw_series(marks.map(|(at, height)| PathElement::new([(at, 0.0), (at, height)], RED.mix(0.5))))?;
    let points = thinned(&report.samples).map(|sample| (sample.at, of(sample)));
    chart.draw_series(LineSeries::new(points, BLUE))?;
    Ok(())
}

/// At most as many points as are visible.
fn thinned<T>(all: &[T]) -> impl Iterator<Item = &T> {
    all.iter().step_by(all.len().div_ceil(MAX_POINTS).max(1))
}

const MAX_POINTS: usize = 450;
