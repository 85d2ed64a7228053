//! The accident that no lock alone can prevent, and how fencing tokens prevent it: a client is paused while
//! it holds a lock, another one gets the lock in the meantime, and then the first one continues, and writes.
//!
//! ```text
//! cargo run --example paused_writer
//! cargo run --example paused_writer -- redis://127.0.0.1:7001 redis://127.0.0.1:7002 redis://127.0.0.1:7003
//! cargo run --example paused_writer --features postgres -- --postgres postgres://user:password@127.0.0.1/test
//! ```
//!
//! The story is told twice. Without tokens, the late write lands, and the other client's money is gone. With
//! tokens, the store refuses it, and the paused client starts again.
//!
//! Without the URLs of servers, the nodes of the lock are in memory. With `--postgres`, the account is a row
//! of a table in PostgreSQL, which the example creates and drops again. The exit code is 0 when the stories
//! end like this, 1 when they do not, and 2 when an argument is invalid or there is no such database.

mod account;
#[cfg(feature = "postgres")]
mod postgres;
mod store;
mod story;
#[cfg(test)]
mod tests;
mod timeline;

use std::{env, error::Error, process::ExitCode};

use redlock_redis_rs::{MemoryBackend, RedisBackend, Redlock, TokioRuntime};

use crate::{
    store::Store,
    story::{Client, FROM_A, FROM_B, Failed, START, Story, TTL, unique},
    timeline::Timeline,
};

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
    let (managers, store) = match prepare(arguments).await {
        Ok(prepared) => prepared,
        Err(error) => {
            report(&*error);
            return ExitCode::from(2);
        }
    };
    let told = tell_both(&managers, &store).await;
    let closed = store.close().await;
    match told.and_then(|as_it_should| closed.map(|()| as_it_should)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            report(&*error);
            ExitCode::FAILURE
        }
    }
}

async fn prepare(arguments: impl Iterator<Item = String>) -> Result<([Redlock; 2], Store), Failed> {
    let Arguments { postgres, urls } = Arguments::parse(arguments)?;
    Ok((managers(&urls)?, Store::open(postgres.as_deref()).await?))
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Arguments {
    /// Where the account is, if not in memory.
    postgres: Option<String>,
    /// The nodes of the lock, if they are not in memory.
    urls: Vec<String>,
}

impl Arguments {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut found = Self::default();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--postgres" => found.postgres = Some(arguments.next().ok_or("--postgres needs a URL")?),
                option if option.starts_with('-') => return Err(format!("there is no option {option}")),
                _ => found.urls.push(argument),
            }
        }
        Ok(found)
    }
}

/// The lock managers of two processes, on the same nodes.
fn managers(urls: &[String]) -> Result<[Redlock; 2], Failed> {
    let runtime = TokioRuntime::current();
    let memory: Vec<MemoryBackend> =
        (0..if urls.is_empty() { 3 } else { 0 }).map(|_| MemoryBackend::new(runtime.clone())).collect();
    let manager = || -> Result<Redlock, Failed> {
        let mut builder = Redlock::builder(runtime.clone()).nodes(memory.clone());
        for (position, url) in (1..).zip(urls) {
            // The URL itself may have a password in it.
            let server = RedisBackend::open(url.as_str());
            builder = builder.node(server.map_err(|error| format!("server {position}: {error}"))?);
        }
        Ok(builder.build()?)
    };
    Ok([manager()?, manager()?])
}

/// Returns whether both stories ended as they should.
async fn tell_both(managers: &[Redlock; 2], store: &Store) -> Result<bool, Failed> {
    let expected = START + FROM_A + FROM_B;
    println!(
        "Two processes pay into one account, A pays {FROM_A} and B pays {FROM_B}. Each takes the lock, reads \
         the balance,\nand writes the sum. The balance is {START}, so it should be {expected} in the end. But A \
         is paused while it has\nthe lock, for longer than the {} ms for which the lock lives.",
        TTL.as_millis()
    );

    println!("\n1. The lock alone\n");
    let lock_alone = story(managers, store, false).await?.tell(&Timeline::begin()).await?;
    println!("\n{}", lock_alone.without_tokens());

    println!("\n2. The lock with fencing tokens, and a store that compares them\n");
    let with_tokens = story(managers, store, true).await?.tell(&Timeline::begin()).await?;
    println!("\n{}", with_tokens.with_tokens());
    Ok(lock_alone.is_accident() && with_tokens.is_prevented())
}

async fn story(managers: &[Redlock; 2], store: &Store, fenced: bool) -> Result<Story, Failed> {
    let [a, b] = store.account(fenced).await?;
    let [redlock_a, redlock_b] = managers.clone();
    let (a, b) = (Client { redlock: redlock_a, account: a }, Client { redlock: redlock_b, account: b });
    Ok(Story { a, b, resource: unique("paused_writer:account"), fenced })
}

/// An error with its sources, which the errors of a database do not repeat.
fn report(error: &(dyn Error + 'static)) {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    eprintln!("paused_writer: {text}");
}
