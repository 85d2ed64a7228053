//! A line of the ledger.

use std::{collections::BTreeMap, ops::Range, str::FromStr};

use serde::{Deserialize, Serialize};

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// What ran.
    pub kind: Kind,
    /// When it began, in UTC.
    pub date: String,
    /// The commit of the sources.
    pub commit: String,
    /// What repeats it.
    pub command: String,
    /// Its options, but for seeds and length. With others, a seed is another run.
    pub settings: String,
    /// How long it took.
    pub seconds: u64,
    /// Its first seed.
    pub first_seed: u64,
    /// How many seeds it ran, one after the other.
    pub seeds: u64,
    /// What it did: at least what its [`Kind`] counts.
    pub counts: BTreeMap<String, u64>,
    /// How often each fault struck.
    pub faults: BTreeMap<String, u64>,
    /// How often a check failed.
    pub violations: u64,
    /// The first violation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_violation: Option<String>,
}

/// What can run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Kind {
    #[default]
    Simulation,
    Chaos,
    Fencing,
    Soak,
    Fuzz,
}

impl Kind {
    pub(super) const ALL: [Self; 5] = [Self::Simulation, Self::Chaos, Self::Fencing, Self::Soak, Self::Fuzz];

    /// The columns of the page.
    pub(super) fn counted(self) -> &'static [&'static str] {
        match self {
            Self::Simulation => &["won", "lost", "requests", "fenced", "overlaps", "disorders"],
            Self::Chaos => &["holds", "updates", "contended", "no quorum", "rejected", "lost", "late"],
            Self::Fencing => &["locks", "failures", "overlaps", "raises"],
            Self::Soak => &["locks", "failures", "keys left"],
            Self::Fuzz => &["executions"],
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Simulation => "simulation",
            Self::Chaos => "chaos",
            Self::Fencing => "fencing",
            Self::Soak => "soak",
            Self::Fuzz => "fuzz",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Simulation => "simulate",
            Self::Chaos => "chaos",
            Self::Fencing => "fencing",
            Self::Soak => "soak",
            Self::Fuzz => "tests/fuzz/run",
        }
    }
}

impl Record {
    /// Its line in the ledger.
    #[must_use]
    pub fn line(&self) -> String {
        serde_json::to_string(self).expect("all keys are text") + "\n"
    }

    /// Its seeds.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.first_seed..self.first_seed.saturating_add(self.seeds)
    }

    /// Whether it has a seed that the other one has, and is otherwise the same.
    pub(super) fn has_seed_of(&self, other: &Self) -> bool {
        let (mine, theirs) = (self.range(), other.range());
        self.kind == other.kind
            && self.settings == other.settings
            && mine.start.max(theirs.start) < mine.end.min(theirs.end)
    }

    pub(super) fn command_line(&self, length: Option<u64>) -> String {
        let Self { kind, settings, first_seed, seeds, .. } = self;
        let length = length.map(|length| format!(" --seconds {length}")).unwrap_or_default();
        let seeds = match kind {
            Kind::Simulation => format!("--start {first_seed} --seeds {seeds}"),
            _ => format!("--seed {first_seed}"),
        };
        format!("{} {settings}{length} {seeds}", kind.program())
    }
}

impl FromStr for Record {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let record: Self = serde_json::from_str(line).map_err(|error| error.to_string())?;
        if record.commit.len() != 40 || !record.commit.chars().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(format!("{:?} is no commit", record.commit));
        }
        if humantime::parse_rfc3339(&record.date).is_err() {
            return Err(format!("{:?} is no date", record.date));
        }
        let missing = record.kind.counted().iter().find(|name| !record.counts.contains_key(**name));
        missing.map_or(Ok(record), |name| Err(format!("there is no count {name:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"kind":"fuzz","date":"2026-01-02T03:04:05Z","commit":"0123456789abcdef0123456789abcdef01234567","command":"c","settings":"names","seconds":60,"first_seed":7,"seeds":1,"counts":{"executions":5},"faults":{},"violations":0}"#;

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let record: Record = LINE.parse().unwrap();
        assert_eq!((record.kind, record.range(), record.counts["executions"]), (Kind::Fuzz, 7..8, 5));
        assert_eq!(record.line().trim_end(), LINE);
        let found = Record { first_violation: Some("a\nb".into()), violations: 1, ..record };
        assert_eq!(found.line().lines().count(), 1);
        assert_eq!(found.line().parse(), Ok(found));
    }

    #[test]
    fn a_line_that_would_not_add_up_is_refused() {
        for (part, other, error) in [
            ("0123", "main", "is no commit"),
            ("2026-01-02T", "yesterday", "is no date"),
            ("executions", "runs", "no count \"executions\""),
            ("\"violations\":0", "\"violations\":-1", "invalid value"),
            ("\"violations\":0", "\"violation\":0", "unknown field"),
            ("fuzz", "luck", "unknown variant"),
        ] {
            let said = LINE.replace(part, other).parse::<Record>().unwrap_err();
            assert!(said.contains(error), "{said}");
        }
    }

    #[test]
    fn a_command_repeats_the_run() {
        let record = Record { settings: "--faults all".into(), first_seed: 5, seeds: 3, ..Record::default() };
        assert_eq!(record.command_line(None), "simulate --faults all --start 5 --seeds 3");
        let chaos = Record { kind: Kind::Chaos, ..record };
        assert_eq!(chaos.command_line(Some(60)), "chaos --faults all --seconds 60 --seed 5");
    }
}
