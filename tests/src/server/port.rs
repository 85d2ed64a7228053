//! Ports that nobody else takes.

use tokio::net::TcpSocket;

/// A port that stays reserved while no server uses it: a socket is bound to it, but does not listen.
#[derive(Debug)]
pub struct ReservedPort {
    number: u16,
    _socket: TcpSocket,
}

impl ReservedPort {
    /// Reserves a free port.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "each call reserves another port")]
    pub fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        // The server sets this option, too, so it can bind to the same port.
        socket.set_reuseaddr(true).expect("a socket option");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a loopback port");
        let number = socket.local_addr().expect("a bound address").port();
        Self { number, _socket: socket }
    }

    /// The port on 127.0.0.1.
    pub fn number(&self) -> u16 {
        self.number
    }
}
