//! Runs the simulation over many seeds, or prints the events of one run.

use std::{
    panic,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use redlock_tests::{
    evidence::{Kind, Plan, Record, Recording},
    simulation::{Contention, Fault, Faults, Fencing, Outcome, Run, Summary, Timeline, Violation, contend},
};

/// Simulates fleets of clients, nodes and networks, one for each seed, and checks every step.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds to run
    #[arg(long, default_value_t = 20_000)]
    seeds: u64,
    /// The first seed [default: 0, or a random one with `--ledger`]
    #[arg(long)]
    start: Option<u64>,
    /// The faults that may happen: `all` that a lock survives, `tokens` for all that fencing tokens survive,
    /// `none`, or names separated by commas; `-name` removes one
    #[arg(long, default_value = "all", allow_hyphen_values = true)]
    faults: Faults,
    /// Give every lock a fencing token, not only those of half of the runs
    #[arg(long)]
    fenced: bool,
    /// Give the clients a guard against nodes that restart without their data
    #[arg(long)]
    guard: bool,
    /// Measure how many trips fencing tokens take when 1, 2, 4 and 16 clients take turns
    #[arg(long)]
    contention: bool,
    /// Stop after this many seconds
    #[arg(long)]
    seconds: Option<u64>,
    /// Print the events of the run of this seed
    #[arg(long, value_name = "SEED")]
    trace: Option<u64>,
    /// For each fault, count the runs whose outcomes it changes; costs another run for each fault
    #[arg(long)]
    bites: bool,
    /// Adds what the run did to this file, one line of JSON, when it ends
    #[arg(long, value_name = "FILE", conflicts_with_all = ["trace", "contention"])]
    ledger: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A failed check panics; the code below prints it with its seed.
    panic::set_hook(Box::new(|_| ()));
    match arguments.trace {
        Some(seed) => trace(&arguments.run(seed, arguments.faults)),
        None if arguments.contention => measure(arguments.start.unwrap_or(0)),
        None => simulate(&arguments).unwrap_or_else(|error| {
            eprintln!("simulate: {error}");
            ExitCode::FAILURE
        }),
    }
}

impl Arguments {
    fn run(&self, seed: u64, faults: Faults) -> Run {
        let fencing = if self.fenced { Fencing::Always } else { Fencing::Sometimes };
        Run { fencing, guard: self.guard, ..Run::new(seed, faults) }
    }

    fn plan(&self) -> Plan {
        let fenced = if self.fenced { " --fenced" } else { "" };
        let guard = if self.guard { " --guard" } else { "" };
        Plan {
            kind: Kind::Simulation,
            settings: format!("--faults {}{fenced}{guard}", self.faults),
            length: None,
            seed: self.start,
            seeds: self.seeds,
        }
    }
}

#[allow(clippy::print_stdout)]
fn measure(seed: u64) -> ExitCode {
    for (nodes, clocks_off) in [(3, Some(0)), (3, Some(5)), (3, None), (5, Some(5))] {
        for clients in [1, 2, 4, 16] {
            let duration = Duration::from_secs(10);
            let trips = contend(seed, Contention { nodes, clients, clocks_off, duration });
            let locks: u64 = trips.iter().sum();
            let percent = |trips: u64| 100.0 * trips as f64 / locks as f64;
            let clocks = clocks_off.map_or("no clocks".to_owned(), |off| format!("clocks {off} ms off"));
            println!(
                "{nodes} nodes, {clients:>2} clients, {clocks:<15} {locks:>7} locks: {:>6.3} % in 2 trips, {:.3} % in more",
                percent(trips[1]),
                percent(trips[2])
            );
        }
    }
    ExitCode::SUCCESS
}

#[allow(clippy::print_stdout)]
fn trace(run: &Run) -> ExitCode {
    let timeline = Timeline::kept();
    let finished = Run { timeline: timeline.clone(), ..run.clone() }.run();
    for line in timeline.lines() {
        println!("{line}");
    }
    match finished {
        Ok(summary) => {
            println!("no violation; {} requests, {} overlaps", summary.requests, summary.overlaps);
            ExitCode::SUCCESS
        }
        Err(violation) => {
            println!("VIOLATION {violation}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Default)]
struct Total {
    runs: u64,
    summary: Summary,
    bites: Vec<u64>,
    violations: Vec<Violation>,
}

impl Total {
    fn record(&self) -> Record {
        let Self { runs, summary, violations, .. } = self;
        let outcomes = Outcome::ALL
            .map(|outcome| (format!("{outcome:?}").to_lowercase(), summary.outcomes[outcome as usize]));
        let others = [
            ("requests", summary.requests),
            ("fenced", summary.trips.iter().sum()),
            ("overlaps", summary.overlaps),
            ("disorders", summary.disorders),
        ];
        let struck = |fault: Fault| (fault.to_string(), summary.struck.times(fault));
        Record {
            seeds: runs + violations.len() as u64,
            counts: outcomes
                .into_iter()
                .chain(others.map(|(name, number)| (name.to_owned(), number)))
                .collect(),
            faults: Fault::ALL.map(struck).into_iter().filter(|(_, times)| *times > 0).collect(),
            violations: violations.len() as u64,
            first_violation: violations.first().map(ToString::to_string),
            ..Record::default()
        }
    }
}

#[allow(clippy::print_stdout)]
fn simulate(arguments: &Arguments) -> Result<ExitCode, String> {
    let recording = Recording::begin(arguments.plan(), arguments.ledger.as_deref())?;
    let first = recording.first_seed();
    let limit = first.checked_add(arguments.seeds).ok_or("these seeds go beyond the last one")?;
    let bar = ProgressBar::new(arguments.seeds).with_style(
        ProgressStyle::with_template("{bar:40} {human_pos} of {human_len} seeds, {per_sec}, {eta} left")
            .expect("a valid template"),
    );
    let start = Instant::now();
    let end = arguments.seconds.map(|seconds| start + Duration::from_secs(seconds));
    let next = AtomicU64::new(first);
    let total = Mutex::new(Total { bites: vec![0; Fault::ALL.len()], ..Total::default() });
    let lock = || total.lock().unwrap_or_else(PoisonError::into_inner);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    if end.is_some_and(|end| Instant::now() > end) || !lock().violations.is_empty() {
                        return;
                    }
                    // Who takes a seed runs it, so that there are no gaps between those that ran.
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= limit {
                        return;
                    }
                    match arguments.run(seed, arguments.faults).run() {
                        Ok(summary) => {
                            let bites =
                                if arguments.bites { bites(arguments, seed, &summary) } else { Vec::new() };
                            let mut total = lock();
                            total.runs += 1;
                            total.summary.add(&summary);
                            bites.iter().for_each(|fault| total.bites[*fault as usize] += 1);
                            bar.inc(1);
                        }
                        Err(violation) => lock().violations.push(violation),
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let total = lock();
    print(&total, start.elapsed(), arguments.bites);
    for violation in &total.violations {
        println!("\nVIOLATION {violation}\nReplay it with the same options and --trace {}", violation.seed);
    }
    recording.end(total.record())?;
    Ok(if total.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The faults without which the run has other outcomes.
fn bites(arguments: &Arguments, seed: u64, with: &Summary) -> Vec<Fault> {
    let struck = |fault: &Fault| with.struck.times(*fault) > 0;
    let changed = |fault: &Fault| {
        let without = arguments.run(seed, arguments.faults.without(*fault)).run();
        without.is_ok_and(|without| without.course != with.course)
    };
    Fault::ALL.into_iter().filter(struck).filter(changed).collect()
}

#[allow(clippy::print_stdout)]
fn print(total: &Total, took: Duration, bites: bool) {
    let rate = total.runs as f64 / took.as_secs_f64();
    println!("{} runs in {:.1} s: {rate:.0} a second", total.runs, took.as_secs_f64());
    for outcome in Outcome::ALL {
        println!("{:>14} {:>12}", format!("{outcome:?}"), total.summary.outcomes[outcome as usize]);
    }
    println!("{:>14} {:>12}", "requests", total.summary.requests);
    println!("{:>14} {:>12}", "overlaps", total.summary.overlaps);
    let [one, two, more] = total.summary.trips;
    println!("{:>14} {:>12}  of them in 2 trips {two}, in more {more}", "fenced", one + two + more);
    println!("{:>14} {:>12}", "disorders", total.summary.disorders);
    println!("\n{:>14} {:>12}{}", "fault", "struck", if bites { "  runs that it changed" } else { "" });
    for fault in Fault::ALL {
        let bitten = if bites { format!("  {:>12}", total.bites[fault as usize]) } else { String::new() };
        println!("{fault:>14} {:>12}{bitten}", total.summary.struck.times(fault));
    }
}
