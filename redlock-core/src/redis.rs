//! The protocol of Redis and Valkey, for authors of a backend over a client of their own.
//!
//! * [`Eval`] is a request as one `EVAL`. The backend sends it once, and passes the reply to [`is_done`] or
//!   [`key_state`]. Any other reply is [`Indeterminate`](crate::BackendErrorKind::Indeterminate).
//! * [`classify`] accepts an error line of a server, without the leading `-`, and returns its meaning for the
//!   vote and for the connection. [`classify_setup`] does so for the replies to a connection's set-up
//!   (`AUTH`, `HELLO`, `SELECT`).
//! * [`ServerId`] asks each connection which server it leads to, so that one server behind two nodes has one
//!   vote.
//! * [`Watcher`] waits for keys to be free, over a connection of its own that the backend makes.
//!
//! The conformance suite (the module `conformance`, behind the feature of this name) checks the resulting
//! backend.

// Tests: in its modules; tests/tests/it/servers/conformance.rs.

mod error;
mod eval;
mod server_id;
mod watched_keys;
mod watcher;

pub use self::{
    error::{Connection, ServerError, classify, classify_setup, of_single_server},
    eval::{Argument, Eval, FIRST_KEY, is_done, key_state},
    server_id::ServerId,
    watcher::{Reports, TrackedConnection, Watcher},
};
