//! Listeners that accept and never reply, or that do not even accept.

use std::{
    io::Read,
    net::{SocketAddr, TcpListener},
    thread,
    time::Duration,
};

use tokio::net::{TcpSocket, TcpStream};

/// The address of a listener that reads every request and never replies.
pub(crate) fn silent_listener() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let address = listener.local_addr().expect("a bound address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || stream.expect("a connection").read_to_end(&mut Vec::new()));
        }
    });
    address
}

/// A listener whose queue is full, so that the kernel drops every further connection request.
pub(crate) async fn black_hole() -> (SocketAddr, impl Sized) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a loopback port");
    let listener = socket.listen(1).expect("a listener");
    let address = listener.local_addr().expect("a bound address");
    let mut queued = Vec::new();
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
    {
        queued.push(stream.expect("a connection"));
    }
    (address, (listener, queued))
}
