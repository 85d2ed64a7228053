//! The rows of [`redlock_tests::bench`] that count allocations and bytes: `cargo bench -p redlock-tests --
//! allocations bytes`.

fn main() {
    redlock_tests::bench::count(|work| allocation_counter::measure(work).count_total);
}
