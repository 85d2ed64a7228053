//! The rows of [`redlock_tests::bench`], but for those of the bench `allocations`:
//!
//! ```text
//! cargo bench -p redlock-tests                          # all of both, and writes docs/performance.md
//! cargo bench -p redlock-tests -- one-task --rounds 3   # one row, fewer rounds
//! ```

fn main() {
    redlock_tests::bench::measure();
}
