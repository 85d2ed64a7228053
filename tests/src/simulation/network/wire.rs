//! The end of a connection at a client, as a backend.

use std::{fmt, future::pending, sync::Arc, time::Duration};

use redlock_core::{
    Acquire, AcquireFenced, AcquireReply, Annotate, BackendError, BackendErrorKind, Extend, FencedReply,
    Inspect, KeyState, LockBackend, Raise, Release, ReleaseReply, Replace, Resources, Runtime as _,
    ServerInfo, Token, Watch, async_trait,
};

use super::{Network, Reply, Request, Verb};
use crate::{sim_runtime::SimRuntime, simulation::faults::Fault};

/// A client's connection to a node.
pub(in crate::simulation) struct Wire {
    pub(super) network: Network,
    pub(super) process: SimRuntime,
    pub(super) client: usize,
    pub(super) node: usize,
    pub(super) name: String,
}

impl Wire {
    async fn ask(
        &self,
        verb: Verb,
        resources: &Resources,
        token: &Token,
        timeout: Duration,
    ) -> Result<Reply, BackendError> {
        let request = Request {
            client: self.client,
            node: self.node,
            verb,
            resources: resources.clone(),
            token: token.clone(),
        };
        self.network.0.timeline.request(self.network.0.runtime.elapsed(), &request, "sent");
        let answered = self.network.send(request);
        tokio::select! {
            biased;
            answer = answered => {
                answer.unwrap_or_else(|_| Err(BackendError::new(BackendErrorKind::Indeterminate, "connection reset")))
            }
            () = self.process.sleep(timeout) => Err(BackendError::timed_out(timeout)),
        }
    }
}

#[async_trait]
impl LockBackend for Wire {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        let verb = Verb::Acquire(request.ttl);
        self.ask(verb, request.resources, request.token, request.timeout).await?.reply()
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        let verb = Verb::Extend(request.ttl);
        self.ask(verb, request.resources, request.token, request.timeout).await?.reply()
    }

    fn can_fence(&self) -> bool {
        true
    }

    async fn acquire_fenced(&self, request: AcquireFenced<'_>) -> Result<FencedReply, BackendError> {
        let AcquireFenced { ttl, proposal, counter_ttl, .. } = request;
        let verb = Verb::AcquireFenced { ttl, proposal, counter_ttl };
        self.ask(verb, request.resources, request.token, request.timeout).await?.fenced()
    }

    async fn raise(&self, request: Raise<'_>) -> Result<FencedReply, BackendError> {
        let Raise { fence, ttl, counter_ttl, .. } = request;
        let verb = Verb::Raise { fence, ttl, counter_ttl };
        self.ask(verb, request.resources, request.token, request.timeout).await?.fenced()
    }

    async fn replace(&self, request: Replace<'_>) -> Result<AcquireReply, BackendError> {
        let verb = Verb::Replace(request.old.clone(), request.ttl);
        self.ask(verb, request.resources, request.new, request.timeout).await?.reply()
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        self.ask(Verb::Release, request.resources, request.token, request.timeout).await?.released()
    }

    fn can_annotate(&self) -> bool {
        true
    }

    async fn annotate(&self, request: Annotate<'_>) -> Result<(), BackendError> {
        let verb = Verb::Annotate(request.note.map(str::to_owned));
        self.ask(verb, request.resources, request.token, request.timeout).await?.annotated()
    }

    /// Without faults, as nothing depends on it.
    async fn inspect(&self, request: Inspect<'_>) -> Result<Vec<KeyState>, BackendError> {
        let latency = self.network.state().latency();
        self.process.sleep(latency).await;
        self.network.0.nodes[self.node].inspect(request).await
    }

    /// Over a connection of its own. A report can be lost, or come late, or for nothing.
    async fn watch(&self, request: Watch<'_>) -> Result<(), BackendError> {
        let shared = &self.network.0;
        let (is_lost, is_wrong, mut latency) = {
            let mut state = self.network.state();
            let is_lost = state.strikes(Fault::LoseReply, 0.1);
            let is_wrong = state.strikes(Fault::Duplicate, 0.1);
            (is_lost, is_wrong, state.latency())
        };
        if self.network.state().strikes(Fault::Delay, 0.1) {
            latency *= 100;
        }
        let reported = if is_wrong { Ok(()) } else { shared.nodes[self.node].watch(request).await };
        if is_lost {
            pending::<()>().await;
        }
        self.process.sleep(latency).await;
        reported
    }

    fn name(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn server(&self) -> Option<Arc<ServerInfo>> {
        self.network.0.nodes[self.node].server()
    }

    fn uptime(&self) -> Result<Duration, BackendError> {
        self.network.0.nodes[self.node].uptime()
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {} to {}", self.client, self.name)
    }
}

impl Reply {
    fn reply(self) -> Result<AcquireReply, BackendError> {
        match self {
            Self::Acquired(reply) => Ok(reply),
            _ => Err(unreadable()),
        }
    }

    fn fenced(self) -> Result<FencedReply, BackendError> {
        match self {
            Self::Fenced(reply) => Ok(reply),
            _ => Err(unreadable()),
        }
    }

    fn released(self) -> Result<ReleaseReply, BackendError> {
        match self {
            Self::Released(released) => Ok(released),
            _ => Err(unreadable()),
        }
    }

    fn annotated(self) -> Result<(), BackendError> {
        match self {
            Self::Annotated => Ok(()),
            _ => Err(unreadable()),
        }
    }
}

fn unreadable() -> BackendError {
    BackendError::new(BackendErrorKind::Indeterminate, "the reply to another request")
}
