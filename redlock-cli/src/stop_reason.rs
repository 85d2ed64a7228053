//! Why a command is stopped.

use std::time::Duration;

use rustix::process::Signal;

use crate::{
    exit::{self, LOST, TIMED_OUT},
    output::readable,
};

/// Why the command was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// The nodes say so, or the validity has run out.
    Lost,
    /// No quorum extends the lock, and so much of its validity is left.
    NotExtended(Duration),
    /// The validity ran out before the command ended by itself.
    EndedTooLate,
    /// `--at-most` has passed.
    AtMost,
    /// This signal stopped it when it wanted the terminal, and nothing resumed it.
    Terminal(Signal),
}

impl StopReason {
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Lost | Self::NotExtended(_) | Self::EndedTooLate => LOST,
            Self::AtMost => TIMED_OUT,
            Self::Terminal(by) => exit::of_signal(by.as_raw()),
        }
    }

    /// The message, with what each node answered last where that is the cause.
    pub(crate) fn message(self, resources: &str, nodes: impl FnOnce() -> String) -> String {
        match self {
            Self::Lost => format!("the lock on {resources} is lost ({}): stopping the command", nodes()),
            Self::NotExtended(left) => format!(
                "no quorum extends the lock on {resources}, which is valid for another {} ({}): stopping the command",
                readable(left),
                nodes()
            ),
            Self::EndedTooLate => {
                format!("the lock on {resources} was lost before the command ended ({})", nodes())
            }
            Self::AtMost => "--at-most has passed: stopping the command".to_owned(),
            Self::Terminal(_) => format!(
                "the command wants the terminal and has been stopped for a whole TTL: ending it, to free {resources}"
            ),
        }
    }
}
