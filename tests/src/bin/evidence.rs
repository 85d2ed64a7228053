//! Renders the pages about the ledger of long runs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;
use redlock_tests::evidence::{Ledger, fill, page};

/// Renders docs/evidence.md from docs/evidence/runs.jsonl, and its sentences in docs/safety.md.
#[derive(Debug, Parser)]
struct Arguments {
    /// Ledgers whose lines are added first, such as those that the nightly workflow keeps
    files: Vec<PathBuf>,
    /// The folder of the pages, and of the ledger's folder
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs"))]
    docs: PathBuf,
}

fn main() -> ExitCode {
    let Arguments { files, docs } = Arguments::parse();
    match render(&files, &docs) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("evidence: {error}");
            ExitCode::FAILURE
        }
    }
}

fn render(files: &[PathBuf], docs: &Path) -> Result<(), String> {
    let file = docs.join("evidence/runs.jsonl");
    let mut ledger = Ledger::read(&file)?;
    for other in files {
        if !other.exists() {
            return Err(format!("there is no {}", other.display()));
        }
        ledger.merge(Ledger::read(other)?)?;
    }
    let write = |file: &Path, text: String| {
        fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
    };
    write(&file, ledger.lines())?;
    write(&docs.join("evidence.md"), page(&ledger))?;
    let safety = docs.join("safety.md");
    let text = fs::read_to_string(&safety).map_err(|error| format!("{}: {error}", safety.display()))?;
    write(&safety, fill(&text, &ledger)?)
}
