//! A broker's life in its cluster: how it joins, registers, keeps its lease and leaves; and, where
//! the metadata quorum's leader is, the controller that judges leases and chooses voters.
//!
//! What a registration, a fencing or a shutdown does to partitions is `millrace-engine`'s; how
//! commands are agreed on is `quorum`'s. What decides here is pure (`leases`, `voters`, `leave`'s
//! question); the rest carries it out.

mod disk;
mod formation;
mod heartbeat;
mod internal;
mod join;
mod join_state;
mod leases;
mod leave;
mod own_lease;
mod preferred;
mod register;
mod rpc;
mod seeds;
mod service;
mod voters;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use millrace_engine::{Cluster, Command};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) use self::{
    disk::DiskWatch,
    formation::{Addresses, begin_or_enter, open_quorum, prepare_directory},
    heartbeat::run as run_heartbeats,
    internal::{InternalServer, internal_routes},
    join::Applicant,
    leases::SignOfLife,
    leave::{end_calls, leave},
    own_lease::OwnLease,
    register::{register, settle_metadata, was_removed},
    service::{keep_in_service, wait_for_service},
};
use self::{
    leases::{Fence, LeaseEvent, Leases, LedBefore},
    preferred::InService,
    voters::{Member, next_voter},
};
use crate::{
    broker::now_ms,
    config::BrokerConfig,
    limits,
    quorum::{MemberStatus, Quorum, QuorumError},
};

/// What the quorum's leader says to a sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It was counted.
    Counted {
        /// Up to where all others in service have applied the metadata, as far as they told.
        applied_by_others: u64,
        /// Present: the sender is in service, and not fenced before a session after it sent the sign, less this time.
        lease_ago: Option<Duration>,
    },
    /// This broker does not lead the quorum.
    NotLeader,
    /// The broker has begun a newer life.
    Superseded {
        /// Its epoch.
        broker_epoch: i64,
    },
    /// The broker was removed from the cluster.
    Removed,
}

impl Heard {
    /// The same with a lease that is shorter by this.
    fn less(self, withheld: Duration) -> Self {
        match self {
            Self::Counted {
                applied_by_others,
                lease_ago,
            } => Self::Counted {
                applied_by_others,
                lease_ago: lease_ago.map(|ago| ago + withheld),
            },
            other => other,
        }
    }
}

/// The controller of one broker; it decides only while the broker leads the quorum.
pub(crate) struct Controller {
    quorum: Quorum,
    /// What times are counted from.
    began: Instant,
    leases: Mutex<Leases>,
    session: Duration,
    look_every: Duration,
    auto_voters: usize,
    /// Whether a promotion is under way.
    promoting: AtomicBool,
}

impl Controller {
    /// The controller of the broker that takes part in `quorum`.
    pub(crate) fn new(quorum: Quorum, config: &BrokerConfig) -> Arc<Self> {
        Arc::new(Self {
            quorum,
            began: Instant::now(),
            leases: Mutex::new(Leases::new(config.session_timeout, config.heartbeat_interval)),
            session: config.session_timeout,
            look_every: (config.session_timeout / limits::LOOKS_PER_SESSION)
                .clamp(limits::LEASE_LOOK_MIN, limits::LEASE_LOOK_MAX),
            auto_voters: config.quorum_auto_voters,
            promoting: AtomicBool::new(false),
        })
    }

    /// The quorum that it decides for.
    pub(crate) fn quorum(&self) -> &Quorum {
        &self.quorum
    }

    /// Takes a broker's sign of life.
    pub(crate) fn heard(&self, sign: SignOfLife) -> Heard {
        if self.quorum.leads_in_term().is_none() {
            return Heard::NotLeader;
        }
        // Before the metadata, which then has all that other leaders have decided.
        let confirmed = self.quorum.leads_since_confirmed();
        let mut leases = self.leases.lock();
        // Under the lock: not older than what was looked at when a decision was last forgotten.
        let cluster = self.quorum.cluster();
        let known = cluster.brokers.get(&sign.broker_id);
        if known.is_none() && cluster.removed_brokers.contains_key(&sign.broker_id) {
            return Heard::Removed;
        }
        if let Some(newer) = known.filter(|known| known.epoch > sign.broker_epoch) {
            let broker_epoch = newer.epoch;
            return Heard::Superseded { broker_epoch };
        }
        leases.step(self.began.elapsed(), LeaseEvent::Heard(sign));
        Heard::Counted {
            applied_by_others: leases.applied_by_others(&cluster, sign.broker_id),
            lease_ago: confirmed.filter(|_| leases.promises(&sign, &cluster)),
        }
    }

    /// How much less than a session the quorum's leader may go by its own signs of life.
    pub(crate) fn withheld_from_leader(&self) -> Duration {
        self.session.saturating_sub(self.leases.lock().of_leader())
    }

    /// Judges leases and chooses voters while this broker leads the quorum, until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut led = None;
        let mut voters_due = Instant::now();
        let mut in_service = InService::default();
        let mut leaders_due = Instant::now();
        while tokio::time::timeout(self.look_every, stop.cancelled()).await.is_err() {
            let term = self.quorum.leads_in_term();
            if let Some(began) = term.filter(|_| term != led) {
                let event = LeaseEvent::BeganToLead(self.led_before(began));
                self.leases.lock().step(self.began.elapsed(), event);
                in_service = InService::default();
                voters_due = Instant::now() + limits::VOTERS_LOOK_EVERY;
            }
            led = term;
            if led.is_none() {
                continue;
            }
            let cluster = self.quorum.cluster();
            self.look_at_leases(&cluster);
            if Instant::now() >= voters_due {
                voters_due = Instant::now() + limits::VOTERS_LOOK_EVERY;
                self.look_at_voters(&cluster);
            }
            if Instant::now() >= leaders_due {
                leaders_due = Instant::now() + limits::PREFERRED_LEADERS_LOOK_EVERY;
                self.look_at_leaders(&cluster, &mut in_service);
            }
        }
    }

    /// The broker that led the quorum before this one does in `term`.
    fn led_before(&self, term: u64) -> Option<LedBefore> {
        let (voter_id, ago) = self.quorum.led_before(term)?;
        let cluster = self.quorum.cluster();
        let voter = cluster.voters.registered.get(&voter_id)?;
        let broker = cluster.brokers.get(&voter.broker_id)?;
        Some(LedBefore {
            broker_id: broker.id,
            broker_epoch: broker.epoch,
            heard_at: self.began.elapsed().saturating_sub(ago),
        })
    }

    fn look_at_leases(self: &Arc<Self>, cluster: &Cluster) {
        let now = self.began.elapsed();
        let decisions = self.leases.lock().step(now, LeaseEvent::Looked(cluster));
        for decision in decisions {
            // Not waited for: without a majority it takes long, and the leases of others go on.
            // Each broker's is decided once in a session, which bounds how many there are.
            tokio::spawn(fence(self.clone(), decision));
        }
    }

    /// Gives leaderships back to the replicas that should have them.
    fn look_at_leaders(&self, cluster: &Cluster, in_service: &mut InService) {
        let now = self.began.elapsed();
        in_service.look(cluster, now);
        let elections = in_service.elections(cluster, now, now_ms());
        if elections.is_empty() {
            return;
        }
        tracing::info!(
            partitions = elections.len(),
            "preferred replicas take over their partitions"
        );
        let quorum = self.quorum.clone();
        tokio::spawn(async move {
            match quorum.submit(Command::ElectLeaders { elections }).await {
                Ok(Ok(_)) => {}
                Ok(Err(rejection)) => tracing::info!(%rejection, "preferred leaders were not chosen"),
                Err(error) => tracing::info!(%error, "preferred leaders can't be chosen now"),
            }
        });
    }

    fn look_at_voters(self: &Arc<Self>, cluster: &Cluster) {
        let status = self.quorum.status();
        let Some(voter_id) = next_voter(&members(cluster, &status.members), self.auto_voters) else {
            return;
        };
        if self.promoting.swap(true, Ordering::AcqRel) {
            return;
        }
        let controller = Arc::clone(self);
        tokio::spawn(async move {
            match controller.quorum.promote(voter_id).await {
                Ok(()) => tracing::info!(voter_id, "a broker votes in the metadata quorum from now on"),
                Err(QuorumError::NotCaughtUp { .. } | QuorumError::ChangeInProgress) => {}
                Err(error) => tracing::warn!(voter_id, %error, "a broker was not made a voter"),
            }
            controller.promoting.store(false, Ordering::Release);
        });
    }
}

async fn fence(controller: Arc<Controller>, decided: Fence) {
    let Fence {
        broker_id,
        broker_epoch,
        reason,
    } = decided;
    tracing::warn!(broker_id, broker_epoch, ?reason, "fencing a broker");
    let command = Command::FenceBroker {
        broker_id,
        broker_epoch,
        reason,
    };
    match controller.quorum.submit_as_leader(command).await {
        Ok(Ok(_)) => {}
        Ok(Err(rejection)) => tracing::info!(broker_id, %rejection, "a broker was not fenced"),
        Err(error) => {
            tracing::warn!(broker_id, %error, "a broker could not be fenced");
            if matches!(error, QuorumError::OutcomeUnknown { .. }) {
                // It may still be: decided again after a session, until it is known.
                return;
            }
        }
    }
    let mut leases = controller.leases.lock();
    leases.step(controller.began.elapsed(), LeaseEvent::Settled(decided));
}

/// The quorum's members with what is known of their brokers.
fn members<'a>(cluster: &'a Cluster, members: &[MemberStatus]) -> Vec<Member<'a>> {
    let brokers: BTreeMap<u64, &millrace_engine::cluster::Broker> = cluster
        .voters
        .registered
        .iter()
        .filter_map(|(voter_id, voter)| Some((*voter_id, cluster.brokers.get(&voter.broker_id)?)))
        .collect();
    let lately = |heard: Duration| heard <= limits::VOTER_HEARD_WITHIN;
    members
        .iter()
        .map(|member| {
            let broker = brokers.get(&member.voter_id);
            Member {
                voter_id: member.voter_id,
                is_voter: member.is_voter,
                is_live: broker.is_some_and(|broker| broker.is_active() && !broker.draining),
                is_caught_up: member.lag_entries.is_some_and(|lag| lag <= limits::VOTER_LAG_ENTRIES)
                    && member.last_heard.is_some_and(lately),
                is_withheld: cluster.voters.withheld.contains(&member.voter_id),
                rack: broker.map_or("", |broker| broker.rack.as_str()),
            }
        })
        .collect()
}
