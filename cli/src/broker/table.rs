//! Brokers, for people and programs.

use jiff::Timestamp;
use millrace_client::v1::{BrokerDescription, FenceReason, MaintenanceSlot};
use serde::Serialize;

use crate::output::{TextTable, age};

/// A broker.
#[derive(Serialize)]
pub struct Broker {
    broker_id: i32,
    address: String,
    internal_address: String,
    rack: String,
    /// In service: neither fenced nor about to stop.
    pub available: bool,
    /// Why it is fenced.
    fence_reason: Option<&'static str>,
    shutting_down: bool,
    pub cordoned: bool,
    pub draining: bool,
    version: String,
    partitions: i32,
    leader_partitions: i32,
    preferred_leader_partitions: i32,
    voter_id: Option<i64>,
    is_voter: bool,
    broker_epoch: i64,
    directory_id: String,
    registered_at: Option<Timestamp>,
}

/// Who has the permission to take a broker down.
#[derive(Serialize)]
pub struct Maintenance {
    /// Who.
    pub holder: String,
    /// Which broker.
    pub broker_id: i32,
    broker_epoch: i64,
    /// Until when.
    pub until: Option<Timestamp>,
}

impl From<MaintenanceSlot> for Maintenance {
    fn from(from: MaintenanceSlot) -> Self {
        Self {
            holder: from.holder,
            broker_id: from.broker_id,
            broker_epoch: from.broker_epoch,
            until: from
                .until
                .and_then(|time| Timestamp::new(time.seconds, time.nanos).ok()),
        }
    }
}

impl Maintenance {
    /// `broker 2, by "pod-2" until 2026-01-01T00:00:00Z`.
    pub fn text(&self) -> String {
        let until = self.until.map_or_else(|| "?".to_owned(), |time| format!("{time:.0}"));
        format!("broker {}, by {:?} until {until}", self.broker_id, self.holder)
    }
}

impl From<BrokerDescription> for Broker {
    fn from(from: BrokerDescription) -> Self {
        let registered_at = from
            .registered_at
            .and_then(|time| Timestamp::new(time.seconds, time.nanos).ok());
        let fence_reason = match from.fence_reason() {
            FenceReason::Unspecified if from.available => None,
            FenceReason::Unspecified => Some("unknown"),
            FenceReason::Starting => Some("starting"),
            FenceReason::LeaseExpired => Some("not heard of"),
            FenceReason::DirectoryFailed => Some("disk failed"),
            FenceReason::Requested => Some("requested"),
        };
        Self {
            broker_id: from.broker_id,
            address: from.address,
            internal_address: from.internal_address,
            rack: from.rack,
            available: from.available,
            fence_reason,
            shutting_down: from.shutting_down,
            cordoned: from.cordoned,
            draining: from.draining,
            version: from.version,
            partitions: from.partitions,
            leader_partitions: from.leader_partitions,
            preferred_leader_partitions: from.preferred_leader_partitions,
            voter_id: from.voter_id,
            is_voter: from.is_voter,
            broker_epoch: from.broker_epoch,
            directory_id: from.directory_id,
            registered_at,
        }
    }
}

impl Broker {
    /// `available`, `fenced (not heard of), draining`.
    fn state(&self) -> String {
        let mut state = match self.fence_reason {
            _ if self.available => "available".to_owned(),
            None | Some("unknown") => "fenced".to_owned(),
            Some(reason) => format!("fenced ({reason})"),
        };
        for (is_so, what) in [
            (self.shutting_down, "stopping"),
            (self.cordoned, "cordoned"),
            (self.draining, "draining"),
        ] {
            if is_so {
                state.push_str(", ");
                state.push_str(what);
            }
        }
        state
    }

    /// Whether a vote in the metadata quorum is its present disk's.
    pub fn casts_vote_of(&self, broker_id: i64) -> bool {
        i64::from(self.broker_id) == broker_id && self.is_voter
    }

    fn vote(&self) -> String {
        match (self.voter_id, self.is_voter) {
            (None, _) => "-".to_owned(),
            (Some(_), true) => "yes".to_owned(),
            (Some(_), false) => "no".to_owned(),
        }
    }
}

/// Brokers as a table.
pub fn table(brokers: &[Broker], now: Timestamp) -> String {
    let header = [
        "BROKER",
        "ADDRESS",
        "STATE",
        "RACK",
        "PARTITIONS",
        "LEADER OF",
        "VOTES",
        "VERSION",
        "UP FOR",
    ];
    let mut table = TextTable::new(&header).right(&[0, 4, 5]);
    for broker in brokers {
        let rack = if broker.rack.is_empty() { "-" } else { &broker.rack };
        table.row([
            broker.broker_id.to_string(),
            broker.address.clone(),
            broker.state(),
            rack.to_owned(),
            broker.partitions.to_string(),
            broker.leader_partitions.to_string(),
            broker.vote(),
            broker.version.clone(),
            match broker.registered_at {
                _ if !broker.available => "-".to_owned(),
                Some(time) => age(time, now),
                None => "?".to_owned(),
            },
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(change: impl FnOnce(&mut BrokerDescription)) -> Broker {
        let mut told = BrokerDescription {
            address: "h:9650".into(),
            available: true,
            ..BrokerDescription::default()
        };
        change(&mut told);
        told.into()
    }

    #[test]
    fn a_state_says_all_that_is_unusual() {
        assert_eq!(broker(|_| ()).state(), "available");
        assert_eq!(
            broker(|told| (told.cordoned, told.draining) = (true, true)).state(),
            "available, cordoned, draining"
        );
        let fenced = |reason: FenceReason| {
            broker(|told| {
                told.available = false;
                told.fence_reason = reason.into();
            })
        };
        assert_eq!(fenced(FenceReason::LeaseExpired).state(), "fenced (not heard of)");
        assert_eq!(fenced(FenceReason::DirectoryFailed).state(), "fenced (disk failed)");
        assert_eq!(fenced(FenceReason::Unspecified).state(), "fenced");
    }

    #[test]
    fn a_vote_is_told_from_following_and_from_neither() {
        assert_eq!(broker(|_| ()).vote(), "-");
        assert_eq!(broker(|told| told.voter_id = Some(1)).vote(), "no");
        assert_eq!(
            broker(|told| (told.voter_id, told.is_voter) = (Some(1), true)).vote(),
            "yes"
        );
    }

    #[test]
    fn a_line_is_a_broker() {
        let text = table(&[broker(|_| ())], Timestamp::UNIX_EPOCH);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.lines().nth(1).unwrap().contains("h:9650"), "{text}");
    }
}
