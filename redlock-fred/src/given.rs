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
use redlock_core::{BackendError, BackendErrorKind, reconnect::Reconnect, redis::Dialect};
use tokio::{
    sync::broadcast::{Receiver, error::TryRecvError},
    time::Instant,
};

use crate::{client, error::classify};

/// A client that the user has made and initializes.
pub(crate) struct Given {
    pub(crate) client: Client,
    pub(crate) dialect: Dialect,
    events: Mutex<Events>,
}

struct Events {
    errors: Receiver<(Error, Option<Server>)>,
    connections: Receiver<Server>,
    /// Why the last connection was lost, while there is no new one.
    lost: Option<Error>,
    /// Whether there has been a connection. A client that fails fast gives up when it cannot make its first
    /// one.
    has_connected: bool,
    /// For such a client: when it may try again.
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
        let dialect = client::dialect(&client.client_config());
        Self { client, dialect, events: Mutex::new(events) }
    }

    /// Why a request would fail, or would be sent only after a reconnect: fred accepts requests until its
    /// first attempt to reconnect, which may be late.
    pub(crate) fn why_not_connected(&self) -> Option<BackendError> {
        let mut events = self.events();
        events.catch_up();
        // A Cluster's client may have lost another server than the one that the request needs.
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

    /// Replaces the connection. The order is in the client's queue when this returns, ahead of the next
    /// command.
    pub(crate) fn reconnect(&self) {
        let client = self.client.clone();
        let mut asked = Box::pin(async move { client.force_reconnection().await });
        if asked.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            // If it fails, fred's own policy continues.
            drop(tokio::spawn(asked));
        }
    }

    fn events(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Events {
    /// Reads what fred has reported. If it reports both an error and a connection, their order is unknown.
    /// Then the connection counts: if it is lost again, the request will find out.
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

/// The last event since the last call.
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
