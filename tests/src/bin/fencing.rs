//! Runs clients with wrong clocks on real servers whose keys vanish, and checks that the fencing tokens are
//! unique and in order.

use std::{process::ExitCode, sync::atomic::Ordering, time::Duration};

use clap::{Parser, ValueEnum};
use redlock_tests::fencing::{Broken, Plan, Report, run};

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
    /// The seed of all choices
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Lets servers restart without their data, with a fencing quorum of all but one, and the restart guard:
    /// needs 5 servers
    #[arg(long, conflicts_with = "broken")]
    restarts: bool,
    /// An error on purpose, which the checks have to find
    #[arg(long)]
    broken: Option<Error>,
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
    let Arguments { seconds, clients, nodes, seed, restarts, broken } = Arguments::parse();
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
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
