//! The page that shows a ledger.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    iter::{once, repeat_n},
};

use super::{
    Ledger,
    record::{Kind, Record},
};

/// Renders it.
#[must_use]
pub fn page(ledger: &Ledger) -> String {
    let mut page = INTRODUCTION.to_owned();
    for kind in Kind::ALL {
        let records: Vec<_> = ledger.of(kind).collect();
        section(&mut page, kind, &records).expect("a String grows");
    }
    page
}

fn section(page: &mut String, kind: Kind, records: &[&Record]) -> std::fmt::Result {
    let (title, text) = heading(kind);
    writeln!(page, "\n## {title}\n\n{text}\n")?;
    if records.is_empty() {
        return writeln!(page, "No run yet.");
    }
    let head = ["settings", "runs", "time", "seeds"].iter().chain(kind.counted()).chain(&["violations"]);
    let settings: BTreeSet<&str> = records.iter().map(|record| record.settings.as_str()).collect();
    let mut rows: Vec<Vec<String>> = Vec::new();
    for settings in &settings {
        let chosen: Vec<_> = records.iter().copied().filter(|record| record.settings == *settings).collect();
        rows.push(totals(&format!("`{settings}`"), kind, &chosen));
    }
    if settings.len() > 1 {
        rows.push(totals("all", kind, records));
    }
    table(page, &head.copied().collect::<Vec<_>>(), 1, &rows)?;

    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    for (fault, struck) in records.iter().flat_map(|record| &record.faults) {
        *faults.entry(fault).or_default() += struck;
    }
    if !faults.is_empty() {
        let struck = faults.iter().map(|(fault, struck)| format!("{fault} {}", grouped(*struck)));
        let struck = struck.collect::<Vec<_>>().join(", ");
        writeln!(page, "\nFaults that struck: {struck}.")?;
    }

    let found: Vec<_> = records.iter().filter(|record| record.violations > 0).collect();
    for record in &found {
        let what = record.first_violation.as_deref().unwrap_or("not recorded").replace('\n', " ");
        writeln!(page, "\nViolation in the run of {}, of `{}`: {what}", record.date, &record.commit[..12])?;
    }

    writeln!(page, "\nThe last runs:\n")?;
    let mut last = records.to_vec();
    last.sort_by(|one, other| other.date.cmp(&one.date));
    let rows = last.iter().take(LAST).map(|record| {
        let Record { date, commit, command, seconds, violations, .. } = record;
        let command = format!("`{command}`");
        vec![date.clone(), format!("`{}`", &commit[..12]), command, time(*seconds), grouped(*violations)]
    });
    table(page, &["began", "commit", "command", "time", "violations"], 3, &rows.collect::<Vec<_>>())
}

fn totals(name: &str, kind: Kind, records: &[&Record]) -> Vec<String> {
    let sum = |of: &dyn Fn(&Record) -> u64| records.iter().map(|record| of(record)).sum::<u64>();
    let counted = kind.counted().iter().map(|name| grouped(sum(&|record| record.counts[*name])));
    [name.to_owned(), grouped(records.len() as u64)]
        .into_iter()
        .chain([time(sum(&|record| record.seconds)), grouped(sum(&|record| record.seeds))])
        .chain(counted)
        .chain(once(grouped(sum(&|record| record.violations))))
        .collect()
}

/// The first columns are text, and the others numbers.
fn table(page: &mut String, head: &[&str], text: usize, rows: &[Vec<String>]) -> std::fmt::Result {
    let rule = repeat_n("---", text).chain(repeat_n("---:", head.len() - text)).collect::<Vec<_>>();
    writeln!(page, "| {} |\n|{}|", head.join(" | "), rule.join("|"))?;
    rows.iter().try_for_each(|row| writeln!(page, "| {} |", row.join(" | ")))
}

pub(super) fn time(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{:.0} min", seconds as f64 / 60.0),
        _ => format!("{:.1} h", seconds as f64 / 3_600.0),
    }
}

/// With a comma after each three digits.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn heading(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Simulation => (
            "Simulation",
            "Fleets of clients, nodes and networks in simulated time, one for each seed. A command runs the \
             same seeds again.\nOverlaps are two clients with one lock, and disorders fencing tokens that are not in \
             order: violations, except\nwhere the settings have faults that break an assumption on purpose.",
        ),
        Kind::Chaos => (
            "Chaos",
            "Processes on real servers, while servers, network and processes fail. A late update is one after \
             the end of its\nlock, which no lock can prevent.",
        ),
        Kind::Fencing => (
            "Fencing",
            "Clients with wrong clocks on real servers whose keys vanish, so that locks overlap. The fencing \
             tokens are unique\nand in order.",
        ),
        Kind::Soak => (
            "Soak",
            "Many tasks on many resources for long. A violation is a number that grows, or a key that is left.",
        ),
        Kind::Fuzz => (
            "Fuzzing",
            "Any input of `tests/fuzz`, by target. A violation is a crash, a hang, or a property that does not \
             hold.",
        ),
    }
}

/// How many of the last runs are shown.
const LAST: usize = 10;

const INTRODUCTION: &str = "\
# Evidence

What the long runs did so far. [evidence/runs.jsonl](evidence/runs.jsonl) is the ledger, with one line for each run that
ended, whether it found violations or not. Do not edit this page: `cargo run -p redlock-tests --bin evidence` renders it.

A run is recorded with `--ledger docs/evidence/runs.jsonl`, of a commit without changes, by `cargo run --release -p
redlock-tests --bin` with `simulate`, `chaos`, `fencing` or `soak`, or by `LEDGER=docs/evidence/runs.jsonl
tests/fuzz/run`. Its seeds are drawn at random, unless they are given, and no seed is counted twice with the same
settings. The nightly workflow keeps its lines in artefacts: `cargo run -p redlock-tests --bin evidence -- FILE...` takes
them in. What each run checks is in [Safety](safety.md#runs).
";

#[cfg(test)]
mod tests {
    use super::*;

    fn record(settings: &str, first_seed: u64, seeds: u64, day: u64) -> Record {
        let counted = Kind::Chaos.counted().iter().zip(1..);
        let mut record = Record {
            kind: Kind::Chaos,
            date: format!("2026-01-{day:02}T00:00:00Z"),
            commit: format!("{day:02}").repeat(20),
            settings: settings.to_owned(),
            seconds: 3_000,
            first_seed,
            seeds,
            counts: counted.map(|(name, number)| ((*name).to_owned(), number * 1_000)).collect(),
            faults: [("cut".to_owned(), 600)].into(),
            ..Record::default()
        };
        record.command = record.command_line(Some(3_000));
        record
    }

    fn shown(records: Vec<Record>) -> String {
        let mut ledger = Ledger::default();
        records.into_iter().for_each(|record| ledger.add(record).unwrap());
        page(&ledger)
    }

    #[test]
    fn runs_add_up_by_settings_and_in_all() {
        let found =
            Record { violations: 2, first_violation: Some("lost\nupdate".into()), ..record("b", 1, 1, 3) };
        let page = shown(vec![record("a", 1, 1, 1), record("a", 2, 1, 2), found]);
        for line in [
            "| `a` | 2 | 100 min | 2 | 2,000 | 4,000 | 6,000 | 8,000 | 10,000 | 12,000 | 14,000 | 0 |",
            "| `b` | 1 | 50 min | 1 | 1,000 | 2,000 | 3,000 | 4,000 | 5,000 | 6,000 | 7,000 | 2 |",
            "| all | 3 | 2.5 h | 3 | 3,000 | 6,000 | 9,000 | 12,000 | 15,000 | 18,000 | 21,000 | 2 |",
            "Faults that struck: cut 1,800.",
            "Violation in the run of 2026-01-03T00:00:00Z, of `030303030303`: lost update",
            "| 2026-01-02T00:00:00Z | `020202020202` | `chaos a --seconds 3000 --seed 2` | 50 min | 0 |",
        ] {
            assert!(page.lines().any(|shown| shown == line), "{line}\nis not in\n{page}");
        }
        assert!(page.find("2026-01-03T").unwrap() < page.find("2026-01-01T").unwrap());
        assert_eq!(page.matches("No run yet.").count(), Kind::ALL.len() - 1);
    }

    #[test]
    fn only_the_last_runs_are_shown_and_all_are_counted() {
        let page = shown((1..=12).map(|day| record("a", day, 1, day)).collect());
        assert!(page.contains("| `a` | 12 | 10.0 h | 12 | 12,000 |"), "{page}");
        assert_eq!(page.matches("| 2026-01-").count(), LAST);
        assert!(page.contains("2026-01-12T") && !page.contains("2026-01-02T"));
    }

    #[test]
    fn numbers_have_commas() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(grouped(number), text);
        }
    }
}
