//! Runs many tasks that lock many resources for a long time while nodes fail, and checks that nothing grows.

use std::{error::Error, fs, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use redlock_tests::{
    adapter::Adapter,
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
    /// The seed of the run
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Leaks a task with each lock, a defect that the check has to find
    #[arg(long)]
    leak: bool,
    /// Where the samples (CSV) and the chart (SVG) go
    #[arg(long, default_value = "target/soak")]
    folder: PathBuf,
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
    let plan = Plan {
        length: Duration::from_secs(arguments.seconds),
        every: Duration::from_secs(1),
        seed: arguments.seed,
        tasks: arguments.tasks,
        resources: arguments.resources,
        nodes: arguments.nodes,
        adapter: if arguments.fred { Adapter::Fred } else { Adapter::RedisRs },
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
    Ok(growths.iter().all(Growth::is_flat) && report.keys_left == 0)
}

fn table(report: &Report) -> String {
    let mut table = "seconds,memory_mib,tasks,sockets,descriptors,locks_per_s,failures_per_s\n".to_owned();
    for sample in &report.samples {
        let soak::Sample { at, memory, tasks, sockets, descriptors, locks, failures } = sample;
        let line = format!("{at:.1},{memory:.2},{tasks},{sockets},{descriptors},{locks:.1},{failures:.1}\n");
        table.push_str(&line);
    }
    table
}
