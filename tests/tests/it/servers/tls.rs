//! TLS connections, on both runtimes, to servers with certificates that were made for the run.

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    os::fd::OwnedFd,
    path::Path,
    time::{Duration, Instant},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use redlock_fred::{
    FredBackend,
    fred::{
        clients::Client as FredClient,
        interfaces::ClientLike,
        rustls::{
            ClientConfig, RootCertStore,
            pki_types::{CertificateDer, pem::PemObject},
        },
        types::config::{Config, ReconnectPolicy},
    },
};
use redlock_redis_rs::{
    Acquire, AcquireReply, BackendError, BackendErrorKind, Error, LockBackend, RedisBackend, Redlock,
    RedlockBuilder, SmolRuntime, Token, TokioRuntime, UnlockOutcome,
    redis::{
        Client, ClientTlsConfig, TlsCertificates, cluster::ClusterClientBuilder, io::tcp::socket2::SockRef,
    },
};
use redlock_tests::{
    cluster::Cluster,
    server::{ReservedPort, Server},
};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use tempfile::TempDir;

const TTL: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(10);
const TOKEN: &str = "00112233445566778899aabbccddeeff";

/// A certificate authority, and certificates that it signs.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let folder = TempDir::new().unwrap();
        params.distinguished_name.push(DnType::CommonName, folder.path().display().to_string());
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    /// A certificate and its key, for a server with this name or address, or for a client.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// Trusts this authority, and has a certificate signed by `client`.
    fn certificates(&self, client: Option<&Self>) -> TlsCertificates {
        let client_tls = client.map(|authority| {
            let (certificate, key) = authority.sign("client");
            ClientTlsConfig { client_cert: certificate.into_bytes(), client_key: key.into_bytes() }
        });
        TlsCertificates { client_tls, root_cert: Some(self.issuer.pem().into_bytes()) }
    }

    /// The options of a server.
    fn options(&self, name: &str, port: u16, auth_clients: &str) -> Vec<String> {
        let (certificate, key) = self.sign(name);
        let file = |name: &str| self.folder.path().join(name).to_str().unwrap().to_owned();
        let (certificate_file, key_file) = (file(&format!("{port}.pem")), file(&format!("{port}.key")));
        write(&certificate_file, &certificate);
        write(&key_file, &key);
        let options = [
            ("--tls-port", port.to_string()),
            ("--tls-cert-file", certificate_file),
            ("--tls-key-file", key_file),
            ("--tls-ca-cert-file", file("ca.pem")),
            ("--tls-auth-clients", auth_clients.to_owned()),
        ];
        options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
    }
}

fn write(path: &str, text: &str) {
    fs::write(Path::new(path), text).unwrap();
}

/// A server with a separate port for TLS connections.
struct TlsServer {
    server: Server,
    port: ReservedPort,
}

impl TlsServer {
    fn start(authority: &Authority, name: &str, auth_clients: &str) -> Self {
        let port = ReservedPort::new();
        let options = authority.options(name, port.number(), auth_clients);
        Self { server: Server::start_with(&strs(&options)), port }
    }

    fn url(&self) -> String {
        format!("rediss://127.0.0.1:{}", self.port.number())
    }

    fn open(&self, certificates: TlsCertificates) -> RedisBackend {
        RedisBackend::open_tls(self.url(), certificates).unwrap()
    }
}

fn strs(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
}

async fn acquire(node: &dyn LockBackend) -> Result<AcquireReply, BackendError> {
    let token: Token = TOKEN.parse().unwrap();
    node.acquire(Acquire::new(&"a".into(), &token, TTL, SOON)).await
}

fn source(error: &BackendError) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}

/// On tokio, and on smol.
fn on_both<F: Future<Output = ()>>(run: impl Fn() -> F) {
    tokio::runtime::Runtime::new().unwrap().block_on(run());
    smol::block_on(run());
}

async fn works(builder: RedlockBuilder, servers: &[TlsServer]) {
    let redlock = builder.build().unwrap();
    let mut lock = redlock.lock("a", TTL).await.unwrap();
    let held = |server: &&TlsServer| server.server.get("a").as_deref() == Some(lock.token().as_str());
    assert!(servers.iter().filter(held).count() >= 2);
    assert!(matches!(redlock.try_lock("a", TTL).await, Err(Error::Contended(_))));
    lock.extend(2 * TTL).await.unwrap();
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
}

#[test]
fn a_private_authority_and_a_clients_certificate_are_enough_on_both_runtimes() {
    let authority = Authority::new();
    let servers = [(); 3].map(|()| TlsServer::start(&authority, "127.0.0.1", "yes"));
    let opened = || servers.iter().map(|server| server.open(authority.certificates(Some(&authority))));
    let own = |server: &TlsServer| {
        let client = Client::build_with_tls(server.url(), authority.certificates(Some(&authority)));
        RedisBackend::from_client(client.unwrap())
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        works(Redlock::builder(TokioRuntime::current()).nodes(opened()), &servers).await;
        works(Redlock::builder(TokioRuntime::current()).nodes(servers.iter().map(own)), &servers).await;
    });
    smol::block_on(async {
        works(Redlock::builder(SmolRuntime::new()).nodes(opened()), &servers).await;
        works(Redlock::builder(SmolRuntime::new()).nodes(servers.iter().map(own)), &servers).await;
    });
}

#[test]
fn a_certificate_that_is_not_trusted_is_rejected_with_the_reason() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = TlsServer::start(&authority, "127.0.0.1", "no");
    let elsewhere = TlsServer::start(&authority, "elsewhere.example", "no");
    on_both(async || {
        assert_eq!(acquire(&server.open(authority.certificates(None))).await.unwrap(), AcquireReply::Granted);
        let by_the_system = RedisBackend::open(server.url()).unwrap();
        for (node, reason) in [
            (server.open(other.certificates(None)), "UnknownIssuer"),
            (elsewhere.open(authority.certificates(None)), "not valid for name"),
            (by_the_system, "UnknownIssuer"),
        ] {
            let refused = acquire(&node).await.unwrap_err();
            let text = source(&refused);
            assert_eq!(refused.kind(), BackendErrorKind::Rejected, "{refused}: {text}");
            assert_eq!(refused.message(), "certificate refused");
            assert!(text.contains(reason), "{text}");
        }
    });
}

#[test]
fn a_client_without_a_certificate_that_the_server_trusts_is_rejected_with_the_reason() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = TlsServer::start(&authority, "127.0.0.1", "yes");
    on_both(async || {
        for client in [None, Some(&other)] {
            let refused = acquire(&server.open(authority.certificates(client))).await.unwrap_err();
            let text = source(&refused);
            assert_eq!(refused.kind(), BackendErrorKind::Rejected, "{refused}: {text}");
            assert_eq!(refused.message(), "certificate refused");
        }
    });
}

#[test]
fn tls_where_there_is_none_and_none_where_there_is_tls_end_by_the_timeout() {
    let authority = Authority::new();
    let server = TlsServer::start(&authority, "127.0.0.1", "no");
    on_both(async || {
        let plain = RedisBackend::open(format!("redis://127.0.0.1:{}", server.port.number())).unwrap();
        let url = format!("rediss://{}", server.server.address());
        let encrypted = RedisBackend::open_tls(url, authority.certificates(None)).unwrap();
        for node in [plain, encrypted] {
            let start = Instant::now();
            let failed = acquire(&node).await.unwrap_err();
            assert_eq!(failed.kind(), BackendErrorKind::Indeterminate, "{failed}");
            assert!(start.elapsed() < SOON / 2, "{node:?} took {:?}", start.elapsed());
        }
    });
}

#[test]
fn sockets_under_tls_have_the_options_that_a_lock_needs() {
    let authority = Authority::new();
    on_both(async || {
        let server = TlsServer::start(&authority, "127.0.0.1", "no");
        let node = server.open(authority.certificates(None));
        assert_eq!(acquire(&node).await.unwrap(), AcquireReply::Granted);
        let ourselves = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        let descriptors = fs::read_dir("/proc/self/fd").unwrap();
        let numbers = descriptors.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        // Keyed by the local port, because a later number of the listing may already be that of a copy made
        // here.
        let sockets = numbers.filter_map(|number: i32| {
            let copy = pidfd_getfd(&ourselves, number, PidfdGetfdFlags::empty()).ok()?;
            let socket = SockRef::from(&copy);
            let peer = socket.peer_addr().ok()?.as_socket()?;
            let own = socket.local_addr().ok()?.as_socket()?;
            (peer.port() == server.port.number()).then_some((own.port(), copy))
        });
        let sockets: BTreeMap<u16, OwnedFd> = sockets.collect();
        assert_eq!(sockets.len(), 1);
        let socket = SockRef::from(sockets.values().next().unwrap());
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(2)));
    });
}

#[test]
fn a_cluster_with_tls_is_a_node_by_its_client() {
    let authority = Authority::new();
    let port = ReservedPort::new();
    let options = authority.options("127.0.0.1", port.number(), "yes");
    let cluster = Cluster::start(1, &[&strs(&options)[..], &["--tls-cluster", "yes"]].concat());
    on_both(async || {
        let client = ClusterClientBuilder::new([format!("rediss://127.0.0.1:{}", port.number())])
            .certs(authority.certificates(Some(&authority)))
            .retries(0)
            .response_timeout(SOON);
        let node = RedisBackend::from_cluster_client(client.build().unwrap());
        assert_eq!(acquire(&node).await.unwrap(), AcquireReply::Granted);
        assert_eq!(cluster.get("a").as_deref(), Some(TOKEN));
    });
}

#[test]
fn a_url_without_tls_is_no_place_for_certificates() {
    let certificates = Authority::new().certificates(None);
    assert!(RedisBackend::open_tls("redis://127.0.0.1", certificates).is_err());
    let nonsense =
        TlsCertificates { client_tls: None, root_cert: Some(b"-----BEGIN CERTIFICATE-----".to_vec()) };
    assert!(RedisBackend::open_tls("rediss://127.0.0.1", nonsense).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fred_accepts_a_private_authority_and_reports_an_unknown_one() {
    let authority = Authority::new();
    let server = TlsServer::start(&authority, "127.0.0.1", "no");

    let unknown = FredBackend::open(&server.url()).unwrap();
    let start = Instant::now();
    let error = acquire(&unknown).await.unwrap_err();
    assert!(start.elapsed() < SOON, "{error}");
    assert_eq!(error.kind(), BackendErrorKind::Rejected, "{error}");
    assert!(source(&error).contains("UnknownIssuer"), "{error}: {}", source(&error));

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.issuer.pem().as_bytes()).unwrap()).unwrap();
    let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let mut config = Config::from_url(&server.url()).unwrap();
    config.tls = Some(tls.into());
    let client = FredClient::new(config, None, None, Some(ReconnectPolicy::new_constant(0, 100)));
    client.init().await.unwrap();
    let node = FredBackend::new(client).unwrap();
    let redlock = Redlock::builder(TokioRuntime::current()).node(node).build().unwrap();
    let mut lock = redlock.try_lock("a", TTL).await.unwrap();
    assert_eq!(server.server.get("a").as_deref(), Some(lock.token().as_str()));
    lock.extend(2 * TTL).await.unwrap();
    assert_eq!(lock.unlock().await.unwrap(), UnlockOutcome::Released);
}
