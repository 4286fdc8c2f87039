//! The settings that openraft runs with, and the check that no unsafe one slips in.

use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

use super::{error::QuorumError, options::QuorumOptions};

/// Entries kept in the log behind the newest snapshot beyond [`QuorumOptions::snapshot_every`],
/// so that the snapshot before it still joins up with the log: should the newest turn out to be
/// damaged, nothing is lost.
const SLACK_ENTRIES: u64 = 1_000;

/// openraft's configuration for these options.
///
/// # Errors
/// [`QuorumError::Config`].
pub(super) fn raft_config(options: &QuorumOptions) -> Result<Config, QuorumError> {
    if options.snapshot_every == 0 || options.max_pending == 0 {
        return Err(QuorumError::Config(
            "snapshot_every and max_pending must be positive".into(),
        ));
    }
    let election = millis(options.election_timeout);
    let kept = options.snapshot_every.saturating_add(SLACK_ENTRIES);
    let config = Config {
        cluster_name: "millrace-metadata".into(),
        heartbeat_interval: millis(options.heartbeat_interval),
        election_timeout_min: election,
        election_timeout_max: election.saturating_mul(2),
        // A candidate first asks whether it could win: one that was cut off does not come back
        // with a high term and depose a healthy leader (Ongaro's thesis, section 9.6; KIP-996).
        enable_pre_vote: Some(true),
        // A leader that restarts must not lead on in its old term: see the module's header.
        enable_leader_restore: Some(false),
        // A follower whose log went back has lost its disk: that must not pass as normal. In a release build
        // this alone does not see to it: `network::Checked` does.
        allow_log_reversion: Some(false),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(options.snapshot_every),
        max_in_snapshot_log_to_keep: kept,
        // Past this a follower gets a snapshot; it must not be less than what a snapshot can
        // lag behind, or one snapshot would only lead to the next.
        replication_lag_threshold: kept.saturating_mul(2),
        max_payload_entries: 256,
        // The network has its own limits, on the time without progress.
        install_snapshot_timeout: millis(super::network::SNAPSHOT_WITHIN),
        ..Config::default()
    };
    let config = config
        .validate()
        .map_err(|error| QuorumError::Config(error.to_string()))?;
    check(&config)?;
    Ok(config)
}

/// Refuses settings with which acknowledged metadata could be lost.
pub(super) fn check(config: &Config) -> Result<(), QuorumError> {
    let refuse = |what: &str| Err(QuorumError::Config(what.into()));
    if config.enable_leader_restore != Some(false) {
        return refuse("a restarted leader must stand for election anew");
    }
    if config.allow_log_reversion != Some(false) {
        return refuse("a log that went back must not be accepted");
    }
    if config.enable_pre_vote != Some(true) {
        return refuse("candidates must ask before they raise the term");
    }
    if !(config.enable_tick && config.enable_elect && config.enable_heartbeat) {
        return refuse("ticks, elections and heartbeats must be on");
    }
    Ok(())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
