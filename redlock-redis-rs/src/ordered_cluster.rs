//! A queue in front of a Cluster's connection. Written by hand, since that connection accepts only so many
//! commands at a time, lets later ones overtake those that wait, and has no option against it. A release must
//! not overtake its acquire.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    pin::Pin,
    task::{Context, Waker},
};

use redis::{
    Arg, Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, Value, aio::ConnectionLike,
    cluster_async::ClusterConnection, cluster_routing::Slot,
};
use redlock_core::Runtime;
use tokio::sync::{mpsc, oneshot};

use crate::executor::{self, unconstrained};

/// A Cluster's connection. Commands for one slot take effect in the order of their first polls: each is sent
/// once the connection has answered the one before, or given it up.
#[derive(Clone)]
pub(crate) struct Queued(mpsc::UnboundedSender<Event>);

enum Event {
    /// The slot is that of all keys of the command.
    Asked(Option<Slot>, Command),
    Answered(Option<Slot>),
}

/// A command that starts when it gets the connection, unless its caller has gone.
type Command = Box<dyn FnOnce(ClusterConnection) -> Sending + Send>;
type Sending = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Queued {
    /// A task on the caller's runtime processes the queue.
    pub(crate) fn new(connection: ClusterConnection, runtime: &dyn Runtime) -> Self {
        let (queue, events) = mpsc::unbounded_channel();
        let passing = Passing { connection, answered: queue.downgrade(), waiting: HashMap::new() };
        runtime.spawn(Box::pin(unconstrained(passing.run(events))));
        Self(queue)
    }

    /// Whether the task has ended, with its runtime.
    pub(crate) fn has_ended(&self) -> bool {
        self.0.is_closed()
    }

    fn ask<'a, T, C, F>(&self, slot: Option<Slot>, command: C) -> RedisFuture<'a, T>
    where
        T: Send + 'static,
        C: FnOnce(ClusterConnection) -> F + Send + 'static,
        F: Future<Output = RedisResult<T>> + Send + 'static,
    {
        let queue = self.0.clone();
        Box::pin(async move {
            let (sender, answer) = oneshot::channel();
            let begin = move |connection| -> Sending {
                Box::pin(async move {
                    if !sender.is_closed() {
                        drop(sender.send(command(connection).await));
                    }
                })
            };
            // If the task has ended with its runtime, the sender of the answer is dropped, too.
            drop(queue.send(Event::Asked(slot, Box::new(begin))));
            let ended = |_| Err(RedisError::from((ErrorKind::Io, TASK_ENDED)));
            unconstrained(answer).await.unwrap_or_else(ended)
        })
    }
}

impl ConnectionLike for Queued {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        let command = command.clone();
        self.ask(slot(&command), |mut connection: ClusterConnection| async move {
            connection.req_packed_command(&command).await
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        let pipeline = pipeline.clone();
        self.ask(None, move |mut connection: ClusterConnection| async move {
            connection.req_packed_commands(&pipeline, offset, count).await
        })
    }

    fn get_db(&self) -> i64 {
        0
    }
}

/// The task that sends the commands.
struct Passing {
    connection: ClusterConnection,
    answered: mpsc::WeakUnboundedSender<Event>,
    /// For each slot with a command in flight: the commands behind it.
    waiting: HashMap<Option<Slot>, VecDeque<Command>>,
}

impl Passing {
    async fn run(mut self, mut events: mpsc::UnboundedReceiver<Event>) {
        while let Some(event) = events.recv().await {
            match event {
                Event::Asked(slot, command) => match self.waiting.get_mut(&slot) {
                    Some(behind) => behind.push_back(command),
                    None => {
                        self.waiting.insert(slot, VecDeque::from([command]));
                        self.next(slot);
                    }
                },
                Event::Answered(slot) => self.next(slot),
            }
        }
    }

    /// Sends the next command of a slot that has none in flight.
    fn next(&mut self, slot: Option<Slot>) {
        while let Some(command) = self.waiting.get_mut(&slot).and_then(VecDeque::pop_front) {
            let mut sending = command(self.connection.clone());
            // It is ready at once when its caller has gone.
            let began = sending.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            if began.is_pending()
                && let Some(runtime) = executor::current()
            {
                let turn = Turn { slot, answered: self.answered.clone() };
                runtime.spawn(Box::pin(unconstrained(finish(sending, turn))));
                return;
            }
        }
        self.waiting.remove(&slot);
    }
}

async fn finish(sending: Sending, turn: Turn) {
    // Dropped after the command, even if that panics.
    let _turn = turn;
    sending.await;
}

/// A command's turn at the head of its slot. However it ends, the next command follows: a task that panics
/// must not block those behind it forever.
struct Turn {
    slot: Option<Slot>,
    answered: mpsc::WeakUnboundedSender<Event>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(answered) = self.answered.upgrade() {
            drop(answered.send(Event::Answered(self.slot)));
        }
    }
}

/// The slot of an `EVAL`'s first key.
fn slot(command: &Cmd) -> Option<Slot> {
    let mut arguments = command.args_iter();
    let key = arguments.nth(FIRST_KEY)?;
    match key {
        Arg::Simple(key) => Some(Slot::for_key(key)),
        _ => None,
    }
}

/// After `EVAL`, the script and the number of keys.
const FIRST_KEY: usize = 3;
/// The error when the task of the queue has ended.
pub(crate) const TASK_ENDED: &str = "the connection's runtime has been shut down";

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        panic::{AssertUnwindSafe, catch_unwind},
        pin::pin,
        task::Poll,
    };

    use super::*;

    #[test]
    fn a_command_that_panics_while_it_waits_ends_its_turn() {
        let (queue, mut events) = mpsc::unbounded_channel();
        let slot = Some(Slot::for_key(b"x"));
        let mut waited = false;
        let sending: Sending = Box::pin(poll_fn(move |_| {
            assert!(!waited, "out of order");
            waited = true;
            Poll::Pending
        }));
        let mut finishing = pin!(finish(sending, Turn { slot, answered: queue.downgrade() }));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(finishing.as_mut().poll(&mut cx).is_pending());
        assert!(events.try_recv().is_err(), "it is in flight");
        catch_unwind(AssertUnwindSafe(|| finishing.as_mut().poll(&mut cx))).unwrap_err();
        assert!(matches!(events.try_recv(), Ok(Event::Answered(ended)) if ended == slot));
    }
}
