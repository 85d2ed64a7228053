//! What the fuzz targets look into, as fred has no client without a server. It is built for them alone.
#![allow(missing_docs, clippy::must_use_candidate, reason = "nobody reads about it")]

use fred::{error::Error, types::Value};
use redlock_core::{
    BackendError, Inspect, KeyState,
    redis::{Command, Reply},
};

use crate::{command, error, reply};

pub fn to_arguments(command: &Command<'_>) -> Vec<Value> {
    command::to_arguments(command)
}

pub fn to_reply(answer: &Value) -> Reply {
    reply::to_reply(answer)
}

pub fn key_states(answer: &Value, request: &Inspect<'_>) -> Option<Vec<KeyState>> {
    reply::key_states(answer, request)
}

pub fn classify(error: Error) -> BackendError {
    error::classify(error)
}
