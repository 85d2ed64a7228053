//! `redlock run`: a lock, and a command under it.

use std::{future::IntoFuture, time::Duration};

use redlock_redis_rs::{Error, InvalidRequest, Lock, LockRequest, Note};
use rustix::process::Signal;

use crate::{
    arguments::Run,
    exit::{self, Failure, OS_ERROR, USAGE},
    monitor, nodes,
    output::{Output, readable},
    processes,
    signals::{self, PASSED_ON, Signals, ends_a_wait},
    supervisor::{RESOURCES, Supervisor},
};

/// Runs the command under the lock. Returns the exit code.
pub(crate) async fn run(arguments: &Run, output: &Output) -> Result<u8, Failure> {
    let ttl = arguments.ttl();
    let grace = arguments.kill_after.unwrap_or(ttl / 3);
    if grace > ttl / 3 {
        return Err(Failure::new(USAGE, too_long(grace, ttl)));
    }
    let nodes = nodes::open(&arguments.nodes)?;
    let (redlock, monitor) = monitor::monitored(nodes, output, arguments.quiet, arguments.max_ttl)?;
    let mut wanted = PASSED_ON.to_vec();
    if !arguments.foreground {
        // In the foreground, the terminal stops the command as well.
        wanted.extend([Signal::TSTP, Signal::CONT]);
    }
    let mut signals = Signals::listen(&wanted)
        .map_err(|error| Failure::new(OS_ERROR, format!("cannot listen to signals: {error}")))?;
    processes::adopt_orphans();

    let names = Some(arguments.resources.join("\n")).filter(|names| names.len() < MAX_NAMES);
    if names.is_none() {
        output.print(format!("the names are too long for the environment: {RESOURCES} is left out"));
    }
    let request = request(arguments, redlock.lock(&arguments.resources[..], ttl));
    monitor.warn(arguments.wait.is_none() && !arguments.no_wait);
    let outcome = match acquire(request, &mut signals).await {
        Ok(lock) => {
            monitor.warn(true);
            report_acquired(&lock, output);
            monitor.acquired(lock.replies());
            let supervisor = Supervisor { arguments, output, monitor: &monitor, names, grace };
            supervisor.run(lock, &mut signals).await
        }
        Err(NotAcquired::Failed(error @ Error::Contended(_))) => {
            if !arguments.quiet {
                output.print(error);
            }
            Ok(arguments.conflict_exit_code)
        }
        Err(NotAcquired::Failed(error)) => Err(failure(arguments, error)),
        Err(NotAcquired::Interrupted(signal)) => {
            let message = format!("{} came while waiting for the lock", signals::name(signal));
            Err(Failure::new(exit::of_signal(signal.as_raw()), message))
        }
    };
    monitor.warn(false);
    // What is sent in the background would end with this process.
    monitor.all_answered(LAST_ANSWERS).await;
    monitor.finish();
    outcome
}

fn request(arguments: &Run, request: LockRequest) -> LockRequest {
    let delay = arguments.retry_delay;
    let request = request.retry_delay(delay).retry_jitter(delay / 2);
    let request = if arguments.fenced { request.fenced() } else { request };
    let request = arguments.at_least.into_iter().fold(request, LockRequest::min_hold);
    let request = match &arguments.note {
        Some(text) => request.note(Note::of_process(text)),
        None => request,
    };
    match arguments.wait {
        _ if arguments.no_wait => request.retry_count(0),
        Some(Duration::ZERO) => request.retry_count(0),
        Some(wait) => request.retry_forever().acquire_timeout(wait),
        None => request.retry_forever(),
    }
}

enum NotAcquired {
    Failed(Error),
    Interrupted(Signal),
}

/// When it ends without a lock, its keys are removed in the background.
async fn acquire(request: LockRequest, signals: &mut Signals) -> Result<Lock, NotAcquired> {
    let mut request = request.into_future();
    loop {
        tokio::select! {
            biased;
            signal = signals.next() => match signal {
                Signal::TSTP => signals::stop_myself(),
                signal if ends_a_wait(signal) => return Err(NotAcquired::Interrupted(signal)),
                _ => {}
            },
            won = &mut request => return won.map_err(NotAcquired::Failed),
        }
    }
}

fn too_long(grace: Duration, ttl: Duration) -> String {
    format!(
        "--kill-after is {}, and may be a third of --ttl at most, which is {}: it is kept free at the end of the TTL, and \
         an extension may not come before half of it",
        readable(grace),
        readable(ttl / 3)
    )
}

/// The library knows nothing of options.
fn failure(arguments: &Run, error: Error) -> Failure {
    match (arguments.at_least, &error) {
        (Some(least), Error::InvalidRequest(InvalidRequest::TtlTooLong { ttl, max }))
            if *ttl > arguments.ttl() =>
        {
            let (least, ttl, max) = (readable(least), humantime::format_duration(*ttl), readable(*max));
            let message = format!(
                "--at-least is {least}, for which the lock needs a TTL of {ttl}, as clocks may drift: it may be {max} at most"
            );
            Failure::new(USAGE, message)
        }
        _ => error.into(),
    }
}

fn report_acquired(lock: &Lock, output: &Output) {
    output.verbose(|| {
        let replies: Vec<String> = lock.replies().iter().map(ToString::to_string).collect();
        let fence =
            lock.fence().map_or_else(String::new, |fence| format!(", with the fencing token {fence}"));
        format!(
            "locked {} in attempt {}, which took {}, for {}{fence} ({})",
            lock.resources(),
            lock.attempts(),
            readable(lock.took()),
            readable(lock.remaining()),
            replies.join("; ")
        )
    });
}

/// Linux takes 128 KiB for a variable with its name and its end; in all, the command gets no more than this
/// process got, since the names are arguments here.
const MAX_NAMES: usize = 128 * 1_024 - RESOURCES.len() - 2;
/// How long nodes that are slower than the quorum are waited for in the end.
const LAST_ANSWERS: Duration = Duration::from_millis(500);
