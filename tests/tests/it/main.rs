//! The integration tests: in the simulation what needs time or faults, on real servers what only they can show.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::future_not_send, reason = "the simulation has one thread")]

mod bed;
mod connections;
mod ordering;
mod server_errors;
mod server_faults;
mod servers;
mod sim_debts;
mod sim_extending;
mod sim_limits;
mod sim_locking;
mod sim_random;
mod sim_releasing;
mod sim_using;
mod sim_waiting;
