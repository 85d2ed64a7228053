//! Setting up a new connection to a server: only the commands that a lock needs.

use std::{any::Any, sync::Arc};

use futures_util::future::join_all;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ProtocolVersion, RedisConnectionInfo, RedisError,
    RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cmd,
};

use crate::{
    error::{asks_for_another_connection, refusal, refuses_everybody},
    tls,
};

/// Ends the task of a connection when it is dropped.
pub(crate) type Driver = Arc<dyn Any + Send + Sync>;

/// Connects to the client's server and logs in. The server has sent a reply when this returns.
///
/// It does not use redis-rs' own set-up, which loses the text of most refusals, reports each refused login as
/// a wrong password, and sends `CLIENT SETINFO`, at which some proxies close the connection.
pub(crate) async fn connect(
    client: &Client,
    config: &AsyncConnectionConfig,
) -> RedisResult<(MultiplexedConnection, Option<Driver>)> {
    let info = client.get_connection_info();
    let (connection, driver) = open(info, ProtocolVersion::RESP2, config).await?;
    match greet(&connection, info.redis_settings()).await {
        Ok(()) => Ok((connection, driver)),
        Err(error) if error.is_io_error() => Err(reason(info, config).await.unwrap_or(error)),
        Err(error) => Err(refusal(error)),
    }
}

/// Connects with RESP3. redis-rs takes pushes only over a connection that it has set up itself.
pub(crate) async fn connect_to_watch(
    client: &Client,
    config: &AsyncConnectionConfig,
) -> RedisResult<MultiplexedConnection> {
    let info = client.get_connection_info().clone();
    let settings = info.redis_settings().clone().set_skip_set_lib_name().set_protocol(ProtocolVersion::RESP3);
    let client = Client::open(info.set_redis_settings(settings))?;
    client.get_multiplexed_async_connection_with_config(config).await
}

/// A connection without a login, and its driver where it is not redis-rs' own.
async fn open(
    info: &ConnectionInfo,
    protocol: ProtocolVersion,
    config: &AsyncConnectionConfig,
) -> RedisResult<(MultiplexedConnection, Option<Driver>)> {
    let silent = RedisConnectionInfo::default().set_skip_set_lib_name().set_protocol(protocol);
    #[cfg(feature = "tokio")]
    if let Some(connected) = crate::socket::connect(info, &silent, config).await {
        return connected.map(|(connection, driver)| (connection, Some(driver)));
    }
    let client = Client::open(info.clone().set_redis_settings(silent))?;
    let connection = client.get_multiplexed_async_connection_with_config(config).await?;
    Ok((connection, None))
}

/// Why a server has closed a connection without a reply, if it says so over another one.
///
/// A multiplexed connection drops what arrives before its first command: the error of a server that refuses
/// every client, or the alert of one that does not accept a certificate. redis-rs' own set-up keeps it, and
/// reports the refusal of a `HELLO`.
async fn reason(info: &ConnectionInfo, config: &AsyncConnectionConfig) -> Option<RedisError> {
    let error = open(info, ProtocolVersion::RESP3, config).await.err()?;
    // Other errors are about the `HELLO` itself: it comes before the login, and old servers do not know it.
    let tells = tls::is_refusal(&error) || asks_for_another_connection(Err(&error));
    tells.then(|| refusal(error))
}

async fn greet(connection: &MultiplexedConnection, settings: &RedisConnectionInfo) -> RedisResult<()> {
    let commands = login(settings, settings.username());
    if commands.is_empty() {
        let answer = connection.clone().req_packed_command(&cmd("PING")).await;
        // Any reply will do, even an error, except one with which a server closes the connection.
        return match answer.and_then(Value::extract_error) {
            Err(error) if error.is_io_error() || refuses_everybody(&error) => Err(error),
            _ => Ok(()),
        };
    }
    match say(connection, &commands).await {
        // The error of Redis before version 6 for a user name.
        Err(error) if error.to_string().contains("wrong number of arguments for 'auth'") => {
            say(connection, &login(settings, None)).await
        }
        said => said,
    }
}

/// The commands that log in.
fn login(settings: &RedisConnectionInfo, user: Option<&str>) -> Vec<Cmd> {
    let mut commands = Vec::new();
    let password = settings.password();
    if settings.protocol() == ProtocolVersion::RESP3 {
        let mut hello = cmd("HELLO");
        hello.arg(3);
        if let Some(password) = password {
            hello.arg("AUTH").arg(user.unwrap_or("default")).arg(password);
        }
        commands.push(hello);
    } else if let Some(password) = password {
        let mut auth = cmd("AUTH");
        auth.arg(user).arg(password);
        commands.push(auth);
    }
    if settings.db() != 0 {
        let mut select = cmd("SELECT");
        select.arg(settings.db());
        commands.push(select);
    }
    commands
}

/// Sends them all at once, in one round trip, but as separate commands: the first refusal then says why, even
/// when the server closes the connection after it.
async fn say(connection: &MultiplexedConnection, commands: &[Cmd]) -> RedisResult<()> {
    let answers = commands.iter().map(|command| {
        let mut connection = connection.clone();
        async move { connection.req_packed_command(command).await?.extract_error() }
    });
    let answers: RedisResult<Vec<Value>> = join_all(answers).await.into_iter().collect();
    answers.map(drop)
}

#[cfg(test)]
mod tests {
    use redis::IntoConnectionInfo;

    use super::*;

    fn commands(url: &str, user: Option<&str>) -> Vec<String> {
        let info = url.into_connection_info().expect("a URL");
        let words = |command: &Cmd| {
            let packed = String::from_utf8(command.get_packed_command()).expect("text");
            packed.split("\r\n").skip(2).step_by(2).collect::<Vec<_>>().join(" ")
        };
        login(info.redis_settings(), user).iter().map(words).collect()
    }

    #[test]
    fn a_login_sends_what_the_settings_require_and_no_more() {
        for (url, user, expected) in [
            ("redis://a", None, &[][..]),
            ("redis://:secret@a", None, &["AUTH secret"]),
            ("redis://me:secret@a/3", Some("me"), &["AUTH me secret", "SELECT 3"]),
            ("redis://a/3?protocol=resp3", None, &["HELLO 3", "SELECT 3"]),
            ("redis://:secret@a?protocol=resp3", None, &["HELLO 3 AUTH default secret"]),
            ("redis://me:secret@a?protocol=resp3", Some("me"), &["HELLO 3 AUTH me secret"]),
        ] {
            assert_eq!(commands(url, user), expected, "{url}");
        }
    }
}
