//! The node behind a backend, in which the suite injects faults.

// Tests: conformance/tests.rs.

use std::fmt;

use async_trait::async_trait;

use crate::memory::MemoryBackend;

/// The node behind a backend, as a test controls it from outside. Every ability is optional; the checks that
/// need a missing one are skipped, with the reason.
///
/// A method may block its thread, and returns when the fault has happened.
#[async_trait]
pub trait NodeControl: fmt::Debug + Send + Sync {
    /// The number of requests that the node has run so far: those of the backend alone, failed ones included.
    /// It may restart at zero after [`NodeControl::start`]. The default is `None`: the node does not count.
    ///
    /// The totals of Redis also have what scripts run. With [`Dialect::scripts`](crate::redis::Dialect::scripts)
    /// each request is an `EVAL`, so `cmdstat_eval` of `INFO commandstats` is their number.
    async fn commands(&self) -> Option<u64> {
        None
    }

    /// Stops the node as SIGSTOP does: connections stay, requests wait.
    async fn stop(&self) -> FaultOutcome {
        FaultOutcome::NotPossible
    }

    /// Lets a stopped node continue, with the requests that waited.
    async fn resume(&self) {}

    /// Ends the node: connections break, and new ones are refused.
    ///
    /// After [`start`](Self::start), the backend has to work again within [`RECOVERY`](super::RECOVERY). Do
    /// not implement this for a backend that stays broken by design, such as one over a single connection.
    async fn shut_down(&self) -> FaultOutcome {
        FaultOutcome::NotPossible
    }

    /// Starts a node that was shut down, with or without its keys, and returns when it serves requests.
    async fn start(&self) {}

    /// Restarts the node without its keys, and returns when it serves requests. As with
    /// [`shut_down`](Self::shut_down), the backend has to work again soon.
    async fn restart_empty(&self) -> FaultOutcome {
        FaultOutcome::NotPossible
    }
}

/// Whether a fault was injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultOutcome {
    /// It was injected.
    Done,
    /// The test cannot inject it.
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

    async fn restart_empty(&self) -> FaultOutcome {
        Self::restart_empty(self);
        FaultOutcome::Done
    }
}
