//! A broker as placement sees it.

use std::num::NonZeroU16;

/// Whether a broker may hold, get or keep replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BrokerState {
    /// Holds replicas and may get more.
    Active,
    /// Keeps what it has and gets nothing new (KIP-1066).
    Cordoned,
    /// On its way out: gets nothing, and a drain takes all it has.
    Draining,
    /// Not reachable for now but expected back: gets nothing and keeps what it has, for a
    /// restart must not make data move.
    Fenced,
    /// Will not come back: gets nothing, and a drain gives its replicas new places.
    Gone,
}

impl BrokerState {
    /// Whether new replicas may be put on it.
    #[must_use]
    pub fn is_target(self) -> bool {
        self == Self::Active
    }

    /// Whether a drain takes its replicas away.
    #[must_use]
    pub fn is_leaving(self) -> bool {
        matches!(self, Self::Draining | Self::Gone)
    }
}

/// A broker: where it is and what it may get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Its number.
    pub id: i32,
    /// Its failure domain (KIP-36 `broker.rack`). None and an empty name both mean unknown:
    /// replicas may be put there, but count as if they were in the same rack as the others of their
    /// partition, as a missing label does in TiKV's placement driver.
    pub rack: Option<String>,
    /// Whether it may get replicas.
    pub state: BrokerState,
    /// Its share of replicas relative to the other brokers' weights, at least 1.
    pub weight: NonZeroU16,
    /// The size of its log directories in bytes; none puts no bound.
    pub disk_bytes: Option<u64>,
}

impl Broker {
    /// An active broker of weight 1 without a rack or a bound on its disk.
    #[must_use]
    pub fn new(id: i32) -> Self {
        Self {
            id,
            rack: None,
            state: BrokerState::Active,
            weight: NonZeroU16::MIN,
            disk_bytes: None,
        }
    }

    /// The same broker in `rack`.
    #[must_use]
    pub fn with_rack(mut self, rack: impl Into<String>) -> Self {
        self.rack = Some(rack.into());
        self
    }

    /// The same broker in `state`.
    #[must_use]
    pub fn with_state(mut self, state: BrokerState) -> Self {
        self.state = state;
        self
    }

    /// The same broker with `weight`.
    #[must_use]
    pub fn with_weight(mut self, weight: NonZeroU16) -> Self {
        self.weight = weight;
        self
    }

    /// The same broker with log directories of `bytes`.
    #[must_use]
    pub fn with_disk_bytes(mut self, bytes: u64) -> Self {
        self.disk_bytes = Some(bytes);
        self
    }
}
