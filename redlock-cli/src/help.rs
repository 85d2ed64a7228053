//! What `--help` says beyond the options.

pub(crate) const SHORT: &str = "\
`redlock run --help` has examples, the exit codes, and what holds when something fails.";

pub(crate) const LONG: &str = "\
Examples:
  export REDLOCK_NODES=redis://a:6379,redis://b:6379,redis://c:6379
  redlock run nightly-report -- /usr/local/bin/report
  redlock run --no-wait --conflict-exit-code 0 cron:cleanup -- cleanup.sh
  redlock run --wait 5m --at-most 1h deploy:shop deploy:db -- ./deploy.sh production
  redlock status nightly-report

Exit codes of `run`: the command's own, 128+N when signal N ended it, and
  64   the arguments make no sense
  69   no quorum: too few nodes answered
  71   the system would not start a process
  75   taken: somebody else holds the lock (another code by --conflict-exit-code)
  78   rejected by so many nodes that no quorum is left: password, permissions, type of a key
  79   lost: the lock was lost before the command had ended, so it was stopped, or
       was found to be gone afterwards, whatever the command's own exit code was
  124  --at-most was over, so the command was stopped
  126  the command cannot be executed
  127  the command was not found
A signal while it waits for the lock ends the wait, with 128+N and without a trace.

A time is a number of seconds, or has units, as 500ms or \"1h 30m\".

The command is stopped when nodes say that the lock is gone, or when no more than --kill-after is left of its
validity because no quorum extends it: SIGTERM, and SIGKILL after --kill-after, which is before the validity ends. It
is so also when redlock itself is killed or stopped. Signals go to the command's process group, so they reach what it
has started, unless that moved to a group of its own. SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1 and SIGUSR2 are passed
on to it.

The command sees what it holds:
  REDLOCK_RESOURCES  the names, one a line
  REDLOCK_TTL_MS     the ttl in milliseconds
  REDLOCK_HOLDER     the beginning of the lock's token, as `redlock status` shows it";

pub(crate) const STATUS: &str = "\
Exit codes, the highest that any of the resources has:
  0   free on a majority of the nodes
  1   undecided: no majority says the same
  64  the arguments make no sense
  69  no quorum: too few nodes answered
  75  held by one holder on a majority of the nodes
  78  rejected by so many nodes that no quorum is left";
