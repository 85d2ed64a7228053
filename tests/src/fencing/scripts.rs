//! A node of which the scripts may have an error.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use redis::aio::MultiplexedConnection;
use redlock_core::{
    Acquire, AcquireFenced, AcquireReply, BackendError, Extend, FencedReply, LockBackend, Raise, Release,
    ReleaseReply, ServerInfo,
    redis::{Argument, Command, Reply, SideKey, classify},
};

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

/// A node whose requests for fencing tokens are those of a backend, or have an error.
#[derive(Debug)]
pub(super) struct Scripts {
    node: Arc<dyn LockBackend>,
    broken: Option<(Broken, MultiplexedConnection)>,
}

impl Scripts {
    pub(super) async fn new(node: Arc<dyn LockBackend>, server: &Server, broken: Option<Broken>) -> Self {
        let broken = match broken {
            Some(broken) => {
                let connection = server.client().get_multiplexed_async_connection().await;
                Some((broken, connection.expect("a server of our own")))
            }
            None => None,
        };
        Self { node, broken }
    }

    pub(super) fn is_right(&self) -> bool {
        self.broken.is_none()
    }
}

#[async_trait]
impl LockBackend for Scripts {
    async fn acquire(&self, request: Acquire<'_>) -> Result<AcquireReply, BackendError> {
        self.node.acquire(request).await
    }

    async fn extend(&self, request: Extend<'_>) -> Result<AcquireReply, BackendError> {
        self.node.extend(request).await
    }

    async fn release(&self, request: Release<'_>) -> Result<ReleaseReply, BackendError> {
        let released = self.node.release(request).await;
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
        match &self.broken {
            Some((broken, connection)) => {
                run(&Command::acquire_fenced(&request), *broken, connection.clone()).await
            }
            None => self.node.acquire_fenced(request).await,
        }
    }

    async fn raise(&self, request: Raise<'_>) -> Result<FencedReply, BackendError> {
        match &self.broken {
            Some((Broken::NoRaise, _)) => Ok(FencedReply::Granted { counter: request.fence }),
            // Its counters live for as long as is usual, so that only an acquire shows the error.
            Some((broken, connection)) if *broken != Broken::CounterDiesWithItsKey => {
                run(&Command::raise(&request), *broken, connection.clone()).await
            }
            _ => self.node.raise(request).await,
        }
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

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use redlock_core::Resources;

    use super::*;

    const SOON: Duration = Duration::from_secs(1);

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
