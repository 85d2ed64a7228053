//! Real requests over loopback.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};

use super::*;

struct Service {
    nodes: Vec<MemoryBackend>,
    bank: Bank,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    served: JoinHandle<std::io::Result<()>>,
}

impl Service {
    async fn start(change: impl FnOnce(&mut Bank)) -> Self {
        let runtime = TokioRuntime::current();
        let nodes: Vec<_> = (0..3).map(|_| MemoryBackend::new(runtime.clone())).collect();
        let mut bank = Bank::new(Redlock::builder(runtime).nodes(nodes.clone()).build().unwrap());
        change(&mut bank);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(serve(bank.clone(), listener, async { stopped.await.unwrap() }));
        Self { nodes, bank, address, stop, served }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.served.await.unwrap().unwrap();
        for node in self.nodes {
            assert_eq!(node.get("bank:account:7"), None, "a lock was left behind");
        }
    }
}

/// The status and the whole response.
async fn withdraw(service: SocketAddr, account: u32, amount: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(service).await.unwrap();
    let request = format!(
        "POST /accounts/{account}/withdraw HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{amount}",
        amount.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let status = response.split(' ').nth(1).unwrap().parse().unwrap();
    (status, response)
}

#[tokio::test]
async fn of_several_withdrawals_at_once_one_is_booked_and_the_others_are_asked_to_come_back() {
    let service = Service::start(|bank| bank.check = Duration::from_secs(1)).await;
    let address = service.address;
    let (a, b, c, other) = tokio::join!(
        withdraw(address, 7, "30"),
        withdraw(address, 7, "30"),
        withdraw(address, 7, "30"),
        withdraw(address, 8, "50"),
    );
    let mut answers = [a, b, c];
    answers.sort_unstable();
    assert_eq!(answers.iter().map(|(status, _)| *status).collect::<Vec<_>>(), [200, 423, 423]);
    assert!(answers[0].1.ends_with("\r\n\r\n70\n"), "{}", answers[0].1);
    assert!(answers[1..].iter().all(|(_, response)| response.contains("retry-after: 1\r\n")), "{answers:?}");
    assert_eq!((other.0, other.1.ends_with("\r\n\r\n50\n")), (200, true), "another account does not wait");
    assert!(withdraw(address, 7, "30").await.1.ends_with("\r\n\r\n40\n"), "it is free again");
    service.stop().await;
}

#[tokio::test]
async fn without_a_quorum_nothing_is_booked() {
    let service = Service::start(|_| ()).await;
    service.nodes[1..].iter().for_each(MemoryBackend::shut_down);
    let (status, response) = withdraw(service.address, 7, "30").await;
    assert_eq!((status, response.contains("retry-after: 1\r\n")), (503, true), "{response}");
    assert!(service.bank.balances.lock().unwrap().is_empty());
    service.stop().await;
}

#[tokio::test]
async fn when_the_lock_is_lost_nothing_is_booked() {
    let slow = |bank: &mut Bank| (bank.ttl, bank.check) = (Duration::from_secs(1), Duration::from_secs(30));
    let service = Service::start(slow).await;
    let lose = async {
        while service.nodes.iter().any(|node| node.get("bank:account:7").is_none()) {
            sleep(Duration::from_millis(1)).await;
        }
        service.nodes.iter().for_each(MemoryBackend::clear);
    };
    let ((status, response), ()) = tokio::join!(withdraw(service.address, 7, "30"), lose);
    assert_eq!(status, 500, "{response}");
    assert!(service.bank.balances.lock().unwrap().is_empty());
    service.stop().await;
}

#[tokio::test]
async fn a_shutdown_lets_the_booking_under_way_finish_and_leaves_no_lock() {
    let service = Service::start(|bank| bank.check = Duration::from_secs(1)).await;
    let under_way = tokio::spawn(withdraw(service.address, 7, "30"));
    while service.nodes[0].get("bank:account:7").is_none() {
        sleep(Duration::from_millis(1)).await;
    }
    service.stop().await;
    assert_eq!(under_way.await.unwrap().0, 200);
}

#[tokio::test]
async fn a_client_that_hangs_up_leaves_no_lock_and_no_booking() {
    let service = Service::start(|bank| bank.check = Duration::from_secs(30)).await;
    let client = tokio::spawn(withdraw(service.address, 7, "30"));
    while service.nodes[0].get("bank:account:7").is_none() {
        sleep(Duration::from_millis(1)).await;
    }
    client.abort();
    let balances = service.bank.balances.clone();
    service.stop().await;
    assert!(balances.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_body_that_is_no_amount_is_refused() {
    let service = Service::start(|_| ()).await;
    assert_eq!(withdraw(service.address, 7, "much").await.0, 400);
    service.stop().await;
}
