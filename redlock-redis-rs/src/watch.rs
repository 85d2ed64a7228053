//! The connection over which keys are watched.

// Tests: below; tests/tests/it/servers/watching.rs.

use std::sync::Arc;

use redis::{
    Cmd, PushInfo, PushKind, RedisError, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cmd,
};
use redlock_core::{
    BackendError, BackendErrorKind, BoxFuture,
    redis::{Reports, TrackedConnection, Watcher},
};

use crate::{
    connector::Connector,
    error::{classify, refusal},
    executor::unconstrained,
    reply::without_attributes,
};

/// Watches keys of the server that `connector` leads to.
pub(crate) fn watcher(connector: Arc<Connector>) -> Watcher {
    Watcher::new(move |reports| {
        let connector = connector.clone();
        Box::pin(async move {
            let pass_on = move |push| {
                pass_on(&reports, &push);
                Ok::<_, ()>(())
            };
            let connected = connector.connect_to_watch(pass_on).await.map_err(not_connected)?;
            let connection: Arc<dyn TrackedConnection> = Arc::new(Tracked(turn_on(connected).await?));
            Ok(connection)
        })
    })
}

struct Tracked(MultiplexedConnection);

impl TrackedConnection for Tracked {
    fn is_free(&self, name: Arc<str>) -> BoxFuture<Result<bool, BackendError>> {
        let mut connection = self.0.clone();
        Box::pin(async move {
            match unconstrained(connection.req_packed_command(Cmd::new().arg("GET").arg(&*name))).await {
                Ok(answer) => is_free(&answer),
                Err(error) if error.code() == Some(OTHER_TYPE) => Ok(false),
                Err(error) => Err(classify(error)),
            }
        })
    }
}

/// In its default mode the server reports each key that the connection reads, once.
async fn turn_on(mut connection: MultiplexedConnection) -> Result<MultiplexedConnection, BackendError> {
    let asked = cmd("CLIENT").arg("TRACKING").arg("ON").to_owned();
    match connection.req_packed_command(&asked).await.and_then(Value::extract_error) {
        Ok(Value::Okay) => Ok(connection),
        Ok(_) => Err(BackendError::new(BackendErrorKind::Rejected, "no answer to CLIENT TRACKING")),
        Err(error) => Err(not_connected(error)),
    }
}

/// Why there is no connection for watching. A server, or a proxy before it, that accepts a connection and
/// closes it at the first command has refused that.
fn not_connected(error: RedisError) -> BackendError {
    if error.is_connection_dropped() && !error.is_connection_refusal() {
        return BackendError::new(BackendErrorKind::Rejected, "the connection for watching was closed")
            .with_source(error);
    }
    classify(refusal(error))
}

fn is_free(answer: &Value) -> Result<bool, BackendError> {
    match without_attributes(answer) {
        Value::Nil => Ok(true),
        Value::BulkString(_) => Ok(false),
        Value::ServerError(error) if error.code() == OTHER_TYPE => Ok(false),
        Value::ServerError(error) => Err(classify(error.clone().into())),
        _ => Err(BackendError::new(BackendErrorKind::Indeterminate, "an answer of another type")),
    }
}

fn pass_on(reports: &Reports, push: &PushInfo) {
    match (&push.kind, &push.data[..]) {
        (PushKind::Invalidate, [Value::Array(names)]) => {
            for name in names {
                if let Value::BulkString(name) = name {
                    reports.changed(name);
                }
            }
        }
        // All keys: they have been flushed.
        (PushKind::Invalidate, _) => reports.all_changed(),
        (PushKind::Disconnection, _) => reports.lost(),
        _ => {}
    }
}

/// The code of the error for a key of another type, which is in the way of a lock, too.
const OTHER_TYPE: &str = "WRONGTYPE";

#[cfg(test)]
mod tests {
    use std::io;

    use redis::parse_redis_value;

    use super::*;

    fn parsed(line: &str) -> Value {
        parse_redis_value(line.as_bytes()).expect("a reply")
    }

    #[test]
    fn a_key_is_free_only_when_the_server_says_that_nothing_is_there() {
        for (line, expected) in [
            ("$-1\r\n", Ok(true)),
            ("_\r\n", Ok(true)),
            ("$2\r\nab\r\n", Ok(false)),
            ("-WRONGTYPE Operation against a key\r\n", Ok(false)),
            ("-NOPERM no permissions\r\n", Err(BackendErrorKind::Rejected)),
            ("-LOADING Redis is loading\r\n", Err(BackendErrorKind::Transient)),
            ("+OK\r\n", Err(BackendErrorKind::Indeterminate)),
            (":0\r\n", Err(BackendErrorKind::Indeterminate)),
        ] {
            assert_eq!(is_free(&parsed(line)).map_err(|error| error.kind()), expected, "{line}");
        }
    }

    #[test]
    fn a_connection_that_is_closed_at_its_set_up_is_refused_and_one_that_fails_is_not() {
        for (kind, expected) in [
            (io::ErrorKind::UnexpectedEof, BackendErrorKind::Rejected),
            (io::ErrorKind::BrokenPipe, BackendErrorKind::Rejected),
            (io::ErrorKind::ConnectionReset, BackendErrorKind::Rejected),
            (io::ErrorKind::ConnectionRefused, BackendErrorKind::Indeterminate),
            (io::ErrorKind::TimedOut, BackendErrorKind::Indeterminate),
        ] {
            assert_eq!(not_connected(io::Error::from(kind).into()).kind(), expected, "{kind}");
        }
        for (line, expected) in [
            ("-ERR unknown command 'HELLO'\r\n", BackendErrorKind::Rejected),
            ("-NOPERM no permissions\r\n", BackendErrorKind::Rejected),
            ("-NEWCODE what is this\r\n", BackendErrorKind::Transient),
            ("-LOADING Redis is loading\r\n", BackendErrorKind::Transient),
        ] {
            let error = parsed(line).extract_error().expect_err("an error");
            assert_eq!(not_connected(error).kind(), expected, "{line}");
        }
    }
}
