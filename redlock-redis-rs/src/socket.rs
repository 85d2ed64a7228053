//! TCP connections under tokio. What many tasks send at the same time goes out in one write.

// Tests: below; tests/tests/it/servers/writes.rs.

use std::{
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::select_ok;
use redis::{
    AsyncConnectionConfig, ConnectionAddr, ConnectionInfo, RedisConnectionInfo, RedisResult,
    aio::MultiplexedConnection,
    io::tcp::{TcpSettings, socket2::SockRef},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, lookup_host},
    runtime::Handle,
    task::AbortHandle,
};

use crate::login::Driver;

/// Connects to a server, without a login. `None` where redis-rs has to do it: outside of tokio, over TLS, to
/// a Unix socket, or with an option that only redis-rs can set.
pub(crate) async fn connect(
    info: &ConnectionInfo,
    settings: &RedisConnectionInfo,
    config: &AsyncConnectionConfig,
) -> Option<RedisResult<(MultiplexedConnection, Driver)>> {
    let ConnectionAddr::Tcp(host, port) = info.addr() else { return None };
    if may_linger(info.tcp_settings()) {
        return None;
    }
    let runtime = Handle::try_current().ok()?;
    let connecting = async {
        let addresses = lookup_host((&**host, *port)).await?;
        let stream = Together::new(open(addresses, info.tcp_settings()).await?);
        let (connection, driver) =
            MultiplexedConnection::new_with_config(settings, stream, config.clone()).await?;
        let driver: Driver = Arc::new(AbortOnDrop(runtime.spawn(driver).abort_handle()));
        Ok((connection, driver))
    };
    Some(connecting.await)
}

/// Whether a client of the user sets `SO_LINGER`. Nothing else of the settings shows it.
fn may_linger(settings: &TcpSettings) -> bool {
    !format!("{settings:?}").contains("linger_time: None")
}

/// A connection to the first address of a host that accepts one.
async fn open(
    addresses: impl IntoIterator<Item = SocketAddr>,
    settings: &TcpSettings,
) -> io::Result<TcpStream> {
    let connecting = addresses.into_iter().map(|address| Box::pin(TcpStream::connect(address)));
    let connecting: Vec<_> = connecting.collect();
    if connecting.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address"));
    }
    let (stream, _) = select_ok(connecting).await?;
    stream.set_nodelay(settings.nodelay())?;
    let socket = SockRef::from(&stream);
    if let Some(keep_alive) = settings.keepalive() {
        socket.set_tcp_keepalive(keep_alive)?;
    }
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "fuchsia"))]
    socket.set_tcp_user_timeout(settings.user_timeout())?;
    Ok(stream)
}

/// Ends a connection's task. redis-rs does so only for tasks of its own.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A stream that lets all other tasks run before it writes.
///
/// The task of a connection is woken by the first request. Without the detour it writes that one alone, while
/// the tasks that were woken by the same replies have not sent theirs yet: a system call, and a packet, for
/// each. When no other task is ready, the write follows at once.
struct Together<S> {
    stream: S,
    others_ran: bool,
}

impl<S> Together<S> {
    fn new(stream: S) -> Self {
        Self { stream, others_ran: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Together<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        pin!(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Together<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !self.others_ran {
            self.others_ran = true;
            // A task that wakes itself goes to the end of the queue.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let written = pin!(&mut self.stream).poll_write(cx, bytes);
        self.others_ran = written.is_pending();
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{task::Waker, time::Duration};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        net::TcpListener,
    };

    use super::*;

    #[test]
    fn others_run_before_each_write_and_only_once() {
        let (stream, mut other) = duplex(4);
        let mut together = Together::new(stream);
        let cx = || Context::from_waker(Waker::noop());
        let mut write = |bytes: &[u8]| pin!(&mut together).poll_write(&mut cx(), bytes);
        assert!(write(b"abcdef").is_pending());
        assert!(matches!(write(b"abcdef"), Poll::Ready(Ok(4))));
        assert!(write(b"ef").is_pending());
        assert!(write(b"ef").is_pending(), "the stream is full");
        let mut read = [0; 4];
        assert!(pin!(other.read_exact(&mut read)).poll(&mut cx()).is_ready());
        assert!(matches!(write(b"ef"), Poll::Ready(Ok(2))), "the others have run before");
        assert!(write(b"g").is_pending());
    }

    #[tokio::test]
    async fn a_write_needs_no_other_event() {
        let (stream, mut other) = duplex(64);
        let mut together = Together::new(stream);
        together.write_all(b"abc").await.unwrap();
        let mut read = [0; 3];
        other.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"abc");
        other.write_all(b"d").await.unwrap();
        assert_eq!(together.read_u8().await.unwrap(), b'd');
        together.shutdown().await.unwrap();
        assert_eq!(other.read(&mut read).await.unwrap(), 0);
    }

    #[test]
    fn the_linger_time_of_a_client_is_noticed() {
        let settings = crate::connector::tcp_settings();
        assert!(!may_linger(&settings));
        assert!(may_linger(&settings.set_linger_time(Duration::ZERO)));
    }

    #[tokio::test]
    async fn a_server_is_found_at_any_of_its_addresses_and_has_the_options() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let settings = crate::connector::tcp_settings();
        let stream = open([nobody, listener.local_addr().unwrap()], &settings).await.unwrap();
        let socket = SockRef::from(&stream);
        assert!(stream.nodelay().unwrap() && socket.keepalive().unwrap());
        #[cfg(any(target_os = "linux", target_os = "android", target_os = "fuchsia"))]
        {
            assert!(settings.user_timeout().is_some());
            assert_eq!(socket.tcp_user_timeout().unwrap(), settings.user_timeout());
        }
        assert_eq!(open([], &settings).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    /// Otherwise its task would wait for a server that reads no more, for as long as the kernel lets it.
    #[tokio::test]
    async fn a_connection_that_is_dropped_is_closed_although_it_has_more_to_write() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = redis::Client::open(format!("redis://{}", listener.local_addr().unwrap())).unwrap();
        let silent = RedisConnectionInfo::default().set_skip_set_lib_name();
        let config = AsyncConnectionConfig::new();
        let connected = connect(client.get_connection_info(), &silent, &config).await.unwrap();
        let (mut connection, driver) = connected.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let asking = tokio::spawn(async move {
            let mut command = redis::cmd("PING");
            command.arg(vec![b'x'; MORE_THAN_THE_KERNEL_BUFFERS]);
            connection.send_packed_command(&command).await
        });
        assert_eq!(server.read_u8().await.unwrap(), b'*');
        asking.abort();
        drop(driver);
        let mut read = Vec::new();
        // It may be reset, as not all was written.
        let _ = server.read_to_end(&mut read).await;
        assert!(read.len() < MORE_THAN_THE_KERNEL_BUFFERS, "all {} bytes came", read.len());
    }

    const MORE_THAN_THE_KERNEL_BUFFERS: usize = 64 << 20;
}
