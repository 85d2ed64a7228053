//! An HTTP service that books withdrawals, one at a time for each account, however many processes run it.
//!
//! ```text
//! cargo run --example web                  # until Ctrl-C; nodes in memory
//! cargo run --example web -- --seconds 10 redis://127.0.0.1:7001 ...
//! curl -i -d 30 http://127.0.0.1:PORT/accounts/7/withdraw
//! ```
//!
//! | what happened | status |
//! |---|---|
//! | booked | 200 and the new balance |
//! | another withdrawal of this account is under way | 423, with `Retry-After` |
//! | no quorum of lock servers | 503, with `Retry-After` |
//! | the lock was lost meanwhile; nothing was booked | 500 |

use std::{
    collections::HashMap,
    env,
    error::Error as StdError,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    extract::{Path, State},
    http::{StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
    routing::post,
};
use redlock_redis_rs::{Error, Lease, MemoryBackend, RedisBackend, Redlock, TokioRuntime};
use tokio::{net::TcpListener, time::sleep};

/// One for the process: clones of `Redlock` share its connections.
#[derive(Clone)]
struct Bank {
    redlock: Redlock,
    ttl: Duration,
    /// How long the fraud check takes.
    check: Duration,
    balances: Arc<Mutex<HashMap<String, i64>>>,
}

impl Bank {
    fn new(redlock: Redlock) -> Self {
        let (ttl, check) = (Duration::from_secs(5), Duration::from_millis(300));
        Self { redlock, ttl, check, balances: Arc::default() }
    }

    /// Returns `None`, and books nothing, when the lease has ended. With a database, let the statement that
    /// writes check more: the balance that was read, or a version of the row.
    async fn withdraw(&self, account: &str, amount: i64, lease: Lease) -> Option<i64> {
        sleep(self.check).await;
        // The check comes after the last await, right before the commit, which has no await: a client that
        // hangs up drops the handler.
        lease.is_valid().then(|| {
            let mut balances = self.balances.lock().unwrap_or_else(PoisonError::into_inner);
            let balance = balances.entry(account.to_owned()).or_insert(100);
            *balance -= amount;
            *balance
        })
    }
}

async fn withdraw(State(bank): State<Bank>, Path(account): Path<String>, body: String) -> Response {
    let Ok(amount) = body.trim().parse() else {
        return (StatusCode::BAD_REQUEST, "the body is the amount\n").into_response();
    };
    let booked = bank
        .redlock
        .lock(format!("bank:account:{account}"), bank.ttl)
        // Clients wait instead of the service, so no queue of requests builds up here.
        .acquire_timeout(Duration::from_millis(100))
        .using(|lease| bank.withdraw(&account, amount, lease))
        .await;
    match booked {
        Ok(Some(balance)) => format!("{balance}\n").into_response(),
        Err(Error::Contended(_)) => later(StatusCode::LOCKED, "a withdrawal is under way\n"),
        Err(Error::NoQuorum(_)) => later(StatusCode::SERVICE_UNAVAILABLE, "cannot lock accounts now\n"),
        Ok(None) | Err(Error::Lost(_)) => failed("the lock was lost: nothing was booked\n"),
        // The details are for the log, not for the client.
        Err(_) => failed("cannot lock accounts\n"),
    }
}

fn later(status: StatusCode, why: &'static str) -> Response {
    (status, [(RETRY_AFTER, "1")], why).into_response()
}

fn failed(why: &'static str) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, why).into_response()
}

/// Serves until `stop`, and then until all requests under way have responses and their locks are released.
async fn serve(
    bank: Bank,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let routes = Router::new().route("/accounts/{account}/withdraw", post(withdraw)).with_state(bank);
    axum::serve(listener, routes).with_graceful_shutdown(stop).await?;
    // The lock of a dropped handler is released in the background, which takes one round trip to the nodes.
    sleep(Duration::from_millis(100)).await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let mut arguments = env::args().skip(1).peekable();
    let seconds = match arguments.next_if(|argument| argument == "--seconds") {
        Some(_) => Some(arguments.next().ok_or("--seconds needs a number")?.parse()?),
        None => None,
    };
    let runtime = TokioRuntime::current();
    let mut builder = Redlock::builder(runtime.clone());
    if arguments.peek().is_none() {
        builder = builder.nodes((0..3).map(|_| MemoryBackend::new(runtime.clone())));
    }
    for url in arguments {
        builder = builder.node(RedisBackend::open(url)?);
    }
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("http://{}/accounts/7/withdraw", listener.local_addr()?);
    let stop = async move {
        match seconds {
            Some(seconds) => sleep(Duration::from_secs(seconds)).await,
            // An error means that this system has no such signal: then the service runs forever.
            None if tokio::signal::ctrl_c().await.is_ok() => {}
            None => std::future::pending().await,
        }
    };
    Ok(serve(Bank::new(builder.build()?), listener, stop).await?)
}

#[cfg(test)]
mod tests;
