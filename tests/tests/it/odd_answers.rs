//! Answers that a Redis server never gives, or that nobody has heard of: by a server that says whatever it is told to.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use redlock_core::{
    Acquire, BackendErrorKind,
    BackendErrorKind::{Indeterminate, Rejected, Transient},
};
use redlock_tests::{
    adapter::Adapter,
    fake::{Fake, Reply},
};
use rstest::rstest;

const SOON: Duration = Duration::from_secs(10);

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_adapter_gives_an_answer_the_class_and_the_words_that_it_has_everywhere(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let said = Arc::<Mutex<String>>::default();
    let saying = said.clone();
    let server = Fake::start(move |command| match &*command.words[0] {
        "EVAL" => Reply::say(saying.lock().unwrap().clone()),
        _ => Reply::usual(command),
    });
    let node = adapter.open(&server.url());
    let (resources, token) = ("a".into(), "0".repeat(40).parse().unwrap());
    let odd = "an answer of another type";
    let cases: [(&str, BackendErrorKind, &str); 19] = [
        ("-UNKNOWN x", Indeterminate, "UNKNOWN x"),
        ("-UNKNOWN", Indeterminate, "UNKNOWN"),
        ("-ERR_X y", Indeterminate, "ERR_X y"),
        ("-upstream failure", Indeterminate, "upstream failure"),
        ("-loading x", Indeterminate, "loading x"),
        ("-ERR Connection timed out", Indeterminate, "ERR Connection timed out"),
        ("-", Indeterminate, "an error without words"),
        ("+OK", Indeterminate, odd),
        ("+QUEUED", Indeterminate, odd),
        ("$-1", Indeterminate, odd),
        ("*0", Indeterminate, odd),
        ("*1\r\n:1", Indeterminate, odd),
        ("$1\r\n1", Indeterminate, odd),
        (":2", Indeterminate, odd),
        ("-FAILOVER in progress", Transient, "FAILOVER in progress"),
        ("-NOTREADY x", Transient, "NOTREADY x"),
        (
            "-ERR max number of clients + cluster connections reached",
            Transient,
            "ERR max number of clients + cluster connections reached",
        ),
        ("-DENIED x", Transient, "DENIED x"),
        ("-NOPERM x", Rejected, "NOPERM x"),
    ];
    for (reply, kind, words) in cases {
        reply.clone_into(&mut said.lock().unwrap());
        let request = Acquire::new(&resources, &token, SOON, SOON);
        let error = node.acquire(request).await.expect_err(reply);
        assert_eq!((error.kind(), error.message()), (kind, words), "{reply:?}");
    }
}
