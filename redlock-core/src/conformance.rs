//! The conformance suite: does a backend keep the contract of [`LockBackend`]?
//!
//! It needs the backend, on a node that nothing else uses meanwhile, and a [`Runtime`] to sleep on:
//!
//! ```
//! use redlock_core::{MemoryBackend, TokioRuntime, conformance};
//!
//! #[tokio::main(flavor = "current_thread", start_paused = true)]
//! async fn main() -> Result<(), conformance::Violations> {
//!     let runtime = TokioRuntime::current();
//!     let backend = MemoryBackend::new(runtime.clone());
//!     let passed = conformance::check(&backend, &runtime).await?;
//!     println!("{passed}");
//!     Ok(())
//! }
//! ```
//!
//! Faults need more: a [`NodeControl`], with which the suite stops the node, shuts it down and counts its
//! commands, and a second instance of the backend. [`Suite`] accepts both, and has the other settings.
//! [`Passed::skipped`] names the checks that would need what it does not have.
//!
//! Every check is also a function, to run it alone:
//! `conformance::an_extension_lengthens_the_ttl(&suite).await`.
//!
//! The suite does not flake: a busy machine makes it slow or undecided, but not wrong. A missing key counts
//! against the backend only if the reply came before the key's expiry, and a key that is still there only if
//! the request started after it. The suite uses names and tokens of its own, different ones in each run, and
//! removes its keys at the end. The counters for fencing tokens cannot be removed: they expire after ten
//! minutes.

#![allow(clippy::missing_errors_doc, reason = "a check has one error, and its docs are those of `Outcome`")]

use std::{future::poll_fn, pin::Pin, task::Poll};

use futures_util::future::{MaybeDone, join_all, maybe_done};

mod case;
mod extending;
mod faults;
mod fencing;
mod multi_key;
mod names;
mod node_control;
mod notes;
mod order;
mod ownership;
mod suite;
mod taking_over;
mod uptime;
mod verdict;
mod watching;

#[cfg(test)]
mod defective;
#[cfg(test)]
mod defects;
#[cfg(test)]
mod tests;

pub use self::{
    node_control::{FaultOutcome, NodeControl},
    suite::{DEFAULT_SLACK, DEFAULT_TIMEOUT, DEFAULT_TTL, LATE_SHARE, RECOVERY, Suite},
    verdict::{Clause, Outcome, Passed, Verdict, Violation, Violations},
};
use crate::{backend::LockBackend, runtime::Runtime};

/// Runs all checks that need the backend alone, with the default settings of [`Suite`].
///
/// # Errors
///
/// [`Violations`]: how the backend broke its contract. Its `Debug` is as readable as its `Display`, so that
/// `unwrap` and `?` in a test show everything.
pub async fn check(backend: &dyn LockBackend, runtime: &dyn Runtime) -> Result<Passed, Violations> {
    Suite::new(backend, runtime).check().await
}

type Run = for<'k> fn(&'k Suite<'k>) -> Asked<'k, Outcome>;

macro_rules! checks {
    ($($module:ident: $($name:ident)+;)+) => {
        $(pub use self::$module::{$($name),+};)+

        /// All checks. The first one comes first because no other is meaningful when it fails.
        const CHECKS: &[(&str, Run)] = &[$($((stringify!($name), |suite| Box::pin($name(suite)))),+),+];
    };
}

checks! {
    ownership:
        a_free_key_is_granted_and_released
        a_held_key_is_refused_to_others
        only_the_holder_extends
        only_the_holder_releases
        others_leave_the_ttl_alone
        a_key_lives_for_its_ttl
        a_lapsed_key_is_not_the_old_holders
        the_shortest_and_the_longest_ttl_are_kept
        one_of_many_contenders_wins
        another_instance_sees_the_keys
        another_instance_knows_the_server_by_the_same_identity
        an_inspection_reports_the_keys;
    names:
        names_are_taken_byte_for_byte
        names_are_no_patterns_and_no_prefixes
        tokens_are_compared_byte_for_byte;
    multi_key:
        an_acquire_of_several_is_all_or_nothing
        an_extension_of_several_is_all_or_nothing
        a_release_of_several_removes_what_is_held
        many_resources_are_one_request
        several_resources_are_taken_at_one_instant;
    extending:
        a_repeated_acquire_is_granted_and_extends_nothing
        a_repeated_acquire_shortens_nothing
        an_acquire_of_some_that_are_held_is_granted
        an_extension_lengthens_the_ttl
        an_extension_of_several_lengthens_all
        an_extension_never_shortens;
    taking_over:
        a_replacement_gives_the_keys_to_the_new_token
        a_replacement_needs_the_old_token
        a_replacement_of_several_is_all_or_nothing
        a_repeated_replacement_is_granted
        a_replacement_lengthens_and_never_shortens;
    order:
        requests_take_effect_in_order
        a_request_that_was_never_polled_does_nothing
        a_release_removes_what_a_dropped_acquire_left
        replies_belong_to_their_requests
        order_is_kept_in_a_busy_task
        many_requests_in_a_row_get_replies;
    watching:
        a_watch_of_free_keys_completes_at_once
        a_watch_of_held_keys_waits
        a_release_beside_the_start_of_a_watch_is_not_missed
        a_watch_ends_at_a_release_by_anybody
        all_watches_of_a_key_end_at_its_release
        a_watch_ends_at_the_expiry
        a_watch_of_several_waits_for_all
        a_watch_goes_on_after_an_extension;
    fencing:
        a_fenced_acquire_stores_the_token
        a_grant_counts_on_or_up_to_the_proposal
        a_proposal_is_limited_by_the_nodes_clock
        a_repeated_fenced_acquire_keeps_the_counter
        a_fenced_acquire_of_several_is_all_or_nothing
        several_resources_get_one_number
        a_raise_sets_what_is_lower_and_leaves_what_is_higher
        a_raise_needs_the_token
        a_raise_of_several_is_all_or_nothing
        a_raise_extends_by_its_ttl_and_never_shortens
        a_counter_outlives_its_key
        a_counter_lives_for_its_ttl
        a_raise_keeps_the_counter_alive
        counters_are_exact_up_to_the_highest;
    notes:
        a_note_is_shown_while_its_token_holds_the_key
        a_note_is_stored_as_it_is
        a_note_needs_the_token
        a_note_is_removed_by_its_token_alone
        a_note_is_beside_each_key_that_the_token_holds
        a_note_leaves_the_key_as_it_is
        a_note_lives_as_long_as_its_key;
    faults:
        a_request_is_one_command
        a_request_is_not_sent_again
        a_short_timeout_ends_the_request
        a_long_timeout_works
        a_stopped_node_fails_before_the_deadline
        a_slow_reply_is_awaited
        a_release_behind_an_acquire_that_timed_out_leaves_no_key
        a_node_that_is_down_fails_before_the_deadline
        nothing_is_sent_late;
    uptime:
        an_uptime_grows_no_faster_than_time
        a_restart_begins_a_new_uptime;
}

/// Polls all of them in order before it looks at a reply, and then each when it can continue.
async fn together<T: Send>(requests: Vec<Asked<'_, T>>) -> Vec<T> {
    let mut begun: Vec<_> = requests.into_iter().map(maybe_done).map(Box::pin).collect();
    poll_fn(|cx| {
        for request in &mut begun {
            let _ = request.as_mut().poll(cx);
        }
        Poll::Ready(())
    })
    .await;
    let answer = async |mut request: Pin<Box<MaybeDone<Asked<'_, T>>>>| {
        request.as_mut().await;
        request.as_mut().take_output()
    };
    join_all(begun.into_iter().map(answer)).await.into_iter().flatten().collect()
}

/// Polls it once and drops it.
async fn begin_and_drop<T>(mut request: Asked<'_, T>) {
    poll_fn(|cx| {
        let _ = request.as_mut().poll(cx);
        Poll::Ready(())
    })
    .await;
}

type Asked<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
