#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(unix))]
compile_error!("the redlock command needs process groups and signals, so a Unix system");

mod arguments;
mod child;
mod exit;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod generate;
mod help;
mod monitor;
mod node_report;
mod nodes;
mod output;
mod processes;
mod run;
mod signals;
mod status;
mod stop_reason;
mod supervisor;
mod usage;
mod watchdog;

use std::{env, future::Future, io, process::ExitCode};

use tokio::runtime::{Builder, Runtime};

use crate::{
    arguments::{Action, NotRun},
    exit::{Failure, OS_ERROR, SUCCESS},
    output::Output,
};

/// Runs the command `redlock` with the arguments and the environment of this process.
///
/// It is for the main thread, before there is another one: it changes which signals are blocked.
#[must_use]
pub fn main() -> ExitCode {
    signals::unblock();
    match arguments::parse(env::args_os()) {
        Ok(action) => perform(&action).into(),
        Err(NotRun::Help(text)) => {
            output::print(&text);
            SUCCESS.into()
        }
        Err(NotRun::Usage(failure)) => {
            let output = Output::new(false);
            let code = output.failed(&failure);
            output.finish();
            code.into()
        }
    }
}

fn perform(action: &Action) -> u8 {
    let output = Output::new(matches!(action, Action::Run(run) if run.verbose));
    let code = match action {
        Action::Run(run) => on_threads(|| run::run(run, &output)),
        Action::Status(status) => on_threads(|| status::status(status)),
        Action::Completions(completions) => {
            output::print(&generate::completions(&arguments::definitions(), completions.shell));
            Ok(SUCCESS)
        }
        Action::Man(man) => generate::page(&arguments::definitions(), man.subcommand.as_deref())
            .map(|page| {
                output::print(&page);
                SUCCESS
            })
            .map_err(|error| Failure::new(OS_ERROR, format!("cannot write the page: {error}"))),
        Action::Watchdog(watchdog) => return watchdog::watch(watchdog.grace()),
    };
    let code = code.unwrap_or_else(|failure| output.failed(&failure));
    output.finish();
    code
}

/// Several threads: the lock is extended and watched whatever one of them waits for.
fn on_threads<F>(routine: impl FnOnce() -> F) -> Result<u8, Failure>
where
    F: Future<Output = Result<u8, Failure>>,
{
    let runtime = runtime().map_err(|error| Failure::new(OS_ERROR, format!("cannot start: {error}")))?;
    let code = runtime.block_on(routine());
    runtime.shutdown_background();
    code
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(2).enable_all().build()
}
