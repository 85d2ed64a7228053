//! The integration tests: in the simulation what needs time or faults, on real servers what only they can show.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::future_not_send, reason = "the simulation has one thread")]

mod acl;
mod bed;
mod capture;
mod chaos;
mod cluster;
mod command_guard;
mod command_loss;
mod command_process;
mod command_runs;
mod command_signals;
mod command_status;
mod command_terminal;
mod conformance;
mod connections;
mod cut_network;
mod fixed_address;
mod fred_cluster;
mod fred_connections;
mod fred_ghosts;
mod inspecting;
mod interop;
mod interop_bare;
mod interop_node;
mod interop_rslock;
mod odd_answers;
mod ordering;
mod reconnecting;
mod refused_connections;
mod resending;
mod sentinel;
mod server_errors;
mod server_faults;
mod server_handover;
mod servers;
mod sim_assumptions;
mod sim_bounds;
mod sim_debts;
mod sim_extending;
mod sim_handover;
mod sim_keep_alive;
mod sim_limits;
mod sim_locking;
mod sim_panics;
mod sim_random;
mod sim_releasing;
mod sim_using;
mod sim_waiting;
mod simulation;
mod smol;
mod telemetry;
mod telemetry_limits;
mod telemetry_metrics;
mod tls;
