//! What `cargo bench -p redlock-tests` measures. Each row lets the library, the same requests written by
//! hand, and others compete within one run, in turn, so that what slows the machine down slows all of them;
//! the figures are ratios of one round, and their median and spread over the rounds.
#![allow(clippy::print_stdout, reason = "printing is what a benchmark is for")]

use std::{fs, path::PathBuf, time::Duration};

use clap::Parser;
use tokio::runtime::{Builder, Runtime};

pub use self::allocations::Count;
use self::table::{Line, Results, between_markers, headlines, json, markdown, plain};

mod allocations;
mod contender;
mod cycles;
mod distance;
mod fencing;
mod fleet;
mod floor;
mod held;
mod network;
mod plot;
mod processes;
mod queue;
mod stats;
mod table;
mod worker;

/// Measures the library against the same requests written by hand.
#[derive(Debug, Parser)]
struct Arguments {
    /// The rows to run: all, if none is named
    #[arg(value_name = "ROW")]
    rows: Vec<String>,
    /// How often each is measured
    #[arg(long, default_value_t = ROUNDS)]
    rounds: usize,
    /// Writes the results to docs/performance, as a whole run does
    #[arg(long)]
    write: bool,
    /// Only writes the page anew, from the results that are there
    #[arg(long, conflicts_with_all = ["rows", "write"])]
    render: bool,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
struct Plan {
    rounds: usize,
}

impl Plan {
    /// Runs it on a runtime of its own, with as many threads as users have by default.
    fn block_on<F: Future>(self, work: F) -> F::Output {
        let runtime = multi_thread();
        let output = runtime.block_on(work);
        runtime.shutdown_timeout(Duration::from_secs(1));
        output
    }
}

/// A row: its name, its title, and how it is measured.
type Row = (&'static str, &'static str, fn(&Plan, Option<Count>) -> Vec<Line>);

/// Runs the rows that count allocations, which need an allocator that counts.
pub fn count(count: Count) {
    run(|name| COUNTED.contains(&name), Some(count));
}

/// Runs all other rows.
pub fn measure() {
    run(|name| !COUNTED.contains(&name), None);
}

fn run(here: impl Fn(&str) -> bool, count: Option<Count>) {
    worker::work_if_told();
    let arguments = Arguments::parse();
    if let Some(unknown) = arguments.rows.iter().find(|name| ROWS.iter().all(|row| row.0 != *name)) {
        let names: Vec<&str> = ROWS.iter().map(|row| row.0).collect();
        println!("There is no row `{unknown}`; the rows are: {}.", names.join(", "));
        return;
    }
    if arguments.render {
        return write(Results::new());
    }
    let all = arguments.rows.is_empty();
    let wanted = |name: &str| here(name) && (all || arguments.rows.iter().any(|row| row == name));
    let plan = Plan { rounds: arguments.rounds.max(1) };
    let mut measured = Results::new();
    for (name, title, row) in ROWS.iter().filter(|row| wanted(row.0)) {
        println!("{title} ({name}), {} rounds", plan.rounds);
        let lines = row(&plan, count);
        println!("{}", plain(&lines));
        measured.insert((*name).to_owned(), lines);
    }
    if !measured.is_empty() && (arguments.write || all && plan.rounds >= ROUNDS) {
        write(measured);
    }
}

/// Replaces the lines of these rows among the results, and the page's table by that of all results.
fn write(measured: Results) {
    let docs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let (folder, page) = (docs.join("performance"), docs.join("performance.md"));
    fs::create_dir_all(&folder).expect("a folder of our own");
    let file = folder.join("results.json");
    let kept = fs::read_to_string(&file).ok().and_then(|json| serde_json::from_str(&json).ok());
    let mut results: Results = kept.unwrap_or_default();
    results.extend(measured);
    fs::write(&file, json(&results)).expect("a file of our own");

    let titles: Vec<(&str, &str)> = ROWS.iter().map(|row| (row.0, row.1)).collect();
    let text = fs::read_to_string(&page).expect("docs/performance.md");
    let text = between_markers(&text, "headlines", &headlines(&results, &titles));
    let text = text.and_then(|text| between_markers(&text, "measured", &markdown(&results, &titles)));
    let text = text.expect("the page's markers");
    fs::write(&page, text).expect("a file of our own");
    plot::draw(&results, &folder).expect("plots of our own");
    println!("written to docs/performance.md and docs/performance");
}

fn multi_thread() -> Runtime {
    Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

const ROWS: &[Row] = &[
    ("one-task", "Lock and unlock, one task", |plan, _| cycles::one_task(plan)),
    ("many-tasks", "Lock and unlock, 64 tasks, a resource each", |plan, _| cycles::many_tasks(plan)),
    ("allocations", "Allocations of a lock and its unlock", |plan, count| match count {
        Some(count) => allocations::allocations(plan, count),
        None => Vec::new(),
    }),
    ("bytes", "Bytes to a node for a lock and its unlock", |plan, _| allocations::bytes(plan)),
    ("faults", "A node that is killed, or stopped", |plan, _| cycles::faults(plan)),
    ("turns", "Tasks of one process that want one resource", |plan, _| queue::turns(plan)),
    ("quickstart", "The workers of the quickstart", |plan, _| queue::quickstart(plan)),
    ("processes", "Processes that want one resource", |plan, _| processes::sharing(plan)),
    ("hand-over", "From one process to another", |plan, _| processes::hand_over(plan)),
    ("network", "Over a network, with a round trip of a millisecond", |plan, _| network::network(plan)),
    ("expiry", "A holder that is killed", |plan, _| processes::expiry(plan)),
    ("held", "Very many locks that are held", |_, _| held::many()),
    ("waiters", "By the number of tasks that wait", |plan, _| queue::waiters(plan)),
    ("limit", "What a core can do", |plan, _| cycles::limit(plan)),
    ("fencing", "Locks with a fencing token", |plan, _| fencing::cost(plan)),
    ("second-trips", "Fencing tokens that take a second trip", |plan, _| fencing::second_trips(plan)),
    ("growth", "By the number of nodes and tasks", |plan, _| cycles::growth(plan)),
];
/// Those of the bench with the allocator that counts.
const COUNTED: [&str; 2] = ["allocations", "bytes"];
const ROUNDS: usize = 7;
/// Of the locks that are only locked and unlocked.
const TTL: Duration = Duration::from_secs(10);
