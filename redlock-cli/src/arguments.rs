//! The command line.

use std::{ffi::OsString, time::Duration};

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use redlock_redis_rs::MAX_TTL;

use crate::{
    exit::{Failure, USAGE},
    help, usage,
};

/// Parses a command line, whose first word is the program's name.
pub(crate) fn parse(line: impl IntoIterator<Item = OsString>) -> Result<Action, NotRun> {
    let line: Vec<OsString> = line.into_iter().collect();
    Arguments::try_parse_from(&line).map(|arguments| arguments.action).map_err(|error| {
        if error.use_stderr() {
            NotRun::Usage(Failure::new(USAGE, usage::explain(&error, &definitions(), &line)))
        } else {
            NotRun::Help(error.render().to_string())
        }
    })
}

/// All subcommands and options.
pub(crate) fn definitions() -> clap::Command {
    Arguments::command()
}

/// Why there is nothing to perform.
#[derive(Debug)]
pub(crate) enum NotRun {
    /// The help that the line asks for.
    Help(String),
    /// What is wrong with the line.
    Usage(Failure),
}

/// Runs commands under a distributed lock over independent Redis servers (the Redlock algorithm).
#[derive(Debug, Parser)]
#[command(name = "redlock", version, max_term_width = 100, arg_required_else_help = false)]
#[command(after_help = help::SHORT, after_long_help = help::long(&help::RUN))]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

/// What to do.
// The variants have no doc comments: these would replace the help of their arguments.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    Run(Run),
    Status(Status),
    Completions(Completions),
    #[command(hide = true)]
    Man(Man),
    #[command(hide = true)]
    Watchdog(Watchdog),
}

/// Runs a command under a lock, which is extended until the command ends.
///
/// When the lock is lost, the command is stopped. Standard input, output and error belong to the command.
#[derive(Debug, Args)]
#[command(after_help = help::SHORT, after_long_help = help::long(&help::RUN))]
pub(crate) struct Run {
    /// Which nodes to ask.
    #[command(flatten)]
    pub(crate) nodes: Nodes,

    /// What to lock: each name is a key on every node. Several names are locked together or not at all.
    #[arg(required = true, value_name = "RESOURCE")]
    pub(crate) resources: Vec<String>,

    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,

    /// How long the lock lives without an extension, and so how long it blocks others after this machine
    /// dies [default: 30s, or --at-least if that is shorter].
    #[arg(long, value_name = "TIME", value_parser = ttl)]
    pub(crate) ttl: Option<Duration>,

    /// The longest TTL of any lock on these nodes. With it, a node has no vote until its server has been running
    /// for this time, as it may have forgotten locks when it restarted [default: nodes always vote].
    #[arg(long, value_name = "TIME", value_parser = ttl)]
    pub(crate) max_ttl: Option<Duration>,

    /// Give the lock a fencing token: a number that is higher than that of every lock before on the same names.
    /// The command finds it in REDLOCK_FENCE, and sends it with what it writes, so that the storage can refuse
    /// a command that has lost its lock.
    #[arg(long)]
    pub(crate) fenced: bool,

    /// Store this text beside the lock, after the host name and the process ID: `redlock status` shows it,
    /// and so does the message of others who are refused and have a note, too. Whoever may read the keys
    /// can read it.
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Option<String>,

    /// Give up when the lock is not acquired within this time; 0 tries once [default: wait forever].
    #[arg(short, long, value_name = "TIME", value_parser = duration)]
    pub(crate) wait: Option<Duration>,

    /// Try once, like `--wait 0`.
    #[arg(short, long, conflicts_with = "wait")]
    pub(crate) no_wait: bool,

    /// The pause between two attempts, plus or minus up to a half of it at random.
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = duration)]
    pub(crate) retry_delay: Duration,

    /// The exit code when another owner holds the lock.
    #[arg(short = 'E', long, value_name = "CODE", default_value_t = crate::exit::TAKEN)]
    pub(crate) conflict_exit_code: u8,

    /// The time between SIGTERM and SIGKILL when the command is stopped, at most a third of the TTL
    /// [default: a third of the TTL].
    #[arg(short, long, value_name = "TIME", value_parser = duration)]
    pub(crate) kill_after: Option<Duration>,

    /// Keep others out for this time from when the lock was acquired, also when the command has ended sooner and
    /// `redlock run` is gone. So one machine of many runs a short job, though their clocks differ. Choose a time
    /// shorter than the job's period. A longer TTL keeps them out for longer [default: until the command ends].
    #[arg(long, value_name = "TIME", value_parser = ttl)]
    pub(crate) at_least: Option<Duration>,

    /// Stop the command after this time. With a longer --at-least, the lock stays.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) at_most: Option<Duration>,

    /// Leave the command in this process group, so that it can use the terminal. Then only the command itself
    /// is stopped, not the processes that it started.
    #[arg(long)]
    pub(crate) foreground: bool,

    /// Print what each node answers, and what happens to the lock.
    #[arg(short, long)]
    pub(crate) verbose: bool,

    /// Do not report that another owner holds the lock (the exit code does), or that a minority of the nodes
    /// does not work.
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

impl Run {
    /// With a short `--at-least`, a lock that its job no longer needs should not stay much longer.
    pub(crate) fn ttl(&self) -> Duration {
        self.ttl.unwrap_or_else(|| self.at_least.map_or(DEFAULT_TTL, |least| least.min(DEFAULT_TTL)))
    }
}

/// Shows how the nodes are, and which of them hold a key, for whom and for how long.
///
/// One line for each node says what its server is, whether it votes, and how far its clock is from the
/// local one. Warnings say what endangers locks there. The answer may be out of date when it is printed.
/// To do something only while nobody else does it, use `run`.
#[derive(Debug, Args)]
#[command(after_help = help::long(&help::STATUS))]
pub(crate) struct Status {
    /// Which nodes to ask.
    #[command(flatten)]
    pub(crate) nodes: Nodes,

    /// The names to look up; none shows the nodes alone.
    #[arg(value_name = "RESOURCE")]
    pub(crate) resources: Vec<String>,

    /// The longest TTL of any lock, if the lock managers have one: a node has no vote until its server has been
    /// running for this time.
    #[arg(long, value_name = "TIME", value_parser = ttl)]
    pub(crate) max_ttl: Option<Duration>,

    /// Exit with 2 when a node has a warning or does not vote.
    #[arg(long)]
    pub(crate) strict: bool,

    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,

    /// The time that each node has for its answer.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = timeout)]
    pub(crate) timeout: Duration,
}

/// The nodes that are given, not those of the environment.
#[derive(Debug, Args)]
pub(crate) struct Nodes {
    /// A node, as redis://host:port or host:port; repeat the option for each node. Instead, the environment
    /// variable REDLOCK_NODES can list the nodes, separated by commas or blanks: it keeps passwords out of
    /// the process list.
    #[arg(long = "node", value_name = "URL")]
    pub(crate) urls: Vec<String>,
}

/// Prints a script that completes command lines of `redlock` in a shell.
#[derive(Debug, Args)]
#[command(after_help = help::long(&help::COMPLETIONS))]
pub(crate) struct Completions {
    /// The shell that runs the script.
    #[arg(value_name = "SHELL")]
    pub(crate) shell: Shell,
}

/// Prints a page of the manual, in roff.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The subcommand that the page is about [default: none, but `redlock` itself].
    #[arg(value_name = "SUBCOMMAND", value_parser = ["run", "status", "completions"])]
    pub(crate) subcommand: Option<String>,
}

/// Stops the command of the `redlock run` that started it, when that process can no longer do so.
#[derive(Debug, Args)]
pub(crate) struct Watchdog {
    /// In milliseconds.
    grace: u64,
}

impl Watchdog {
    /// Between SIGTERM and SIGKILL.
    pub(crate) fn grace(&self) -> Duration {
        Duration::from_millis(self.grace)
    }
}

/// `500ms`, `1h 30m`, or a number of seconds.
fn duration(text: &str) -> Result<Duration, &'static str> {
    let duration = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => humantime::parse_duration(text).ok(),
    };
    duration.ok_or("not a duration like 10s or 2m")
}

fn ttl(text: &str) -> Result<Duration, &'static str> {
    match duration(text)? {
        ttl if ttl < MIN_TTL => Err("too short: at least 3ms"),
        ttl if ttl > MAX_TTL => Err("too long: at most 100 years"),
        ttl => Ok(ttl),
    }
}

fn timeout(text: &str) -> Result<Duration, &'static str> {
    match duration(text)? {
        Duration::ZERO => Err("too short: no node replies in no time"),
        timeout => Ok(timeout),
    }
}

const DEFAULT_TTL: Duration = Duration::from_secs(30);
/// Of less, clock drift leaves nothing.
const MIN_TTL: Duration = Duration::from_millis(3);

#[cfg(test)]
mod tests {
    use redlock_redis_rs::{Error, MemoryBackend, Redlock, TokioRuntime};

    use super::*;

    #[test]
    fn the_definitions_are_valid() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_time_is_a_number_of_seconds_or_has_units() {
        let ms = Duration::from_millis;
        for (text, expected) in
            [("5", ms(5_000)), ("0.25", ms(250)), ("0", ms(0)), ("0s", ms(0)), ("1m 30s", ms(90_000))]
        {
            assert_eq!(duration(text), Ok(expected), "{text}");
        }
        for text in ["", "-1", "nan", "inf", "soon", "1e300"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_default_ttl_is_half_a_minute_and_no_longer_than_the_lock_has_to_stay() {
        let ttl = |options: &[&str]| {
            let line = ["redlock", "run"].iter().chain(options).chain(&["x", "--", "ls"]);
            let Action::Run(run) = Arguments::try_parse_from(line).unwrap().action else { panic!() };
            run.ttl().as_secs()
        };
        for (options, expected) in [
            (&[][..], 30),
            (&["--at-least", "3s"], 3),
            (&["--at-least", "5m"], 30),
            (&["--at-least", "3s", "--ttl", "10s"], 10),
            (&["--at-least", "10s", "--ttl", "3s"], 3),
        ] {
            assert_eq!(ttl(options), expected, "{options:?}");
        }
    }

    #[tokio::test]
    async fn a_ttl_is_refused_here_if_and_only_if_the_library_refuses_it() {
        let runtime = TokioRuntime::current();
        let node = MemoryBackend::new(runtime.clone());
        let redlock = Redlock::builder(runtime).node(node).build().unwrap();
        for nanos in [0, 1, 2_999_999, 3_000_000, 3_000_001, MAX_TTL.as_nanos(), MAX_TTL.as_nanos() + 1] {
            let text = format!("{nanos}ns");
            let given = Duration::new((nanos / 1_000_000_000) as u64, (nanos % 1_000_000_000) as u32);
            let refused = matches!(redlock.lock("x", given).await, Err(Error::InvalidRequest(_)));
            assert_eq!(ttl(&text).is_err(), refused, "{text}");
        }
    }

    #[test]
    fn words_after_the_dashes_belong_to_the_command() {
        let line = ["redlock", "run", "--node", "a:1", "x", "y", "--", "ls", "--node", "-v"];
        let Action::Run(run) = Arguments::try_parse_from(line).unwrap().action else { panic!() };
        assert_eq!(run.resources, ["x", "y"]);
        assert_eq!(run.command, ["ls", "--node", "-v"]);
        assert_eq!(run.nodes.urls, ["a:1"]);
        assert!(!run.verbose);
    }
}
