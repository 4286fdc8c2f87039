//! A broker's signs of life, sent to whoever leads the metadata quorum.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use millrace_proto::internal::v1::{
    HeartbeatRequest, cluster_client::ClusterClient, heartbeat_response::Result as Answer,
};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};
use tonic::transport::Channel;

use super::{Heard, SignOfLife, seeds};
use crate::{broker::Broker, limits, quorum::LeaderAddress};

/// The way to the leader.
struct Way {
    address: String,
    channel: Channel,
}

/// How sending one went.
enum Sent {
    Heard {
        heard: Heard,
        sent_at: Instant,
    },
    /// No answer: the connection may lead nowhere.
    Lost(String),
}

/// Sends signs of life until the broker stops.
pub(crate) async fn run(broker: Arc<Broker>) {
    let mut ticks = tokio::time::interval(broker.config.heartbeat_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut way: Option<Way> = None;
    // A lost answer must not hold up the next sign, which may go to another leader.
    let mut sent: JoinSet<Sent> = JoinSet::new();
    loop {
        tokio::select! {
            () = broker.stopping.cancelled() => return,
            Some(done) = sent.join_next(), if !sent.is_empty() => match done {
                Ok(Sent::Heard { heard, sent_at }) => take(&broker, heard, sent_at),
                Ok(Sent::Lost(address)) => {
                    way.take_if(|way| way.address == address);
                }
                Err(error) => tracing::error!(%error, "a heartbeat ended badly"),
            },
            _ = ticks.tick() => {
                let sign = sign(&broker);
                match broker.quorum.leader_address() {
                    None => {}
                    Some(LeaderAddress::Here) => {
                        let sent_at = Instant::now();
                        let heard = broker.controller.heard(sign);
                        take(&broker, heard.less(broker.controller.withheld_from_leader()), sent_at);
                    }
                    Some(LeaderAddress::At(address)) => {
                        if way.as_ref().is_none_or(|way| way.address != address) {
                            way = seeds::lazy_channel(&address).map(|channel| Way { address, channel });
                        }
                        if let Some(way) = way.as_ref().filter(|_| sent.len() < limits::MAX_HEARTBEATS_IN_FLIGHT) {
                            let client = ClusterClient::new(way.channel.clone());
                            let within = broker.config.session_timeout;
                            sent.spawn(send(client, way.address.clone(), request(&broker, sign), within));
                        }
                    }
                }
            }
        }
    }
}

fn sign(broker: &Broker) -> SignOfLife {
    SignOfLife {
        broker_id: broker.config.node_id,
        broker_epoch: broker.broker_epoch,
        applied_index: broker.carried_out(),
        disk_writes: broker.disk.writes(),
        directory_failed: broker.dir.offline().is_some(),
    }
}

fn request(broker: &Broker, sign: SignOfLife) -> HeartbeatRequest {
    HeartbeatRequest {
        cluster_id: broker.dir.identity().cluster_id.clone(),
        broker_id: sign.broker_id,
        broker_epoch: sign.broker_epoch,
        applied_index: sign.applied_index,
        disk_writes: sign.disk_writes,
        directory_failed: sign.directory_failed,
    }
}

async fn send(
    mut client: ClusterClient<Channel>,
    address: String,
    request: HeartbeatRequest,
    within: Duration,
) -> Sent {
    let sent_at = Instant::now();
    match tokio::time::timeout(within, client.heartbeat(request)).await {
        Ok(Ok(answer)) => Sent::Heard {
            sent_at,
            heard: match answer.into_inner().result {
                Some(Answer::Counted(counted)) => Heard::Counted {
                    applied_by_others: counted.applied_by_others,
                    lease_ago: counted.lease_ago_us.map(Duration::from_micros),
                },
                Some(Answer::Superseded(newer)) => Heard::Superseded {
                    broker_epoch: newer.broker_epoch,
                },
                Some(Answer::Removed(_)) => Heard::Removed,
                Some(Answer::NotLeader(_)) | None => Heard::NotLeader,
            },
        },
        Ok(Err(status)) => {
            tracing::debug!(address, %status, "a heartbeat was not taken");
            Sent::Lost(address)
        }
        Err(_) => Sent::Lost(address),
    }
}

fn take(broker: &Broker, heard: Heard, sent_at: Instant) {
    match heard {
        Heard::Counted {
            applied_by_others,
            lease_ago,
        } => {
            if let Some(from) = lease_ago.and_then(|ago| sent_at.checked_sub(ago)) {
                broker.lease.renew(from);
            }
            broker.applied_by_others.store(applied_by_others, Ordering::Release);
        }
        Heard::NotLeader => {}
        Heard::Superseded { broker_epoch } => broker.superseded(broker_epoch),
        Heard::Removed => broker.removed(),
    }
}
