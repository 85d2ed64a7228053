//! The way to a server: requests and replies are lost, late or sent twice, and may meet a script with an
//! error.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use rand::{RngExt, rngs::ChaCha8Rng};
use redis::aio::MultiplexedConnection;
use redlock_core::{
    Acquire, AcquireFenced, AcquireReply, BackendError, BackendErrorKind, Extend, FencedReply, LockBackend,
    Raise, Release, ReleaseReply, ServerInfo,
    redis::{Argument, Command, Reply, SideKey, classify},
};

use super::World;
use crate::server::Server;

/// An error on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// A grant does not count on: it has the number of the one before, unless a proposal is higher.
    GrantDoesNotCount,
    /// A raise sets a counter that is higher, too, and acknowledges it.
    RaiseLowers,
    /// A raise does not look at the keys.
    RaiseWithoutTheKey,
    /// A counter lives as long as its key.
    CounterDiesWithItsKey,
    /// Clients take the highest counter of a quorum, and raise none.
    NoRaise,
}

impl Broken {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::GrantDoesNotCount,
        Self::RaiseLowers,
        Self::RaiseWithoutTheKey,
        Self::CounterDiesWithItsKey,
        Self::NoRaise,
    ];

    /// A script of ours with this error.
    fn breaks(self, script: &str) -> String {
        let replacements: &[[&str; 2]] = match self {
            Self::GrantDoesNotCount => {
                &[["math.max(f+1,", "math.max(f,1,"], ["math.max(highest + 1,", "math.max(highest, 1,"]]
            }
            Self::RaiseLowers => &[
                ["f=math.max(f,tonumber(s)) ", ""],
                ["counters[i] = math.max(fence, tonumber(value))", "counters[i] = fence"],
            ],
            Self::RaiseWithoutTheKey => &[
                ["if redis.call('GET',k)~=ARGV[1] then return 0 end ", ""],
                ["if redis.call('GET', KEYS[i]) ~= ARGV[1] then return 0 end", ""],
            ],
            // The third argument of an acquire is the TTL of the keys.
            Self::CounterDiesWithItsKey => &[
                ["digits, 'PX', ARGV[4]", "digits, 'PX', ARGV[2]"],
                ["redis.call('SET',c,s,'PX',ARGV[4])", "redis.call('SET',c,s,'PX',ARGV[2])"],
            ],
            Self::NoRaise => &[],
        };
        let broken = |script: String, [right, wrong]: &[&str; 2]| script.replace(right, wrong);
        replacements.iter().fold(script.to_owned(), broken)
    }
}

/// What a network has done to requests.
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests that were not sent.
    pub lost_requests: AtomicU64,
    /// Requests that were sent late.
    pub late_requests: AtomicU64,
    /// Replies that were dropped.
    pub lost_replies: AtomicU64,
    /// Replies that were late.
    pub late_replies: AtomicU64,
    /// Requests that were sent once more, later.
    pub repeats: AtomicU64,
    /// Requests for a second trip: to raise counters.
    pub raises: AtomicU64,
}

impl Counts {
    pub(super) fn copy(&self) -> Self {
        let copy = |count: &AtomicU64| AtomicU64::new(count.load(Ordering::Relaxed));
        Self {
            lost_requests: copy(&self.lost_requests),
            late_requests: copy(&self.late_requests),
            lost_replies: copy(&self.lost_replies),
            late_replies: copy(&self.late_replies),
            repeats: copy(&self.repeats),
            raises: copy(&self.raises),
        }
    }
}

/// A client's way to a server.
pub(super) struct Wire {
    node: Arc<dyn LockBackend>,
    broken: Option<(Broken, MultiplexedConnection)>,
    world: Arc<World>,
    rng: Mutex<ChaCha8Rng>,
}

/// What happens to a request.
struct Fate {
    request_is_lost: bool,
    request_is_late_by: Duration,
    reply_is_lost: bool,
    reply_is_late_by: Duration,
    repeated_after: Option<Duration>,
}

impl Wire {
    pub(super) async fn new(
        node: Arc<dyn LockBackend>,
        server: &Server,
        world: &Arc<World>,
        rng: ChaCha8Rng,
    ) -> Arc<Self> {
        let broken = match world.broken {
            Some(broken) => {
                let connection = server.client().get_multiplexed_async_connection().await;
                Some((broken, connection.expect("a server of our own")))
            }
            None => None,
        };
        Arc::new(Self { node, broken, world: world.clone(), rng: Mutex::new(rng) })
    }

    fn fate(&self) -> Fate {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        let mut late =
            || Duration::from_micros(if rng.random_bool(0.25) { rng.random_range(0..5_000) } else { 0 });
        let (request_is_late_by, reply_is_late_by) = (late(), late());
        let repeated = rng.random_bool(0.05).then(|| rng.random_range(0..50_000));
        Fate {
            request_is_lost: rng.random_bool(0.05),
            request_is_late_by,
            reply_is_lost: rng.random_bool(0.05),
            reply_is_late_by,
            repeated_after: repeated.map(Duration::from_micros),
        }
    }

    /// What the client sees of a request, which `repeat` sends once more. A release may overtake its acquire
    /// here.
    async fn pass<T>(
        &self,
        request: impl Future<Output = Result<T, BackendError>> + Send,
        repeat: impl FnOnce(Duration) + Send,
    ) -> Result<T, BackendError> {
        let (fate, counts) = (self.fate(), &self.world.counts);
        if let Some(after) = fate.repeated_after {
            repeat(after);
        }
        if fate.request_is_lost {
            counts.lost_requests.fetch_add(1, Ordering::Relaxed);
            return Err(lost());
        }
        if !fate.request_is_late_by.is_zero() {
            counts.late_requests.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(fate.request_is_late_by).await;
        }
        let reply = request.await;
        if !fate.reply_is_late_by.is_zero() {
            counts.late_replies.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(fate.reply_is_late_by).await;
        }
        if fate.reply_is_lost {
            counts.lost_replies.fetch_add(1, Ordering::Relaxed);
            return Err(lost());
        }
        reply
    }

    async fn grant(&self, request: AcquireFenced<'_>) -> Result<FencedReply, BackendError> {
        match &self.broken {
            Some((broken, connection)) => {
                run(&Command::acquire_fenced(&request), *broken, connection.clone()).await
            }
            None => self.node.acquire_fenced(request).await,
        }
    }

    async fn lift(&self, request: Raise<'_>) -> Result<FencedReply, BackendError> {
        match &self.broken {
            Some((Broken::NoRaise, _)) => Ok(FencedReply::Granted { counter: request.fence }),
            // Its counters live for as long as is usual, so that only an acquire shows the error.
            Some((broken, connection)) if *broken != Broken::CounterDiesWithItsKey => {
                run(&Command::raise(&request), *broken, connection.clone()).await
            }
            _ => self.node.raise(request).await,
        }
    }
}

#[async_trait]
impl LockBackend for Wire {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.pass(self.node.acquire(request), |_| ()).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.pass(self.node.extend(request), |_| ()).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        let released = self.pass(self.node.release(request), |_| ()).await;
        if let Some((Broken::CounterDiesWithItsKey, connection)) = &self.broken
            && matches!(released, Ok(ReleaseReply::Removed))
        {
            let keys = request.resources.iter().map(|resource| SideKey::counter(resource).to_string());
            let mut command = redis::cmd("DEL");
            command.arg(keys.collect::<Vec<_>>());
            let _ = command.exec_async(&mut connection.clone()).await;
        }
        released
    }

    fn can_fence(&self) -> bool {
        self.node.can_fence()
    }

    async fn acquire_fenced(&self, request: AcquireFenced<'_>) -> Result<FencedReply, BackendError> {
        let repeat = |after| {
            self.world.counts.repeats.fetch_add(1, Ordering::Relaxed);
            let (node, ttl, proposal) = (self.node.clone(), request.ttl, request.proposal);
            let (resources, token) = (request.resources.clone(), request.token.clone());
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                let acquire = Acquire::new(&resources, &token, ttl, SOON);
                let _ = node.acquire_fenced(AcquireFenced::new(acquire, proposal, None)).await;
            });
        };
        // An error of the scripts shows in the client's own requests.
        let repeat = |after| {
            if self.broken.is_none() {
                repeat(after)
            }
        };
        self.pass(self.grant(request), repeat).await
    }

    async fn raise(&self, request: Raise<'_>) -> Result<FencedReply, BackendError> {
        if request.ttl.is_none() {
            self.world.counts.raises.fetch_add(1, Ordering::Relaxed);
        }
        let repeat = |after| {
            self.world.counts.repeats.fetch_add(1, Ordering::Relaxed);
            let (node, fence) = (self.node.clone(), request.fence);
            let (resources, token) = (request.resources.clone(), request.token.clone());
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                let _ = node.raise(Raise::new(&resources, &token, fence, None, SOON)).await;
            });
        };
        let repeat = |after| {
            if self.broken.is_none() {
                repeat(after)
            }
        };
        self.pass(self.lift(request), repeat).await
    }

    fn name(&self) -> Option<&str> {
        self.node.name()
    }

    fn timed_out(&self, timeout: Duration) -> BackendError {
        self.node.timed_out(timeout)
    }

    fn server(&self) -> Option<Arc<ServerInfo>> {
        self.node.server()
    }

    fn uptime(&self) -> Result<Duration, BackendError> {
        self.node.uptime()
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("node", &self.node).finish_non_exhaustive()
    }
}

/// Runs a command of ours with an error in its script.
async fn run(
    command: &Command<'_>,
    broken: Broken,
    mut connection: MultiplexedConnection,
) -> Result<FencedReply, BackendError> {
    let mut to_send = redis::cmd(command.name());
    for (position, argument) in command.arguments().enumerate() {
        match argument {
            Argument::Text(script) if position == 0 => to_send.arg(broken.breaks(script)),
            Argument::Text(text) => to_send.arg(text),
            Argument::Side(key) => to_send.arg(key.to_string()),
            Argument::Number(number) => to_send.arg(number),
        };
    }
    let reply = to_send.query_async(&mut connection).await;
    let reply: i64 = reply.map_err(|error| BackendError::from(classify(&error.to_string())))?;
    Reply::Number(reply).fenced()
}

fn lost() -> BackendError {
    BackendError::new(BackendErrorKind::Indeterminate, "lost on purpose")
}

const SOON: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use redlock_core::Resources;

    use super::*;

    /// Otherwise an error would no longer be one.
    #[test]
    fn each_error_changes_the_scripts_for_one_resource_and_for_several() {
        let token = "0".repeat(40).parse().expect("hex digits");
        for resources in [Resources::from("a"), Resources::from(["a", "b"])] {
            let acquire = Acquire::new(&resources, &token, SOON, SOON);
            let acquire = AcquireFenced::new(acquire, 0, Some(SOON));
            let raise = Raise::new(&resources, &token, NonZeroU64::MIN, Some(SOON), SOON);
            let scripts = [Command::acquire_fenced(&acquire), Command::raise(&raise)];
            let scripts = scripts.map(|command| command.arguments().next());
            for broken in Broken::ALL {
                let changed = scripts.map(|script| match script {
                    Some(Argument::Text(script)) => broken.breaks(script) != script,
                    _ => panic!("a script comes first"),
                });
                let expected = match broken {
                    Broken::GrantDoesNotCount => [true, false],
                    Broken::RaiseLowers | Broken::RaiseWithoutTheKey => [false, true],
                    Broken::CounterDiesWithItsKey => [true, true],
                    Broken::NoRaise => [false, false],
                };
                assert_eq!(changed, expected, "{broken:?}");
            }
        }
    }
}
