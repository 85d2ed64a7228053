//! The ledger of long runs, so that what they did adds up: a line for each run, the page that shows them, and
//! the sentences of other pages.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::{Instant, SystemTime},
};

use rand::{TryRng, rngs::SysRng};

pub use self::{
    page::page,
    record::{Kind, Record},
    sentences::fill,
};

mod page;
mod record;
mod sentences;

/// A ledger: no seed is in it twice.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    records: Vec<Record>,
}

impl Ledger {
    /// Reads the lines of a file. A file that is not there has none.
    ///
    /// # Errors
    ///
    /// A file or a line that cannot be read, or a seed that an earlier line has.
    pub fn read(file: &Path) -> Result<Self, String> {
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(format!("{}: {error}", file.display())),
        };
        Self::parse(&text).map_err(|error| format!("{}, {error}", file.display()))
    }

    /// Reads lines.
    ///
    /// # Errors
    ///
    /// The number of a line that cannot be read, or that has a seed of an earlier line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut ledger = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let added = line.parse().and_then(|record| ledger.add(record));
            added.map_err(|error| format!("line {number}: {error}"))?;
        }
        Ok(ledger)
    }

    /// Adds a run.
    ///
    /// # Errors
    ///
    /// Seeds that the ledger has already, so that they would be counted twice.
    pub fn add(&mut self, record: Record) -> Result<(), String> {
        match self.records.iter().find(|earlier| earlier.has_seed_of(&record)) {
            Some(earlier) => Err(format!(
                "the seeds {:?} of `{}` are in the ledger: {:?} of {}",
                record.range(),
                record.command,
                earlier.range(),
                earlier.date
            )),
            None => {
                self.records.push(record);
                Ok(())
            }
        }
    }

    /// Adds the runs of another ledger, without those that both have.
    ///
    /// # Errors
    ///
    /// Those of [`Ledger::add`].
    pub fn merge(&mut self, other: Self) -> Result<(), String> {
        let new = other.records.into_iter().filter(|record| !self.records.contains(record));
        new.collect::<Vec<_>>().into_iter().try_for_each(|record| self.add(record))
    }

    /// Its lines, by date.
    #[must_use]
    pub fn lines(&self) -> String {
        let mut records: Vec<_> = self.records.iter().collect();
        records.sort_by(|one, other| one.date.cmp(&other.date));
        records.into_iter().map(Record::line).collect()
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |record| record.kind == kind)
    }
}

/// What a run is about to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it is.
    pub kind: Kind,
    /// Its options, but for seeds and length.
    pub settings: String,
    /// Its length in seconds, where that is given in advance.
    pub length: Option<u64>,
    /// The first seed, if it is given.
    pub seed: Option<u64>,
    /// How many seeds it takes at most.
    pub seeds: u64,
}

/// A run that is recorded when it ends, if there is a ledger for it.
#[derive(Debug)]
pub struct Recording {
    file: Option<PathBuf>,
    record: Record,
    length: Option<u64>,
    start: Instant,
}

impl Recording {
    /// Begins a run. Its seeds are new to the ledger: random, unless they are given. Without a ledger, they
    /// begin with 0, so that a command without a seed repeats what it did.
    ///
    /// # Errors
    ///
    /// A ledger that cannot be read or that has the given seeds, or sources that are not those of a commit.
    pub fn begin(plan: Plan, file: Option<&Path>) -> Result<Self, String> {
        match file {
            Some(file) => Self::begin_of(commit()?, plan, file),
            None => {
                let record = Record { first_seed: plan.seed.unwrap_or(0), ..Record::default() };
                Ok(Self { file: None, record, length: None, start: Instant::now() })
            }
        }
    }

    fn begin_of(commit: String, plan: Plan, file: &Path) -> Result<Self, String> {
        let mut ledger = Ledger::read(file)?;
        let Plan { kind, settings, length, seed, seeds } = plan;
        let mut record = Record {
            kind,
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            commit,
            settings,
            seeds,
            ..Record::default()
        };
        record.first_seed = match seed {
            Some(seed) => seed,
            None => random()?,
        };
        record.command = record.command_line(length);
        ledger.add(record.clone())?;
        Ok(Self { file: Some(file.to_owned()), record, length, start: Instant::now() })
    }

    /// The first seed of the run.
    #[must_use]
    pub fn first_seed(&self) -> u64 {
        self.record.first_seed
    }

    /// Appends what the run did, if there is a ledger. Of `done`, only seeds, counts, faults and violations
    /// matter.
    ///
    /// # Errors
    ///
    /// A file that cannot be written.
    pub fn end(self, done: Record) -> Result<(), String> {
        let Some(file) = self.file else { return Ok(()) };
        let Record { seeds, counts, faults, violations, first_violation, .. } = done;
        let seconds = self.start.elapsed().as_secs();
        let mut record =
            Record { seconds, seeds, counts, faults, violations, first_violation, ..self.record };
        record.command = record.command_line(self.length);
        // In one piece, as other runs may append to the file, too.
        let line = record.line();
        let opened = fs::OpenOptions::new().create(true).append(true).open(&file);
        let written = opened.and_then(|mut file| file.write_all(line.as_bytes()));
        written.map_err(|error| format!("{}: {error}", file.display()))
    }
}

/// The commit of the sources. Nobody could repeat a run of others.
fn commit() -> Result<String, String> {
    let git = |arguments: &[&str]| {
        let run = Command::new("git").current_dir(SOURCES).args(arguments).output();
        match run.map_err(|error| format!("git: {error}"))? {
            done if done.status.success() => Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned()),
            failed => Err(format!("git: {}", String::from_utf8_lossy(&failed.stderr).trim())),
        }
    };
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", ":/", ":!/docs"])?;
    if changed.is_empty() {
        git(&["rev-parse", "HEAD"])
    } else {
        Err(format!("a ledger has runs of commits, and these files are changed:\n{changed}"))
    }
}

/// Every reader of JSON can represent it.
fn random() -> Result<u64, String> {
    Ok(SysRng.try_next_u64().map_err(|error| error.to_string())? >> 12)
}

const SOURCES: &str = env!("CARGO_MANIFEST_DIR");

#[cfg(test)]
mod tests {
    use super::*;

    fn record(settings: &str, first_seed: u64, seeds: u64) -> Record {
        let mut record = Record { settings: settings.to_owned(), first_seed, seeds, ..Record::default() };
        record.commit = "c0ffee".repeat(7)[..40].to_owned();
        "2026-01-02T03:04:05Z".clone_into(&mut record.date);
        for (number, name) in (1..).zip(record.kind.counted()) {
            record.counts.insert((*name).to_owned(), number * seeds);
        }
        record
    }

    #[test]
    fn seeds_are_counted_once() {
        let mut ledger = Ledger::default();
        ledger.add(record("--faults all", 10, 10)).unwrap();
        for (first, seeds) in [(10, 10), (19, 1), (0, 11), (0, 100), (12, 3)] {
            let error = ledger.add(record("--faults all", first, seeds)).unwrap_err();
            assert!(error.contains("10..20"), "{error}");
        }
        for (first, seeds) in [(0, 10), (20, 5), (15, 0)] {
            ledger.add(record("--faults all", first, seeds)).unwrap();
        }
        // It is another run with other settings, and of another program.
        ledger.add(record("--faults tokens", 10, 10)).unwrap();
        ledger.add(Record { kind: Kind::Chaos, ..record("--faults all", 10, 10) }).unwrap();
        assert_eq!(ledger.records.len(), 6);
    }

    #[test]
    fn a_line_with_seeds_of_an_earlier_one_is_refused_with_its_number() {
        let lines = [record("", 0, 5), record("", 5, 5), record("", 9, 1)].map(|record| record.line());
        let error = Ledger::parse(&lines.concat()).unwrap_err();
        assert!(error.starts_with("line 3: the seeds 9..10"), "{error}");
    }

    #[test]
    fn a_ledger_takes_in_another_one() {
        let (one, two) = (record("", 0, 5), record("", 5, 5));
        let earlier = Record { date: "2026-01-01T00:00:00Z".to_owned(), ..record("", 10, 5) };
        let ledger = |records: &[&Record]| Ledger { records: records.iter().copied().cloned().collect() };
        let mut merged = ledger(&[&one, &two]);
        merged.merge(ledger(&[&two, &earlier])).unwrap();
        assert_eq!(merged.lines(), [&earlier, &one, &two].map(Record::line).concat());
        assert!(merged.merge(ledger(&[&record("", 7, 1)])).is_err());
    }

    #[test]
    fn a_run_is_appended_when_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("runs.jsonl");
        let begin = |seed| {
            let plan = Plan {
                kind: Kind::Simulation,
                settings: "--faults all".into(),
                length: None,
                seed,
                seeds: 9,
            };
            Recording::begin_of("c0ffee".repeat(7)[..40].to_owned(), plan, &file)
        };
        let (recording, other) = (begin(None).unwrap(), begin(Some(7)).unwrap());
        assert!(recording.first_seed() < 1 << 52);
        assert_ne!(recording.first_seed(), begin(None).unwrap().first_seed());
        assert!(!file.exists(), "a run that is cut leaves nothing");
        recording.end(record("", 0, 4)).unwrap();
        other.end(Record { violations: 1, ..record("", 0, 2) }).unwrap();
        let ledger = Ledger::read(&file).unwrap();
        let [first, second] = &ledger.records[..] else { panic!("{ledger:?}") };
        assert!(first.command.starts_with("simulate --faults all --start "), "{first:?}");
        assert_eq!((first.seeds, first.violations), (4, 0));
        assert_eq!(second.command, "simulate --faults all --start 7 --seeds 2");
        assert_eq!((second.seeds, second.violations), (2, 1));
        assert!(begin(Some(8)).unwrap_err().contains("7..9"));
    }

    /// What CI checks: whoever adds lines renders the pages.
    #[test]
    fn the_pages_of_the_docs_are_those_of_their_ledger() {
        const RENDER: &str = "run `cargo run -p redlock-tests --bin evidence`, which renders it";
        let docs = Path::new(SOURCES).join("../docs");
        let ledger = Ledger::read(&docs.join("evidence/runs.jsonl")).unwrap();
        let shown = fs::read_to_string(docs.join("evidence.md")).unwrap_or_default();
        assert!(shown == page(&ledger), "{RENDER}");
        let safety = fs::read_to_string(docs.join("safety.md")).unwrap();
        assert!(fill(&safety, &ledger).unwrap() == safety, "{RENDER}");
        assert_eq!(safety.matches("<!-- ledger: ").count(), Kind::ALL.len(), "a sentence for each kind");
    }
}
