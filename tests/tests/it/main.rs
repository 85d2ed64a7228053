//! The integration tests: in the simulation what needs time or faults, on real servers what only they can show.

mod bed;
mod servers;
