//! File handles: how many the process may have, and what they are for.
//!
//! Connections may not use up what partitions' files need: without a handle no checkpoint is written and no segment
//! begun.

use std::sync::LazyLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits;

/// What the process's handles are for, at most. The rest is for what opens a file for a moment, and for connections to
/// other brokers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandleShares {
    /// Files of partitions, kept open for their next use.
    pub files: usize,
    /// Connections of clients.
    pub clients: usize,
    /// Connections of other brokers.
    pub internal: usize,
    /// Connections to the port for health and metrics.
    pub http: usize,
}

/// The shares of this process. The first look raises its limit as far as it may be raised.
pub static SHARES: LazyLock<HandleShares> = LazyLock::new(|| {
    let shares = HandleShares::of(raise_limit());
    millrace_log::keep_at_most(shares.files);
    shares
});

/// Raises the soft limit to the hard one, which is for the process to choose (`setrlimit(2)`): the soft one is
/// usually 1,024, for programs that know no more.
fn raise_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised.current,
        Err(error) => {
            tracing::debug!(%error, "the limit of open files stays as it is");
            limit.current
        }
    };
    // None is without a limit.
    let current = current.unwrap_or(u64::MAX);
    usize::try_from(current).unwrap_or(usize::MAX).min(limits::HANDLES_MOST)
}

impl HandleShares {
    /// Of `limit` handles.
    fn of(limit: usize) -> Self {
        Self {
            files: limit / 2,
            clients: limit / 4,
            internal: (limit / 16).min(limits::INTERNAL_CONNECTIONS),
            http: (limit / 16).min(limits::HTTP_CONNECTIONS),
        }
    }

    /// How many clients are served at once where `wanted` are asked for; tells if those are fewer.
    #[must_use]
    pub fn clients_of(&self, wanted: usize) -> usize {
        if wanted > self.clients {
            tracing::warn!(
                max_connections = wanted,
                served = self.clients,
                "fewer connections are served than asked for, as the process may not open as many files: raise its limit (ulimit -n) to four times the connections"
            );
        }
        wanted.min(self.clients)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_is_left_beside_all_shares() {
        for limit in [64, 256, 1_024, 20_000, limits::HANDLES_MOST] {
            let HandleShares {
                files,
                clients,
                internal,
                http,
            } = HandleShares::of(limit);
            assert!(files + clients + internal + http <= limit - limit / 8, "of {limit}");
            assert!(internal > 0 && http > 0);
        }
    }

    #[test]
    fn the_setting_holds_where_there_are_handles() {
        let shares = HandleShares::of(1_024);
        assert_eq!(shares.clients_of(100), 100);
        assert_eq!(shares.clients_of(2_000), 256);
    }
}
