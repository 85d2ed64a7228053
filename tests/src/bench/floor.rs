//! The floor: a lock and its unlock written by hand on the clients' own connections, with what is needed for
//! a healthy fleet and no more. No clean-up, no validity, no retries.

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use redis::{Cmd, Value, aio::MultiplexedConnection, io::tcp::TcpSettings};
use redlock_fred::fred::{
    clients::Client,
    interfaces::ClientLike,
    types::{Builder, ClusterHash, CustomCommand, Value as FredValue, config::Config},
};

use super::{TTL, fleet::Reachable};

/// How a floor deletes its key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Release {
    /// A script that the server has loaded, by `EVALSHA`.
    Script,
    /// `DELIFEQ`.
    Native,
}

/// One connection of redis-rs for each node.
#[derive(Clone)]
pub(crate) struct Floor {
    nodes: Arc<[MultiplexedConnection]>,
    release: Release,
    /// The script's hash.
    script: Arc<str>,
    tokens: Tokens,
}

impl Floor {
    /// With the client's defaults.
    pub(crate) async fn connect(servers: &[impl Reachable], release: Release) -> Self {
        Self::connect_with(servers, release, TcpSettings::default()).await
    }

    /// Sends each write at once, as the library's own connections do.
    pub(crate) async fn connect_without_delay(servers: &[impl Reachable], release: Release) -> Self {
        Self::connect_with(servers, release, TcpSettings::default().set_nodelay(true)).await
    }

    async fn connect_with(servers: &[impl Reachable], release: Release, tcp: TcpSettings) -> Self {
        let (mut nodes, script) = (Vec::new(), load_script(servers));
        for server in servers {
            let address = client(server).get_connection_info().clone().set_tcp_settings(tcp.clone());
            let client = redis::Client::open(address).expect("the test's own URL");
            let connection = client.get_multiplexed_async_connection().await;
            nodes.push(connection.expect("a server that runs"));
        }
        Self { nodes: nodes.into(), release, script, tokens: Tokens::default() }
    }

    /// Returns whether a quorum granted and released it.
    pub(crate) async fn cycle(&self, resource: &str) -> bool {
        match self.lock(resource).await {
            Some(token) => self.unlock(resource, &token).await,
            None => false,
        }
    }

    /// The token, if a quorum granted.
    pub(crate) async fn lock(&self, resource: &str) -> Option<String> {
        let token = self.tokens.next();
        let mut set = Cmd::with_capacity(6, SET_BYTES + resource.len());
        set.arg("SET").arg(resource).arg(&token).arg("NX").arg("PX").arg(TTL.as_millis() as u64);
        self.round(set, |reply| matches!(reply, Value::Okay)).await.then_some(token)
    }

    pub(crate) async fn unlock(&self, resource: &str, token: &str) -> bool {
        let mut delete = Cmd::with_capacity(5, DELETE_BYTES + resource.len());
        match self.release {
            Release::Script => delete.arg("EVALSHA").arg(&*self.script).arg(1),
            Release::Native => delete.arg("DELIFEQ"),
        };
        delete.arg(resource).arg(token);
        self.round(delete, |reply| matches!(reply, Value::Int(1))).await
    }

    async fn round(&self, command: Cmd, yes: fn(&Value) -> bool) -> bool {
        let command = Arc::new(command);
        let request = |node: &MultiplexedConnection| {
            let (mut node, command) = (node.clone(), command.clone());
            async move { node.send_packed_command(&command).await.is_ok_and(|reply| yes(&reply)) }
        };
        decide(self.nodes.iter().map(request).collect(), self.nodes.len()).await
    }
}

/// One client of fred for each node.
#[derive(Clone)]
pub(crate) struct FredFloor {
    nodes: Arc<[Client]>,
    /// The script's hash.
    script: Arc<str>,
    tokens: Tokens,
}

impl FredFloor {
    /// With the client's defaults.
    pub(crate) async fn connect(servers: &[impl Reachable]) -> Self {
        Self::connect_with(servers, None).await
    }

    /// As [`Floor::connect_without_delay`]: fred writes each command by itself.
    pub(crate) async fn connect_without_delay(servers: &[impl Reachable]) -> Self {
        Self::connect_with(servers, Some(true)).await
    }

    async fn connect_with(servers: &[impl Reachable], nodelay: Option<bool>) -> Self {
        let (mut nodes, script) = (Vec::new(), load_script(servers));
        for server in servers {
            let config = Config::from_url(&server.url()).expect("the test's own URL");
            let mut builder = Builder::from_config(config);
            builder.with_connection_config(|config| config.tcp.nodelay = nodelay);
            let client = builder.build().expect("a client");
            client.init().await.expect("a server that runs");
            nodes.push(client);
        }
        Self { nodes: nodes.into(), script, tokens: Tokens::default() }
    }

    pub(crate) async fn cycle(&self, resource: &str) -> bool {
        let token = self.tokens.next();
        let ttl = TTL.as_millis().to_string();
        let ok = |reply: &FredValue| reply.as_str().is_some_and(|text| text == "OK");
        let one = |reply: &FredValue| reply.as_i64() == Some(1);
        self.round("SET", &[resource, &token, "NX", "PX", &ttl], ok).await
            && self.round("EVALSHA", &[&self.script, "1", resource, &token], one).await
    }

    async fn round(&self, command: &'static str, arguments: &[&str], yes: fn(&FredValue) -> bool) -> bool {
        let request = |node: &Client| {
            let command = CustomCommand::new_static(command, ClusterHash::FirstKey, false);
            let arguments: Vec<FredValue> = arguments.iter().map(|text| (*text).into()).collect();
            let node = node.clone();
            async move { node.custom::<FredValue, _>(command, arguments).await.is_ok_and(|reply| yes(&reply)) }
        };
        decide(self.nodes.iter().map(request).collect(), self.nodes.len()).await
    }
}

/// Waits for a majority, and lets the rest finish by themselves.
async fn decide<F>(mut requests: FuturesUnordered<F>, nodes: usize) -> bool
where
    F: Future<Output = bool> + Send + 'static,
{
    let quorum = nodes / 2 + 1;
    let (mut granted, mut refused) = (0, 0);
    while granted < quorum && refused <= nodes - quorum {
        match requests.next().await {
            Some(true) => granted += 1,
            Some(false) => refused += 1,
            None => break,
        }
    }
    if !requests.is_empty() {
        tokio::spawn(async move { while requests.next().await.is_some() {} });
    }
    granted >= quorum
}

/// Tokens that no other floor of this run has. They are no secrets: random ones would only cost it time.
#[derive(Clone, Default)]
struct Tokens(Arc<AtomicU64>);

impl Tokens {
    fn next(&self) -> String {
        let mut token = String::with_capacity(40);
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        let _ = write!(token, "{:024x}{number:016x}", Arc::as_ptr(&self.0) as usize);
        token
    }
}

/// The hash of the script that deletes a key.
fn load_script(servers: &[impl Reachable]) -> Arc<str> {
    let mut hash = String::new();
    for server in servers {
        let mut connection = client(server).get_connection().expect("a server that runs");
        let loaded = redis::cmd("SCRIPT").arg("LOAD").arg(RELEASE).query(&mut connection);
        hash = loaded.expect("a server that loads scripts");
    }
    hash.into()
}

fn client(server: &impl Reachable) -> redis::Client {
    redis::Client::open(server.url()).expect("the test's own URL")
}

/// As redsync and others delete a key.
const RELEASE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end";
/// Of the words of a `SET` and of a deletion, without the name.
const SET_BYTES: usize = 60;
const DELETE_BYTES: usize = 90;
