//! The node behind a backend, as the suite disturbs it.

use std::fmt;

use async_trait::async_trait;

use crate::memory::MemoryBackend;

/// The node behind a backend: what a test can do to it from outside. Every ability is optional; the checks
/// that need a missing one are skipped, and say so.
///
/// A disturbance may block its thread for as long as it takes. It is over when the method returns.
#[async_trait]
pub trait NodeControl: fmt::Debug + Send + Sync {
    /// How many requests the node has run so far: those of the backend and nobody else's, what failed
    /// included. After [`NodeControl::start`] it may begin again. The default is that it does not count.
    async fn commands(&self) -> Option<u64> {
        None
    }

    /// Stops the node as SIGSTOP does: connections stay, requests wait.
    async fn stop(&self) -> FaultOutcome {
        FaultOutcome::NotPossible
    }

    /// Lets a stopped node go on, with the requests that waited.
    async fn resume(&self) {}

    /// Ends the node: connections break, and new ones are refused.
    ///
    /// Afterwards the backend has [`RECOVERY`](super::RECOVERY) to work again. One that stays broken by
    /// design, because it was given a connection that nobody makes again, goes without this ability.
    async fn shut_down(&self) -> FaultOutcome {
        FaultOutcome::NotPossible
    }

    /// Starts a node that was shut down, with or without its keys, and returns when it serves requests.
    async fn start(&self) {}
}

/// Whether a node was disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultOutcome {
    /// It was.
    Done,
    /// This test has no means to do it.
    NotPossible,
}

#[async_trait]
impl NodeControl for MemoryBackend {
    async fn commands(&self) -> Option<u64> {
        Some(self.requests())
    }

    async fn stop(&self) -> FaultOutcome {
        Self::stop(self);
        FaultOutcome::Done
    }

    async fn resume(&self) {
        Self::resume(self);
    }

    async fn shut_down(&self) -> FaultOutcome {
        Self::shut_down(self);
        FaultOutcome::Done
    }

    async fn start(&self) {
        Self::start(self);
    }
}
