//! The sentences of other pages about a ledger.

use super::{
    Ledger,
    page::{grouped, time},
    record::{Kind, Record},
};

/// The page, with its sentences about the ledger as they are now. Each stands between comments: one names
/// its kind, and one is its end.
///
/// # Errors
///
/// A place that has no end, or no known kind.
pub fn fill(page: &str, ledger: &Ledger) -> Result<String, String> {
    let mut filled = String::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        filled.extend([line, "\n"]);
        let Some(name) = line.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(" -->")) else {
            continue;
        };
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
        let kind = kind.ok_or_else(|| format!("there is no kind {name:?} of runs"))?;
        if !lines.by_ref().any(|line| line == END) {
            return Err(format!("the sentence about {name} has no end"));
        }
        let records: Vec<_> = ledger.of(kind).collect();
        filled.extend(["\n", &sentence(kind, &records), "\n\n", END, "\n"]);
    }
    Ok(filled)
}

fn sentence(kind: Kind, records: &[&Record]) -> String {
    if records.is_empty() {
        return "No run yet.".to_owned();
    }
    let sum = |of: &dyn Fn(&Record) -> u64| records.iter().map(|record| of(record)).sum::<u64>();
    let count = |name: &str| grouped(sum(&|record| record.counts[name]));
    let did = match kind {
        Kind::Simulation => format!(
            "{} runs, with {} locks won, {} lost, {} fencing tokens and {} requests",
            grouped(sum(&|record| record.seeds)),
            count("won"),
            count("lost"),
            count("fenced"),
            count("requests")
        ),
        Kind::Chaos => format!(
            "{} holds and {} updates; of the other requests {} were contended, {} found no quorum, {} were \
             rejected, and {} locks were lost and noticed",
            count("holds"),
            count("updates"),
            count("contended"),
            count("no quorum"),
            count("rejected"),
            count("lost")
        ),
        Kind::Fencing => format!(
            "{} locks, of which {} overlapped, and {} raises of counters",
            count("locks"),
            count("overlaps"),
            count("raises")
        ),
        Kind::Soak => format!("{} locks, and {} keys left", count("locks"), count("keys left")),
        Kind::Fuzz => format!("{} executions", count("executions")),
    };
    let violations = match sum(&|record| record.violations) {
        0 => "no violation".to_owned(),
        1 => "one violation".to_owned(),
        number => format!("{} violations", grouped(number)),
    };
    textwrap::fill(
        &format!("Until now, in {}: {did}; **{violations}**.", time(sum(&|record| record.seconds))),
        WIDTH,
    )
}

/// Of the lines of the docs.
const WIDTH: usize = 120;
const BEGIN: &str = "<!-- ledger: ";
const END: &str = "<!-- ledger end -->";

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(violations: u64) -> Ledger {
        let mut ledger = Ledger::default();
        for (number, kind) in (1..).zip(Kind::ALL) {
            let counts = kind.counted().iter().map(|name| ((*name).to_owned(), number * 1_000)).collect();
            let violations = if kind == Kind::Chaos { violations } else { 0 };
            ledger
                .add(Record { kind, seconds: 60, seeds: 5_000, counts, violations, ..Record::default() })
                .unwrap();
        }
        ledger
    }

    #[test]
    fn each_sentence_is_made_anew_and_the_rest_stays() {
        let page = "# A\n\n<!-- ledger: chaos -->\nold\nolder\n<!-- ledger end -->\n\nB\n";
        let filled = fill(page, &ledger(0)).unwrap();
        let begins =
            "# A\n\n<!-- ledger: chaos -->\n\nUntil now, in 60 s: 2,000 holds and 2,000 updates; of ";
        assert!(filled.starts_with(begins), "{filled}");
        assert!(filled.ends_with("noticed; **no violation**.\n\n<!-- ledger end -->\n\nB\n"), "{filled}");
        assert_eq!(fill(&filled, &ledger(0)).unwrap(), filled, "nothing is added the second time");
        assert!(fill(page, &ledger(1)).unwrap().contains("; **one violation**."));
        assert!(fill(page, &ledger(1_234)).unwrap().contains("; **1,234 violations**."));
        assert!(fill(page, &Ledger::default()).unwrap().contains("\n\nNo run yet.\n\n"));
    }

    #[test]
    fn every_kind_has_a_sentence() {
        for kind in Kind::ALL {
            let page = format!("{BEGIN}{} -->\n{END}\n", kind.name());
            assert!(fill(&page, &ledger(0)).unwrap().contains("Until now, in 60 s: "), "{kind:?}");
        }
    }

    #[test]
    fn a_place_without_an_end_or_a_kind_is_an_error() {
        for page in ["<!-- ledger: chaos -->\nold\n", "<!-- ledger: other -->\n<!-- ledger end -->\n"] {
            fill(page, &ledger(0)).unwrap_err();
        }
    }
}
