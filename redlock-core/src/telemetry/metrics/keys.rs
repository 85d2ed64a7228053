//! Metrics by keys that are made once, and how a recorder is told.

// Tests: tests/tests/it/telemetry/metrics.rs.

use std::{borrow::Cow, time::Duration};

use metrics::{Key, Label, Level, Metadata, with_recorder};

/// A metric with one more label of a few values: a key for each.
#[derive(Debug)]
pub(super) struct Family {
    name: &'static str,
    label: &'static str,
    labels: Vec<Label>,
    keys: Vec<(&'static str, Key)>,
}

impl Family {
    pub(super) fn new(
        name: &'static str,
        label: &'static str,
        values: &[&'static str],
        labels: &[Label],
    ) -> Self {
        let mut family = Self { name, label, labels: labels.to_vec(), keys: Vec::new() };
        family.keys = values.iter().map(|value| (*value, family.new_key(value))).collect();
        family
    }

    /// Counts zero of each value.
    pub(super) fn show_zero(&self) {
        self.keys.iter().for_each(|(_, key)| count(key, 0));
    }

    pub(super) fn count(&self, value: &'static str) {
        count(&self.key(value), 1);
    }

    pub(super) fn key(&self, value: &'static str) -> Cow<'_, Key> {
        let known = self.keys.iter().find(|(known, _)| *known == value);
        known.map_or_else(|| Cow::Owned(self.new_key(value)), |(_, key)| Cow::Borrowed(key))
    }

    fn new_key(&self, value: &'static str) -> Key {
        let mut labels = self.labels.clone();
        labels.push(Label::from_static_parts(self.label, value));
        Key::from_parts(self.name, labels)
    }
}

pub(super) fn count(counter: &Key, number: u64) {
    with_recorder(|recorder| recorder.register_counter(counter, &METADATA).increment(number));
}

pub(super) fn observe(histogram: &Key, duration: Duration) {
    with_recorder(|recorder| recorder.register_histogram(histogram, &METADATA).record(duration));
}

pub(super) fn change(gauge: &Key, by: f64) {
    with_recorder(|recorder| recorder.register_gauge(gauge, &METADATA).increment(by));
}

pub(super) fn show(gauge: &Key, value: f64) {
    with_recorder(|recorder| recorder.register_gauge(gauge, &METADATA).set(value));
}

const METADATA: Metadata<'static> = Metadata::new("redlock", Level::INFO, None);
