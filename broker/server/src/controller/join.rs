//! Asking other brokers to be let in.

use millrace_proto::internal::v1::{
    EnterRequest, FindClusterRequest, JoinRequest,
    cluster_client::ClusterClient,
    enter_response,
    join_response::{self, Reason, Refused},
};
use tonic::{Code, Status, transport::Channel};
use uuid::Uuid;

use super::{
    formation::{Addresses, Wait},
    join_state::Admitted,
    seeds::ask_seeds,
};
use crate::{config::BrokerConfig, http::Health, limits, quorum::Quorum, serve::StartError};

/// Who asks.
pub(crate) struct Applicant<'a> {
    pub(crate) config: &'a BrokerConfig,
    pub(crate) addresses: &'a Addresses,
    /// Drawn at the process's start.
    pub(crate) incarnation: Uuid,
}

/// Who answers where the seeds lead.
#[derive(Debug)]
enum Found {
    /// A broker that is in a cluster.
    Cluster,
    /// Something that does not understand the question: in words.
    Stranger(String),
}

/// Whether a seed is in a cluster, which then must not begin a second time. They are asked until one
/// says so, for [`limits::BEGIN_LOOK`] at the most: a name may stand for nobody yet, and brokers that
/// wait for this one do not answer.
///
/// # Errors
/// [`StartError::Refused`] if something answers that may be a broker, and can't tell.
pub(super) async fn told_of_a_cluster(applicant: &Applicant<'_>, health: &Health) -> Result<bool, StartError> {
    let Applicant { config, addresses, .. } = applicant;
    health.starting("asking the seeds whether there is a cluster, before one is begun");
    let looked = tokio::time::timeout(limits::BEGIN_LOOK, async {
        let mut pause = limits::START_PAUSE_FIRST;
        loop {
            match ask_seeds(&config.seeds, &addresses.internal, look_for_cluster).await {
                Ok(found) => return found,
                Err(problem) => tracing::debug!(problem, "no seed tells of a cluster"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(limits::START_PAUSE_LONGEST);
        }
    });
    match looked.await {
        Ok(Found::Cluster) => Ok(true),
        Ok(Found::Stranger(problem)) => Err(StartError::Refused(format!(
            "it must not begin a cluster while a seed answers without saying whether there is one: {problem}"
        ))),
        Err(_) => Ok(false),
    }
}

/// An error is that nobody there knows of a cluster.
async fn look_for_cluster(channel: Channel) -> Result<Found, String> {
    match ClusterClient::new(channel).find_cluster(FindClusterRequest {}).await {
        Ok(answer) if answer.get_ref().in_cluster => Ok(Found::Cluster),
        Ok(_) => Err("it is in no cluster itself yet".into()),
        Err(status) => match status.code() {
            // It stops, or the connection broke.
            Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Unknown | Code::Internal => {
                Err(in_words(status))
            }
            _ => Ok(Found::Stranger(in_words(status))),
        },
    }
}

/// Asks the seeds until one knows the answer.
///
/// # Errors
/// [`StartError::Refused`].
pub(super) async fn be_admitted(
    applicant: &Applicant<'_>,
    directory_id: Uuid,
    cluster_id: Option<&str>,
    health: &Health,
) -> Result<Admitted, StartError> {
    let Applicant { config, addresses, .. } = applicant;
    let request = join_request(applicant, directory_id, cluster_id);
    let asking = format!("asking the seeds {} to join their cluster", config.seeds.join(", "));
    health.starting(asking.as_str());
    let mut wait = Wait::new(health);
    loop {
        let answer = ask_seeds(&config.seeds, &addresses.internal, |channel| {
            ask_to_join(channel, request.clone())
        });
        match answer.await {
            Ok(Ok(admitted)) => {
                let Admitted { cluster_id, voter_id } = &admitted;
                tracing::info!(cluster_id, voter_id, "joining a cluster");
                return Ok(admitted);
            }
            Ok(Err(refused)) => return Err(StartError::Refused(refused.message)),
            Err(problem) => wait.tell(&asking, &problem),
        }
        wait.pause().await;
    }
}

fn join_request(applicant: &Applicant<'_>, directory_id: Uuid, cluster_id: Option<&str>) -> JoinRequest {
    let Applicant {
        config,
        addresses,
        incarnation,
    } = applicant;
    JoinRequest {
        node_id: config.node_id,
        directory_id: directory_id.as_bytes().to_vec().into(),
        incarnation: incarnation.as_bytes().to_vec().into(),
        cluster_id: cluster_id.unwrap_or_default().to_owned(),
        address: addresses.client.clone(),
        internal_address: addresses.internal.clone(),
        rack: config.rack.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        returning: false,
    }
}

/// Returns when the cluster tells that this broker, which was in it, has been removed: in words. Its
/// own metadata can't show that, and nobody answers what it asks as a member. The others are told
/// where it is, too: it may have come back under another address.
pub(super) async fn told_removed(applicant: &Applicant<'_>, quorum: &Quorum) -> String {
    let request = returning_request(applicant, quorum);
    let mut pause = limits::REMOVED_ASK_FIRST;
    loop {
        tokio::time::sleep(pause).await;
        pause = limits::REMOVED_ASK_EVERY;
        let mut others = applicant.config.seeds.clone();
        others.extend(quorum.member_addresses());
        let answer = ask_seeds(&others, &applicant.addresses.internal, |channel| {
            ask_to_join(channel, request.clone())
        });
        match answer.await {
            Ok(Err(refused)) if refused.reason() == Reason::Removed => return refused.message,
            Ok(Err(refused)) => tracing::debug!(problem = refused.message, "others would not let this broker in"),
            Ok(Ok(_)) => {}
            Err(problem) => tracing::debug!(problem, "nobody can tell whether this broker was removed"),
        }
    }
}

/// What a broker that was in the cluster asks with.
fn returning_request(applicant: &Applicant<'_>, quorum: &Quorum) -> JoinRequest {
    let (cluster_id, directory_id) = quorum.place();
    JoinRequest {
        returning: true,
        ..join_request(applicant, directory_id, Some(cluster_id))
    }
}

/// Asks the seeds once whether their cluster has a leader. By its own log this broker is the only voter: another can
/// lead only if that log is an older image, as a second voter counts only once the first has stored that there is one.
/// Returns that in words, with what to do; `None` if it is not so, or nobody can tell.
pub(super) async fn told_of_another_leader(applicant: &Applicant<'_>, quorum: &Quorum) -> Option<String> {
    let request = returning_request(applicant, quorum);
    let Applicant { config, addresses, .. } = applicant;
    let asked = ask_seeds(&config.seeds, &addresses.internal, |channel| {
        ask_for_leader(channel, request.clone())
    });
    match asked.await {
        Ok(refusal) => Some(refusal),
        Err(problem) => {
            tracing::info!(
                problem,
                "no other broker knows of another leader: leading the metadata quorum alone"
            );
            None
        }
    }
}

/// Why the asking broker must not lead, if another does.
async fn ask_for_leader(channel: Channel, request: JoinRequest) -> Result<String, String> {
    let id = request.node_id;
    let answer = ClusterClient::new(channel).join(request).await.map_err(in_words)?;
    match answer.into_inner().result {
        Some(join_response::Result::Known(_)) => Ok(format!(
            "its disk is an older image of itself: by that it is the metadata quorum's only voter, but others have a \
             leader. Mount the newest disk; if it is lost, take its vote away (`millrace quorum remove {id}`), empty \
             the data directory and permit the new disk (`millrace broker replace-disk {id}`)"
        )),
        // They are no others of its cluster.
        Some(join_response::Result::Refused(refused)) if refused.reason() == Reason::OtherCluster => {
            Err(refused.message)
        }
        // Only a broker that has a leader refuses.
        Some(join_response::Result::Refused(refused)) => Ok(refused.message),
        Some(join_response::Result::NotNow(problem)) => Err(problem),
        Some(join_response::Result::Admitted(_)) | None => Err("an answer that makes no sense".into()),
    }
}

/// One broker's answer: admitted, or refused for good. An error is no answer.
async fn ask_to_join(channel: Channel, request: JoinRequest) -> Result<Result<Admitted, Refused>, String> {
    let answer = ClusterClient::new(channel).join(request).await.map_err(in_words)?;
    match answer.into_inner().result {
        Some(join_response::Result::Admitted(admitted)) if !admitted.cluster_id.is_empty() => Ok(Ok(Admitted {
            cluster_id: admitted.cluster_id,
            voter_id: admitted.voter_id,
        })),
        Some(join_response::Result::Refused(refused)) => Ok(Err(refused)),
        Some(join_response::Result::NotNow(problem)) => Err(problem),
        Some(join_response::Result::Known(_)) => Err("it is in this cluster and has only to find its leader".into()),
        Some(join_response::Result::Admitted(_)) | None => Err("an answer that makes no sense".into()),
    }
}

/// Has one of the seeds make this broker a member of the metadata quorum.
///
/// # Errors
/// In words why it is not one yet.
pub(super) async fn enter(
    applicant: &Applicant<'_>,
    cluster_id: &str,
    (voter_id, directory_id): (u64, Uuid),
) -> Result<(), String> {
    let Applicant { config, addresses, .. } = applicant;
    let request = EnterRequest {
        cluster_id: cluster_id.to_owned(),
        voter_id,
        directory_id: directory_id.as_bytes().to_vec().into(),
        internal_address: addresses.internal.clone(),
    };
    ask_seeds(&config.seeds, &addresses.internal, |channel| {
        ask_to_enter(channel, request.clone())
    })
    .await
}

async fn ask_to_enter(channel: Channel, request: EnterRequest) -> Result<(), String> {
    let answer = ClusterClient::new(channel).enter(request).await.map_err(in_words)?;
    match answer.into_inner().result {
        Some(enter_response::Result::Entered(_)) => Ok(()),
        Some(enter_response::Result::NotNow(problem)) => Err(problem),
        None => Err("an answer that makes no sense".into()),
    }
}

fn in_words(status: Status) -> String {
    match status.code() {
        Code::Unimplemented => {
            "this is no broker's internal port: seeds are HOST:PORT of listen.internal, 9651 unless set otherwise"
                .into()
        }
        code if status.message().is_empty() => format!("{code:?}"),
        _ => status.message().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_without_words_has_a_reason() {
        assert!(in_words(Status::unimplemented("")).contains("listen.internal"));
        assert_eq!(in_words(Status::cancelled("")), "Cancelled");
        assert_eq!(in_words(Status::internal("why")), "why");
    }
}
