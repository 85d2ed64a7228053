//! Building a lock manager.

// Tests: tests/tests/it/sim/limits.rs, sim/random.rs.

use std::{
    collections::BTreeSet,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use crate::{
    admission::Admission,
    backend::LockBackend,
    entropy::Entropy,
    error_text::panic_text,
    fencing::Fencing,
    invalid::{ConfigError, InvalidRequest},
    nodes::Nodes,
    note::Note,
    redlock::Redlock,
    retry::{DelaySource, RetryPolicy},
    runtime::Runtime,
    settings::Settings,
    validity::{Drift, Ttl},
};

/// Builds a [`Redlock`]; from [`Redlock::builder`].
#[must_use = "a builder does nothing until it is built"]
pub struct RedlockBuilder {
    runtime: Arc<dyn Runtime>,
    backends: Vec<Box<dyn LockBackend>>,
    drift_factor: f64,
    node_timeout: Option<Duration>,
    retry: RetryPolicy,
    key_prefix: String,
    entropy: Option<Entropy>,
    fencing: Fencing,
    admission: Admission,
    note: Option<Note>,
    label: Option<String>,
}

impl Redlock {
    /// Starts to make a lock manager that runs on `runtime`.
    pub fn builder(runtime: impl Runtime) -> RedlockBuilder {
        RedlockBuilder::new(Arc::new(runtime))
    }
}

impl RedlockBuilder {
    fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self {
            runtime,
            backends: Vec::new(),
            drift_factor: Drift::DEFAULT_FACTOR,
            node_timeout: None,
            retry: RetryPolicy::default(),
            key_prefix: String::new(),
            entropy: None,
            fencing: Fencing::default(),
            admission: Admission::default(),
            note: None,
            label: None,
        }
    }

    /// Adds a node. Nodes must be independent of each other: no replicas, no shared disk. Use an odd number,
    /// three or five: a fourth node helps no more than the third.
    pub fn node(mut self, backend: impl LockBackend) -> Self {
        self.backends.push(Box::new(backend));
        self
    }

    /// Adds several nodes, as [`RedlockBuilder::node`] adds one.
    pub fn nodes<B: LockBackend>(self, backends: impl IntoIterator<Item = B>) -> Self {
        backends.into_iter().fold(self, Self::node)
    }

    /// What comes before each name that this lock manager locks: with `key_prefix("locks:")`, the name `a` is
    /// the key `locks:a`. The default is none: a name is the key, byte for byte.
    ///
    /// The prefix is added once, where names enter the lock manager. [`Lock::resources`](crate::Lock::resources),
    /// errors, telemetry and [`LockParts`](crate::LockParts) have the keys, as nodes and other clients do, and
    /// [`Redlock::from_parts`] adds nothing to them. So parts go to lock managers with another prefix.
    ///
    /// In a Redis Cluster, a prefix with a hash tag, as `{locks}:`, puts the keys of all locks in one slot. Then
    /// several resources can be locked together, and one shard has all the load.
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.key_prefix = prefix.into();
        self
    }

    /// The share of a TTL by which the clocks of nodes and clients may drift apart while a lock lives, from 0
    /// to less than 1. Every validity is shorter than the TTL by `TTL x drift_factor + 2 ms`. The default is
    /// 0.01.
    pub fn drift_factor(mut self, factor: f64) -> Self {
        self.drift_factor = factor;
        self
    }

    /// How many attempts follow the first; 0 is a single attempt. The default is 3, so 4 attempts. A call that
    /// has to wait for others of this lock manager, or comes right after a release and lets other clients go
    /// first, makes fewer, within the same time.
    pub fn retry_count(mut self, count: u32) -> Self {
        self.retry.count = Some(count);
        self
    }

    /// Makes attempts until one wins or is rejected. Dropping the future ends it.
    pub fn retry_forever(mut self) -> Self {
        self.retry.count = None;
        self
    }

    /// How long to wait after a failed attempt, before jitter; 1 ms at least. The default is 200 ms.
    ///
    /// The wait ends early when nodes that can [watch](crate::LockBackend::watch) report that the resources may
    /// be free. The attempt that follows is an additional one, not one of the [count](Self::retry_count).
    pub fn retry_delay(mut self, delay: Duration) -> Self {
        self.retry.delay.set_delay(delay);
        self
    }

    /// The longest random time that is added to or subtracted from the delay, so that clients that collided
    /// do not collide again. The default is 100 ms.
    pub fn retry_jitter(mut self, jitter: Duration) -> Self {
        self.retry.delay.set_jitter(jitter);
        self
    }

    /// Delays of your own in place of delay and jitter. Each call that locks calls `delays`, and its attempts
    /// end with the iterator, or with the retry count.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # fn example(builder: redlock_core::RedlockBuilder) -> redlock_core::RedlockBuilder {
    /// // 50 ms, 100 ms, ... up to 1.6 s.
    /// builder.retry_forever().retry_delays(|| (0..6).map(|power| Duration::from_millis(50 << power)))
    /// # }
    /// ```
    pub fn retry_delays<F, I>(mut self, delays: F) -> Self
    where
        F: Fn() -> I + Send + Sync + 'static,
        I: IntoIterator<Item = Duration>,
        I::IntoIter: Send + 'static,
    {
        self.retry.delay = crate::retry::Delay::Custom(DelaySource::new(delays));
        self
    }

    /// How long each node may take to reply in each round. The default is a twentieth of the TTL, at least 50
    /// ms and at most 2 s; it is never more than the initial validity of a lock with that TTL.
    ///
    /// Healthy nodes never wait for it: it bounds a round in which so many nodes are silent that the others
    /// cannot decide.
    pub fn node_timeout(mut self, timeout: Duration) -> Self {
        self.node_timeout = Some(timeout);
        self
    }

    /// Gives each lock a fencing token, [`Lock::fence`](crate::Lock::fence): a number that is higher than that of
    /// every lock before on the same resources. The default is none; a single call can ask for one with
    /// [`LockRequest::fenced`](crate::LockRequest::fenced).
    ///
    /// The nodes count their grants, in counters beside the keys. As clients propose their wall clock, the
    /// counters usually agree, and a lock takes one round trip, as one without a token. When they do not, it
    /// takes a second one within the same validity, which raises them to the highest. A wrong clock costs
    /// round trips, but never makes a token wrong.
    ///
    /// Locks without a token exclude these, and the other way round, but only locks with a token count.
    ///
    /// * The nodes must not lose their counters, unless [`fence_quorum`](Self::fence_quorum) allows for it. The
    ///   proposals make up for lost counters as far as the wall clocks of all clients and nodes agree.
    /// * Counters expire when they have not been used for a day: see
    ///   [`fence_counter_ttl`](Self::fence_counter_ttl).
    pub fn fenced(mut self) -> Self {
        self.fencing.always = true;
        self
    }

    /// How many nodes have to grant a lock with a fencing token, and to have the token, from a majority to all
    /// of them. The default is a majority.
    ///
    /// Tokens of a quorum of `q` of `n` nodes stay unique and in order when fewer than `2q - n` nodes lose their
    /// counters between two grants: with 5 nodes, none for a quorum of 3, 2 for a quorum of 4, and 4 for all 5.
    /// In return, fewer nodes may be unreachable when a lock is acquired. Extending and releasing it need a
    /// majority, as ever.
    pub fn fence_quorum(mut self, nodes: usize) -> Self {
        self.fencing.set_quorum(nodes);
        self
    }

    /// How long the nodes keep a resource's counter for fencing tokens after its last use, from a minute to
    /// [`MAX_TTL`](crate::MAX_TTL). The default is a day.
    ///
    /// Once a counter has expired, the next token is the proposal: the client's wall clock. So tokens stay in
    /// order if no wall clock, of a client or a node, is wrong by half of this time or more, less a few
    /// seconds. If yours may be, choose a longer time or [keep them](Self::fence_counters_forever).
    pub fn fence_counter_ttl(mut self, ttl: Duration) -> Self {
        self.fencing.counter_ttl = Some(ttl);
        self
    }

    /// Lets the nodes keep the counters for fencing tokens forever: a key on each node for each resource that
    /// has ever been locked with one.
    pub fn fence_counters_forever(mut self) -> Self {
        self.fencing.counter_ttl = None;
        self
    }

    /// The longest TTL of any lock, and with it the guard against nodes that restart without their data. The
    /// default is none: no guard, and TTLs up to [`MAX_TTL`](crate::MAX_TTL).
    ///
    /// * A longer TTL is [`InvalidRequest::TtlTooLong`](crate::InvalidRequest::TtlTooLong), also of an
    ///   extension or a hand-over.
    /// * A node whose server has been running for less than `max_ttl` has no vote when a lock is acquired: it may
    ///   have forgotten a lock from before its restart, and by then all of those have ended. Its reply says
    ///   so, as [`Transient`](crate::BackendErrorKind::Transient). It still extends and releases locks: it
    ///   cannot have forgotten those.
    /// * A node that does not reveal how long its server has been running is
    ///   [`Rejected`](crate::BackendErrorKind::Rejected): see
    ///   [`unknown_uptime_votes`](Self::unknown_uptime_votes).
    ///
    /// Every client of the nodes has to use it, with the same value. When a majority of the nodes restarts at
    /// once, nobody can lock anything for that time. A restart behind a proxy that keeps its clients'
    /// connections is not seen.
    pub fn max_ttl(mut self, max_ttl: Duration) -> Self {
        self.admission.max_ttl = Some(max_ttl);
        self
    }

    /// Lets nodes vote that cannot tell how long their server has been running, which leaves them without the
    /// guard of [`max_ttl`](Self::max_ttl): a node over a connection of your own, a Cluster, a server that does
    /// not allow `INFO`. The default is that they have no vote in a lock manager with a guard.
    pub fn unknown_uptime_votes(mut self) -> Self {
        self.admission.unknown_uptime_votes = true;
        self
    }

    /// Lets only those servers vote when a lock is acquired that reveal their role and have none of the
    /// [risks](crate::ServerRisk) to locks: no replica or promoted replica, no eviction, and unless there is a
    /// [`max_ttl`](Self::max_ttl) an append-only file. The others are
    /// [`Rejected`](crate::BackendErrorKind::Rejected). The default is that they vote, and that the telemetry
    /// warns of them.
    pub fn safe_servers_only(mut self) -> Self {
        self.admission.safe_servers_only = true;
        self
    }

    /// Gives each lock a note, which the nodes store beside its keys for as long as they live: a short text
    /// that says who holds it. The default is none; [`LockRequest::note`](crate::LockRequest::note) sets it
    /// for a single call. [`Note::of_process`] adds the host and the process:
    ///
    /// ```
    /// # use redlock_core::{Note, RedlockBuilder};
    /// # fn example(builder: RedlockBuilder) -> RedlockBuilder {
    /// builder.note(Note::of_process("nightly report"))
    /// # }
    /// ```
    ///
    /// * [`LockBackend::inspect`] shows the note, and so does `redlock status`. A call that has a note
    ///   itself, and whose last attempt is refused, asks the nodes for the holder's, for its error:
    ///   [`RoundReport::holder`](crate::RoundReport::holder). That takes one more trip, within the node
    ///   timeout and the [`acquire_timeout`](crate::LockRequest::acquire_timeout).
    /// * It is advisory: each note is sent once, in the background, when a lock was won and whenever it was
    ///   extended, and it is removed when the lock is released, or expires with its keys. No lock waits for
    ///   it, or fails with it.
    /// * Whoever may read the keys of the nodes can read it. On a server it is at a key of its own, for
    ///   which the user needs a permission.
    pub fn note(mut self, note: impl Into<Note>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// What telemetry calls this lock manager: the label `manager` of its metrics, and the field `manager` of
    /// its spans and of its events at the levels warn and info. With it, each kind of work of a process has
    /// series and alerts of its own, although no metric has names of resources. The default is none: the label
    /// and the field are left out, and the managers of a process without a label add up.
    ///
    /// Use few, such as the name of a job: each makes about a hundred series. It is for operators only, and
    /// nothing on the nodes depends on it.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// The source of tokens and jitter: a function that fills a slice with random bytes, good enough for
    /// secrets. The default is the operating system's, which two processes never share, not even after a fork
    /// or when a virtual machine is cloned. Use a seeded one to replay a test.
    pub fn entropy(mut self, fill: impl FnMut(&mut [u8]) + Send + 'static) -> Self {
        self.entropy = Some(Entropy::new(fill));
        self
    }

    /// Builds the lock manager. It sends nothing to any node.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when there are no nodes, two nodes have the same name, a value is out of its range, a
    /// node cannot do what is required of it, or the runtime has no working timer.
    pub fn build(self) -> Result<Redlock, ConfigError> {
        let drift = Drift::new(self.drift_factor)?;
        if self.node_timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(ConfigError::ZeroNodeTimeout);
        }
        if let Some(max_ttl) = self.admission.max_ttl {
            Ttl::new(max_ttl, drift).map_err(ConfigError::InvalidMaxTtl)?;
        }
        if self.backends.is_empty() {
            return Err(ConfigError::NoNodes);
        }
        self.fencing.check(self.backends.len())?;
        let mut names = BTreeSet::new();
        for name in self.backends.iter().filter_map(|backend| backend.name()) {
            if !names.insert(name) {
                return Err(ConfigError::DuplicateNode { name: name.to_owned() });
            }
        }
        try_timer(&*self.runtime)?;
        let entropy = match self.entropy {
            Some(entropy) => entropy,
            None => Entropy::of_system().map_err(|reason| ConfigError::RandomSource { reason })?,
        };
        let Self { runtime, node_timeout, admission, fencing, key_prefix, .. } = self;
        let settings = Settings { runtime, drift, node_timeout, admission, fencing };
        let nodes = Nodes::new(settings, self.backends, entropy, self.label.as_deref());
        if fencing.always
            && let Err(InvalidRequest::FencingUnsupported { node }) = nodes.check_fencing()
        {
            return Err(ConfigError::FencingUnsupported { node });
        }
        if self.note.is_some()
            && let Err(InvalidRequest::NotesUnsupported { node }) = nodes.check_notes()
        {
            return Err(ConfigError::NotesUnsupported { node });
        }
        nodes.telemetry().built();
        let key_prefix = (!key_prefix.is_empty()).then(|| key_prefix.into());
        Ok(Redlock::new(Arc::new(nodes), self.retry, key_prefix, self.note))
    }
}

impl fmt::Debug for RedlockBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedlockBuilder")
            .field("runtime", &self.runtime)
            .field("backends", &self.backends)
            .field("drift_factor", &self.drift_factor)
            .field("node_timeout", &self.node_timeout)
            .field("retry", &self.retry)
            .field("key_prefix", &self.key_prefix)
            .field("admission", &self.admission)
            .field("fencing", &self.fencing)
            .field("note", &self.note)
            .field("label", &self.label)
            .finish_non_exhaustive()
    }
}

/// A timer that panics should fail here, not in every request.
fn try_timer(runtime: &dyn Runtime) -> Result<(), ConfigError> {
    let try_one = || {
        let _ = runtime.sleep(Duration::ZERO).as_mut().poll(&mut Context::from_waker(Waker::noop()));
    };
    catch_unwind(AssertUnwindSafe(try_one)).map_err(|panic| ConfigError::Timer { panic: panic_text(&*panic) })
}
