//! Where a request goes.

// Tests: backend.rs.

use std::sync::Arc;

use redlock_core::{
    BackendError,
    redis::{Dialect, Reply, ServerProbe},
};

use crate::connection::Shared;

/// The way of one request: the part of the line for the caller's runtime, looked up once.
pub(super) enum Route<'a> {
    Own(Arc<Shared>),
    Given(&'a Dialect),
}

impl Route<'_> {
    pub(super) fn dialect(&self) -> &Dialect {
        match self {
            Self::Own(shared) => shared.dialect(),
            Self::Given(dialect) => dialect,
        }
    }

    /// How many connections have been made; a constant where that is unknown.
    pub(super) fn made(&self) -> u64 {
        match self {
            Self::Own(shared) => shared.made(),
            Self::Given(_) => 0,
        }
    }

    /// What is known of the server, where a connection leads to one.
    pub(super) fn server(&self) -> Option<&ServerProbe> {
        match self {
            Self::Own(shared) => shared.server(),
            Self::Given(_) => None,
        }
    }

    /// The answer is none to the command. The next answers on this connection may belong to other requests,
    /// too.
    pub(super) fn unexpected(&self) -> BackendError {
        if let Self::Own(shared) = self {
            shared.replace();
        }
        Reply::unexpected()
    }
}
