//! What the fuzz target looks into, as the command has no API for it. It is built for it alone.
#![allow(missing_docs, clippy::missing_errors_doc, reason = "nobody reads about it")]

use std::{ffi::OsString, time::Duration};

use redlock_redis_rs::RedisBackend;

use crate::{
    arguments::{self, Action},
    exit, nodes,
};

#[derive(Debug)]
pub enum Line {
    Run {
        urls: Vec<String>,
        resources: Vec<String>,
        command: Vec<OsString>,
        ttl: Duration,
        wait: Option<Duration>,
        no_wait: bool,
    },
    Status {
        urls: Vec<String>,
        resources: Vec<String>,
    },
    Watchdog {
        grace: Duration,
    },
    Other,
}

#[derive(Debug)]
pub enum NotRun {
    Help(String),
    Usage(Failure),
}

#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    pub message: String,
}

impl From<Action> for Line {
    fn from(action: Action) -> Self {
        match action {
            Action::Run(run) => Self::Run {
                ttl: run.ttl(),
                urls: run.nodes.urls,
                resources: run.resources,
                command: run.command,
                wait: run.wait,
                no_wait: run.no_wait,
            },
            Action::Status(status) => Self::Status { urls: status.nodes.urls, resources: status.resources },
            Action::Watchdog(watchdog) => Self::Watchdog { grace: watchdog.grace() },
            Action::Completions(_) | Action::Man(_) => Self::Other,
        }
    }
}

impl From<arguments::NotRun> for NotRun {
    fn from(not_run: arguments::NotRun) -> Self {
        match not_run {
            arguments::NotRun::Help(text) => Self::Help(text),
            arguments::NotRun::Usage(failure) => Self::Usage(failure.into()),
        }
    }
}

impl From<exit::Failure> for Failure {
    fn from(failure: exit::Failure) -> Self {
        Self { code: failure.code, message: failure.message }
    }
}

pub fn parse(line: impl IntoIterator<Item = OsString>) -> Result<Line, NotRun> {
    Ok(arguments::parse(line)?.into())
}

pub fn open_given(given: &[String], listed: &str) -> Result<Vec<RedisBackend>, Failure> {
    nodes::open_given(given, listed).map_err(Into::into)
}

pub const USAGE: u8 = exit::USAGE;
