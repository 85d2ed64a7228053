//! What the tests of the redlock crates stand on: a simulated runtime, and real servers.

pub mod server;
pub mod sim;
