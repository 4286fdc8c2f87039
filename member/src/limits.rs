//! The bounds of a member, each with its reason.

use std::time::Duration;

/// Waits between two attempts to reach a coordinator: the first one, doubled with each failure.
pub const MIN_BACKOFF: Duration = Duration::from_millis(20);

/// Waits between two attempts: the longest.
pub const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// Until a coordinator says how often it wants to hear of a member.
pub const FIRST_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// A member sends no more often than this by itself, whatever the coordinator says.
pub const LEAST_HEARTBEAT_INTERVAL: Duration = Duration::from_millis(50);

/// How long it may keep what it is to give back where the coordinator does not say.
pub const LEAST_REVOKE_WAIT: Duration = Duration::from_secs(1);
