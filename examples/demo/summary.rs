//! The end of the run at a glance.

use std::{collections::BTreeSet, fmt, time::Duration};

use crate::{
    proof::Span,
    timeline::letter,
    watch::{Change, Health},
};

/// One worker's hold of the lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hold {
    pub(crate) worker: usize,
    /// When the worker asked for it.
    pub(crate) asked: Duration,
    pub(crate) span: Span,
    /// How long the winning round took.
    pub(crate) round: Duration,
}

/// The chart, and how long things took with which nodes down. The holds are in order.
#[derive(Debug)]
pub(crate) struct Summary<'a> {
    pub(crate) workers: &'a [&'a str],
    pub(crate) holds: &'a [Hold],
    pub(crate) health: &'a Health,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.chart(f)?;
        self.phases(f)
    }
}

impl Summary<'_> {
    fn chart(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.holds.iter().map(|hold| hold.span.to).max().unwrap_or_default();
        writeln!(f, "Who held the lock, at {COLUMNS} instants from 0 to {} ms:", end.as_millis())?;
        for (worker, name) in self.workers.iter().enumerate() {
            let own = self.holds.iter().filter(|hold| hold.worker == worker).map(|hold| hold.span);
            writeln!(f, "{name:>6} {}", row(&own.collect::<Vec<_>>(), end))?;
        }
        let changes = self.health.changes();
        if !changes.is_empty() {
            let (row, key) = (changes_row(&changes, end), "(lower case: lost, upper case: back)");
            writeln!(f, "{:>6} {row}  {key}", "nodes")?;
        }
        writeln!(f)
    }

    /// A node that fails must not slow down the rounds that are won. The time in which no worker holds the
    /// lock may grow: after a split vote only the timeout of a silent node ends the round, and the next vote
    /// may be split again.
    fn phases(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut phases: Vec<(BTreeSet<usize>, Vec<Duration>, Vec<Duration>)> = Vec::new();
        for (position, hold) in self.holds.iter().enumerate() {
            let down = self.health.down(hold.span.from);
            let index = phases.iter().position(|phase| phase.0 == down).unwrap_or_else(|| {
                phases.push((down, Vec::new(), Vec::new()));
                phases.len() - 1
            });
            phases[index].1.push(hold.round);
            phases[index].2.push(free(self.holds, position));
        }
        writeln!(f, "{:<20}{:>5}{:>26}{:>26}", "", "", "winning round, ms", "free but awaited, ms")?;
        writeln!(
            f,
            "{:<20}{:>5}{:>16}{:>10}{:>16}{:>10}",
            "nodes down", "holds", "median", "max", "median", "max"
        )?;
        for (down, rounds, gaps) in &phases {
            let down: Vec<String> = down.iter().map(|node| letter(*node).into()).collect();
            let down = if down.is_empty() { "none".into() } else { down.join(", ") };
            write!(f, "{down:<20}{:>5}", rounds.len())?;
            for times in [rounds, gaps] {
                write!(f, "{:>16}{:>10}", millis(median(times)), millis(longest(times)))?;
            }
            writeln!(f)?;
        }
        writeln!(f)
    }
}

/// How long the lock was free before this hold while a worker waited for it.
fn free(holds: &[Hold], position: usize) -> Duration {
    let released = position.checked_sub(1).map_or(Duration::ZERO, |before| holds[before].span.to);
    let awaited = holds[position..].iter().map(|hold| hold.asked).min().unwrap_or_default();
    holds[position].span.from.saturating_sub(released.max(awaited))
}

/// The end of the last line: all winning rounds together.
pub(crate) fn rounds(holds: &[Hold]) -> String {
    let rounds: Vec<Duration> = holds.iter().map(|hold| hold.round).collect();
    format!(", longest round {} ms, p50 {} ms", millis(longest(&rounds)), millis(median(&rounds)))
}

/// Each column is an instant, not a stretch of time: in one of those the lock could well have changed hands.
fn row(holds: &[Span], end: Duration) -> String {
    let held = |instant| holds.iter().any(|hold| hold.contains(instant));
    (0..COLUMNS).map(|column| if held(end * column / COLUMNS) { '#' } else { '.' }).collect()
}

fn changes_row(changes: &[Change], end: Duration) -> String {
    let mut row = vec![' '; COLUMNS as usize];
    for change in changes {
        let column = change.at.as_nanos() * u128::from(COLUMNS) / end.as_nanos().max(1);
        // Changes at the same time are side by side.
        let free = (column as usize..row.len()).find(|column| row[*column] == ' ');
        if let Some(column) = free {
            let letter = letter(change.node);
            row[column] = if change.works { letter.to_ascii_uppercase() } else { letter };
        }
    }
    row.into_iter().collect()
}

fn median(times: &[Duration]) -> Option<Duration> {
    let mut sorted = times.to_vec();
    sorted.sort();
    // The upper one of two, so that no time looks better than it is.
    sorted.get(sorted.len() / 2).copied()
}

fn longest(times: &[Duration]) -> Option<Duration> {
    times.iter().max().copied()
}

fn millis(time: Option<Duration>) -> String {
    time.map_or("-".into(), |time| format!("{:.1}", time.as_secs_f64() * 1e3))
}

const COLUMNS: u32 = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_is_free_from_the_release_or_from_when_the_first_of_the_waiting_asked() {
        let millis = Duration::from_millis;
        let hold = |asked, from, to| Hold {
            worker: 0,
            asked: millis(asked),
            span: Span { from: millis(from), to: millis(to) },
            round: Duration::ZERO,
        };
        let holds = [hold(2, 5, 20), hold(24, 25, 30), hold(22, 40, 50)];
        assert_eq!([0, 1, 2].map(|position| free(&holds, position)), [millis(3), millis(3), millis(10)]);
    }

    #[test]
    fn a_row_shows_the_instants_in_a_hold() {
        let span = |from, to| Span { from: Duration::from_millis(from), to: Duration::from_millis(to) };
        let row = row(&[span(0, 20), span(700, 800)], Duration::from_millis(800));
        assert_eq!(row, format!("##{}##########", ".".repeat(68)));
    }

    #[test]
    fn the_median_of_an_even_number_is_the_upper_one() {
        let times = [4, 1, 3, 2].map(Duration::from_millis);
        assert_eq!(median(&times), Some(Duration::from_millis(3)));
        assert_eq!(median(&[]), None);
    }
}
