//! Locks on real servers.
