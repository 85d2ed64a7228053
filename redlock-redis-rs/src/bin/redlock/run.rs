//! `redlock run`: a lock, a command, and what happens to both.

use std::{fs::File, future::IntoFuture, process::ExitStatus, time::Duration};

use redlock_redis_rs::{Error, KeepAlive, Lease, Lock, LockRequest, Runtime, TokioRuntime, UnlockOutcome};
use rustix::process::{Pid, Signal, getpgrp, getpid, kill_process};
use tokio::time::{Instant, sleep};

use crate::{
    arguments::Run,
    child::{self, Running},
    exit::{self, Failure, LOST, OS_ERROR, TIMED_OUT, USAGE},
    guard::Guard,
    nodes::{self, NodeMonitor, millis},
    output::Output,
    processes,
    signals::{PASSED_ON, Signals, ends_a_wait},
};

/// Runs the command under the lock. Gives the exit code.
pub(crate) async fn run(arguments: &Run, output: &Output) -> Result<u8, Failure> {
    let grace = arguments.kill_after.unwrap_or(arguments.ttl / 3);
    if grace > arguments.ttl / 3 {
        return Err(Failure::new(USAGE, TOO_LONG_A_GRACE));
    }
    let (redlock, monitor) = nodes::listen(nodes::open(&arguments.nodes)?, output)?;
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
    let request = request(arguments, redlock.lock(&arguments.resources[..], arguments.ttl));
    monitor.warn(arguments.wait.is_none() && !arguments.no_wait);
    let outcome = match acquire(request, &mut signals).await {
        Ok(lock) => {
            monitor.warn(true);
            tell_of(&lock, output);
            let held = Held { arguments, output, monitor: &monitor, names, grace };
            held.run(lock, &mut signals).await
        }
        Err(NotAcquired::Failed(error @ Error::Contended(_))) => {
            if !arguments.quiet {
                output.print(error);
            }
            Ok(arguments.conflict_exit_code)
        }
        Err(NotAcquired::Failed(error)) => Err(error.into()),
        Err(NotAcquired::Interrupted(signal)) => {
            let message = format!("{} came while waiting for the lock", name(signal));
            Err(Failure::new(exit::of_signal(signal.as_raw()), message))
        }
    };
    monitor.warn(false);
    // What is sent in the background would end with this process.
    monitor.all_answered(LAST_ANSWERS).await;
    outcome
}

fn request(arguments: &Run, request: LockRequest) -> LockRequest {
    let delay = arguments.retry_delay;
    let request = request.retry_delay(delay).retry_jitter(delay / 2);
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
                Signal::TSTP => stop_myself(),
                signal if ends_a_wait(signal) => return Err(NotAcquired::Interrupted(signal)),
                _ => {}
            },
            won = &mut request => return won.map_err(NotAcquired::Failed),
        }
    }
}

/// A lock that is held, while its command runs.
struct Held<'a> {
    arguments: &'a Run,
    output: &'a Output,
    monitor: &'a NodeMonitor,
    /// Of the resources, for the command, unless they are too long.
    names: Option<String>,
    /// Between SIGTERM and SIGKILL.
    grace: Duration,
}

impl Held<'_> {
    async fn run(&self, lock: Lock, signals: &mut Signals) -> Result<u8, Failure> {
        let environment = [
            (RESOURCES, self.names.clone()),
            ("REDLOCK_TTL_MS", Some(self.arguments.ttl.as_millis().to_string())),
            ("REDLOCK_HOLDER", Some(lock.token().as_str().chars().take(HOLDER).collect())),
        ];
        let kept = lock.keep_alive();
        let lease = kept.lease();
        let ran = async {
            let patience = self.spare(lease.remaining()).min(GUARD_STANDS);
            let mut guard = Guard::start(self.grace, patience)
                .map_err(|error| Failure::new(OS_ERROR, format!("cannot start the guard: {error}")))?;
            guard.valid_for(lease.remaining());
            let running =
                match Running::start(&self.arguments.command, environment, self.arguments.foreground) {
                    Ok(running) => running,
                    Err(failure) => {
                        guard.dismiss();
                        return Err(failure);
                    }
                };
            guard.protect(running.target());
            self.output.verbose(|| "the command runs, and is guarded".to_owned());
            let ended = self.watch(running, &lease, &mut guard, signals).await;
            guard.dismiss();
            Ok(ended)
        };
        let ran = ran.await;
        if let Ok((status, _)) = &ran {
            self.output.verbose(|| format!("the command ended: {status}"));
        }
        let still_held = self.release(kept).await;
        let (status, why) = ran?;
        let code = child::code(status);
        match why {
            Some(why) => Ok(why.code()),
            None if still_held => Ok(code),
            None => {
                let message = format!("the lock was gone when the command had ended (with {code})");
                Err(Failure::new(LOST, message))
            }
        }
    }

    /// Waits until the command has ended, and stops it when it has to.
    async fn watch(
        &self,
        mut running: Running,
        lease: &Lease,
        guard: &mut Guard,
        signals: &mut Signals,
    ) -> (ExitStatus, Option<StopReason>) {
        // Unlike tokio's, this clock counts the time in which the machine was suspended, as the lease does.
        let clock = TokioRuntime::current();
        let start = clock.now();
        let mut left = lease.remaining();
        // As of the last look, for when the lease says no more than that it is over.
        let mut valid_until = start + left;
        let mut told_of_terminal = false;
        let mut told_of_guard = false;
        let mut stopped_since = None;
        loop {
            let over = self.arguments.at_most.map(|most| most.saturating_sub(clock.now() - start));
            let look_again = left
                .saturating_sub(self.grace)
                .min(self.arguments.ttl / LOOKS_PER_TTL)
                .min(MAX_SLEEP)
                .min(over.unwrap_or(MAX_SLEEP));
            let mut came = None;
            let ended = tokio::select! {
                biased;
                status = running.ended() => Some(status),
                signal = signals.next() => {
                    came = Some(signal);
                    None
                }
                () = lease.lost() => None,
                () = sleep(look_again) => None,
            };
            let now = clock.now();
            left = lease.remaining();
            if !left.is_zero() {
                valid_until = now + left;
                guard.valid_for(left);
            }
            if let Some(status) = ended {
                return (status, left.is_zero().then(|| self.lapsed()));
            }
            let why = if left.is_zero() {
                StopReason::Lost(Loss::Certain)
            } else if left <= self.grace {
                StopReason::Lost(Loss::Feared(left))
            } else if self.arguments.at_most.is_some_and(|most| now - start >= most) {
                StopReason::AtMost
            } else if let Some((by, _)) =
                stopped_since.filter(|(_, since)| now.saturating_duration_since(*since) >= self.arguments.ttl)
            {
                StopReason::Terminal(by)
            } else {
                if let Some(signal) = came {
                    self.pass_on(signal, &running);
                }
                let since = stopped_since.map_or(now, |(_, since)| since);
                stopped_since = running.stopped_by_terminal().map(|by| (by, since));
                if !told_of_terminal && stopped_since.is_some() {
                    told_of_terminal = true;
                    self.output.print(
                        "the command wants the terminal, and is stopped: --foreground lets it have it",
                    );
                }
                if guard.is_dead() {
                    self.replace(guard, &running, lease, &mut told_of_guard);
                }
                let waited_for: Vec<Pid> = [Some(running.pid()), guard.pid()].into_iter().flatten().collect();
                processes::reap_orphans(&waited_for);
                continue;
            };
            let stopping = valid_until.saturating_duration_since(now).min(self.grace);
            guard.stopping_for(stopping);
            self.say_why(&why);
            let status = running.stop(Instant::now() + stopping).await;
            return (status, Some(why));
        }
    }

    /// What is left until the command has to be stopped.
    fn spare(&self, left: Duration) -> Duration {
        left.saturating_sub(self.grace)
    }

    /// Puts another guard in the place of one that has died. When there is none to be had, the next look
    /// tries again.
    fn replace(&self, guard: &mut Guard, running: &Running, lease: &Lease, told: &mut bool) {
        // Whatever else is to be seen to waits meanwhile.
        let patience = (self.spare(lease.remaining()) / 2).min(GUARD_STANDS_AGAIN);
        match Guard::start(self.grace, patience) {
            Ok(another) => {
                *guard = another;
                guard.valid_for(lease.remaining());
                guard.protect(running.target());
                *told = false;
                self.output.print("the guard was killed: there is another one");
            }
            Err(error) if !*told => {
                *told = true;
                self.output.print(format!("the guard was killed, and no other one starts: {error}"));
            }
            Err(_) => {}
        }
    }

    fn pass_on(&self, signal: Signal, running: &Running) {
        if signal == Signal::TSTP {
            // While this process is stopped the guard looks after the command. SIGCONT follows, and is passed
            // on when the lock is still there.
            running.signal(Signal::STOP);
            stop_myself();
            return;
        }
        // The terminal has sent these to the whole group, if it can.
        let by_terminal = self.arguments.foreground && [Signal::INT, Signal::QUIT].contains(&signal);
        if by_terminal && in_front_of_a_terminal() {
            return;
        }
        self.output.verbose(|| format!("{} is passed on", name(signal)));
        running.signal(signal);
        // What is stopped, by Ctrl-Z or because it wants the terminal, would not hear of its end.
        if ends_a_wait(signal) {
            running.signal(Signal::CONT);
        }
    }

    fn lapsed(&self) -> StopReason {
        let why = StopReason::Lost(Loss::Late);
        self.say_why(&why);
        why
    }

    fn say_why(&self, why: &StopReason) {
        let (resources, words) = (self.arguments.resources.join(", "), || self.monitor.summary());
        match why {
            StopReason::Lost(Loss::Certain) => {
                self.output.print(format!("the lock on {resources} is lost ({}): stopping the command", words()));
            }
            StopReason::Lost(Loss::Feared(left)) => self.output.print(format!(
                "no quorum extends the lock on {resources}, which is valid for {:.1} s ({}): stopping the command",
                left.as_secs_f64(),
                words()
            )),
            StopReason::Lost(Loss::Late) => self.output.print(format!(
                "the lock on {resources} was lost before the command had ended ({})",
                words()
            )),
            StopReason::Terminal(_) => self.output.print(format!(
                "the command wants the terminal, and was stopped for a whole TTL: stopping it, so that {resources} gets free"
            )),
            StopReason::AtMost => self.output.print("--at-most is over: stopping the command"),
        }
    }

    /// Whether the lock was still held, as far as anybody knows.
    async fn release(&self, kept: KeepAlive) -> bool {
        let valid = kept.is_valid();
        match kept.unlock().await {
            Ok(UnlockOutcome::NotHeld) => false,
            Ok(_) => {
                self.output.verbose(|| "released".to_owned());
                true
            }
            Err(error) => {
                if valid {
                    self.output
                        .print(format!("the lock ends with its ttl, as it cannot be released: {error}"));
                }
                true
            }
        }
    }
}

/// StopReason the command was stopped.
enum StopReason {
    Lost(Loss),
    AtMost,
    /// A signal stopped it when it wanted the terminal, and nobody let it go on.
    Terminal(Signal),
}

enum Loss {
    /// The nodes said so, or the validity is over.
    Certain,
    /// No quorum extends it, and so much is left.
    Feared(Duration),
    /// The command has ended meanwhile.
    Late,
}

impl StopReason {
    fn code(&self) -> u8 {
        match self {
            Self::Lost(_) => LOST,
            Self::AtMost => TIMED_OUT,
            Self::Terminal(by) => exit::of_signal(by.as_raw()),
        }
    }
}

fn tell_of(lock: &Lock, output: &Output) {
    output.verbose(|| {
        let votes: Vec<String> = lock.replies().iter().map(ToString::to_string).collect();
        format!(
            "locked {} in round {}, which took {}, for {:.1} s ({})",
            lock.resources(),
            lock.attempts(),
            millis(lock.took()),
            lock.remaining().as_secs_f64(),
            votes.join("; ")
        )
    });
}

/// Whether Ctrl-C at a terminal would come to the process group of this process.
fn in_front_of_a_terminal() -> bool {
    let terminal = File::open("/dev/tty");
    terminal.is_ok_and(|terminal| rustix::termios::tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp()))
}

fn stop_myself() {
    let _ = kill_process(getpid(), Signal::STOP);
}

fn name(signal: Signal) -> String {
    format!("{signal:?}").trim_matches('"').replace("Signal::", "SIG")
}

const TOO_LONG_A_GRACE: &str = "--kill-after may be a third of --ttl at most: it is kept free at the end of the ttl, and an \
                                extension may not come before half of it";
/// As much of the token as `redlock status` shows.
const HOLDER: usize = 8;
const RESOURCES: &str = "REDLOCK_RESOURCES";
/// Linux takes 128 KiB for a variable with its name and its end; in all, the command gets no more than this
/// process got, since the names are arguments here.
const MAX_NAMES: usize = 128 * 1_024 - RESOURCES.len() - 2;
const LOOKS_PER_TTL: u32 = 20;
/// How long a guard may take to come up.
const GUARD_STANDS: Duration = Duration::from_secs(5);
const GUARD_STANDS_AGAIN: Duration = Duration::from_secs(1);
/// Timers stand still while the machine is suspended.
const MAX_SLEEP: Duration = Duration::from_secs(1);
/// How long nodes that are slower than the quorum are waited for in the end.
const LAST_ANSWERS: Duration = Duration::from_millis(500);
