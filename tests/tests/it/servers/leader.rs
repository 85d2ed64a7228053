//! The example `leader`, as processes on real servers: who dies or loses its servers is followed.

#![allow(clippy::print_stdout, reason = "the figures of the example's docs")]

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use redlock_tests::server::Server;

use crate::built::built;

/// That of the example.
const TTL: Duration = Duration::from_secs(3);
/// For what is bound to happen: a machine may be busy.
const LONG: Duration = Duration::from_secs(30);

#[test]
fn a_leader_that_is_killed_is_followed_by_one_of_a_higher_term() {
    let servers = Server::start_some(3);
    let mut candidates = Candidates::start(&servers, 3);
    let first = candidates.next_leads();
    candidates.kill(first.process);
    let killed = Instant::now();
    let second = candidates.next_leads();
    println!("another one led {} ms after the kill", killed.elapsed().as_millis());
    assert_ne!(second.process, first.process);
    assert!(second.term > first.term, "{first:?} {second:?}");
}

#[test]
fn a_leader_outlives_a_minority_of_its_servers_and_gives_up_with_the_majority() {
    let mut servers = Server::start_some(3);
    let candidates = Candidates::start(&servers, 2);
    let first = candidates.next_leads();
    // Two candidates may split the servers at first, so that the winner has two of three. Its first extension
    // puts its key on the third.
    assert_eq!(candidates.next(TTL), None, "its lock is extended");
    servers[0].kill();
    assert_eq!(candidates.next(TTL * 2), None, "nothing happens");

    let cut = Instant::now();
    servers[1].pause();
    let end = candidates.next(LONG).expect("nobody leads without a majority");
    assert_eq!(end, Event { leads: false, ..first }, "{first:?}");
    println!("it gave up {} ms after the majority was lost", cut.elapsed().as_millis());
    assert_eq!(candidates.next(TTL * 2), None, "nobody leads");

    let back = Instant::now();
    servers[1].resume();
    let second = candidates.next_leads();
    println!("another one led {} ms after the majority was back", back.elapsed().as_millis());
    assert!(second.term > first.term, "{first:?} {second:?}");
}

/// Processes, which end when this is dropped.
struct Candidates {
    processes: Vec<Child>,
    events: Receiver<Event>,
}

/// A candidate leads, or does not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Event {
    process: u32,
    leads: bool,
    term: u64,
}

impl Candidates {
    fn start(servers: &[Server], number: usize) -> Self {
        // The features of the tests: with others, all dependencies would be built again.
        let folder = built("build --workspace --all-features --locked --example leader");
        let (sender, events) = channel();
        let start = |_| {
            let mut command = Command::new(folder.join("examples/leader"));
            command.args(servers.iter().map(Server::url)).stdout(Stdio::piped());
            let mut process = command.spawn().unwrap();
            let (lines, sender) = (BufReader::new(process.stdout.take().unwrap()), sender.clone());
            thread::spawn(move || report(lines, &sender));
            process
        };
        Self { processes: (0..number).map(start).collect(), events }
    }

    fn kill(&mut self, process: u32) {
        let candidate = self.processes.iter_mut().find(|candidate| candidate.id() == process).unwrap();
        candidate.kill().unwrap();
        candidate.wait().unwrap();
    }

    fn next(&self, within: Duration) -> Option<Event> {
        match self.events.recv_timeout(within) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("all candidates have ended"),
        }
    }

    fn next_leads(&self) -> Event {
        let event = self.next(LONG).expect("nobody leads");
        assert!(event.leads, "{event:?}");
        event
    }
}

impl Drop for Candidates {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Sends an event for each line, such as `process 42 no longer leads, term 7`.
fn report(lines: impl BufRead, events: &Sender<Event>) {
    for line in lines.lines().map_while(Result::ok) {
        let mut numbers = line.split([' ', ',']).filter_map(|word| word.parse::<u64>().ok());
        let (process, term) = (numbers.next().unwrap(), numbers.next().unwrap());
        let event = Event { process: process.try_into().unwrap(), leads: !line.contains("no longer"), term };
        if events.send(event).is_err() {
            return;
        }
    }
}
