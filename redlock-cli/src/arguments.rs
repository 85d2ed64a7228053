//! What can be said on the command line.

use std::{ffi::OsString, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::{
    exit::{Failure, USAGE},
    help,
};

/// What the arguments ask for.
///
/// # Errors
///
/// When they ask for help, or are no valid command line.
pub fn parse(line: impl IntoIterator<Item = OsString>) -> Result<Action, NotRun> {
    Arguments::try_parse_from(line).map(|arguments| arguments.action).map_err(|error| {
        let text = error.render().to_string();
        if error.use_stderr() {
            let text = text.trim_end();
            NotRun::Usage(Failure::new(USAGE, text.strip_prefix("error: ").unwrap_or(text)))
        } else {
            NotRun::Help(text)
        }
    })
}

/// Why arguments are not an action.
#[derive(Debug)]
pub enum NotRun {
    /// They ask for this text.
    Help(String),
    /// They are invalid.
    Usage(Failure),
}

/// Runs commands under a distributed lock over independent Redis servers (Redlock).
#[derive(Debug, Parser)]
#[command(name = "redlock", version, max_term_width = 100)]
#[command(after_help = help::SHORT, after_long_help = help::LONG)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

/// What to do.
#[allow(missing_docs, reason = "a doc comment here would be help, in place of the arguments' own")]
#[derive(Debug, Subcommand)]
pub enum Action {
    Run(Run),
    Status(Status),
    #[command(hide = true)]
    Watchdog(Watchdog),
}

/// Runs a command while it holds a lock, which is extended until the command has ended.
///
/// When the lock is lost, the command is stopped. Standard input, output and error are the command's own.
#[derive(Debug, Args)]
#[command(after_help = help::SHORT, after_long_help = help::LONG)]
pub struct Run {
    /// Which nodes to ask.
    #[command(flatten)]
    pub nodes: Nodes,

    /// What to lock: each name is a key on every node. Several are locked together or not at all.
    #[arg(required = true, value_name = "RESOURCE")]
    pub resources: Vec<String>,

    /// The command, and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,

    /// How long the lock lives without an extension: so long it blocks others when this machine dies.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub ttl: Duration,

    /// Give up when the lock cannot be had within this time; 0 tries once [default: wait for ever].
    #[arg(short, long, value_name = "TIME", value_parser = duration)]
    pub wait: Option<Duration>,

    /// Try once, as `--wait 0`.
    #[arg(short, long, conflicts_with = "wait")]
    pub no_wait: bool,

    /// The pause between two attempts, give or take a half.
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = duration)]
    pub retry_delay: Duration,

    /// The exit code when somebody else holds the lock.
    #[arg(short = 'E', long, value_name = "CODE", default_value_t = crate::exit::TAKEN)]
    pub conflict_exit_code: u8,

    /// How long a command that is stopped has between SIGTERM and SIGKILL, at most a third of the ttl
    /// [default: a third of the ttl].
    #[arg(short, long, value_name = "TIME", value_parser = duration)]
    pub kill_after: Option<Duration>,

    /// Stop the command when it has run for this long.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub at_most: Option<Duration>,

    /// Leave the command in this process group, so that it can use the terminal. Then only the command itself
    /// is stopped, and not what it has started.
    #[arg(long)]
    pub foreground: bool,

    /// Say what each node answers, and what happens to the lock.
    #[arg(short, long)]
    pub verbose: bool,

    /// Do not say that somebody else holds the lock: the exit code tells.
    #[arg(short, long)]
    pub quiet: bool,
}

/// Tells which nodes hold a key, for whom and for how long.
///
/// It is for people: the answer is old when it is printed. To do something only while nobody else does, use
/// `run`.
#[derive(Debug, Args)]
#[command(after_help = help::STATUS)]
pub struct Status {
    /// Which nodes to ask.
    #[command(flatten)]
    pub nodes: Nodes,

    /// What to look at.
    #[arg(required = true, value_name = "RESOURCE")]
    pub resources: Vec<String>,

    /// How long each node has for its answer.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub timeout: Duration,
}

/// The nodes that are given, not those of the environment.
#[derive(Debug, Args)]
pub struct Nodes {
    /// A node, as redis://host:port or host:port, once for each. Instead, the environment variable
    /// REDLOCK_NODES can list them, with commas or blanks in between: it hides passwords from the process
    /// list.
    #[arg(long = "node", value_name = "URL")]
    pub urls: Vec<String>,
}

/// Stops the command of the `redlock run` that started it, when that one can no longer do it.
#[derive(Debug, Args)]
pub struct Watchdog {
    /// In milliseconds.
    grace: u64,
}

impl Watchdog {
    /// Between SIGTERM and SIGKILL.
    #[must_use]
    pub fn grace(&self) -> Duration {
        Duration::from_millis(self.grace)
    }
}

/// `500ms`, `1h 30m`, or a number of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string());
    }
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_make_sense() {
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
    fn what_follows_the_dashes_is_the_commands() {
        let line = ["redlock", "run", "--node", "a:1", "x", "y", "--", "ls", "--node", "-v"];
        let Action::Run(run) = Arguments::try_parse_from(line).unwrap().action else { panic!() };
        assert_eq!(run.resources, ["x", "y"]);
        assert_eq!(run.command, ["ls", "--node", "-v"]);
        assert_eq!(run.nodes.urls, ["a:1"]);
        assert!(!run.verbose);
    }
}
