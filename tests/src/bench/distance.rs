//! Servers that are far away: what passes between them and their clients arrives later, in both directions.
//! Unlike [`Proxy`](crate::proxy::Proxy) it delays each write by itself, as a network does, and by less than
//! the millisecond of an asynchronous runtime's timer.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use super::fleet::Reachable;
use crate::server::Server;

/// The way to one server. Dropping it ends new connections; each one that is open ends with its client.
pub(crate) struct Distance {
    address: SocketAddr,
    over: Arc<AtomicBool>,
}

impl Distance {
    /// A way that takes `one_way` in each direction.
    pub(crate) fn to(server: &Server, one_way: Duration) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let (over, port) = (Arc::new(AtomicBool::new(false)), server.port());
        let ended = over.clone();
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                // A server that is down refuses, and so does the way to it.
                let _ = relay(client, port, one_way);
            }
        });
        Self { address, over }
    }
}

impl Reachable for Distance {
    fn url(&self) -> String {
        format!("redis://{}", self.address)
    }
}

impl Drop for Distance {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // The listener waits for a connection.
        let _ = TcpStream::connect(self.address);
    }
}

fn relay(client: TcpStream, port: u16, one_way: Duration) -> io::Result<()> {
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
    }
    carry(client.try_clone()?, server.try_clone()?, one_way);
    carry(server, client, one_way);
    Ok(())
}

/// Carries what comes from one to the other, until the end of either.
fn carry(mut from: TcpStream, mut to: TcpStream, one_way: Duration) {
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            if sender.send((Instant::now() + one_way, buffer[..read].to_vec())).is_err() {
                break;
            }
        }
    });
    thread::spawn(move || {
        for (due, bytes) in receiver {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trip_takes_both_ways_and_a_request_does_not_wait_for_the_one_before() {
        let (server, one_way) = (Server::start(), Duration::from_secs(1));
        let distance = Distance::to(&server, one_way);
        let mut stream = TcpStream::connect(distance.address).unwrap();
        let (start, mut reply) = (Instant::now(), [0; 7]);
        stream.write_all(b"PING\r\n").unwrap();
        thread::sleep(one_way / 2);
        stream.write_all(b"PING\r\n").unwrap();

        stream.read_exact(&mut reply).unwrap();
        let first = start.elapsed();
        assert!(first >= 2 * one_way, "{first:?}");
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"+PONG\r\n");
        // As far behind as it was sent; one delay after the other would make it a whole one.
        let behind = start.elapsed() - first;
        assert!(behind < one_way * 3 / 4, "{behind:?}");
    }
}
