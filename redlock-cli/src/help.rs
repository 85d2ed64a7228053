//! What `--help` and the manual say beyond the options.

/// A part of the help, with its title in the manual.
pub(crate) type Section = (&'static str, &'static str);

/// One text of several sections.
pub(crate) fn long(sections: &[Section]) -> String {
    sections.iter().map(|(_, text)| *text).collect::<Vec<_>>().join("\n\n")
}

pub(crate) const SHORT: &str = "\
`redlock run --help` has examples, the exit codes, and what happens when something fails.";

pub(crate) const RUN: [Section; 5] = [
    ("EXAMPLES", EXAMPLES),
    ("EXIT STATUS", EXIT_CODES),
    ("DURATIONS", DURATIONS),
    ("WHEN THE COMMAND IS STOPPED", STOPPING),
    ("ENVIRONMENT", ENVIRONMENT),
];

pub(crate) const STATUS: [Section; 1] = [("EXIT STATUS", STATUS_CODES)];

pub(crate) const COMPLETIONS: [Section; 1] = [("EXAMPLES", COMPLETION_FILES)];

/// On the first page of the manual.
pub(crate) const PAGES: [Section; 1] = [("SEE ALSO", SEE_ALSO)];

const EXAMPLES: &str = "\
Examples:
  export REDLOCK_NODES=redis://a:6379,redis://b:6379,redis://c:6379
  redlock run nightly-report -- /usr/local/bin/report
  redlock run --no-wait --conflict-exit-code 0 --at-least 50s cron:cleanup -- cleanup.sh
  redlock run --wait 5m --at-most 1h deploy:shop deploy:db -- ./deploy.sh production
  redlock status nightly-report";

const EXIT_CODES: &str = "\
Exit codes of `run`: the command's own, 128+N if signal N ended the command, and
  64   invalid arguments
  69   no quorum: too few nodes answered
  71   the system could not start a process
  75   contended: another owner holds the lock (--conflict-exit-code sets another code)
  78   rejected by so many nodes that no quorum is left: password, permissions, type of a key
  79   lost: the lock was lost before the command ended, so the command was stopped; or
       the lock was found to be gone afterwards, whatever the command's own exit code was
  124  the command was stopped after --at-most
  126  the command cannot be executed
  127  the command was not found
A signal that arrives while `run` waits for the lock ends the wait with 128+N and leaves no key behind.";

const DURATIONS: &str = "\
A TIME is a number of seconds, or has units, such as 500ms or \"1h 30m\".";

/// One line: it is wrapped for the terminal.
const STOPPING: &str = "\
The command is stopped when the nodes say that the lock is gone. It is also stopped when no quorum extends \
the lock and only --kill-after is left of its validity. First it gets SIGTERM, then, after --kill-after and \
before the validity ends, SIGKILL. This also holds when redlock itself is killed or stopped. Signals go to \
the command's process group, so they reach the processes that it started, unless those have moved to a group \
of their own. SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1 and SIGUSR2 are passed on to the command.";

const ENVIRONMENT: &str = "\
The command finds in its environment:
  REDLOCK_RESOURCES  the names, one per line
  REDLOCK_TTL_MS     the TTL in milliseconds
  REDLOCK_HOLDER     the first digits of the lock's token, as `redlock status` shows them
  REDLOCK_FENCE      with --fenced, the lock's fencing token: a decimal number below 2^53";

const STATUS_CODES: &str = "\
Exit codes, the highest of all resources and of the nodes:
  0   a majority of the nodes votes, and has each resource free
  1   undecided: no majority of the nodes says the same
  2   with --strict: a node has a warning, or does not vote
  64  invalid arguments
  69  no quorum: too few nodes answered, or vote
  75  held by one owner on a majority of the nodes
  78  rejected by so many nodes that no quorum is left";

const COMPLETION_FILES: &str = "\
Examples:
  redlock completions bash >/usr/share/bash-completion/completions/redlock
  redlock completions zsh >/usr/share/zsh/site-functions/_redlock
  redlock completions fish >/usr/share/fish/vendor_completions.d/redlock.fish";

const SEE_ALSO: &str = "redlock-run(1), redlock-status(1), redlock-completions(1)";
