//! Whether the quorum has a leader now. openraft names the last one until this member votes for
//! another, which without a majority it never does; and a leader leads in name until it hears of
//! another. So who leads counts only with a sign of it that is not old.

use std::time::{Duration, Instant};

use openraft::{Instant as _, RaftMetrics, ServerState, type_config::async_runtime::watch::WatchReceiver};
use parking_lot::Mutex;

use super::{handle::Quorum, types::TypeConfig};

/// A leader is taken to be there for so many election timeouts after its last sign of life. A
/// follower stands for election after three to four, and then needs some time to win.
const ELECTIONS_OF_SILENCE: u32 = 8;

/// See [`ELECTIONS_OF_SILENCE`]; no less than this, so that an election is no alarm.
const LEAST_SILENCE: Duration = Duration::from_millis(1_500);

/// When a leader last told this member that it leads.
#[derive(Default)]
pub(super) struct LeaderHeard(Mutex<Option<Heard>>);

#[derive(Clone, Copy)]
struct Heard {
    term: u64,
    /// The voter that led.
    leader: u64,
    at: Instant,
}

/// Who leads, and how old that news is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leadership {
    /// None if the news is too old, or there never was any.
    pub(super) leader: Option<u64>,
    /// How long ago there was a sign of a leader; `None`: never in this member's present life.
    pub(super) heard: Option<Duration>,
}

impl LeaderHeard {
    /// Notes a sign of life of the voter `leader`, which leads in `term`. A leader that was replaced
    /// is none.
    pub(super) fn note(&self, term: u64, leader: u64) {
        let mut heard = self.0.lock();
        if heard.is_none_or(|heard| heard.term <= term) {
            *heard = Some(Heard {
                term,
                leader,
                at: Instant::now(),
            });
        }
    }

    /// The term of the last sign of life, and how long ago it was.
    fn last(&self) -> Option<(u64, Duration)> {
        self.0.lock().map(|heard| (heard.term, heard.at.elapsed()))
    }

    /// Who led in the term before `term`, and how long ago it was last heard of. No one, if the last
    /// sign was of another term: then another may have led in between, perhaps this member.
    fn before(&self, term: u64) -> Option<(u64, Duration)> {
        let heard = self.0.lock().filter(|heard| heard.term.checked_add(1) == Some(term))?;
        Some((heard.leader, heard.at.elapsed()))
    }
}

impl Quorum {
    /// Whether somebody leads now. An election that goes well does not change it.
    pub fn has_leader(&self) -> bool {
        self.present_leader().is_some()
    }

    /// Who leads now.
    pub(super) fn present_leader(&self) -> Option<u64> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        self.leadership(&metrics).leader
    }

    /// The voter that led in the term before `term`, in which this one leads, and how long ago it was last heard of.
    pub(crate) fn led_before(&self, term: u64) -> Option<(u64, Duration)> {
        self.leader_heard().before(term)
    }

    pub(super) fn leadership(&self, metrics: &RaftMetrics<TypeConfig>) -> Leadership {
        // Only what comes over the broker's own network is noted.
        let heard = if self.is_networked() {
            self.leader_heard().last()
        } else {
            Some((metrics.current_term, Duration::ZERO))
        };
        judge(metrics, heard, silence(self.election_timeout()))
    }
}

/// How long a leader may be silent.
fn silence(election_timeout: Duration) -> Duration {
    (election_timeout * ELECTIONS_OF_SILENCE).max(LEAST_SILENCE)
}

fn judge(metrics: &RaftMetrics<TypeConfig>, heard: Option<(u64, Duration)>, silence: Duration) -> Leadership {
    if metrics.state == ServerState::Leader {
        let alone = metrics.membership_config.voter_ids().eq([metrics.id]);
        let acknowledged = metrics.last_quorum_acked.as_ref().map(|at| at.elapsed());
        let heard = if alone { Some(Duration::ZERO) } else { acknowledged };
        let leads = heard.is_some_and(|ago| ago <= silence);
        return Leadership {
            leader: metrics.current_leader.filter(|_| leads),
            heard,
        };
    }
    // A newer term than is known yet: it will be known in a moment.
    let is_there = heard.is_some_and(|(term, ago)| term >= metrics.current_term && ago <= silence);
    Leadership {
        leader: metrics.current_leader.filter(|_| is_there),
        heard: heard.map(|(_, ago)| ago),
    }
}

#[cfg(test)]
mod tests {
    use openraft::type_config::TypeConfigExt as _;

    use super::*;

    const SILENCE: Duration = Duration::from_millis(1_500);

    fn follower() -> RaftMetrics<TypeConfig> {
        let mut metrics = RaftMetrics::new_initial(1);
        metrics.state = ServerState::Follower;
        metrics.current_term = 4;
        metrics.current_leader = Some(2);
        metrics
    }

    #[test]
    fn who_was_not_heard_for_long_does_not_lead() {
        let ms = Duration::from_millis;
        let leader = |heard| judge(&follower(), heard, SILENCE).leader;
        assert_eq!(leader(Some((4, ms(1_500)))), Some(2));
        assert_eq!(leader(Some((5, ms(0)))), Some(2), "the next one is known in a moment");
        assert_eq!(leader(Some((4, ms(1_501)))), None);
        assert_eq!(leader(Some((3, ms(0)))), None, "that was another");
        assert_eq!(leader(None), None, "a disk that knows who led");
    }

    #[test]
    fn a_leader_leads_while_a_majority_answers() {
        let mut leading = follower();
        (leading.state, leading.current_leader) = (ServerState::Leader, Some(1));
        assert_eq!(judge(&leading, None, SILENCE).leader, None, "nobody has answered yet");
        leading.last_quorum_acked = Some(TypeConfig::now().into());
        assert_eq!(judge(&leading, None, SILENCE).leader, Some(1));
        assert_eq!(judge(&leading, None, Duration::ZERO).leader, None);
    }

    #[test]
    fn an_election_is_no_alarm() {
        assert_eq!(silence(Duration::from_millis(120)), LEAST_SILENCE);
        assert_eq!(silence(Duration::from_millis(500)), Duration::from_secs(4));
    }

    #[test]
    fn a_leader_that_was_replaced_is_no_sign_of_life() {
        let heard = LeaderHeard::default();
        heard.note(4, 1);
        heard.note(3, 2);
        assert_eq!(heard.last().map(|(term, _)| term), Some(4));
        let before = |term| heard.before(term).map(|(leader, _)| leader);
        assert_eq!(
            (before(5), before(4), before(3), before(6)),
            (Some(1), None, None, None)
        );
    }
}
