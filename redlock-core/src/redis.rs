//! The protocol of Redis and Valkey, for authors of a backend over a client of their own.
//!
//! * [`Dialect`] runs an acquire or a release, in the form that the server has: a native command, or a
//!   script. Any other request is a [`Command`] that the backend sends once. It turns each reply into a
//!   [`Reply`], which has the [vote](Reply::vote), or for a fenced request the [counter](Reply::fenced); for
//!   an inspection see [`key_state`].
//! * [`SideKey`] is where the counters for fencing tokens are, and the notes of holders. These requests are
//!   scripts, too, as both keys are read or changed at one instant. A user of the server needs the
//!   permission for both keys, and for fencing tokens that for `TIME`.
//! * [`classify`] accepts an error line of a server, without the leading `-`, and returns its meaning for the
//!   vote and for the connection. [`classify_setup`] does so for the replies to a connection's set-up
//!   (`AUTH`, `HELLO`, `SELECT`).
//! * [`ServerProbe`] asks over each connection about the server that it leads to, so that one server
//!   behind two nodes has one vote, and one that has just restarted none.
//! * [`Watcher`] waits for keys to be free, over a connection of its own that the backend makes.
//!
//! The conformance suite (the module `conformance`, behind the feature of this name) checks the resulting
//! backend.

// Tests: in its modules; tests/tests/it/servers/conformance.rs.

mod command;
mod dialect;
mod error;
mod info;
mod reply;
mod scripts;
mod server_probe;
mod side_key;
mod watched_keys;
mod watcher;

pub use self::{
    command::{Argument, Command},
    dialect::Dialect,
    error::{Connection, ServerError, classify, classify_setup, of_single_server},
    info::ServerAnswer,
    reply::{Reply, key_state},
    server_probe::ServerProbe,
    side_key::SideKey,
    watcher::{Reports, TrackedConnection, Watcher},
};
