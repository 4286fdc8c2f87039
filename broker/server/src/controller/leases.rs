//! Who is in service: leases, judged by the clock of the metadata quorum's leader (KIP-631).
//!
//! Pure: events in, decisions out. The time is an argument, counted from any fixed moment.
//!
//! A broker's lease ends `session` after its last sign of life that came with a disk that writes.
//! A broker that can't store is as good as dead, whatever its network says.

use std::{collections::BTreeMap, time::Duration};

use millrace_engine::{
    BrokerId, Cluster,
    cluster::{Broker, FenceReason},
};

/// What the leader learns.
#[derive(Debug)]
pub(crate) enum LeaseEvent<'a> {
    /// It has begun to lead: it has heard of nobody, which says nothing about them; but for the broker
    /// that led before, whose signs were those of a leader.
    BeganToLead(Option<LedBefore>),
    /// A broker's sign of life has come.
    Heard(SignOfLife),
    /// What was decided of this broker's life has been carried out, or surely never will be; the metadata shows which.
    Settled(Fence),
    /// Time to look at the leases; the metadata as it is now. To be told often, in a fraction of
    /// `session`.
    Looked(&'a Cluster),
}

/// Who led the metadata quorum before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LedBefore {
    pub(crate) broker_id: BrokerId,
    /// Its life.
    pub(crate) broker_epoch: i64,
    /// When it was last heard of as the leader.
    pub(crate) heard_at: Duration,
}

/// What a broker tells of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SignOfLife {
    pub(crate) broker_id: BrokerId,
    /// Its life.
    pub(crate) broker_epoch: i64,
    /// Up to where it has carried out the metadata.
    pub(crate) applied_index: u64,
    /// Whether its disk has lately taken a write.
    pub(crate) disk_writes: bool,
    /// Whether its log directory has failed for the rest of this life.
    pub(crate) directory_failed: bool,
}

/// A decision: this broker is not to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fence {
    pub(crate) broker_id: BrokerId,
    /// The life that is meant.
    pub(crate) broker_epoch: i64,
    pub(crate) reason: FenceReason,
}

/// One broker's lease.
#[derive(Clone, Copy, Debug)]
struct Lease {
    epoch: i64,
    until: Duration,
    applied_index: u64,
    directory_failed: bool,
    /// When its fencing was last decided, until the metadata shows it or it is settled: no sign of life calls back
    /// what is on its way.
    decided_at: Option<Duration>,
}

/// All leases.
#[derive(Debug)]
pub(crate) struct Leases {
    session: Duration,
    /// What is left at least of the lease of who led before: enough for two signs of life, one of which
    /// may still go to itself.
    least: Duration,
    /// Bounded by the registered brokers: others are forgotten with each look.
    leases: BTreeMap<BrokerId, Lease>,
    looked_at: Option<Duration>,
}

impl Leases {
    /// No leases yet; each will last for `session`. Signs of life come every `heartbeat`.
    pub(crate) fn new(session: Duration, heartbeat: Duration) -> Self {
        let two_signs = heartbeat * 2 + session / 10;
        Self {
            session,
            least: two_signs.clamp(session / 2, session),
            leases: BTreeMap::new(),
            looked_at: None,
        }
    }

    /// Takes an event in and answers with what is to be decided.
    pub(crate) fn step(&mut self, now: Duration, event: LeaseEvent<'_>) -> Vec<Fence> {
        match event {
            LeaseEvent::BeganToLead(before) => {
                self.begin(now, before);
                Vec::new()
            }
            LeaseEvent::Heard(sign) => {
                self.heard(now, sign);
                Vec::new()
            }
            LeaseEvent::Settled(fence) => {
                let lease = self.leases.get_mut(&fence.broker_id);
                if let Some(lease) = lease.filter(|lease| lease.epoch == fence.broker_epoch) {
                    lease.decided_at = None;
                }
                Vec::new()
            }
            LeaseEvent::Looked(cluster) => self.look(now, cluster),
        }
    }

    /// Who led before was not heard of for as long as the election took, and that counts: what it led
    /// beside the quorum would otherwise wait for an election and a whole session. Half a session or more
    /// it has in any case, to find the new leader: it may have stood still, or been heard by others.
    fn begin(&mut self, now: Duration, before: Option<LedBefore>) {
        self.leases.clear();
        self.looked_at = Some(now);
        if let Some(before) = before {
            let mut lease = self.fresh(now, before.broker_epoch);
            let silent = before.heard_at + self.session;
            lease.until = silent.clamp(now + self.least, lease.until);
            self.leases.insert(before.broker_id, lease);
        }
    }

    fn heard(&mut self, now: Duration, sign: SignOfLife) {
        let fresh = self.fresh(now, sign.broker_epoch);
        let lease = self.leases.entry(sign.broker_id).or_insert(fresh);
        if lease.epoch > sign.broker_epoch {
            return;
        }
        if lease.epoch < sign.broker_epoch {
            *lease = fresh;
        }
        if sign.disk_writes {
            lease.until = now + self.session;
        }
        lease.applied_index = lease.applied_index.max(sign.applied_index);
        lease.directory_failed |= sign.directory_failed;
    }

    /// Whether a sign of life that was just taken keeps its broker in service for a session, by this metadata, which
    /// must not be older than the last that was looked at. A fenced broker, one that is about to be, and one whose disk
    /// does not write are heard, too, and have no such promise.
    pub(crate) fn promises(&self, sign: &SignOfLife, cluster: &Cluster) -> bool {
        let of_life = |broker: &&Broker| broker.epoch == sign.broker_epoch && broker.is_active();
        let lease = self.leases.get(&sign.broker_id);
        sign.disk_writes
            && cluster.brokers.get(&sign.broker_id).filter(of_life).is_some()
            && lease.is_some_and(|lease| {
                lease.epoch == sign.broker_epoch && !lease.directory_failed && lease.decided_at.is_none()
            })
    }

    /// For how long the quorum's leader may go by a lease of its own, after a majority has confirmed it: the next one
    /// may not have heard of it as lately as others have, and gives it no more for sure.
    pub(crate) fn of_leader(&self) -> Duration {
        self.least
    }

    fn fresh(&self, now: Duration, epoch: i64) -> Lease {
        Lease {
            epoch,
            until: now + self.session,
            applied_index: 0,
            directory_failed: false,
            decided_at: None,
        }
    }

    fn look(&mut self, now: Duration, cluster: &Cluster) -> Vec<Fence> {
        self.excuse_own_absence(now);
        self.leases.retain(|id, _| cluster.brokers.contains_key(id));
        let mut active = cluster.brokers.values().filter(|broker| broker.is_active()).count();
        let mut decisions = Vec::new();
        for broker in cluster.brokers.values().filter(|broker| broker.leased) {
            let Some(reason) = self.why_fence(now, broker, active) else {
                continue;
            };
            active -= usize::from(broker.is_active());
            decisions.push(Fence {
                broker_id: broker.id,
                broker_epoch: broker.epoch,
                reason,
            });
        }
        decisions
    }

    /// While the leader itself stood still it could hear nobody: it begins anew with them.
    fn excuse_own_absence(&mut self, now: Duration) {
        let away = now.saturating_sub(self.looked_at.replace(now).unwrap_or(now));
        if away > self.session / 2 {
            for lease in self.leases.values_mut() {
                lease.until = lease.until.max(now + self.session);
            }
        }
    }

    fn why_fence(&mut self, now: Duration, broker: &Broker, active: usize) -> Option<FenceReason> {
        let fresh = self.fresh(now, broker.epoch);
        let session = self.session;
        let lease = self.leases.entry(broker.id).or_insert(fresh);
        if lease.epoch > broker.epoch {
            // A newer life has shown itself: this copy of the metadata is behind.
            return None;
        }
        if lease.epoch < broker.epoch {
            *lease = fresh;
        }
        // The only one in service is left there: nobody could take over, and it may serve.
        let is_over = now >= lease.until || lease.decided_at.is_some();
        let expired = !broker.fenced && is_over && (active > 1 || !broker.is_active());
        let failed = lease.directory_failed && broker.fence_reason != Some(FenceReason::DirectoryFailed);
        let reason = if lease.directory_failed && (failed || !broker.fenced) {
            FenceReason::DirectoryFailed
        } else if expired {
            FenceReason::LeaseExpired
        } else {
            lease.decided_at.take_if(|_| broker.fenced);
            return None;
        };
        let is_due = lease.decided_at.is_none_or(|at| now >= at + session);
        if is_due {
            lease.decided_at = Some(now);
        }
        is_due.then_some(reason)
    }

    /// Up to where all brokers in service but `except` have applied the metadata, as far as they
    /// told; `u64::MAX` if there is none.
    pub(crate) fn applied_by_others(&self, cluster: &Cluster, except: BrokerId) -> u64 {
        let others = cluster.brokers.values().filter(|broker| broker.is_active());
        others
            .filter(|broker| broker.id != except)
            .map(|broker| self.leases.get(&broker.id).map_or(0, |lease| lease.applied_index))
            .min()
            .unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use millrace_engine::{
        Command, Outcome,
        cluster::{DirectoryReport, RegisterBroker, StartBroker, UnfenceBroker},
    };
    use uuid::Uuid;

    use super::*;

    const SESSION: Duration = Duration::from_millis(500);
    const HEARTBEAT: Duration = Duration::from_millis(100);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Brokers 0.. in service, and the index of the next command.
    fn cluster(brokers: i32) -> (Cluster, u64) {
        let mut cluster = Cluster::default();
        let mut index = 1;
        for id in 0..brokers {
            start(&mut cluster, &mut index, id);
        }
        (cluster, index)
    }

    fn start(cluster: &mut Cluster, index: &mut u64, id: i32) {
        let registration = RegisterBroker {
            broker_id: id,
            incarnation: Uuid::from_u128(u128::from(*index)),
            cluster_id: "c".into(),
            directory_id: Uuid::from_u128(1000 + u128::from(id.unsigned_abs())),
            address: "h:1".into(),
            rack: String::new(),
            version: "1".into(),
            now_ms: 0,
        };
        let start = Command::StartBroker(StartBroker {
            registration,
            internal_address: "h:2".into(),
            directory: DirectoryReport::default(),
            replaces: cluster.brokers.get(&id).map(|known| known.epoch),
        });
        let started = apply(cluster, index, start);
        let Outcome::Registered { broker_epoch } = started else {
            panic!("{started:?}")
        };
        let unfence = UnfenceBroker {
            broker_id: id,
            broker_epoch,
            applied_index: *index,
            log_ends: Vec::new(),
        };
        apply(cluster, index, Command::UnfenceBroker(unfence));
    }

    fn apply(cluster: &mut Cluster, index: &mut u64, command: Command) -> Outcome {
        let outcome = cluster.apply(*index, &command).unwrap();
        *index += 1;
        outcome
    }

    fn fence(cluster: &mut Cluster, index: &mut u64, decided: Fence) {
        let Fence {
            broker_id,
            broker_epoch,
            reason,
        } = decided;
        apply(
            cluster,
            index,
            Command::FenceBroker {
                broker_id,
                broker_epoch,
                reason,
            },
        );
    }

    fn sign(cluster: &Cluster, id: i32) -> SignOfLife {
        SignOfLife {
            broker_id: id,
            broker_epoch: cluster.brokers[&id].epoch,
            applied_index: 7,
            disk_writes: true,
            directory_failed: false,
        }
    }

    fn leading() -> Leases {
        let mut leases = Leases::new(SESSION, HEARTBEAT);
        assert!(leases.step(ms(0), LeaseEvent::BeganToLead(None)).is_empty());
        leases
    }

    /// Looks every 25 ms from `from` to before `to`, with what `heard` tells before each look.
    fn run(
        leases: &mut Leases,
        cluster: &Cluster,
        (from, to): (u64, u64),
        heard: impl Fn(u64) -> Vec<SignOfLife>,
    ) -> Vec<(u64, Fence)> {
        let mut decisions = Vec::new();
        for at in (from..to).step_by(25) {
            for sign in heard(at) {
                assert!(leases.step(ms(at), LeaseEvent::Heard(sign)).is_empty());
            }
            let decided = leases.step(ms(at), LeaseEvent::Looked(cluster));
            decisions.extend(decided.into_iter().map(|fence| (at, fence)));
        }
        decisions
    }

    fn expired(cluster: &Cluster, id: i32) -> Fence {
        Fence {
            broker_id: id,
            broker_epoch: cluster.brokers[&id].epoch,
            reason: FenceReason::LeaseExpired,
        }
    }

    #[test]
    fn who_is_silent_for_a_session_is_fenced_and_nobody_else() {
        let (mut cluster, mut index) = cluster(3);
        let mut leases = leading();
        let all = run(&mut leases, &cluster, (0, 1000), |_| {
            (0..3).map(|id| sign(&cluster, id)).collect()
        });
        assert_eq!(all, []);
        // The last sign of 2 came at 975.
        let two = |_| vec![sign(&cluster, 0), sign(&cluster, 1)];
        let decisions = run(&mut leases, &cluster, (1000, 1500), two);
        assert_eq!(decisions, [(1475, expired(&cluster, 2))]);
        fence(&mut cluster, &mut index, decisions[0].1);
        let two = |_| vec![sign(&cluster, 0), sign(&cluster, 1)];
        assert_eq!(run(&mut leases, &cluster, (1500, 4000), two), []);
    }

    #[test]
    fn a_decision_that_does_not_show_is_made_again_after_a_session() {
        let (cluster, _) = cluster(2);
        let mut leases = leading();
        let decisions = run(&mut leases, &cluster, (0, 1600), |_| vec![sign(&cluster, 0)]);
        let times: Vec<u64> = decisions.iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [500, 1000, 1500]);
    }

    #[test]
    fn a_decision_on_its_way_is_not_called_back_by_a_sign_of_life() {
        let (mut cluster, mut index) = cluster(2);
        let mut leases = leading();
        let both = |cluster: &Cluster| [sign(cluster, 0), sign(cluster, 1)];
        let late = |at| match at {
            0..=500 => vec![sign(&cluster, 0)],
            _ => both(&cluster).to_vec(),
        };
        let decisions = run(&mut leases, &cluster, (0, 1600), late);
        let times: Vec<u64> = decisions.iter().map(|(at, _)| *at).collect();
        assert_eq!(
            times,
            [500, 1000, 1500],
            "it is repeated until it is known what became of it"
        );
        assert!(!leases.promises(&sign(&cluster, 1), &cluster));
        // It surely was not carried out: the broker lives as before.
        leases.step(ms(1600), LeaseEvent::Settled(decisions[0].1));
        assert!(leases.promises(&sign(&cluster, 1), &cluster));
        assert_eq!(
            run(&mut leases, &cluster, (1600, 2600), |_| both(&cluster).to_vec()),
            []
        );
        // Or it was: who is back in service has a lease as all others have.
        let silent = run(&mut leases, &cluster, (2600, 3100), |_| vec![sign(&cluster, 0)]);
        assert_eq!(silent, [(3075, expired(&cluster, 1))]);
        fence(&mut cluster, &mut index, silent[0].1);
        assert_eq!(
            run(&mut leases, &cluster, (3100, 3200), |_| both(&cluster).to_vec()),
            []
        );
        assert!(!leases.promises(&sign(&cluster, 1), &cluster), "it is fenced");
        let unfence = UnfenceBroker {
            broker_id: 1,
            broker_epoch: cluster.brokers[&1].epoch,
            applied_index: index,
            log_ends: Vec::new(),
        };
        apply(&mut cluster, &mut index, Command::UnfenceBroker(unfence));
        assert_eq!(
            run(&mut leases, &cluster, (3200, 4000), |_| both(&cluster).to_vec()),
            []
        );
        assert!(leases.promises(&sign(&cluster, 1), &cluster));
    }

    #[test]
    fn only_a_sign_that_keeps_its_broker_in_service_promises_so() {
        let (mut cluster, mut index) = cluster(2);
        let mut leases = leading();
        let sound = sign(&cluster, 1);
        assert!(!leases.promises(&sound, &cluster), "it was not heard");
        leases.step(ms(0), LeaseEvent::Heard(sound));
        assert!(leases.promises(&sound, &cluster));
        let hanging = SignOfLife {
            disk_writes: false,
            ..sound
        };
        assert!(!leases.promises(&hanging, &cluster));
        let newer = SignOfLife {
            broker_epoch: sound.broker_epoch + 1,
            ..sound
        };
        assert!(
            !leases.promises(&newer, &cluster),
            "the metadata does not know this life"
        );
        assert!(!leases.promises(&sound, &Cluster::default()), "nor any");
        let leaving = Command::ControlledShutdown {
            broker_id: 1,
            broker_epoch: sound.broker_epoch,
        };
        apply(&mut cluster, &mut index, leaving);
        assert!(!leases.promises(&sound, &cluster));
        let failed = SignOfLife {
            directory_failed: true,
            ..sign(&cluster, 0)
        };
        leases.step(ms(0), LeaseEvent::Heard(failed));
        leases.step(ms(0), LeaseEvent::Heard(sign(&cluster, 0)));
        assert!(!leases.promises(&sign(&cluster, 0), &cluster));
    }

    #[test]
    fn a_new_leader_gives_everybody_a_whole_lease() {
        let (cluster, _) = cluster(2);
        let mut leases = leading();
        assert_eq!(run(&mut leases, &cluster, (0, 450), |_| vec![]), []);
        leases.step(ms(450), LeaseEvent::BeganToLead(None));
        let decisions = run(&mut leases, &cluster, (450, 1000), |_| vec![sign(&cluster, 0)]);
        assert_eq!(decisions, [(950, expired(&cluster, 1))]);
    }

    #[test]
    fn who_led_before_was_silent_for_the_election() {
        let (cluster, _) = cluster(3);
        let began = |heard_at| {
            let mut leases = Leases::new(SESSION, HEARTBEAT);
            let before = LedBefore {
                broker_id: 1,
                broker_epoch: cluster.brokers[&1].epoch,
                heard_at: ms(heard_at),
            };
            leases.step(ms(1000), LeaseEvent::BeganToLead(Some(before)));
            leases
        };
        let others = |_| vec![sign(&cluster, 0), sign(&cluster, 2)];
        for (heard_at, fenced_at) in [
            (900, 1400),
            (800, 1300),
            (600, 1250),
            (0, 1250),
            (1000, 1500),
            (1100, 1500),
        ] {
            let decisions = run(&mut began(heard_at), &cluster, (1000, 1525), others);
            assert_eq!(
                decisions.first(),
                Some(&(fenced_at, expired(&cluster, 1))),
                "{heard_at}"
            );
        }
        // With seldom signs of life half a session is too little.
        let mut leases = Leases::new(SESSION, ms(200));
        let before = LedBefore {
            broker_id: 1,
            broker_epoch: cluster.brokers[&1].epoch,
            heard_at: ms(600),
        };
        leases.step(ms(1000), LeaseEvent::BeganToLead(Some(before)));
        let decisions = run(&mut leases, &cluster, (1000, 1525), others);
        assert_eq!(decisions.first(), Some(&(1450, expired(&cluster, 1))));
        // It finds the new leader in time, and lives by the same lease as all others.
        let mut leases = began(600);
        let all = |at| {
            (0..3)
                .filter(|id| *id != 1 || at == 1225)
                .map(|id| sign(&cluster, id))
                .collect()
        };
        assert_eq!(run(&mut leases, &cluster, (1000, 1725), all), []);
        // Another life of it was not meant.
        let (mut cluster, mut index) = (cluster.clone(), 100);
        let mut leases = began(600);
        start(&mut cluster, &mut index, 1);
        let others = |_| vec![sign(&cluster, 0), sign(&cluster, 2)];
        let decisions = run(&mut leases, &cluster, (1000, 1525), others);
        assert_eq!(decisions, [(1500, expired(&cluster, 1))]);
    }

    #[test]
    fn a_leader_that_stood_still_blames_nobody() {
        let (cluster, _) = cluster(2);
        let mut leases = leading();
        run(&mut leases, &cluster, (0, 500), |_| {
            (0..2).map(|id| sign(&cluster, id)).collect()
        });
        // It wakes after 20 s and looks before it hears.
        assert_eq!(run(&mut leases, &cluster, (20_500, 20_525), |_| vec![]), []);
        let later = run(&mut leases, &cluster, (20_525, 21_025), |_| vec![sign(&cluster, 0)]);
        assert_eq!(later, [(21_000, expired(&cluster, 1))]);
    }

    #[test]
    fn a_disk_that_hangs_costs_the_lease_and_a_failed_one_at_once() {
        let (mut cluster, mut index) = cluster(3);
        let mut leases = leading();
        let hangs = |_| {
            let hanging = SignOfLife {
                disk_writes: false,
                ..sign(&cluster, 1)
            };
            vec![sign(&cluster, 0), hanging, sign(&cluster, 2)]
        };
        let decisions = run(&mut leases, &cluster, (0, 600), hangs);
        assert_eq!(decisions, [(500, expired(&cluster, 1))]);
        fence(&mut cluster, &mut index, decisions[0].1);

        let failed = SignOfLife {
            directory_failed: true,
            ..sign(&cluster, 2)
        };
        let decisions = run(&mut leases, &cluster, (600, 650), |_| vec![sign(&cluster, 0), failed]);
        let decided = Fence {
            reason: FenceReason::DirectoryFailed,
            ..expired(&cluster, 2)
        };
        assert_eq!(decisions, [(600, decided)]);
        fence(&mut cluster, &mut index, decided);
        // Also one that is fenced already: it must not come back in this life.
        let failed = SignOfLife {
            directory_failed: true,
            ..sign(&cluster, 1)
        };
        let decisions = run(&mut leases, &cluster, (650, 700), |_| vec![sign(&cluster, 0), failed]);
        let decided = Fence {
            reason: FenceReason::DirectoryFailed,
            ..expired(&cluster, 1)
        };
        assert_eq!(decisions, [(650, decided)]);
        fence(&mut cluster, &mut index, decided);
        assert_eq!(
            run(&mut leases, &cluster, (700, 1200), |_| vec![sign(&cluster, 0), failed]),
            []
        );
    }

    #[test]
    fn the_only_one_in_service_is_left_there() {
        let (cluster, _) = cluster(2);
        let mut leases = leading();
        let decisions = run(&mut leases, &cluster, (0, 525), |_| vec![]);
        assert_eq!(decisions, [(500, expired(&cluster, 0))], "both are silent, one stays");
    }

    #[test]
    fn a_new_life_has_a_lease_of_its_own() {
        let (mut cluster, mut index) = cluster(2);
        let mut leases = leading();
        run(&mut leases, &cluster, (0, 450), |_| vec![sign(&cluster, 0)]);
        let old = sign(&cluster, 1);
        start(&mut cluster, &mut index, 1);
        // What the old life sent, and comes late, keeps nothing.
        let late = |_| vec![sign(&cluster, 0), old];
        let decisions = run(&mut leases, &cluster, (450, 1000), late);
        assert_eq!(decisions, [(950, expired(&cluster, 1))]);
        // The new life is heard of before the metadata shows it.
        let (before, new) = (cluster.clone(), 99);
        let ahead = SignOfLife {
            broker_epoch: new,
            ..sign(&cluster, 1)
        };
        assert_eq!(
            run(&mut leases, &before, (1000, 1600), |_| vec![sign(&before, 0), ahead]),
            []
        );
    }

    #[test]
    fn others_count_up_to_where_all_of_them_are() {
        let (cluster, _) = cluster(3);
        let mut leases = leading();
        assert_eq!(leases.applied_by_others(&cluster, 0), 0);
        for (id, applied_index) in [(0, 1), (1, 9), (2, 5)] {
            let heard = SignOfLife {
                applied_index,
                ..sign(&cluster, id)
            };
            leases.step(ms(0), LeaseEvent::Heard(heard));
        }
        assert_eq!(leases.applied_by_others(&cluster, 0), 5);
        assert_eq!(leases.applied_by_others(&Cluster::default(), 0), u64::MAX);
    }
}
