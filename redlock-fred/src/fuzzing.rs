//! What the fuzz targets look into, as fred has no client without a server. It is built for them alone.
#![allow(missing_docs, clippy::must_use_candidate, reason = "nobody reads about it")]

use fred::{error::Error, types::Value};
use redlock_core::{BackendError, KeyState, Resources, redis::Eval};

use crate::{command, error, reply};

pub fn to_arguments(eval: &Eval<'_>) -> Vec<Value> {
    command::to_arguments(eval)
}

pub fn as_bool(answer: &Value) -> Option<bool> {
    reply::as_bool(answer)
}

pub fn key_states(answer: &Value, resources: &Resources) -> Option<Vec<KeyState>> {
    reply::key_states(answer, resources)
}

pub fn classify(error: Error) -> BackendError {
    error::classify(error)
}
