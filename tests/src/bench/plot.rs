//! The plots of a run.

use std::{collections::BTreeMap, error::Error, ops::Range, path::Path};

use plotters::{
    backend::SVGBackend,
    chart::ChartBuilder,
    drawing::IntoDrawingArea,
    element::{PathElement, Text},
    series::LineSeries,
    style::{BLACK, BLUE, RED, RGBColor, WHITE},
};

use super::table::{Line, Results};

/// Points by curve: where, and the median, smallest and largest number there.
type Curves = BTreeMap<String, Vec<(f64, [f64; 3])>>;

struct Plot {
    name: &'static str,
    caption: &'static str,
    /// What is counted from left to right.
    counts: &'static str,
    doubles: bool,
}

/// Draws each plot that has points into a file of its name.
///
/// # Errors
///
/// Errors of the file system.
pub(crate) fn draw(results: &Results, folder: &Path) -> Result<(), Box<dyn Error>> {
    for plot in &PLOTS {
        let curves = curves(results, plot.name);
        if !curves.is_empty() {
            plot.draw(&curves, &folder.join(format!("{}.svg", plot.name)))?;
        }
    }
    Ok(())
}

impl Plot {
    fn draw(&self, curves: &Curves, file: &Path) -> Result<(), Box<dyn Error>> {
        let root = SVGBackend::new(file, (720, 360)).into_drawing_area();
        root.fill(&WHITE)?;
        let points = || curves.values().flatten();
        let end = points().map(|(at, _)| self.place(*at)).fold(1.0, f64::max);
        let highest = points().map(|(_, [_, _, most])| *most).fold(0.0, f64::max) * 1.15;
        let (across, up): (Range<f64>, Range<f64>) = (self.place(1.0)..end * 1.15, 0.0..highest);
        let mut chart = ChartBuilder::on(&root)
            .caption(self.caption, ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(36)
            .y_label_area_size(64)
            .build_cartesian_2d(across, up)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(RGBColor(225, 225, 225))
            .axis_style(BLACK)
            .x_desc(self.counts)
            .x_label_formatter(&|place| self.label(*place))
            .draw()?;
        for ((name, points), color) in curves.iter().zip([BLUE, RED, BLACK].iter().cycle()) {
            let place = |(at, [median, _, _]): &(f64, [f64; 3])| (self.place(*at), *median);
            chart.draw_series(LineSeries::new(points.iter().map(place), color))?;
            let bar = |(at, [_, least, most]): &(f64, [f64; 3])| {
                PathElement::new([(self.place(*at), *least), (self.place(*at), *most)], color)
            };
            chart.draw_series(points.iter().map(bar))?;
            let last = points.last().map(place);
            chart.draw_series(last.map(|last| Text::new(format!(" {name}"), last, ("sans-serif", 14))))?;
        }
        root.present()?;
        Ok(())
    }

    fn place(&self, at: f64) -> f64 {
        if self.doubles { at.log2() } else { at }
    }

    fn label(&self, place: f64) -> String {
        let at = if self.doubles { place.exp2() } else { place };
        if (at - at.round()).abs() < 1e-6 { format!("{at:.0}") } else { String::new() }
    }
}

fn curves(results: &Results, plot: &str) -> Curves {
    let mut curves = Curves::new();
    let points = |line: &Line| {
        let point = line.point.clone().filter(|point| point.plot == plot)?;
        let numbers = [line.rounds.median()?, line.rounds.least()?, line.rounds.most()?];
        Some((point.curve, (point.at, numbers)))
    };
    for (curve, point) in results.values().flatten().filter_map(points) {
        curves.entry(curve).or_default().push(point);
    }
    curves
}

const PLOTS: [Plot; 3] = [
    Plot {
        name: "nodes",
        caption: "lock and unlock by one task, p50 in µs",
        counts: "nodes",
        doubles: false,
    },
    Plot {
        name: "tasks",
        caption: "locks and unlocks a second, three nodes, a resource for each task",
        counts: "tasks",
        doubles: true,
    },
    Plot {
        name: "waiters",
        caption: "one resource, hold 1 ms: wall of a turn in µs",
        counts: "tasks that want it",
        doubles: true,
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{stats::Spread, table::Unit};

    fn line(number: f64) -> Line {
        Line::new("", "", Unit::Count, Spread { rounds: vec![number, number + 1.0, number + 2.0] })
    }

    #[test]
    fn a_curve_has_the_points_of_its_plot() {
        let lines = vec![
            line(5.0).at("tasks", "ours", 1.0),
            line(7.0).at("tasks", "ours", 2.0),
            line(9.0).at("nodes", "ours", 1.0),
            line(3.0),
        ];
        let results: Results = [("row".to_owned(), lines)].into();
        let expected = vec![(1.0, [6.0, 5.0, 7.0]), (2.0, [8.0, 7.0, 9.0])];
        assert_eq!(curves(&results, "tasks"), [("ours".to_owned(), expected)].into());
        assert!(curves(&results, "waiters").is_empty());
    }

    #[test]
    fn each_plot_with_points_is_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let lines = vec![line(5.0).at("tasks", "ours", 1.0), line(7.0).at("tasks", "ours", 64.0)];
        draw(&[("row".to_owned(), lines)].into(), folder.path()).unwrap();
        let svg = std::fs::read_to_string(folder.path().join("tasks.svg")).unwrap();
        assert!(svg.contains("ours") && svg.contains("\n64\n"), "{svg}");
        assert!(!folder.path().join("nodes.svg").exists());
    }

    #[test]
    fn only_whole_numbers_are_labels() {
        let [nodes, tasks, _] = &PLOTS;
        assert_eq!([nodes.label(3.0), nodes.label(2.5)], ["3", ""]);
        assert_eq!([tasks.label(6.0), tasks.label(2.5)], ["64", ""]);
    }
}
