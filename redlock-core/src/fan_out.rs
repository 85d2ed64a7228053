//! One request to several nodes, under way at the same time.
//!
//! Written by hand instead of `FuturesUnordered`: nodes are few, and polling all of them again is cheaper
//! than a queue of those that are ready.

// Tests: below for panics; tests/tests/it/sim/locking.rs, sim/panics.rs.

use std::{
    any::Any,
    fmt,
    future::poll_fn,
    mem,
    num::NonZeroU64,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use futures_util::FutureExt as _;

use crate::{
    node::Node,
    reply::{NodeOutcome, NodeReply},
    runtime::{BoxFuture, Runtime},
    ticket::Ticket,
    tracked::{Action, Request, Tracked},
};

/// A request under way to several nodes.
///
/// The first poll sends it to *every* node before it looks at a reply: a combinator that returns at the first
/// ready future would never ask the others. A request that was sent runs to its end: when this is dropped, it
/// continues in the background. When this is dropped before its first poll, nothing is sent, unless it was
/// created with [`FanOut::run_on_drop`].
///
/// All nodes share one future, and one timer: the request is cut off there, even if a backend ignores its
/// timeout, because a round must end.
pub(crate) struct FanOut {
    runtime: Arc<dyn Runtime>,
    /// `None` when every node has replied.
    requests: Option<BoxFuture<()>>,
    inbox: Arc<Inbox>,
    asked: bool,
    run_on_drop: bool,
}

impl FanOut {
    /// To all `nodes`, or to `only` some of them.
    pub(crate) fn new(
        runtime: Arc<dyn Runtime>,
        nodes: Arc<[Arc<Node>]>,
        only: Option<Vec<usize>>,
        request: Request,
    ) -> Self {
        let inbox = Arc::<Inbox>::default();
        let requests = send(runtime.clone(), nodes, only, request, inbox.clone());
        Self { runtime, requests: Some(Box::pin(requests)), inbox, asked: false, run_on_drop: false }
    }

    /// Sends the request in the background if this is dropped before it was sent.
    pub(crate) fn run_on_drop(mut self) -> Self {
        self.run_on_drop = true;
        self
    }

    /// Passes the turn on as soon as the request has been sent.
    pub(crate) fn then_pass_on(self, ticket: Ticket) -> Self {
        self.inbox.state().ticket = Some(ticket);
        self
    }

    /// Waits for more replies, in the order in which they come. Returns `false` when there are none left.
    pub(crate) async fn next(&mut self, replies: &mut Vec<NodeReply>) -> bool {
        poll_fn(|cx| {
            let before = replies.len();
            self.poll(cx, replies);
            let more = replies.len() > before;
            if more || self.requests.is_none() { Poll::Ready(more) } else { Poll::Pending }
        })
        .await
    }

    /// Sends the request, and adds the replies that are there at once.
    pub(crate) async fn start(&mut self, replies: &mut Vec<NodeReply>) {
        poll_fn(|cx| {
            self.poll(cx, replies);
            Poll::Ready(())
        })
        .await;
    }

    /// From now on, nodes that refuse an extension get the keys back.
    pub(crate) fn put_back_where_refused(&self) {
        self.inbox.state().put_back = true;
    }

    /// A panic continues once all nodes have been polled.
    fn poll(&mut self, cx: &mut Context<'_>, replies: &mut Vec<NodeReply>) {
        self.asked = true;
        // Taken out while it is polled: a future that has panicked is never polled or spawned again.
        let Some(mut requests) = self.requests.take() else { return };
        self.inbox.state().replies = Some(mem::take(replies));
        let polled = requests.poll_unpin(cx);
        let (received, panic) = {
            let mut state = self.inbox.state();
            (state.replies.take(), state.panic.take())
        };
        *replies = received.unwrap_or_default();
        if polled.is_pending() {
            self.requests = Some(requests);
        }
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for FanOut {
    fn drop(&mut self) {
        if let Some(requests) = self.requests.take()
            && (self.asked || self.run_on_drop)
        {
            self.runtime.spawn(requests);
        }
    }
}

impl fmt::Debug for FanOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let under_way = self.requests.is_some();
        f.debug_struct("FanOut").field("under_way", &under_way).field("asked", &self.asked).finish()
    }
}

/// What comes in while a [`FanOut`] is polled.
#[derive(Default)]
struct Inbox(Mutex<Received>);

#[derive(Default)]
struct Received {
    /// `None` in the background, where nobody wants them.
    replies: Option<Vec<NodeReply>>,
    panic: Option<Box<dyn Any + Send>>,
    put_back: bool,
    /// Dropped when the request has been sent.
    ticket: Option<Ticket>,
}

impl Inbox {
    fn state(&self) -> MutexGuard<'_, Received> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends the request to the nodes, and puts their replies into the inbox.
async fn send(
    runtime: Arc<dyn Runtime>,
    nodes: Arc<[Arc<Node>]>,
    only: Option<Vec<usize>>,
    request: Request,
    inbox: Arc<Inbox>,
) {
    let wanted = |node: &&Arc<Node>| only.as_ref().is_none_or(|only| only.contains(&node.position));
    let mut under_way = Vec::with_capacity(nodes.len());
    under_way.extend(nodes.iter().filter(wanted).map(|node| Tracked::new(node, &request)));
    let receive = |node: &Arc<Node>, outcome: NodeOutcome, fence: Option<NonZeroU64>| {
        let refused = matches!(outcome, NodeOutcome::Refused);
        let put_back = {
            let mut state = inbox.state();
            if let Some(replies) = &mut state.replies {
                if replies.capacity() == 0 {
                    replies.reserve_exact(nodes.len());
                }
                replies.push(NodeReply { node: node.position, name: node.name.clone(), outcome, fence });
            }
            state.put_back
        };
        if let Action::Extend(ttl, fence) = request.action
            && refused
            && put_back
        {
            let request = Request { action: Action::PutBack(ttl, fence), ..request.clone() };
            let only = Some(vec![node.position]);
            drop(FanOut::new(runtime.clone(), nodes.clone(), only, request).run_on_drop());
        }
    };
    // A panic of foreign code must not keep other nodes from being asked.
    let caught = |work: &mut dyn FnMut() -> bool| {
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
            inbox.state().panic.get_or_insert(panic);
            false
        })
    };
    let mut time_is_up = None;
    poll_fn(|cx| {
        under_way.retain_mut(|tracked| {
            caught(&mut || match tracked.poll(cx) {
                Poll::Pending => true,
                Poll::Ready(outcome) => {
                    receive(tracked.node(), outcome, tracked.counter());
                    false
                }
            })
        });
        // Outside of the lock, as it wakes others.
        let ticket = inbox.state().ticket.take();
        drop(ticket);
        if under_way.is_empty() {
            return Poll::Ready(());
        }
        let time_is_up = time_is_up.get_or_insert_with(|| runtime.sleep(request.timeout));
        if time_is_up.poll_unpin(cx).is_pending() {
            return Poll::Pending;
        }
        under_way.retain_mut(|tracked| {
            caught(&mut || {
                receive(tracked.node(), tracked.cut_off(), None);
                false
            })
        });
        Poll::Ready(())
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::atomic::{AtomicBool, Ordering},
        task::Waker,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::{
        admission::Admission,
        claim::Claim,
        entropy::Entropy,
        fencing::Fencing,
        memory::MemoryBackend,
        nodes::Nodes,
        settings::Settings,
        validity::{Drift, Ttl},
    };

    /// Keeps its tasks, and its timers never fire. Its clock can be out of order once.
    #[derive(Default)]
    struct Stuck {
        tasks: Mutex<Vec<BoxFuture<()>>>,
        out_of_order: AtomicBool,
    }

    impl Runtime for Stuck {
        #[allow(clippy::disallowed_methods)]
        fn now(&self) -> Instant {
            assert!(!self.out_of_order.swap(false, Ordering::Relaxed), "out of order");
            Instant::now()
        }

        fn unix_time(&self) -> Duration {
            Duration::ZERO
        }

        fn sleep(&self, _: Duration) -> BoxFuture<()> {
            Box::pin(pending())
        }

        fn spawn(&self, task: BoxFuture<()>) {
            self.tasks.lock().unwrap().push(task);
        }
    }

    impl fmt::Debug for Stuck {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Stuck")
        }
    }

    #[test]
    fn a_panic_does_not_keep_other_nodes_from_being_asked_and_their_replies_still_come() {
        let runtime = Arc::new(Stuck::default());
        let drift = Drift::new(0.01).unwrap();
        let settings = Settings {
            runtime: runtime.clone(),
            drift,
            node_timeout: None,
            admission: Admission::default(),
            fencing: Fencing::default(),
        };
        let backends = [(); 3].map(|()| MemoryBackend::new(Stuck::default()));
        let nodes = backends.iter().cloned().map(|node| Box::new(node) as _).collect();
        let nodes = Nodes::new(settings, nodes, Entropy::of_system().unwrap(), None);
        let ttl = Ttl::new(Duration::from_secs(1), drift).unwrap();
        let token = "0".repeat(40).parse().unwrap();
        let claim = Arc::new(Claim::handed_over("x".into(), token, ttl, 3));
        // Its release fails, and is scheduled again: that reads the clock.
        backends[0].shut_down();
        backends[1].stop();
        backends[2].stop();

        let (mut fan_out, mut replies) = (nodes.release_all(&claim), Vec::new());
        let mut cx = Context::from_waker(Waker::noop());
        runtime.out_of_order.store(true, Ordering::Relaxed);
        let panic = catch_unwind(AssertUnwindSafe(|| fan_out.poll(&mut cx, &mut replies))).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"out of order"), "the caller gets it");
        assert_eq!([&backends[1], &backends[2]].map(MemoryBackend::requests), [1, 1]);
        assert!(replies.is_empty());

        backends[1].resume();
        fan_out.poll(&mut cx, &mut replies);
        assert_eq!(replies.iter().map(|reply| reply.node).collect::<Vec<_>>(), [1]);

        drop(fan_out);
        let mut spawned = runtime.tasks.lock().unwrap().pop().unwrap();
        assert!(spawned.as_mut().poll(&mut cx).is_pending());
        backends[2].resume();
        assert!(spawned.as_mut().poll(&mut cx).is_ready());
    }
}
