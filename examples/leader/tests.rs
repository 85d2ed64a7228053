use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use tokio::time::Instant;

use super::*;

/// Nodes with the candidates' lock managers.
fn fleet(candidates: usize) -> ([MemoryBackend; 3], Vec<Redlock>) {
    let runtime = TokioRuntime::current();
    let nodes = [(); 3].map(|()| MemoryBackend::new(runtime.clone()));
    nodes.iter().for_each(|node| node.delay_requests(Duration::from_millis(1)));
    let manager = || Redlock::builder(runtime.clone()).nodes(nodes.clone()).build().unwrap();
    let managers = (0..candidates).map(|_| manager()).collect();
    (nodes, managers)
}

/// What the candidates did.
#[derive(Clone, Default)]
struct Record {
    leading: Arc<AtomicUsize>,
    terms: Arc<Mutex<Vec<(NonZeroU64, Instant)>>>,
    /// The candidates, in the order in which they led.
    leaders: Arc<Mutex<Vec<usize>>>,
    ended: Arc<Mutex<Vec<Instant>>>,
}

impl Record {
    /// Leads for `how_long`.
    async fn lead(self, term: NonZeroU64, how_long: Duration) {
        assert_eq!(self.leading.fetch_add(1, Ordering::SeqCst), 0, "another one leads");
        self.terms.lock().unwrap().push((term, Instant::now()));
        let _end = End(self);
        sleep(how_long).await;
    }

    fn terms(&self) -> Vec<(NonZeroU64, Instant)> {
        self.terms.lock().unwrap().clone()
    }
}

struct End(Record);

impl Drop for End {
    fn drop(&mut self) {
        self.0.leading.fetch_sub(1, Ordering::SeqCst);
        self.0.ended.lock().unwrap().push(Instant::now());
    }
}

fn run(managers: Vec<Redlock>, record: &Record, how_long: Duration) {
    for (candidate, redlock) in managers.into_iter().enumerate() {
        let record = record.clone();
        tokio::spawn(async move {
            let lead = |term, _| {
                record.leaders.lock().unwrap().push(candidate);
                record.clone().lead(term, how_long)
            };
            panic!("{}", campaign(&redlock, "leader", lead).await);
        });
    }
}

#[tokio::test(start_paused = true)]
async fn who_resigns_is_followed_at_once_by_another_one_of_a_higher_term() {
    let (_nodes, managers) = fleet(3);
    let record = Record::default();
    run(managers, &record, TTL * 3);
    sleep(TTL * 20).await;
    let terms = record.terms();
    assert!(terms.len() >= 6, "{terms:?}");
    assert!(terms.is_sorted_by(|(one, _), (next, _)| one < next), "{terms:?}");
    assert!(record.leaders.lock().unwrap().windows(2).all(|two| two[0] != two[1]));
    for (end, (_, start)) in record.ended.lock().unwrap().iter().zip(&terms[1..]) {
        assert!(*start - *end < TTL / 4, "{:?} without a leader", *start - *end);
    }
}

#[tokio::test(start_paused = true)]
async fn who_dies_is_followed_when_its_lock_ends() {
    let (_nodes, mut managers) = fleet(3);
    let dead = managers.pop().unwrap();
    // A process that dies neither extends nor releases.
    let lock = dead.lock("leader", TTL).fenced().await.unwrap();
    let (old, died) = (lock.fence().unwrap(), Instant::now());
    lock.forget();
    let record = Record::default();
    run(managers, &record, TTL * 3);
    sleep(TTL * 2).await;
    let (term, start) = record.terms()[0];
    assert!(term > old);
    assert!(start >= died + TTL - Duration::from_millis(10) && start < died + TTL + TTL / 4);
}

#[tokio::test(start_paused = true)]
async fn who_loses_a_majority_of_the_nodes_no_longer_leads_before_another_one_may() {
    let (nodes, managers) = fleet(2);
    let record = Record::default();
    run(managers, &record, Duration::MAX);
    sleep(TTL * 3).await;
    assert_eq!(record.terms().len(), 1, "one leads, however long");
    let stopped = Instant::now();
    nodes[1..].iter().for_each(MemoryBackend::stop);
    sleep(TTL).await;
    assert_eq!(record.leading.load(Ordering::SeqCst), 0);
    assert!(record.ended.lock().unwrap()[0] <= stopped + TTL);
    nodes[1..].iter().for_each(MemoryBackend::resume);
    sleep(TTL).await;
    let terms = record.terms();
    assert_eq!(terms.len(), 2, "{terms:?}");
    assert!(terms[1].0 > terms[0].0);
}
