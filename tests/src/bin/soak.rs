//! Runs many tasks that lock many resources for a long time while nodes fail, and checks that nothing grows.

use std::{
    alloc::System, collections::BTreeMap, error::Error, fs, path::PathBuf, process::ExitCode, time::Duration,
};

use cap::Cap;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use redlock_tests::{
    adapter::Adapter,
    evidence::{self, Kind, Record, Recording},
    soak::{self, Growth, Plan, Report},
};

/// Runs many tasks that lock many resources for a long time while nodes fail, and checks that nothing grows.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long it takes
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How many tasks lock
    #[arg(long, default_value_t = 1_000)]
    tasks: usize,
    /// How many resources they choose from
    #[arg(long, default_value_t = 10_000)]
    resources: usize,
    /// How many servers there are
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Uses fred instead of redis-rs
    #[arg(long)]
    fred: bool,
    /// The seed of the run [default: 0, or a random one with `--ledger`]
    #[arg(long)]
    seed: Option<u64>,
    /// Leaks a task with each lock, a defect that the check has to find
    #[arg(long)]
    leak: bool,
    /// Where the samples (CSV) and the chart (SVG) go
    #[arg(long, default_value = "target/soak")]
    folder: PathBuf,
    /// Adds what the run did to this file, one line of JSON, when it ends
    #[arg(long, value_name = "FILE", conflicts_with = "leak")]
    ledger: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout)]
fn run(arguments: &Arguments) -> Result<bool, Box<dyn Error>> {
    let Arguments { seconds, tasks, resources, nodes, fred, .. } = arguments;
    let fred = if *fred { " --fred" } else { "" };
    let recorded = evidence::Plan {
        kind: Kind::Soak,
        settings: format!("--tasks {tasks} --resources {resources} --nodes {nodes}{fred}"),
        length: Some(*seconds),
        seed: arguments.seed,
        seeds: 1,
    };
    let recording = Recording::begin(recorded, arguments.ledger.as_deref())?;
    let plan = Plan {
        length: Duration::from_secs(arguments.seconds),
        every: Duration::from_secs(1),
        seed: recording.first_seed(),
        tasks: arguments.tasks,
        resources: arguments.resources,
        nodes: arguments.nodes,
        adapter: if arguments.fred { Adapter::Fred } else { Adapter::RedisRs },
        heap: || HEAP.allocated(),
        leak: arguments.leak,
    };
    let bar = ProgressBar::new(arguments.seconds)
        .with_style(ProgressStyle::with_template("{bar:40} {pos} of {len} s").expect("a valid template"));
    let report = soak::run(&plan, |sample| bar.set_position(sample.at as u64))?;
    bar.finish_and_clear();
    fs::create_dir_all(&arguments.folder)?;
    fs::write(arguments.folder.join("soak.csv"), table(&report))?;
    soak::draw(&report, &arguments.folder.join("soak.svg"))?;
    println!("{} locks, {} failures, {} faults", report.locks, report.failures, report.faults.len());
    println!("{:>12} {:>9} {:>9}", "", "before", "after");
    let growths = soak::growths(&report.samples);
    growths.iter().for_each(|growth| println!("{growth}"));
    println!("{} keys left; samples and chart are in {}", report.keys_left, arguments.folder.display());
    let done = record(&report, &growths);
    let is_good = done.violations == 0;
    recording.end(done)?;
    Ok(is_good)
}

fn record(report: &Report, growths: &[Growth]) -> Record {
    let mut faults = BTreeMap::new();
    for (fault, _) in &report.faults {
        *faults.entry(fault.to_string()).or_default() += 1;
    }
    let grown = growths.iter().filter(|growth| !growth.is_flat()).map(ToString::to_string);
    let left = (report.keys_left > 0).then(|| format!("{} keys left", report.keys_left));
    let violations: Vec<String> = grown.chain(left).collect();
    let counts = [("locks", report.locks), ("failures", report.failures), ("keys left", report.keys_left)];
    Record {
        seeds: 1,
        counts: counts.map(|(name, number)| (name.to_owned(), number)).into(),
        faults,
        violations: violations.len() as u64,
        first_violation: violations.into_iter().next(),
        ..Record::default()
    }
}

fn table(report: &Report) -> String {
    let mut table =
        "seconds,memory_mib,heap_mib,tasks,sockets,descriptors,locks_per_s,failures_per_s\n".to_owned();
    for sample in &report.samples {
        let soak::Sample { at, memory, heap, tasks, sockets, descriptors, locks, failures } = sample;
        let line = format!(
            "{at:.1},{memory:.2},{heap:.3},{tasks},{sockets},{descriptors},{locks:.1},{failures:.1}\n"
        );
        table.push_str(&line);
    }
    table
}

/// Counts the bytes in use.
#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);
