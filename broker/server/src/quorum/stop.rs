//! How a member leaves for a while.

use super::handle::{Quorum, until};

impl Quorum {
    /// Has another voter take over, if this one leads. Returns once another leads, or when an
    /// election timeout has passed: then an election follows when this one stops.
    pub async fn hand_over(&self) {
        let me = self.voter_id();
        let Some(successor) = self.successor() else { return };
        if let Err(error) = self.raft().trigger().transfer_leader(successor).await {
            tracing::debug!(%error, successor, "leadership was not handed over");
            return;
        }
        let handed = until(self.raft().metrics(), |metrics| {
            metrics.running_state.is_err() || metrics.current_leader.is_some_and(|leader| leader != me)
        });
        if tokio::time::timeout(self.election_timeout(), handed).await.is_err() {
            tracing::debug!(successor, "leadership was not taken over in time");
        }
    }

    /// The voter that lacks least and was heard of last, if this one leads.
    fn successor(&self) -> Option<u64> {
        if !self.is_networked() || !self.raft().is_leader() {
            return None;
        }
        let others = self.status().members.into_iter();
        let able = others.filter(|member| member.is_voter && member.voter_id != self.voter_id());
        let heard = able.filter(|member| member.last_heard.is_some_and(|ago| ago <= self.election_timeout()));
        let ordered = heard.min_by_key(|member| (member.lag_entries.unwrap_or(u64::MAX), member.last_heard));
        ordered.map(|member| member.voter_id)
    }

    /// Stops taking part; a leader first hands over. What was acknowledged is on the disk; when
    /// this returns, nothing more is written, so that the log directory can be closed.
    pub async fn shutdown(&self) {
        self.hand_over().await;
        self.set_stopping();
        if let Err(error) = self.raft().shutdown().await {
            tracing::warn!(%error, "metadata quorum ended badly");
        }
        self.end_io().await;
    }
}
