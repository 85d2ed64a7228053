//! The suite passes backends that keep the contract, and finds every defect in those that do not.

// Tests: conformance/tests.rs.

use async_trait::async_trait;

use super::{
    defective::Defective,
    defects::{DEFECTS, Defect::*},
    *,
};
use crate::{
    Acquire, AcquireReply, BackendError, Extend, MemoryBackend, Release, ReleaseReply, TokioRuntime,
};

#[tokio::test(start_paused = true)]
async fn the_backend_in_memory_keeps_the_contract() {
    let runtime = TokioRuntime::current();
    let backend = MemoryBackend::new(runtime.clone());
    let suite = Suite::new(&backend, &runtime).node(&backend).second(&backend);
    let passed = suite.check().await.unwrap();
    assert_eq!(passed.skipped(), []);
    assert_eq!(passed.passed().len(), CHECKS.len());
}

#[tokio::test(start_paused = true)]
async fn checks_that_did_not_run_are_listed() {
    let runtime = TokioRuntime::current();
    let passed = check(&MemoryBackend::new(runtime.clone()), &runtime).await.unwrap();
    assert_eq!(passed.skipped().len(), 10, "{passed}");
    assert!(passed.to_string().contains("nothing_is_sent_late: no node that can be shut down was given"));
}

/// A backend with the required methods only.
#[derive(Debug)]
struct Plain {
    node: MemoryBackend,
}

#[async_trait]
impl LockBackend for Plain {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.node.acquire(request).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.node.extend(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        self.node.release(request).await
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_backend_cannot_do_is_skipped_for_this_reason() {
    let runtime = TokioRuntime::current();
    let node = MemoryBackend::new(runtime.clone());
    let plain = Plain { node: node.clone() };
    let passed = Suite::new(&plain, &runtime).node(&node).second(&plain).check().await.unwrap();
    assert!(!passed.skipped().is_empty());
    for (check, reason) in passed.skipped() {
        assert!(reason.starts_with("the backend"), "{check}: {reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_defect_is_found_as_a_violation_of_its_clause_and_every_check_finds_one() {
    let runtime = TokioRuntime::current();
    let mut missed: Vec<_> = DEFECTS.iter().map(|(defect, ..)| *defect).collect();
    for (name, check) in CHECKS {
        let defects = DEFECTS.iter().filter(|(_, _, by)| by == name);
        assert!(defects.clone().count() > 0, "{name} finds nothing");
        for (defect, clause, _) in defects {
            let backend = Defective::new(*defect, &runtime);
            let second = backend.second();
            let found = check(&Suite::new(&backend, &runtime).node(&backend).second(&second)).await;
            let found = found.map_err(|violation| (violation.clause(), violation.check()));
            assert_eq!(found, Err((*clause, *name)), "{defect:?}");
            missed.retain(|other| other != defect);
        }
    }
    assert_eq!(missed, [], "by the checks of their rows");
}

#[tokio::test(start_paused = true)]
async fn a_run_reports_all_violations_unless_not_even_one_key_can_be_held() {
    let runtime = TokioRuntime::current();
    let backend = Defective::new(NamesInLowerCase, &runtime);
    let violations = check(&backend, &runtime).await.unwrap_err();
    assert_eq!(format!("{violations:?}"), violations.to_string());
    assert!(
        violations.to_string().starts_with("1 violation of the contract by NamesInLowerCase"),
        "{violations}"
    );

    let violations = check(&Defective::new(TtlRoundedUpToSeconds, &runtime), &runtime).await.unwrap_err();
    assert!(violations.iter().len() > 5, "{violations}");
    let violations = check(&Defective::new(NeverGrants, &runtime), &runtime).await.unwrap_err();
    assert_eq!(violations.iter().len(), 1, "{violations}");
}

#[tokio::test(start_paused = true)]
async fn without_a_defect_the_same_backend_passes() {
    let runtime = TokioRuntime::current();
    let backend = Defective::new(Nothing, &runtime);
    let suite = Suite::new(&backend, &runtime).node(&backend).second(&backend);
    assert_eq!(suite.check().await.unwrap().skipped(), []);
}

#[tokio::test(start_paused = true)]
async fn a_run_leaves_no_keys_and_can_be_repeated() {
    let runtime = TokioRuntime::current();
    let backend = MemoryBackend::new(runtime.clone());
    for run in 0..3 {
        Suite::new(&backend, &runtime).node(&backend).run(run).check().await.unwrap();
        assert_eq!(backend.keys(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_violation_shows_the_steps_the_expected_and_the_actual_result() {
    let runtime = TokioRuntime::current();
    let backend = Defective::new(SecondAcquireIsRefused, &runtime);
    let suite = Suite::new(&backend, &runtime);
    let violation = a_repeated_acquire_is_granted_and_extends_nothing(&suite).await.unwrap_err();
    assert_eq!(
        violation.to_string(),
        "\
clause 3 (idempotent in the token), found by a_repeated_acquire_is_granted_and_extends_nothing
    A acquires for 200ms \"one\", \"two\": Granted
    A acquires for 200ms \"one\", \"two\": Refused  <- this one
    A acquires for 200ms \"one\", \"two\": Refused
  expected: Granted
  seen:     Refused
  rule:     a second acquire with the token is granted again, and the keys live neither longer nor shorter \
         for it"
    );
}

#[tokio::test(start_paused = true)]
async fn a_violation_says_what_a_probe_of_the_suite_means() {
    let runtime = TokioRuntime::current();
    let late = Defective::new(SentWhenUpAgain, &runtime);
    let violation = nothing_is_sent_late(&Suite::new(&late, &runtime).node(&late)).await.unwrap_err();
    assert_eq!(violation.expected(), "Granted, as \"key 0\" has to be free");
    let short = Defective::new(ExtendOfOneShortens, &runtime);
    let violation = an_extension_never_shortens(&Suite::new(&short, &runtime)).await.unwrap_err();
    assert_eq!(violation.expected(), "Granted, as A has to hold \"alone\"");
}

/// Of hundreds of requests that are under way at once, those around the wrong reply are shown.
#[tokio::test(start_paused = true)]
async fn a_violation_shows_the_request_that_broke_the_order() {
    let runtime = TokioRuntime::current();
    let backend = Defective::new(ReleaseOvertakesInABusyTask, &runtime);
    let violation = order_is_kept_in_a_busy_task(&Suite::new(&backend, &runtime)).await.unwrap_err();
    let marked = violation.steps().iter().position(|step| step.ends_with("  <- this one"));
    assert!(marked.is_some_and(|position| position > 0), "{violation}");
    assert!(violation.steps()[marked.unwrap()].contains(violation.seen()), "{violation}");
}

#[test]
fn a_run_can_be_sent_to_another_thread() {
    fn sendable<T: Send>(_: T) {}
    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let runtime = TokioRuntime::new(tokio.handle().clone());
    let backend = MemoryBackend::new(runtime.clone());
    sendable(check(&backend, &runtime));
    let suite = Suite::new(&backend, &runtime);
    sendable(an_extension_lengthens_the_ttl(&suite));
}
