//! How Redis and Valkey are asked, and what they say, for whoever writes a backend over a client of their
//! own.
//!
//! * [`Eval`] is a request as one `EVAL`. The backend sends it, once, and gives the answer to [`is_done`] or
//!   [`key_state`]: all else is no answer of ours, and
//!   [`Indeterminate`](crate::BackendErrorKind::Indeterminate).
//! * [`classify`] takes an error line of a server, without the leading `-`, and says what it means for the
//!   vote and for the connection; [`classify_setup`] does so for the answers to a connection's set-up
//!   (`AUTH`, `HELLO`, `SELECT`).
//! * [`ServerId`] asks each connection which server it leads to, so that one server behind two nodes has one
//!   vote.
//!
//! The conformance suite (the module `conformance`, behind the feature of this name) checks what comes of it.

mod error;
mod eval;
mod server_id;

pub use self::{
    error::{Connection, ServerError, classify, classify_setup, of_single_server},
    eval::{Argument, Eval, FIRST_KEY, is_done, key_state},
    server_id::ServerId,
};
