//! The `redlock` command: runs a command under a lock, and tells who holds one.

#[cfg(not(unix))]
compile_error!("the redlock command needs process groups and signals, so a Unix system");

mod arguments;
mod child;
mod exit;
mod guard;
mod help;
mod nodes;
mod output;
mod processes;
mod run;
mod signals;
mod status;

use std::{future::Future, io, process};

use clap::Parser;
use tokio::runtime::{Builder, Runtime};

use crate::{
    arguments::{Action, Arguments},
    exit::{Failure, OS_ERROR, SUCCESS, USAGE},
    output::Output,
};

fn main() {
    signals::unblock();
    process::exit(i32::from(code()))
}

fn code() -> u8 {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(asked_for_help) if !asked_for_help.use_stderr() => {
            // A reader that has gone away is no reason to fail.
            let _ = asked_for_help.print();
            return SUCCESS;
        }
        Err(error) => {
            let _ = error.print();
            return USAGE;
        }
    };
    match arguments.action {
        Action::Run(run) => {
            let output = Output::new(run.verbose);
            let code =
                on_threads(|| run::run(&run, &output)).unwrap_or_else(|failure| output.failed(&failure));
            output.finish();
            code
        }
        Action::Status(status) => {
            let output = Output::new(false);
            let code =
                on_threads(|| status::status(&status)).unwrap_or_else(|failure| output.failed(&failure));
            output.finish();
            code
        }
        Action::Guard(guard) => guard::stand(guard.grace()),
    }
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
