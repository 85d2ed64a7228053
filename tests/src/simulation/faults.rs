//! The faults of a run: which may happen, and how often each one did.

use std::{fmt, str::FromStr};

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Fault {
    /// A message is delayed, up to far longer than any TTL, and delays those behind it.
    Delay,
    /// A message is lost, and its connection breaks.
    Lose,
    /// A request is executed a second time, later.
    Duplicate,
    /// A connection is replaced; the messages in the old one's buffers arrive late, or not at all.
    Reconnect,
    /// A request is executed, and its reply is lost.
    LoseReply,
    /// The client library retransmits a request whose reply was lost.
    Resend,
    /// Requests, or replies, between one client and one node do not pass for a while.
    OneWay,
    /// A client and a node are cut off from each other for a while.
    Partition,
    /// A node replies with a transient error.
    Refuse,
    /// A node is stopped and resumed; it receives the messages of the meantime.
    StopNode,
    /// A node is killed, and restarts with all of its data.
    KillNode,
    /// A node is killed, and restarts without its data, but not before every lock of that time has expired.
    ForgetLate,
    /// A client's process is stopped and resumed.
    StopClient,
    /// A client drops a future, at any await.
    Cancel,
    /// A client's process is killed.
    KillClient,
    /// Background tasks of a client start late.
    SlowTasks,
    /// The clocks of clients and nodes drift, within the drift factor.
    Drift,
    /// A node restarts at once without its data. Breaks an assumption of the lock, unless it has a guard.
    Forget,
    /// A node restarts at once without the last second of its data. Breaks an assumption of the lock.
    ForgetLast,
    /// A node's clock jumps forward. Breaks an assumption of the lock.
    Jump,
    /// A node loses a key. Breaks an assumption of the lock.
    Evict,
    /// A node loses its counters for fencing tokens. Breaks an assumption of the tokens.
    Uncount,
}

impl Fault {
    /// All faults.
    pub const ALL: [Self; 22] = [
        Self::Delay,
        Self::Lose,
        Self::Duplicate,
        Self::Reconnect,
        Self::LoseReply,
        Self::Resend,
        Self::OneWay,
        Self::Partition,
        Self::Refuse,
        Self::StopNode,
        Self::KillNode,
        Self::ForgetLate,
        Self::StopClient,
        Self::Cancel,
        Self::KillClient,
        Self::SlowTasks,
        Self::Drift,
        Self::Forget,
        Self::ForgetLast,
        Self::Jump,
        Self::Evict,
        Self::Uncount,
    ];

    /// Whether it breaks an assumption of the lock, so that two clients may hold one.
    #[must_use]
    pub fn breaks(self) -> bool {
        matches!(self, Self::Forget | Self::ForgetLast | Self::Jump | Self::Evict)
    }

    /// Whether it breaks an assumption of fencing tokens, so that they may be out of order.
    #[must_use]
    pub fn breaks_tokens(self) -> bool {
        self == Self::Uncount
    }

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Delay => "delay",
            Self::Lose => "lose",
            Self::Duplicate => "duplicate",
            Self::Reconnect => "reconnect",
            Self::LoseReply => "lose-reply",
            Self::Resend => "resend",
            Self::OneWay => "one-way",
            Self::Partition => "partition",
            Self::Refuse => "refuse",
            Self::StopNode => "stop-node",
            Self::KillNode => "kill-node",
            Self::ForgetLate => "forget-late",
            Self::StopClient => "stop-client",
            Self::Cancel => "cancel",
            Self::KillClient => "kill-client",
            Self::SlowTasks => "slow-tasks",
            Self::Drift => "drift",
            Self::Forget => "forget",
            Self::ForgetLast => "forget-last",
            Self::Jump => "jump",
            Self::Evict => "evict",
            Self::Uncount => "uncount",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|fault| fault.name() == name);
        found.ok_or_else(|| format!("no fault {name:?}; there are {}", known()))
    }
}

/// Which faults may happen in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults(u32);

impl Faults {
    /// None.
    pub const NONE: Self = Self(0);

    /// All faults that a lock has to survive.
    #[must_use]
    pub fn survivable() -> Self {
        Fault::ALL.into_iter().filter(|fault| !fault.breaks() && !fault.breaks_tokens()).collect()
    }

    /// All faults that fencing tokens have to survive.
    #[must_use]
    pub fn of_tokens() -> Self {
        Fault::ALL.into_iter().filter(|fault| !fault.breaks_tokens()).collect()
    }

    /// These, and one more.
    #[must_use]
    pub fn with(self, fault: Fault) -> Self {
        Self(self.0 | 1 << fault as u32)
    }

    /// These, without one.
    #[must_use]
    pub fn without(self, fault: Fault) -> Self {
        Self(self.0 & !(1 << fault as u32))
    }

    /// Whether it may happen.
    #[must_use]
    pub fn has(self, fault: Fault) -> bool {
        self.0 & (1 << fault as u32) != 0
    }

    fn has_all(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// Whether one of them breaks an assumption of fencing tokens.
    #[must_use]
    pub fn breaks_tokens(self) -> bool {
        Fault::ALL.into_iter().any(|fault| fault.breaks_tokens() && self.has(fault))
    }

    /// Whether one of them breaks an assumption of the lock.
    #[must_use]
    pub fn breaks(self) -> bool {
        Fault::ALL.into_iter().any(|fault| fault.breaks() && self.has(fault))
    }

    /// Whether one of them breaks an assumption even of locks with a guard against restarts.
    #[must_use]
    pub fn breaks_guarded(self) -> bool {
        self.without(Fault::Forget).breaks()
    }
}

/// In the shortest way in which it is read.
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [(Self::NONE, "none"), (Self::survivable(), "all"), (Self::of_tokens(), "tokens")];
        if let Some((_, name)) = named.into_iter().find(|(faults, _)| faults == self) {
            return f.write_str(name);
        }
        let (name, base) =
            if self.has_all(Self::survivable()) { ("all", Self::survivable()) } else { ("none", Self::NONE) };
        f.write_str(name)?;
        let more = |fault: &Fault| self.has(*fault) && !base.has(*fault);
        Fault::ALL.into_iter().filter(more).try_for_each(|fault| write!(f, ",{fault}"))
    }
}

impl FromIterator<Fault> for Faults {
    fn from_iter<I: IntoIterator<Item = Fault>>(faults: I) -> Self {
        faults.into_iter().fold(Self::NONE, Self::with)
    }
}

impl FromStr for Faults {
    type Err = String;

    /// `all` that a lock survives, `tokens` for all that fencing tokens survive, `none`, or names separated by
    /// commas; `-name` removes one.
    fn from_str(list: &str) -> Result<Self, String> {
        let mut faults = Self::NONE;
        for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            faults = match name {
                "all" => Self::survivable(),
                "tokens" => Self::of_tokens(),
                "none" => Self::NONE,
                _ => match name.strip_prefix('-') {
                    Some(name) => faults.without(name.parse()?),
                    None => faults.with(name.parse()?),
                },
            };
        }
        Ok(faults)
    }
}

/// How often each fault struck.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Struck([u64; Fault::ALL.len()]);

impl Struck {
    /// Counts one.
    pub fn count(&mut self, fault: Fault) {
        self.0[fault as usize] += 1;
    }

    /// How often it struck.
    #[must_use]
    pub fn times(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}

/// A generator for each fault, and one for latencies: switching off one fault does not change the others.
pub(super) struct Dice {
    pub(super) latency: ChaCha8Rng,
    faults: [ChaCha8Rng; Fault::ALL.len()],
}

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        Self {
            latency: ChaCha8Rng::from_rng(&mut rng),
            faults: Fault::ALL.map(|_| ChaCha8Rng::from_rng(&mut rng)),
        }
    }

    pub(super) fn of(&mut self, fault: Fault) -> &mut ChaCha8Rng {
        &mut self.faults[fault as usize]
    }

    /// Picks some of the faults that may happen: every run has a mixture of its own.
    pub(super) fn mixture(&mut self, faults: Faults) -> Faults {
        Fault::ALL
            .into_iter()
            .filter(|fault| self.of(*fault).random_bool(0.5) && faults.has(*fault))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_shown_as_they_are_read() {
        for (given, shown) in [
            ("all", "all"),
            ("none", "none"),
            ("tokens", "tokens"),
            ("all,jump,forget", "all,forget,jump"),
            ("all,-cancel,-drift,cancel,drift", "all"),
            ("lose,delay", "none,delay,lose"),
        ] {
            let faults: Faults = given.parse().unwrap();
            assert_eq!(faults.to_string(), shown);
            assert_eq!(shown.parse(), Ok(faults));
        }
        let most: Faults = "all,-cancel".parse().unwrap();
        assert_eq!(most.to_string().parse(), Ok(most));
    }
}
