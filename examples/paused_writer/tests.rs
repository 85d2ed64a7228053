use std::{num::NonZeroU64, sync::Arc};

use super::*;
use crate::{
    account::{Account, Refused},
    story::Ending,
};

/// The lines of a story without their times, and with 1111111111111111 for the first token, and so on.
fn told(timeline: &Timeline, ending: &Ending) -> String {
    let mut text: String = timeline
        .lines()
        .iter()
        .skip(1)
        .map(|line| format!("{}\n", line.get(6..).unwrap_or_default()))
        .collect();
    for (digit, fence) in ('1'..).zip(&ending.fences) {
        text = text.replace(&fence.to_string(), &digit.to_string().repeat(16));
    }
    text
}

async fn tell(fenced: bool) -> (String, Ending) {
    let story = story(&managers(&[]).unwrap(), &Store::Memory, fenced).await.unwrap();
    let timeline = Timeline::begin();
    let ending = story.tell(&timeline).await.unwrap();
    (told(&timeline, &ending), ending)
}

#[tokio::test(start_paused = true)]
async fn without_tokens_the_late_write_lands() {
    let (told, ending) = tell(false).await;
    assert!(ending.is_accident(), "{ending:?}");
    assert!(!ending.is_prevented(), "{ending:?}");
    let expected = "  \
  has the lock for 1000 ms
  reads 100                                                                       100
  checks: its lock is valid
  is paused
                                        asks for the lock, and waits
                                        has the lock for 1000 ms
                                        reads 100
                                        adds 50, and writes 150                   150
                                        releases the lock
  continues
  adds 10, and writes 110                                                         110
";
    assert_eq!(told.trim(), expected.trim());
}

#[tokio::test(start_paused = true)]
async fn with_tokens_the_store_refuses_the_late_write_and_its_client_starts_again() {
    let (told, ending) = tell(true).await;
    assert!(ending.is_prevented(), "{ending:?}");
    assert!(!ending.is_accident(), "{ending:?}");
    let expected = "  \
  has the lock for 1000 ms
  its token: 1111111111111111
  reads 100                                                                       100
  checks: its lock is valid
  is paused
                                        asks for the lock, and waits
                                        has the lock for 1000 ms
                                        its token: 2222222222222222
                                        reads 100
                                        adds 50, and writes 150                   150
                                        releases the lock
  continues
  adds 10, writes 110: REFUSED
  knows that it is late: starts again
  has the lock for 1000 ms
  its token: 3333333333333333
  reads 150
  adds 10, and writes 160                                                         160
";
    assert_eq!(told.trim(), expected.trim());
}

/// What a store has to do, whatever the locks do: `a` and `b` are two clients of it.
async fn compares_tokens([a, b]: [Arc<dyn Account>; 2]) {
    let [first, second] = [7, 1_764_000_000_000_000].map(NonZeroU64::new);
    let stale = |refused: Result<_, Refused>| match refused.map(drop) {
        Err(Refused::Stale { highest }) => Some(highest) == second,
        _ => false,
    };
    assert_eq!(a.read(first).await.unwrap(), START);
    a.write(1, first).await.unwrap();
    a.write(2, first).await.unwrap();
    assert_eq!(b.read(second).await.unwrap(), 2);
    assert!(stale(a.write(3, first).await.map(|()| 0)), "before the second holder has written");
    b.write(4, second).await.unwrap();
    assert!(stale(a.write(5, first).await.map(|()| 0)));
    assert!(stale(a.read(first).await));
    assert!(matches!(a.write(6, None).await, Err(Refused::Failed(_))), "without a token");
    assert_eq!(b.read(second).await.unwrap(), 4);
}

#[tokio::test]
async fn the_store_in_memory_compares_tokens() {
    compares_tokens(Store::Memory.account(true).await.unwrap()).await;
}

#[cfg(feature = "postgres")]
#[tokio::test]
#[ignore = "needs PostgreSQL, at the URL in POSTGRES_URL"]
async fn a_row_of_postgresql_compares_tokens() {
    let url = env::var("POSTGRES_URL").unwrap();
    let store = Store::open(Some(&url)).await.unwrap();
    compares_tokens(store.account(true).await.unwrap()).await;
    store.close().await.unwrap();
}

#[test]
fn arguments_are_servers_of_the_lock_and_a_database() {
    let parse = |arguments: &[&str]| Arguments::parse(arguments.iter().map(ToString::to_string));
    assert_eq!(parse(&[]).unwrap(), Arguments::default());
    let found = parse(&["redis://a", "--postgres", "postgres://b", "redis://c"]).unwrap();
    assert_eq!(found.postgres.as_deref(), Some("postgres://b"));
    assert_eq!(found.urls, ["redis://a", "redis://c"]);
    assert!(parse(&["--postgres"]).is_err());
    assert!(parse(&["--help"]).is_err());
}
