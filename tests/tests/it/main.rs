//! The integration tests: in the simulation what needs time or faults, on real servers what only they can
//! show.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::future_not_send, reason = "the simulation has one thread")]

mod built;
mod chaos;

/// The `redlock` command, as a process on real servers.
mod cli {
    mod at_least;
    mod loss;
    pub(crate) mod process;
    mod runs;
    mod signals;
    mod status;
    mod terminal;
    mod watchdog;
}

/// How the connections to a node are made, break and come back.
mod connections {
    mod cut_network;
    mod fixed_address;
    pub(crate) mod fred;
    mod fred_given;
    mod fred_stale_commands;
    mod odd_replies;
    mod reconnecting;
    mod redis_rs;
    mod refused;
    mod retransmission;
    mod unresponsive;
}

mod fencing;
mod interop;
mod modules;

/// Both runtimes, and what happens when one stands still or ends, or a thread does.
mod runtimes {
    mod smol;
    mod thread_end;
    mod tokio;
}

/// Locks on real servers: one, several, Clusters, and those that a Sentinel names.
mod servers {
    mod acl;
    mod cluster;
    mod conformance;
    mod errors;
    mod faults;
    mod fencing;
    mod fred_cluster;
    mod handover;
    mod inspecting;
    mod leader;
    mod locking;
    mod names;
    mod notes;
    mod one_server;
    mod ordering;
    mod queue;
    mod restart_guard;
    mod sentinel;
    mod server_info;
    mod stopped;
    mod tls;
    mod urls;
    mod watching;
    mod writes;
}

/// Nodes in memory and a simulated clock: time, order and the faults of nodes.
mod sim {
    mod assumptions;
    mod bounds;
    mod cleanup;
    mod errors;
    mod extending;
    mod fenced_holds;
    pub(crate) mod fencing;
    mod handover;
    mod keep_alive;
    mod key_prefix;
    mod limits;
    mod locking;
    mod memory;
    mod min_hold;
    pub(crate) mod notes;
    pub(crate) mod odd_nodes;
    mod one_server;
    mod panics;
    pub(crate) mod queue;
    mod random;
    mod releasing;
    pub(crate) mod restart_guard;
    mod rivals;
    mod turns;
    mod using;
    mod waiting;
    mod watching;
}

mod simulation;

/// Spans, events and metrics, on the simulated clock.
#[cfg(feature = "telemetry")]
mod telemetry {
    mod calls;
    pub(crate) mod capture;
    mod flapping;
    mod gauges;
    mod limits;
    mod metrics;
    mod scrapes;
}
