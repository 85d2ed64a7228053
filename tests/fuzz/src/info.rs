//! What a server says about itself.

use std::time::{Duration, Instant};

use redlock_core::redis::{ServerAnswer, ServerProbe};

/// Two bytes are how long the question took and how long ago that was; the rest is the reply.
pub fn check(data: &[u8]) {
    let Some(([took, ago], reply)) = data.split_first_chunk::<2>() else { return };
    let asked = START.with(|start| *start);
    let answered = asked + Duration::from_millis(u64::from(*took));
    let ago = Duration::from_secs(u64::from(*ago));
    let answer = ServerAnswer::parse(reply, asked, answered);
    assert_eq!(answer, ServerAnswer::parse(reply, asked, answered));

    let probe = ServerProbe::new();
    let known = RUNTIME.with(|runtime| {
        let ask = || std::future::ready(Ok(Some(answer.clone())));
        runtime.block_on(probe.along_with(|| 1, ask, std::future::ready(Ok(()))))
    });
    known.expect("the request's own reply");
    let info = probe.server(1).expect("the server has answered");
    assert_eq!(probe.server(2), None, "it is another connection");

    let lines = lines(reply);
    let first = |name: &str| lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    if let Some(id) = &info.id {
        assert_eq!(first("run_id").map(str::trim), Some(&**id));
        assert!(id.len() == 40 && id.bytes().all(|digit| digit.is_ascii_hexdigit()), "{id:?}");
        assert!(id.bytes().any(|digit| digit != id.as_bytes()[0]), "{id:?} is one of many servers'");
    }
    // It never says that a server has been running for longer than it has.
    match probe.uptime(1, answered + ago) {
        Ok(uptime) => {
            let said: i64 =
                first("uptime_in_seconds").and_then(|text| text.trim().parse().ok()).expect("a number");
            let most =
                Duration::from_secs(u64::try_from(said).unwrap_or(0).saturating_sub(1)).saturating_add(ago);
            assert_eq!(uptime, most, "{said}");
        }
        Err(error) => assert!(
            first("uptime_in_seconds").is_none_or(|text| text.trim().parse::<i64>().is_err()),
            "{error}"
        ),
    }
    if let Some(clock) = info.clock {
        assert_eq!((clock.asked, clock.answered), (asked, answered));
        let micros = first("server_time_usec").and_then(|text| text.trim().parse().ok());
        assert_eq!(micros, Some(clock.since_epoch.as_micros()));
    }
    // Only a server that says that it is a primary is one.
    let is_primary = matches!(first("role").map(str::trim), Some("master" | "primary"));
    let role = info.role.map(|role| role.to_string());
    assert_eq!(role.as_deref() == Some("primary"), is_primary);
    assert!(info.was_promoted != Some(true) || is_primary);
    // A reader of the list of risks gets a text for each.
    for risk in info.risks() {
        assert!(!risk.to_string().is_empty());
    }
    // What is shown of it is one line.
    for text in [&info.version, &info.eviction_policy].into_iter().flatten() {
        assert!(!text.contains('\n'), "{text:?}");
    }
}

fn lines(reply: &[u8]) -> Vec<String> {
    let lines = reply.split(|byte| *byte == b'\n');
    lines.map(|line| String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned()).collect()
}

thread_local! {
    static START: Instant = Instant::now();
    static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
}
