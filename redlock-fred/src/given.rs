//! A client of the user's: what fred reports of it apart from the answers.

use std::{
    future::Future,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Waker},
};

use fred::{
    clients::Client,
    error::{Error, ErrorKind},
    interfaces::{ClientLike, EventInterface},
    types::config::Server,
};
use redlock_core::{BackendError, BackendErrorKind, reconnect::Reconnect};
use tokio::{
    sync::broadcast::{Receiver, error::TryRecvError},
    time::Instant,
};

use crate::error::classify;

/// A client that somebody else has made, and initializes.
pub(crate) struct Given {
    pub(crate) client: Client,
    events: Mutex<Events>,
}

struct Events {
    errors: Receiver<(Error, Option<Server>)>,
    connections: Receiver<Server>,
    /// Why there is no connection, since the last one.
    lost: Option<Error>,
    /// Whether there has been one. A client that fails fast gives up when its first one cannot be made.
    has_connected: bool,
    /// For such a client: when it may be told to try again.
    reconnect: Reconnect,
}

impl Given {
    pub(crate) fn new(client: Client) -> Self {
        let events = Events {
            errors: client.error_rx(),
            connections: client.reconnect_rx(),
            lost: None,
            has_connected: client.is_connected(),
            reconnect: Reconnect::new(),
        };
        Self { client, events: Mutex::new(events) }
    }

    /// Why a request would fail, or only be sent when there is a connection again: fred takes requests until
    /// its first attempt to connect again, which may be late.
    pub(crate) fn why_not_connected(&self) -> Option<BackendError> {
        let mut events = self.events();
        events.catch_up();
        // What a Cluster's client has lost may be another server than the one that will be asked.
        let is_connected =
            self.client.is_connected() && (events.lost.is_none() || self.client.is_clustered());
        if is_connected {
            return None;
        }
        if events.has_given_up(&self.client) {
            let now = Instant::now().into_std();
            if events.reconnect.may_begin(now) {
                events.reconnect.begin(now);
                drop(self.client.connect());
            }
        }
        Some(match &events.lost {
            Some(error) => classify(error.clone()),
            None => BackendError::new(BackendErrorKind::Indeterminate, "the client is not connected"),
        })
    }

    /// Replaces the connection. It is in the client's queue when this returns, ahead of the next command.
    pub(crate) fn reconnect(&self) {
        let client = self.client.clone();
        let mut asked = Box::pin(async move { client.force_reconnection().await });
        if asked.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            // When it fails, fred's own policy goes on.
            drop(tokio::spawn(asked));
        }
    }

    fn events(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Events {
    /// Takes in what has been reported. Of an error and a connection nobody says which came first: then the
    /// connection counts, as one that is lost again is found out by the request.
    fn catch_up(&mut self) {
        let error = latest(&mut self.errors).map(|(error, _)| error);
        if latest(&mut self.connections).is_some() {
            self.has_connected = true;
            self.lost = None;
        } else if error.is_some() {
            self.lost = error;
        }
    }

    fn has_given_up(&self, client: &Client) -> bool {
        let may_heal = |error: &Error| !matches!(error.kind(), ErrorKind::Config | ErrorKind::Url);
        !self.has_connected && client.client_config().fail_fast && self.lost.as_ref().is_some_and(may_heal)
    }
}

/// The last of what has been sent since the last time.
fn latest<T: Clone>(receiver: &mut Receiver<T>) -> Option<T> {
    let mut latest = None;
    loop {
        match receiver.try_recv() {
            Ok(event) => latest = Some(event),
            Err(TryRecvError::Lagged(_)) => {}
            Err(TryRecvError::Empty | TryRecvError::Closed) => return latest,
        }
    }
}
