//! Replies that a Redis server never sends, or that are unknown: from a fake server that sends any bytes.

use std::{
    env,
    os::unix::process::ExitStatusExt,
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use redlock_core::{
    Acquire, AcquireReply, BackendError, BackendErrorKind,
    BackendErrorKind::{Indeterminate, Rejected, Transient},
    LockBackend, NodeOutcome,
};
use redlock_fred::{
    FredBackend,
    fred::{
        clients::Client,
        interfaces::ClientLike,
        types::config::{Config, ReconnectPolicy},
    },
};
use redlock_tests::{
    adapter::Adapter,
    fake::{self, Fake},
};
use rstest::rstest;
use tokio::time::{Instant, sleep};

const SOON: Duration = Duration::from_secs(10);
/// More nested calls than a thread's stack can hold.
const DEPTH: usize = 50_000;
/// SIGABRT.
const ABORTED: i32 = 6;
const BREAK: char = '✂';
const LATE: char = '⌛';

/// Sends the given reply to each request, in the protocol's bytes without the last line break. At [`BREAK`]
/// the reply ends and the connection is closed. The part after [`LATE`] is sent when the next command
/// arrives, before its reply.
struct Odd {
    server: Fake,
    reply: Arc<Mutex<String>>,
}

impl Odd {
    fn start() -> Self {
        let reply = Arc::<Mutex<String>>::default();
        let shared = reply.clone();
        let late = Mutex::new(String::new());
        let server = Fake::start(move |command| {
            let mut late = late.lock().unwrap();
            if command.number == 0 {
                late.clear();
            }
            let reply = match fake::Reply::usual(command) {
                fake::Reply::Say(text) if !command.is_request() => text,
                _ => shared.lock().unwrap().clone(),
            };
            if let Some(half) = reply.strip_suffix(BREAK) {
                return fake::Reply::BreakOff(half.to_owned());
            }
            if !late.is_empty() || reply.contains(LATE) {
                // Time to send more requests before it, and to notice that the replies are out of step after
                // it.
                thread::sleep(Duration::from_millis(100));
            }
            let (now, later) = reply.split_once(LATE).unwrap_or((&reply, ""));
            let now = format!("{late}{now}");
            *late = if later.is_empty() { String::new() } else { format!("{later}\r\n") };
            fake::Reply::Say(now)
        });
        Self { server, reply }
    }

    fn url(&self) -> String {
        self.server.url()
    }

    fn set_reply(&self, reply: &str) {
        reply.clone_into(&mut self.reply.lock().unwrap());
    }
}

async fn acquire(node: &dyn LockBackend) -> Result<AcquireReply, BackendError> {
    let (resources, token) = ("a".into(), "0".repeat(40).parse().unwrap());
    node.acquire(Acquire::new(&resources, &token, SOON, SOON)).await
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_adapters_classify_a_reply_alike_and_keep_its_text(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let odd = "an answer of another type";
    let cases: [(&str, BackendErrorKind, &str); 33] = [
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
        (":9", Indeterminate, odd),
        ("-FAILOVER in progress", Transient, "FAILOVER in progress"),
        ("-NOTREADY x", Transient, "NOTREADY x"),
        (
            "-ERR max number of clients + cluster connections reached",
            Transient,
            "ERR max number of clients + cluster connections reached",
        ),
        ("-DENIED x", Transient, "DENIED x"),
        ("-NOPERM x", Rejected, "NOPERM x"),
        // Further types of RESP3, which a server may send without a request.
        ("!8\r\nDENIED x", Transient, "DENIED x"),
        ("!10\r\nFAILOVER x", Transient, "FAILOVER x"),
        ("!5\r\nNEW x", Indeterminate, "NEW x"),
        ("*1\r\n-DENIED x", Transient, "DENIED x"),
        ("*1\r\n*1\r\n-NEW x", Indeterminate, "NEW x"),
        ("|1\r\n+key\r\n:5\r\n-DENIED x", Transient, "DENIED x"),
        ("*-1", Indeterminate, odd),
        ("_", Indeterminate, odd),
        ("#t", Indeterminate, odd),
        (",1", Indeterminate, odd),
        ("(1", Indeterminate, odd),
        ("=5\r\ntxt:1", Indeterminate, odd),
        ("~1\r\n:1", Indeterminate, odd),
        ("%1\r\n:1\r\n:1", Indeterminate, odd),
    ];
    for (reply, kind, text) in cases {
        // One node for each, because broken connections are replaced at a bounded rate.
        let server = Odd::start();
        let node = adapter.open(&server.url());
        server.set_reply(reply);
        let error = acquire(&*node).await.expect_err(reply);
        assert_eq!((error.kind(), error.message()), (kind, text), "{reply:?}");
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_reply_has_an_unknown_outcome_and_the_next_request_is_served(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    for reply in [
        "garbage",
        "\0\0\0",
        "?1",
        "",
        ":1x",
        ":99999999999999999999999",
        "$-2",
        "✂",
        ":✂",
        ":1✂",
        "-DEN✂",
        "$5\r\nab✂",
        "*2\r\n:1\r\n✂",
        "$99999999999\r\nx✂",
        "*99999999999\r\nx✂",
        "|1\r\n+key\r\n✂",
        ">1\r\n:1",
        ">1\r\n:1\r\n:1",
    ] {
        let server = Odd::start();
        let node = adapter.open(&server.url());
        server.set_reply(":1");
        assert_eq!(acquire(&*node).await.ok(), Some(AcquireReply::Granted));
        server.set_reply(reply);
        let error = acquire(&*node).await.expect_err(reply);
        assert_eq!(error.kind(), Indeterminate, "{reply:?}: {error}");
        assert_eq!(NodeOutcome::Failed(error).to_string().lines().count(), 1, "{reply:?}");
        server.set_reply(":0");
        assert_eq!(acquire(&*node).await.ok(), Some(AcquireReply::Refused), "{reply:?}");
    }
}

#[rstest]
#[case(Adapter::RedisRs, "")]
#[case(Adapter::RedisRs, "/?protocol=resp3")]
#[case(Adapter::Fred, "")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_in_front_of_a_reply_are_not_the_reply(#[case] adapter: Adapter, #[case] protocol: &str) {
    for (before, is_read) in [
        ("|1\r\n+key\r\n+value\r\n", true),
        ("|1\r\n+key\r\n*1\r\n:1\r\n", true),
        (">3\r\n$7\r\nmessage\r\n$7\r\nchannel\r\n$1\r\nx\r\n", true),
        // Some client libraries take these for the reply.
        (">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nx\r\n", false),
        (">3\r\n$9\r\nsubscribe\r\n$7\r\nchannel\r\n:1\r\n", false),
        (">2\r\n$5\r\nother\r\n:1\r\n", false),
    ] {
        for (text, reply) in [(":1", AcquireReply::Granted), (":0", AcquireReply::Refused)] {
            let server = Odd::start();
            let node = adapter.open(&(server.url() + protocol));
            server.set_reply(&format!("{before}{text}"));
            match acquire(&*node).await {
                Ok(read) => assert_eq!(read, reply, "{before:?}"),
                Err(error) => assert!(error.kind() == Indeterminate && !is_read, "{before:?}: {error}"),
            }
        }
    }
}

/// After a reply to no request of ours, the replies may lag one behind the requests: the grant of one request
/// must not become that of the next.
#[rstest]
#[case(Adapter::RedisRs, "")]
#[case(Adapter::RedisRs, "/?protocol=resp3")]
#[case(Adapter::Fred, "")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_reply_is_not_attributed_to_the_next_request(
    #[case] adapter: Adapter,
    #[case] protocol: &str,
) {
    for reply in ["+OK⌛:1", "*1\r\n:5⌛:1", ":9⌛:1", "|1\r\n+key\r\n:5\r\n+OK⌛:1"] {
        let server = Odd::start();
        let node = adapter.open(&(server.url() + protocol));
        server.set_reply(reply);
        assert_eq!(acquire(&*node).await.expect_err(reply).kind(), Indeterminate, "{reply:?}");
        server.set_reply(":0");
        assert_eq!(acquire(&*node).await.ok(), Some(AcquireReply::Refused), "{reply:?}");
    }
}

/// Arrays nested many thousand deep.
fn nested() -> String {
    "*1\r\n".repeat(DEPTH) + ":1"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arrays_nested_many_thousand_deep_fail_one_request_over_redis_rs() {
    let server = Odd::start();
    let node = Adapter::RedisRs.open(&server.url());
    server.set_reply(&nested());
    assert_eq!(acquire(&*node).await.expect_err("no reply").kind(), Indeterminate);
    server.set_reply(":1");
    assert_eq!(acquire(&*node).await.ok(), Some(AcquireReply::Granted));
}

/// The README of `redlock-fred` warns of this: fred's decoder has no limit, and a thread's stack has one.
/// When this test fails, fred has a limit, and the README no longer needs the warning.
#[test]
fn arrays_nested_many_thousand_deep_end_a_process_that_uses_fred() {
    let name = "connections::odd_replies::arrays_nested_many_thousand_deep_over_fred";
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
        .output()
        .unwrap();
    assert_eq!(output.status.signal(), Some(ABORTED), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("overflowed its stack"), "{output:?}");
}

/// The minimal case, in a process of its own because it aborts the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it ends its process"]
async fn arrays_nested_many_thousand_deep_over_fred() {
    let server = Odd::start();
    let node = Adapter::Fred.open(&server.url());
    server.set_reply(&nested());
    let reply = acquire(&*node).await;
    assert!(reply.is_err(), "{reply:?}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_reply_is_not_attributed_to_a_request_in_flight(
    #[values(Adapter::RedisRs, Adapter::Fred)] adapter: Adapter,
) {
    let server = Odd::start();
    let node = adapter.open(&server.url());
    server.set_reply(":1");
    acquire(&*node).await.unwrap();
    server.set_reply("+OK⌛:1");
    let (first, second) = tokio::join!(acquire(&*node), acquire(&*node));
    assert_eq!(first.expect_err("no reply").kind(), Indeterminate);
    assert_eq!(second.expect_err("the reply to the first").kind(), Indeterminate);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_supplied_client_reconnects_when_its_replies_may_be_late() {
    let server = Odd::start();
    let policy = Some(ReconnectPolicy::new_constant(0, 50));
    let client = Client::new(Config::from_url(&server.url()).unwrap(), None, None, policy);
    drop(client.init().await.unwrap());
    let node = FredBackend::new(client).unwrap();
    server.set_reply("+OK⌛:1");
    assert_eq!(acquire(&node).await.expect_err("no reply").kind(), Indeterminate);
    server.set_reply(":0");
    let deadline = Instant::now() + SOON;
    while Instant::now() < deadline {
        match acquire(&node).await {
            Ok(reply) => return assert_eq!(reply, AcquireReply::Refused),
            // While the client connects.
            Err(error) => assert_eq!(error.kind(), Indeterminate, "{error}"),
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("the client does not come back");
}
