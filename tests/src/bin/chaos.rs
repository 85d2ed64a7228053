//! Runs processes that lock resources on real servers while faults are injected, and checks that no update is
//! lost.

use std::{
    env, io,
    path::PathBuf,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use redlock_tests::{
    adapter::Adapter,
    chaos::{self, Broken, Faults, Orders, Outcome, Plan, Report, work},
    evidence::{self, Kind, Record, Recording},
};

/// Runs processes that lock resources on real servers under faults, and checks that no update is lost.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, Args)]
struct Run {
    /// How long faults are injected
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How many processes there are
    #[arg(long, default_value_t = 8)]
    workers: usize,
    /// How many servers there are
    #[arg(long, default_value_t = 5)]
    nodes: usize,
    /// The client libraries of the processes, in turn
    #[arg(long, value_delimiter = ',', default_value = "redis-rs,fred")]
    adapters: Vec<Client>,
    /// The seed of the faults and the processes [default: 0, or a random one with `--ledger`]
    #[arg(long)]
    seed: Option<u64>,
    /// The faults: `all`, `none`, or names separated by commas; `-name` removes one
    #[arg(long, default_value = "all", allow_hyphen_values = true)]
    faults: Faults,
    /// Give every lock a fencing token, and check that they are unique and in order
    #[arg(long)]
    fenced: bool,
    /// Lets each process lock a name of its own, a defect that the checks have to find
    #[arg(long)]
    own_locks: bool,
    /// Where to keep the history [default: it is kept only after a failure]
    #[arg(long)]
    history: Option<PathBuf>,
    /// Adds what the run did to this file, one line of JSON, when it ends
    #[arg(long, value_name = "FILE", conflicts_with = "own_locks")]
    ledger: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// One of the processes
    #[command(hide = true)]
    Worker(WorkerArguments),
}

#[derive(Debug, Args)]
struct WorkerArguments {
    #[arg(long)]
    number: usize,
    #[arg(long)]
    life: u64,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    adapter: Client,
    #[arg(long)]
    folder: PathBuf,
    #[arg(long)]
    records: usize,
    #[arg(long)]
    fenced: bool,
    #[arg(long)]
    own_locks: bool,
    nodes: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Client {
    RedisRs,
    Fred,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.part {
        Some(Part::Worker(arguments)) => work(&orders(arguments)).map(|()| true),
        None => run(&arguments.run),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error}");
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout)]
fn run(arguments: &Run) -> io::Result<bool> {
    let Run { seconds, workers, nodes, adapters, faults, .. } = arguments;
    let adapters = adapters.iter().map(|client| client.name()).collect::<Vec<_>>().join(",");
    let fenced = if arguments.fenced { " --fenced" } else { "" };
    let recorded = evidence::Plan {
        kind: Kind::Chaos,
        settings: format!(
            "--workers {workers} --nodes {nodes} --adapters {adapters} --faults {faults}{fenced}"
        ),
        length: Some(*seconds),
        seed: arguments.seed,
        seeds: 1,
    };
    let recording = Recording::begin(recorded, arguments.ledger.as_deref()).map_err(io::Error::other)?;
    let folder = tempfile::TempDir::new()?;
    let plan = Plan {
        length: Duration::from_secs(arguments.seconds),
        calm: CALM,
        seed: recording.first_seed(),
        workers: arguments.workers,
        nodes: arguments.nodes,
        adapters: arguments.adapters.iter().map(|client| client.adapter()).collect(),
        fenced: arguments.fenced,
        faults: arguments.faults.0.clone(),
        broken: arguments.own_locks.then_some(Broken::OwnLocks),
        folder: folder.path().to_owned(),
    };
    let program = env::current_exe()?;
    let bar = ProgressBar::new(arguments.seconds)
        .with_style(ProgressStyle::with_template("{bar:40} {pos} of {len} s").expect("a valid template"));
    let start = Instant::now();
    let report = thread::scope(|scope| {
        let running = scope.spawn(|| chaos::run(&plan, &program));
        while !running.is_finished() {
            bar.set_position(start.elapsed().as_secs());
            thread::sleep(Duration::from_millis(200));
        }
        running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    bar.finish_and_clear();
    print(&report, start.elapsed());
    recording.end(record(&report)).map_err(io::Error::other)?;
    let kept = arguments.history.clone().or_else(|| {
        (!report.is_good()).then(|| env::temp_dir().join(format!("chaos-{}.jsonl", std::process::id())))
    });
    if let Some(kept) = kept {
        chaos::keep(&report.entries, &kept)?;
        println!("the history is in {}", kept.display());
    }
    Ok(report.is_good())
}

#[allow(clippy::print_stdout)]
fn print(report: &Report, took: Duration) {
    let verdict = &report.verdict;
    println!("{:.0} s", took.as_secs_f64());
    for (outcome, number) in &verdict.requests {
        println!("{:>14} {number:>10}", format!("{outcome:?}"));
    }
    println!("{:>14} {:>10}", "holds", verdict.holds);
    println!("{:>14} {:>10}", "updates", verdict.writes);
    println!("{:>14} {:>10}  after the validity: a lock cannot prevent it", "late", verdict.late);
    println!("{:>14} {:>10}  killed while it wrote", "uncertain", verdict.uncertain);
    println!("{:>14} {:>10}", "violations", verdict.violations.len());
    println!("\n{:>14} {:>10}  requests or holds that it affected", "fault", "struck");
    for (fault, struck, bites) in &report.faults {
        println!("{fault:>14} {struck:>10}  {bites:>10}");
    }
    for violation in verdict.violations.iter().take(20) {
        println!("VIOLATION {violation}");
    }
    for complaint in &report.complaints {
        println!("WRONG {complaint}");
    }
}

fn record(report: &Report) -> Record {
    let verdict = &report.verdict;
    let of = |outcome| verdict.requests.get(&outcome).copied().unwrap_or_default();
    let counts = [
        ("holds", verdict.holds),
        ("updates", verdict.writes),
        ("contended", of(Outcome::Contended)),
        ("no quorum", of(Outcome::NoQuorum)),
        ("rejected", of(Outcome::Rejected)),
        ("lost", of(Outcome::Lost)),
        ("late", verdict.late),
        ("uncertain", verdict.uncertain),
    ];
    let found = verdict.violations.iter().map(ToString::to_string).chain(report.complaints.iter().cloned());
    Record {
        seeds: 1,
        counts: counts.map(|(name, number)| (name.to_owned(), number)).into(),
        faults: report.faults.iter().map(|(fault, struck, _)| (fault.to_string(), *struck)).collect(),
        violations: (verdict.violations.len() + report.complaints.len()) as u64,
        first_violation: found.into_iter().next(),
        ..Record::default()
    }
}

fn orders(arguments: WorkerArguments) -> Orders {
    let WorkerArguments { number, life, seed, adapter, folder, records, fenced, own_locks, nodes } =
        arguments;
    let broken = own_locks.then_some(Broken::OwnLocks);
    Orders { number, life, seed, adapter: adapter.adapter(), folder, records, nodes, fenced, broken }
}

impl Client {
    fn name(self) -> &'static str {
        match self {
            Self::RedisRs => "redis-rs",
            Self::Fred => "fred",
        }
    }

    fn adapter(self) -> Adapter {
        match self {
            Self::RedisRs => Adapter::RedisRs,
            Self::Fred => Adapter::Fred,
        }
    }
}

/// How long the processes continue after the last fault: each has to acquire a lock again.
const CALM: Duration = Duration::from_secs(10);
