//! What happens to the command while it runs under its lock.

use std::{process::ExitStatus, time::Duration};

use redlock_redis_rs::{KeepAlive, Lease, Lock, Runtime, TokioRuntime, UnlockOutcome};
use rustix::process::{Pid, Signal};
use tokio::time::{Instant, sleep};

use crate::{
    arguments::Run,
    child::{self, Running},
    exit::{Failure, LOST, OS_ERROR},
    monitor::NodeMonitor,
    output::{Output, readable},
    processes,
    signals::{self, Signals, ends_a_wait},
    stop_reason::StopReason,
    watchdog::Watchdog,
};

/// Runs a command under a lock that is held, and stops it when it has to.
pub(crate) struct Supervisor<'a> {
    pub(crate) arguments: &'a Run,
    pub(crate) output: &'a Output,
    pub(crate) monitor: &'a NodeMonitor,
    /// The names of the resources for the command's environment, unless they are too long for it.
    pub(crate) names: Option<String>,
    /// Between SIGTERM and SIGKILL.
    pub(crate) grace: Duration,
}

impl Supervisor<'_> {
    /// Returns the exit code.
    pub(crate) async fn run(&self, lock: Lock, signals: &mut Signals) -> Result<u8, Failure> {
        let environment = [
            (RESOURCES, self.names.clone()),
            ("REDLOCK_TTL_MS", Some(self.arguments.ttl().as_millis().to_string())),
            ("REDLOCK_HOLDER", Some(lock.token().prefix().to_owned())),
            // Removed without one: that of a command around this one is of another lock.
            ("REDLOCK_FENCE", lock.fence().map(|fence| fence.to_string())),
        ];
        let kept = lock.keep_alive();
        let lease = kept.lease();
        let ran = async {
            let patience = self.spare(lease.remaining()).min(WATCHDOG_START);
            let mut watchdog = Watchdog::start(self.grace, patience)
                .map_err(|error| Failure::new(OS_ERROR, format!("cannot start the watchdog: {error}")))?;
            watchdog.valid_for(lease.remaining());
            let running =
                match Running::start(&self.arguments.command, environment, self.arguments.foreground) {
                    Ok(running) => running,
                    Err(failure) => {
                        watchdog.dismiss();
                        return Err(failure);
                    }
                };
            watchdog.protect(running.target());
            self.output.verbose(|| "the command runs, and its watchdog watches".to_owned());
            let ended = self.watch(running, &lease, &mut watchdog, signals).await;
            watchdog.dismiss();
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
            Some(why) => Ok(why.exit_code()),
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
        watchdog: &mut Watchdog,
        signals: &mut Signals,
    ) -> (ExitStatus, Option<StopReason>) {
        // Unlike tokio's, this clock counts the time in which the machine was suspended, as the lease does.
        let clock = TokioRuntime::current();
        let start = clock.now();
        let mut left = lease.remaining();
        // As of the last check: a lease that is over no longer says until when it was valid.
        let mut valid_until = start + left;
        let mut terminal_reported = false;
        let mut watchdog_reported = false;
        let mut stopped_since = None;
        loop {
            let over = self.arguments.at_most.map(|most| most.saturating_sub(clock.now() - start));
            let next_check = left
                .saturating_sub(self.grace)
                .min(self.arguments.ttl() / CHECKS_PER_TTL)
                .min(MAX_SLEEP)
                .min(over.unwrap_or(MAX_SLEEP));
            let mut received = None;
            let ended = tokio::select! {
                biased;
                status = running.ended() => Some(status),
                signal = signals.next() => {
                    received = Some(signal);
                    None
                }
                () = lease.lost() => None,
                () = sleep(next_check) => None,
            };
            let now = clock.now();
            left = lease.remaining();
            if !left.is_zero() {
                valid_until = now + left;
                watchdog.valid_for(left);
            }
            if let Some(status) = ended {
                let why = left.is_zero().then_some(StopReason::EndedTooLate);
                why.into_iter().for_each(|why| self.report(why));
                return (status, why);
            }
            let why = if left.is_zero() {
                StopReason::Lost
            } else if left <= self.grace {
                StopReason::NotExtended(left)
            } else if self.arguments.at_most.is_some_and(|most| now - start >= most) {
                StopReason::AtMost
            } else if let Some((by, _)) = stopped_since
                .filter(|(_, since)| now.saturating_duration_since(*since) >= self.arguments.ttl())
            {
                StopReason::Terminal(by)
            } else {
                if let Some(signal) = received {
                    self.pass_on(signal, &running);
                }
                let since = stopped_since.map_or(now, |(_, since)| since);
                stopped_since = running.stopped_by_terminal().map(|by| (by, since));
                if !terminal_reported && stopped_since.is_some() {
                    terminal_reported = true;
                    self.output.print(
                        "the command wants the terminal, and is stopped: --foreground lets it use the terminal",
                    );
                }
                self.monitor.check_minority();
                if watchdog.is_dead() {
                    self.replace(watchdog, &running, lease, &mut watchdog_reported);
                }
                let waited_for: Vec<Pid> =
                    [Some(running.pid()), watchdog.pid()].into_iter().flatten().collect();
                processes::reap_orphans(&waited_for);
                continue;
            };
            let stopping = valid_until.saturating_duration_since(now).min(self.grace);
            watchdog.stopping_for(stopping);
            self.report(why);
            let status = running.stop(Instant::now() + stopping).await;
            return (status, Some(why));
        }
    }

    /// How long it is until the command has to be stopped.
    fn spare(&self, left: Duration) -> Duration {
        left.saturating_sub(self.grace)
    }

    /// Replaces a watchdog that has died. When no other one starts, the next check tries again.
    fn replace(&self, watchdog: &mut Watchdog, running: &Running, lease: &Lease, reported: &mut bool) {
        // Everything else waits meanwhile.
        let patience = (self.spare(lease.remaining()) / 2).min(WATCHDOG_RESTART);
        match Watchdog::start(self.grace, patience) {
            Ok(another) => {
                *watchdog = another;
                watchdog.valid_for(lease.remaining());
                watchdog.protect(running.target());
                *reported = false;
                self.output.print("the watchdog was killed, and has been replaced");
            }
            Err(error) if !*reported => {
                *reported = true;
                self.output.print(format!("the watchdog was killed, and cannot be replaced: {error}"));
            }
            Err(_) => {}
        }
    }

    fn pass_on(&self, signal: Signal, running: &Running) {
        if signal == Signal::TSTP {
            // While this process is stopped the watchdog looks after the command. SIGCONT follows, and is
            // passed on if the lock is still there.
            running.signal(Signal::STOP);
            signals::stop_myself();
            return;
        }
        // The terminal has sent these to the whole group, if it can.
        let by_terminal = self.arguments.foreground && [Signal::INT, Signal::QUIT].contains(&signal);
        if by_terminal && signals::is_foreground() {
            return;
        }
        self.output.verbose(|| format!("passing {} on", signals::name(signal)));
        running.signal(signal);
        // A command that is stopped, by Ctrl-Z or because it wants the terminal, would not receive the signal
        // that ends it.
        if ends_a_wait(signal) {
            running.signal(Signal::CONT);
        }
    }

    fn report(&self, why: StopReason) {
        let resources = self.arguments.resources.join(", ");
        self.output.print(why.message(&resources, || self.monitor.summary()));
    }

    /// Whether the lock was still held, as far as anybody knows.
    async fn release(&self, kept: KeepAlive) -> bool {
        let valid = kept.is_valid();
        match kept.unlock().await {
            Ok(UnlockOutcome::NotHeld) => false,
            Ok(UnlockOutcome::Kept { remaining, .. }) => {
                self.output.verbose(|| format!("the lock stays for another {}", readable(remaining)));
                true
            }
            Ok(_) => {
                self.output.verbose(|| "released".to_owned());
                true
            }
            Err(error) => {
                if valid {
                    self.output.print(format!("the lock cannot be released, and ends with its TTL: {error}"));
                }
                true
            }
        }
    }
}

/// The variable with the names.
pub(crate) const RESOURCES: &str = "REDLOCK_RESOURCES";
const CHECKS_PER_TTL: u32 = 20;
/// How long a watchdog may take to start.
const WATCHDOG_START: Duration = Duration::from_secs(5);
const WATCHDOG_RESTART: Duration = Duration::from_secs(1);
/// Timers stand still while the machine is suspended.
const MAX_SLEEP: Duration = Duration::from_secs(1);
