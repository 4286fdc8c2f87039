//! A snapshot of the metadata, as a file and as it travels to a follower.
//!
//! ```text
//!   {"format":"millrace-metadata-snapshot","version":1,"last":{...},"membership":{...},
//!    "usedIds":[...],"stateBytes":N}\n
//!   N bytes: the state as JSON
//!   \ncrc32c 0a1b2c3d\n
//! ```
//!
//! The checksum covers everything before its line. `last` is the last entry in it, not the next
//! one: an off-by-one between the two lost or repeated an entry elsewhere (KAFKA-14618).

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use millrace_engine::Cluster;
use millrace_proto::batch::crc::crc32c;
use serde::{Deserialize, Serialize};

use super::{
    membership::{LogIdRecord, StoredMembershipRecord},
    types::{LogId, SnapshotMeta, StoredMembership},
};

const FORMAT: &str = "millrace-metadata-snapshot";
const VERSION: u32 = 1;
/// `\ncrc32c `, eight digits, `\n`.
const TRAILER_BYTES: usize = 17;

/// Why a snapshot can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct SnapshotError(pub(super) String);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Header {
    format: String,
    version: u32,
    last: LogIdRecord,
    membership: StoredMembershipRecord,
    #[serde(default)]
    used_ids: BTreeSet<u64>,
    state_bytes: usize,
}

/// The metadata after some entry, and which entry that was.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Snapshot {
    /// The last entry in it.
    pub(super) last: LogId,
    /// The last membership in it.
    pub(super) membership: StoredMembership,
    /// The ids of all members that there ever were: none is given a second time.
    pub(super) used_ids: BTreeSet<u64>,
    /// The metadata.
    pub(super) cluster: Arc<Cluster>,
}

impl Snapshot {
    /// What openraft wants to know of it.
    pub(super) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: Some(self.last),
            last_membership: self.membership.clone(),
        }
    }

    /// The file's bytes.
    pub(super) fn encode(&self) -> Result<Bytes, serde_json::Error> {
        let state = serde_json::to_vec(&*self.cluster)?;
        let header = Header {
            format: FORMAT.into(),
            version: VERSION,
            last: (&self.last).into(),
            membership: (&self.membership).into(),
            used_ids: self.used_ids.clone(),
            state_bytes: state.len(),
        };
        let mut bytes = serde_json::to_vec(&header)?;
        bytes.push(b'\n');
        bytes.extend_from_slice(&state);
        let checksum = crc32c(&bytes);
        bytes.extend_from_slice(format!("\ncrc32c {checksum:08x}\n").as_bytes());
        Ok(bytes.into())
    }

    /// The snapshot in a file's bytes.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let fail = |reason: &str| SnapshotError(reason.into());
        let split = bytes
            .len()
            .checked_sub(TRAILER_BYTES)
            .ok_or_else(|| fail("too short"))?;
        let (contents, trailer) = bytes.split_at(split);
        if trailer != format!("\ncrc32c {:08x}\n", crc32c(contents)).as_bytes() {
            return Err(fail("the checksum does not match"));
        }
        let line = contents.iter().position(|byte| *byte == b'\n');
        let (header, state) = contents.split_at(line.ok_or_else(|| fail("there is no header"))?);
        let header: Header = serde_json::from_slice(header).map_err(|error| fail(&error.to_string()))?;
        if header.format != FORMAT || header.version != VERSION {
            return Err(SnapshotError(format!(
                "format {:?} version {} is not {FORMAT:?} version {VERSION}",
                header.format, header.version
            )));
        }
        let state = &state[1..];
        if state.len() != header.state_bytes {
            return Err(fail("the state's length does not match"));
        }
        let cluster: Cluster = serde_json::from_slice(state).map_err(|error| fail(&error.to_string()))?;
        let membership = header.membership.decode().map_err(SnapshotError)?;
        let mut used_ids = header.used_ids;
        used_ids.extend(membership.nodes().map(|(id, _)| *id));
        Ok(Self {
            last: header.last.into(),
            membership,
            used_ids,
            cluster: Arc::new(cluster),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::{
        super::types::{Membership, Voter, log_id},
        *,
    };

    /// A snapshot that ends at (`term`, `index`).
    pub(in super::super) fn example(term: u64, index: u64) -> Snapshot {
        let nodes = BTreeMap::from([(1, Voter::default())]);
        let membership = Membership::new(vec![BTreeSet::from([1])], nodes).unwrap();
        let cluster = Cluster {
            cluster_id: "c".into(),
            next_producer_id: 7,
            version: index,
            ..Cluster::default()
        };
        Snapshot {
            last: log_id(term, index),
            membership: StoredMembership::new(Some(log_id(0, 0)), membership),
            used_ids: BTreeSet::from([1, 7]),
            cluster: Arc::new(cluster),
        }
    }

    #[test]
    fn a_snapshot_comes_back_as_it_was() {
        let snapshot = example(3, 41);
        assert_eq!(Snapshot::decode(&snapshot.encode().unwrap()).unwrap(), snapshot);
        let unset = Snapshot {
            membership: StoredMembership::default(),
            ..snapshot
        };
        assert_eq!(Snapshot::decode(&unset.encode().unwrap()).unwrap(), unset);
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_noticed() {
        let bytes = example(3, 41).encode().unwrap();
        for at in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[at / 8] ^= 1 << (at % 8);
            assert!(Snapshot::decode(&damaged).is_err(), "bit {at}");
        }
        for end in 0..bytes.len() {
            assert!(Snapshot::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
    }
}
