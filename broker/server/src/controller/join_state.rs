//! `join-state`: how far a broker is that joins a cluster, in its data directory.
//!
//! ```text
//!   {"version":1,"nodeId":2,"directoryId":"...","admitted":{"clusterId":"...","voterId":3}}\n
//!   crc32c 0a1b2c3d\n
//! ```
//!
//! Written before the cluster is first asked, so that a repeated question is the same disk's; and
//! again with the answer, before the directory is formatted. The file stays: a directory with it was
//! never meant to begin a cluster.

use std::{io, path::Path};

use millrace_log::{
    JOIN_FILE_NAME,
    fs::{FileSystem, read_whole, write_atomic},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::checksummed;

const VERSION: u32 = 1;
/// The file has some 200 bytes.
const MAX_BYTES: u64 = 64 << 10;

/// The contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct JoinState {
    version: u32,
    /// The broker's number.
    pub(crate) node_id: i32,
    /// The directory's id.
    pub(crate) directory_id: Uuid,
    /// What it was admitted as; `None` until the cluster has answered.
    pub(crate) admitted: Option<Admitted>,
}

/// What the cluster has answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Admitted {
    /// The cluster's id.
    pub(crate) cluster_id: String,
    /// The number in the metadata quorum.
    pub(crate) voter_id: u64,
}

impl JoinState {
    /// Of a broker that has not asked yet.
    pub(crate) fn new(node_id: i32, directory_id: Uuid) -> Self {
        Self {
            version: VERSION,
            node_id,
            directory_id,
            admitted: None,
        }
    }

    /// Reads the file; `None` if there is none.
    ///
    /// # Errors
    /// The file system's, or [`io::ErrorKind::InvalidData`]: what can't be read is not "none".
    pub(crate) fn load(fs: &dyn FileSystem, data_dir: &Path) -> io::Result<Option<Self>> {
        let path = data_dir.join(JOIN_FILE_NAME);
        let bytes = match read_whole(fs, &path, MAX_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let damaged = |reason: String| {
            let reason = format!("{} is damaged: {reason}", path.display());
            io::Error::new(io::ErrorKind::InvalidData, reason)
        };
        let state: Self = checksummed::decode(&bytes).map_err(damaged)?;
        if state.version != VERSION {
            return Err(damaged(format!("version {} is not {VERSION}", state.version)));
        }
        Ok(Some(state))
    }

    /// Replaces the file; on return it is on the disk.
    pub(crate) fn store(&self, fs: &dyn FileSystem, data_dir: &Path) -> io::Result<()> {
        write_atomic(fs, &data_dir.join(JOIN_FILE_NAME), &checksummed::encode(self)?)
    }
}

#[cfg(test)]
mod tests {
    use millrace_log::OsFileSystem;

    use super::*;

    #[test]
    fn it_comes_back_and_damage_is_not_absence() {
        let dir = tempfile::tempdir().unwrap();
        let fs = OsFileSystem::shared();
        assert_eq!(JoinState::load(&*fs, dir.path()).unwrap(), None);
        let asked = JoinState::new(2, Uuid::from_u128(7));
        let admitted = JoinState {
            admitted: Some(Admitted {
                cluster_id: "c".into(),
                voter_id: 3,
            }),
            ..asked.clone()
        };
        for state in [asked, admitted] {
            state.store(&*fs, dir.path()).unwrap();
            assert_eq!(JoinState::load(&*fs, dir.path()).unwrap(), Some(state.clone()));
            checksummed::assert_notices_damage::<JoinState>(&checksummed::encode(&state).unwrap());
        }
        std::fs::write(dir.path().join(JOIN_FILE_NAME), "{}").unwrap();
        let error = JoinState::load(&*fs, dir.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
