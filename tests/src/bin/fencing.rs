//! Runs clients with wrong clocks on real servers whose keys vanish, and checks that the fencing tokens are
//! unique and in order.

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use clap::{Parser, ValueEnum};
use redlock_tests::{
    evidence::{self, Kind, Record, Recording},
    fencing::{Broken, Plan, Report, run},
};

/// Runs clients with wrong clocks on real servers whose keys vanish while they are held, and whose requests
/// and replies are lost, late or sent twice. Checks that the fencing tokens are unique and in order.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long it takes
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How many clients there are
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// How many servers there are
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// The seed of all choices [default: 0, or a random one with `--ledger`]
    #[arg(long)]
    seed: Option<u64>,
    /// Lets servers restart without their data, with a fencing quorum of all but one, and the restart guard:
    /// needs 5 servers
    #[arg(long, conflicts_with = "broken")]
    restarts: bool,
    /// An error on purpose, which the checks have to find
    #[arg(long)]
    broken: Option<Error>,
    /// Adds what the run did to this file, one line of JSON, when it ends
    #[arg(long, value_name = "FILE", conflicts_with = "broken")]
    ledger: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Error {
    /// A grant has the number of the one before
    Count,
    /// A raise lowers a counter that is higher: the tests have a history that shows it, and no run had it yet
    Lower,
    /// A raise does not look at the keys
    Key,
    /// A counter dies with its key
    Counter,
    /// Nothing is raised
    Raise,
}

#[tokio::main]
async fn main() -> ExitCode {
    match check(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fencing: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn check(arguments: Arguments) -> Result<bool, String> {
    let Arguments { seconds, clients, nodes, seed, restarts, broken, ledger } = arguments;
    let settings =
        format!("--clients {clients} --nodes {nodes}{}", if restarts { " --restarts" } else { "" });
    let recorded = evidence::Plan { kind: Kind::Fencing, settings, length: Some(seconds), seed, seeds: 1 };
    let recording = Recording::begin(recorded, ledger.as_deref())?;
    let seed = recording.first_seed();
    let length = Duration::from_secs(seconds);
    let broken = broken.map(|broken| match broken {
        Error::Count => Broken::GrantDoesNotCount,
        Error::Lower => Broken::RaiseLowers,
        Error::Key => Broken::RaiseWithoutTheKey,
        Error::Counter => Broken::CounterDiesWithItsKey,
        Error::Raise => Broken::NoRaise,
    });
    let report = run(&Plan { length, seed, clients, nodes, restarts, broken }).await;
    print(&report);
    recording.end(record(&report))?;
    Ok(report.violations.is_empty())
}

fn record(report: &Report) -> Record {
    let counts = &report.counts;
    let owned = |(name, number): (&str, u64)| (name.to_owned(), number);
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let done = [
        ("locks", report.acquires),
        ("failures", report.failures),
        ("overlaps", report.overlaps),
        ("raises", of(&counts.raises)),
    ];
    let faults = [
        ("removed key", report.removed),
        ("restart", report.restarts),
        ("lost request", of(&counts.lost_requests)),
        ("late request", of(&counts.late_requests)),
        ("lost reply", of(&counts.lost_replies)),
        ("late reply", of(&counts.late_replies)),
        ("sent twice", of(&counts.repeats)),
        ("cut", report.cuts),
    ];
    Record {
        seeds: 1,
        counts: done.map(owned).into(),
        faults: faults.map(owned).into(),
        violations: report.violations.len() as u64,
        first_violation: report.violations.first().map(ToString::to_string),
        ..Record::default()
    }
}

#[allow(clippy::print_stdout)]
fn print(report: &Report) {
    let counts = &report.counts;
    for (what, number) in [
        ("locks", report.acquires),
        ("failures", report.failures),
        ("overlaps", report.overlaps),
        ("raises", counts.raises.load(Ordering::Relaxed)),
        ("removed keys", report.removed),
        ("restarts", report.restarts),
        ("lost requests", counts.lost_requests.load(Ordering::Relaxed)),
        ("late requests", counts.late_requests.load(Ordering::Relaxed)),
        ("lost replies", counts.lost_replies.load(Ordering::Relaxed)),
        ("late replies", counts.late_replies.load(Ordering::Relaxed)),
        ("sent twice", counts.repeats.load(Ordering::Relaxed)),
        ("cuts", report.cuts),
        ("violations", report.violations.len() as u64),
    ] {
        println!("{what:>14} {number:>10}");
    }
    for violation in &report.violations {
        println!("VIOLATION {violation}");
    }
}
