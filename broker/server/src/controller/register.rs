//! A process's registration, and what it settles in the cluster's metadata once.

use std::collections::BTreeMap;

use millrace_engine::{
    BrokerId, Cluster, Command, Outcome, Rejection,
    cluster::{ConfigChange, DirectoryReport, RegisterBroker, RegistrationError, StartBroker},
};
use millrace_log::LogDir;

use super::{
    formation::{Wait, may_pass},
    join::Applicant,
    rpc::highest_voter_id,
};
use crate::{
    broker::now_ms,
    config::BrokerConfig,
    http::Health,
    limits,
    quorum::{Quorum, QuorumError},
    serve::StartError,
};

/// Begins this process's life in the cluster, fenced. Returns its broker epoch, which is to be on
/// the disk before a partition is touched.
///
/// # Errors
/// The cluster refuses the broker or its disk, or the quorum fails.
pub(crate) async fn register(
    quorum: &Quorum,
    applicant: &Applicant<'_>,
    dir: &LogDir,
    health: &Health,
) -> Result<i64, StartError> {
    let node_id = applicant.config.node_id;
    health.starting("registering");
    for attempt in 1.. {
        let start = start_broker(applicant, dir, &quorum.cluster());
        match settled(quorum, Command::StartBroker(start), "registering", health).await? {
            Ok(Outcome::Registered { broker_epoch }) => return Ok(broker_epoch),
            Ok(other) => return Err(StartError::Refused(format!("unexpected answer {other:?}"))),
            // An earlier life has registered and died before it could note that, and this copy of
            // the metadata did not show it yet.
            Err(Rejection::Registration(RegistrationError::EarlierLife { .. }))
                if attempt < limits::REGISTER_ATTEMPTS =>
            {
                quorum.read_index().await?;
                if is_superseded(&quorum.cluster(), applicant) {
                    break;
                }
            }
            Err(rejection) => return Err(StartError::Refused(in_words(node_id, &rejection))),
        }
    }
    Err(StartError::Refused(format!(
        "another process has begun a life of broker {node_id} meanwhile"
    )))
}

/// Whether this process was registered once, and another after it.
fn is_superseded(cluster: &Cluster, applicant: &Applicant<'_>) -> bool {
    let own = cluster.brokers.get(&applicant.config.node_id);
    own.is_some_and(|own| own.incarnation == applicant.incarnation)
}

fn start_broker(applicant: &Applicant<'_>, dir: &LogDir, cluster: &Cluster) -> StartBroker {
    let Applicant {
        config,
        addresses,
        incarnation,
    } = applicant;
    let identity = dir.identity();
    let last_epoch = dir.stored_broker_epoch();
    let directory = DirectoryReport {
        clean_shutdown_epoch: last_epoch.filter(|_| dir.was_clean()),
        last_epoch,
        // Damage is found when logs are opened, after this: a damaged partition's log end is then
        // not reported, which costs that partition's replica its eligibility and no other's.
        damaged: false,
    };
    StartBroker {
        registration: RegisterBroker {
            broker_id: config.node_id,
            incarnation: *incarnation,
            cluster_id: identity.cluster_id.clone(),
            directory_id: identity.directory_id,
            address: addresses.client.clone(),
            rack: config.rack.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            now_ms: now_ms(),
        },
        internal_address: addresses.internal.clone(),
        replaces: cluster.replaced_epoch(config.node_id, &directory),
        directory,
    }
}

/// Has a command applied, waiting for the quorum as long as it takes. The command must be one that
/// can be repeated.
async fn settled(
    quorum: &Quorum,
    command: Command,
    doing: &str,
    health: &Health,
) -> Result<Result<Outcome, Rejection>, QuorumError> {
    let mut wait = Wait::new(health);
    loop {
        match quorum.submit(command.clone()).await {
            Err(error) if may_pass(&error) => wait.tell(doing, &error.to_string()),
            answered => return answered,
        }
        wait.pause().await;
    }
}

/// A rejected start in words, with what to do.
pub(super) fn in_words(node_id: BrokerId, rejection: &Rejection) -> String {
    match rejection {
        Rejection::OtherDirectory { .. } => format!(
            "{rejection}. If that disk is lost for good, permit a new one with `millrace broker replace-disk {node_id}` and start this broker again"
        ),
        Rejection::Registration(RegistrationError::Removed { .. }) => {
            format!("{rejection} (`millrace broker replace-disk {node_id}`)")
        }
        Rejection::Registration(RegistrationError::DirectoryOfRemovedBroker { owner, .. }) if *owner == node_id => {
            was_removed(node_id)
        }
        _ => rejection.to_string(),
    }
}

/// What a broker is told that was removed.
pub(crate) fn was_removed(node_id: BrokerId) -> String {
    format!(
        "broker {node_id} was removed from this cluster: to join anew, empty its data directory, and use another number or permit this one again (`millrace broker replace-disk {node_id}`)"
    )
}

/// Stores what all brokers must see alike: the number of the first voter, so that it is never given
/// out, and the defaults of topics that this broker's configuration sets and the cluster lacks. A
/// broker that starts with an old file must not change what all topics of the others go by; the
/// only broker of a cluster has nobody to ask.
///
/// # Errors
/// The quorum fails.
pub(crate) async fn settle_metadata(
    quorum: &Quorum,
    config: &BrokerConfig,
    dir: &LogDir,
    health: &Health,
) -> Result<(), StartError> {
    let cluster = quorum.cluster();
    let mut commands = Vec::new();
    if cluster.voters.next == 0 {
        commands.push(Command::RegisterVoter {
            broker_id: config.node_id,
            directory_id: dir.identity().directory_id,
            highest_in_use: highest_voter_id(quorum),
            bootstrap_id: Some(quorum.voter_id()),
        });
    }
    let set = match is_alone(&cluster, config.node_id) {
        true => differing(&config.topic_defaults, &cluster.topic_defaults),
        false => lacking(&config.topic_defaults, &cluster.topic_defaults),
    };
    if !set.is_empty() {
        let unset = Vec::new();
        commands.push(Command::AlterTopicDefaults {
            change: ConfigChange { set, unset },
        });
    }
    for command in commands {
        if let Err(rejection) = settled(quorum, command, "storing the defaults of topics", health).await? {
            return Err(StartError::Refused(rejection.to_string()));
        }
    }
    Ok(())
}

/// Whether the cluster has no other broker.
fn is_alone(cluster: &Cluster, own: BrokerId) -> bool {
    cluster.brokers.keys().all(|id| *id == own)
}

/// The settings that are not stored at all; tells of those that are stored otherwise.
fn lacking(wanted: &BTreeMap<String, String>, stored: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut lacking = differing(wanted, stored);
    lacking.retain(|key, value| {
        let Some(in_force) = stored.get(key) else {
            return true;
        };
        tracing::warn!(
            setting = format!("topic.default.{key}"),
            configured = value,
            in_force,
            "the cluster goes by another default than this broker's configuration: change one of them, or set it on topics"
        );
        false
    });
    lacking
}

/// The settings that are not stored so.
fn differing(wanted: &BTreeMap<String, String>, stored: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    wanted
        .iter()
        .filter(|(key, value)| stored.get(*key) != Some(value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn only_what_differs_is_stored() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let stored = map(&[("flush", "os"), ("retention.ms", "5")]);
        let wanted = map(&[("flush", "ack"), ("retention.ms", "5"), ("segment.ms", "9")]);
        assert_eq!(
            differing(&wanted, &stored),
            map(&[("flush", "ack"), ("segment.ms", "9")])
        );
        assert!(differing(&map(&[]), &stored).is_empty());
        // What other brokers go by stays as it is.
        assert_eq!(lacking(&wanted, &stored), map(&[("segment.ms", "9")]));
    }

    #[test]
    fn a_refused_disk_is_told_what_to_do() {
        let rejection = Rejection::OtherDirectory {
            id: 7,
            expected: Uuid::from_u128(1),
            found: Uuid::from_u128(2),
        };
        assert!(in_words(7, &rejection).contains("`millrace broker replace-disk 7`"));
        let removed = |owner| {
            let directory_id = Uuid::from_u128(1);
            RegistrationError::DirectoryOfRemovedBroker { directory_id, owner }.into()
        };
        assert!(in_words(7, &removed(7)).starts_with("broker 7 was removed from this cluster: to join anew, empty"));
        assert!(in_words(7, &removed(8)).contains("that of broker 8"), "another's disk");
    }
}
