//! The lines of a run: as a table, as JSON, and between the markers of a page.

use std::{collections::BTreeMap, fmt::Write};

use serde::{Deserialize, Serialize};

use super::stats::Spread;

/// One measured figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Line {
    /// What was done.
    pub(crate) work: String,
    /// What was measured of it, and against what.
    pub(crate) figure: String,
    pub(crate) unit: Unit,
    pub(crate) rounds: Spread,
    pub(crate) goal: Option<Goal>,
    /// Why there is no figure.
    pub(crate) missing: Option<String>,
    /// Its place in a plot.
    pub(crate) point: Option<Point>,
    /// What it is called at the top of the page, if it is one of the figures there.
    pub(crate) headline: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Unit {
    Ratio,
    Count,
    Micros,
    Millis,
    Bytes,
    Percent,
    PerSecond,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

/// A point of a curve in a plot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) plot: String,
    pub(crate) curve: String,
    pub(crate) at: f64,
}

/// The lines of each row, by its name.
pub(crate) type Results = BTreeMap<String, Vec<Line>>;

impl Line {
    pub(crate) fn new(
        work: impl Into<String>,
        figure: impl Into<String>,
        unit: Unit,
        rounds: Spread,
    ) -> Self {
        let (work, figure) = (work.into(), figure.into());
        Self { work, figure, unit, rounds, goal: None, missing: None, point: None, headline: None }
    }

    /// For what could not be measured.
    pub(crate) fn missing(work: impl Into<String>, why: impl Into<String>) -> Self {
        let line = Self::new(work, "", Unit::Count, Spread::default());
        Self { missing: Some(why.into()), ..line }
    }

    pub(crate) fn at_most(self, goal: f64) -> Self {
        Self { goal: Some(Goal::AtMost(goal)), ..self }
    }

    pub(crate) fn at_least(self, goal: f64) -> Self {
        Self { goal: Some(Goal::AtLeast(goal)), ..self }
    }

    pub(crate) fn at(self, plot: &str, curve: &str, at: f64) -> Self {
        let (plot, curve) = (plot.to_owned(), curve.to_owned());
        Self { point: Some(Point { plot, curve, at }), ..self }
    }

    pub(crate) fn headline(self, headline: &str) -> Self {
        Self { headline: Some(headline.to_owned()), ..self }
    }

    /// The cells of the table: work, figure, median, least to most, goal.
    fn cells(&self) -> [String; 5] {
        let (work, figure) = (self.work.clone(), self.figure.clone());
        let spread = (self.rounds.median(), self.rounds.least(), self.rounds.most());
        let (Some(median), Some(least), Some(most)) = spread else {
            let why = self.missing.as_deref().unwrap_or("nothing was measured");
            return [work, format!("not run: {why}"), String::new(), String::new(), String::new()];
        };
        let range = if self.rounds.rounds.len() > 1 {
            format!("{} to {}", self.unit.show(least), self.unit.show(most))
        } else {
            String::new()
        };
        let (goal, met) = match self.goal {
            None => (String::new(), true),
            Some(Goal::AtMost(goal)) => (format!("≤ {}", self.unit.show(goal)), median <= goal),
            Some(Goal::AtLeast(goal)) => (format!("≥ {}", self.unit.show(goal)), median >= goal),
        };
        let goal = if met { goal } else { format!("{goal}, missed") };
        [work, figure, self.unit.show(median), range, goal]
    }
}

impl Unit {
    fn show(self, number: f64) -> String {
        match self {
            Self::Ratio if number < 100.0 => format!("{number:.2}"),
            Self::Ratio | Self::Count => digits(number),
            Self::Micros if number >= 10_000.0 => Self::Millis.show(number / 1e3),
            Self::Micros => format!("{} µs", digits(number)),
            Self::Millis => format!("{} ms", digits(number)),
            Self::Bytes => format!("{} B", digits(number)),
            Self::Percent => format!("{} %", digits(number)),
            Self::PerSecond => format!("{}/s", digits(number)),
        }
    }
}

/// With three digits that count.
fn digits(number: f64) -> String {
    let decimals = match number.abs() {
        size if size >= 100.0 || number.fract() == 0.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{number:.decimals$}")
}

/// The results as JSON, with a line of text for each line.
pub(crate) fn json(results: &Results) -> String {
    let line = |line: &Line| serde_json::to_string(line).expect("numbers and text");
    let row = |(name, lines): (&String, &Vec<Line>)| {
        let lines: Vec<String> = lines.iter().map(line).collect();
        format!("{name:?}: [\n{}\n]", lines.join(",\n"))
    };
    let rows: Vec<String> = results.iter().map(row).collect();
    format!("{{\n{}\n}}\n", rows.join(",\n"))
}

/// A table of Markdown for each row of `order` that has lines.
pub(crate) fn markdown(results: &Results, order: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, title) in order {
        let Some(lines) = results.get(*name) else { continue };
        let _ = writeln!(text, "### {title} (`{name}`)\n");
        text.push_str("| work | figure | median | least to most | goal |\n|---|---|---|---|---|\n");
        for line in lines {
            let _ = writeln!(text, "| {} |", line.cells().join(" | "));
        }
        text.push('\n');
    }
    text
}

/// The figures at the top of the page, with the command of each.
pub(crate) fn headlines(results: &Results, order: &[(&str, &str)]) -> String {
    let mut text = String::from("| | median | least to most | repeat it |\n|---|---|---|---|\n");
    for (name, _) in order {
        for line in results.get(*name).into_iter().flatten() {
            let Some(headline) = &line.headline else { continue };
            let [_, _, median, range, _] = line.cells();
            let _ = writeln!(text, "| {headline} | {median} | {range} | `{COMMAND} -- {name}` |");
        }
    }
    text
}

/// A table for a terminal.
pub(crate) fn plain(lines: &[Line]) -> String {
    let cells: Vec<[String; 5]> = lines.iter().map(Line::cells).collect();
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [0, 1, 2, 3].map(width);
    let mut text = String::new();
    for [work, figure, median, range, goal] in &cells {
        let [a, b, c, d] = widths;
        let line = format!("{work:<a$}  {figure:<b$}  {median:>c$}  {range:>d$}  {goal}");
        let _ = writeln!(text, "  {}", line.trim_end());
    }
    text
}

/// The page with the text between two markers replaced, `<!-- name: begin -->` and `<!-- name: end -->`;
/// `None` when it does not have both.
pub(crate) fn between_markers(page: &str, name: &str, text: &str) -> Option<String> {
    let [begin, end] = ["begin", "end"].map(|which| format!("<!-- {name}: {which} -->"));
    let (head, rest) = page.split_once(&begin)?;
    let (_, tail) = rest.split_once(&end)?;
    Some(format!("{head}{begin}\n\n{}\n\n{end}{tail}", text.trim()))
}

const COMMAND: &str = "cargo bench -p redlock-tests";

#[cfg(test)]
mod tests {
    use super::*;

    fn line(rounds: &[f64]) -> Line {
        Line::new("lock + unlock", "over the floor", Unit::Ratio, Spread { rounds: rounds.to_vec() })
    }

    #[test]
    fn a_line_shows_median_spread_and_whether_the_goal_is_met() {
        let text = |line: Line| line.cells().join(" | ");
        let begin = "lock + unlock | over the floor | 1.10 | 1.00 to 1.30";
        assert_eq!(text(line(&[1.0, 1.3, 1.1]).at_most(1.2)), format!("{begin} | ≤ 1.20"));
        assert_eq!(text(line(&[1.0, 1.3, 1.1]).at_most(1.05)), format!("{begin} | ≤ 1.05, missed"));
        assert_eq!(text(line(&[1.0, 1.3, 1.1]).at_least(1.1)), format!("{begin} | ≥ 1.10"));
        assert_eq!(text(line(&[1.0, 1.3, 1.1]).at_least(1.2)), format!("{begin} | ≥ 1.20, missed"));
        assert_eq!(text(line(&[1.0])), "lock + unlock | over the floor | 1.00 |  | ");
    }

    #[test]
    fn a_figure_that_is_missing_says_why() {
        assert_eq!(Line::missing("Valkey", "no server").cells()[1], "not run: no server");
        assert_eq!(line(&[]).cells()[1], "not run: nothing was measured");
    }

    #[test]
    fn numbers_have_three_digits() {
        let shown = [(0.456, "0.46"), (12.34, "12.3"), (1234.5, "1234"), (39.0, "39")];
        for (number, text) in shown {
            assert_eq!(digits(number), text);
        }
    }

    #[test]
    fn tables_are_in_the_given_order_and_leave_out_rows_without_lines() {
        let results =
            [("b", line(&[1.0])), ("a", line(&[2.0]))].map(|(name, line)| (name.to_owned(), vec![line]));
        let text = markdown(&results.into(), &[("b", "Second"), ("c", "Third"), ("a", "First")]);
        let titles: Vec<&str> = text.lines().filter(|line| line.starts_with('#')).collect();
        assert_eq!(titles, ["### Second (`b`)", "### First (`a`)"]);
        assert!(text.contains("| lock + unlock | over the floor | 2.00 |  |  |\n"), "{text}");
    }

    #[test]
    fn headlines_are_the_marked_lines_with_their_commands() {
        let lines = vec![line(&[1.0]), line(&[3.0, 2.0, 4.0]).headline("a lock takes")];
        let text = headlines(&[("a".to_owned(), lines)].into(), &[("a", "First")]);
        let last: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(last, ["| a lock takes | 3.00 | 2.00 to 4.00 | `cargo bench -p redlock-tests -- a` |"]);
    }

    #[test]
    fn large_times_and_ratios_are_shown_shorter() {
        assert_eq!(Unit::Micros.show(9_876.0), "9876 µs");
        assert_eq!(Unit::Micros.show(173_388.4), "173 ms");
        assert_eq!([Unit::Ratio.show(1.0), Unit::Ratio.show(6_321.8)], ["1.00", "6322"]);
    }

    #[test]
    fn only_the_text_between_the_markers_is_replaced() {
        let page = "before\n<!-- a: begin -->\nold\n<!-- a: end -->\nafter\n";
        let new = between_markers(page, "a", "new\n").unwrap();
        assert_eq!(new, "before\n<!-- a: begin -->\n\nnew\n\n<!-- a: end -->\nafter\n");
        assert_eq!(between_markers(&new, "a", "new").unwrap(), new);
        assert_eq!(between_markers(page, "b", "new"), None);
        assert_eq!(between_markers("<!-- a: end --> <!-- a: begin -->", "a", "new"), None);
    }

    #[test]
    fn results_survive_json() {
        let results: Results =
            [("a".to_owned(), vec![line(&[1.5]).at_most(2.0).at("nodes", "ours", 3.0)])].into();
        let json = json(&results);
        assert_eq!(serde_json::from_str::<Results>(&json).unwrap(), results);
        assert_eq!(json.lines().count(), 5, "{json}");
    }
}
