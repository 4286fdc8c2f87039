//! What brokers ask each other about the cluster: `millrace.internal.v1.Cluster`.

use std::sync::{Arc, Weak};

use millrace_engine::{
    Broker, BrokerId, Command, Outcome, Rejection,
    cluster::{DirectoryReport, RegisterBroker, RegistrationError, StartBroker},
};
use millrace_proto::internal::v1::{
    EnterRequest, EnterResponse, FindClusterRequest, FindClusterResponse, HeartbeatRequest, HeartbeatResponse,
    JoinRequest, JoinResponse, cluster_server, enter_response, heartbeat_response,
    join_response::{self, Known, Reason, Refused},
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{Controller, Heard, SignOfLife, register::in_words};
use crate::{
    broker::now_ms,
    quorum::{Quorum, QuorumError},
};

/// The service of one broker. Keeps nothing open by itself: a connection may outlast the broker.
#[derive(Clone)]
pub(crate) struct ClusterService(Weak<Controller>);

impl ClusterService {
    /// The service, to be added to the internal listener.
    pub(crate) fn server(controller: &Arc<Controller>) -> cluster_server::ClusterServer<Self> {
        cluster_server::ClusterServer::new(Self(Arc::downgrade(controller)))
    }

    fn controller(&self) -> Result<Arc<Controller>, Status> {
        self.0
            .upgrade()
            .ok_or_else(|| Status::unavailable("this broker is shutting down"))
    }

    /// The controller, if the caller means this cluster.
    fn of_cluster(&self, cluster_id: &str) -> Result<Arc<Controller>, Status> {
        let controller = self.controller()?;
        if controller.quorum().place().0 != cluster_id {
            // The other cluster's id is not told: a stranger may be asking.
            return Err(Status::failed_precondition("this broker is of another cluster"));
        }
        Ok(controller)
    }
}

#[tonic::async_trait]
impl cluster_server::Cluster for ClusterService {
    async fn find_cluster(
        &self,
        _request: Request<FindClusterRequest>,
    ) -> Result<Response<FindClusterResponse>, Status> {
        // No majority is asked: the asking one would take its silence for nobody's.
        let in_cluster = self.controller()?.quorum().is_bootstrapped();
        Ok(Response::new(FindClusterResponse { in_cluster }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let candidate = Candidate::read(request.into_inner())?;
        let controller = self.controller()?;
        let result = match admit(controller.quorum(), &candidate).await {
            Ok(admitted) => join_response::Result::Admitted(admitted),
            Err(NotAdmitted::Refused(reason, message)) => join_response::Result::Refused(Refused {
                reason: reason.into(),
                message,
            }),
            Err(NotAdmitted::NotNow(problem)) => join_response::Result::NotNow(problem),
            Err(NotAdmitted::Known) => join_response::Result::Known(Known {}),
        };
        Ok(Response::new(JoinResponse { result: Some(result) }))
    }

    async fn enter(&self, request: Request<EnterRequest>) -> Result<Response<EnterResponse>, Status> {
        let request = request.into_inner();
        let controller = self.of_cluster(&request.cluster_id)?;
        let directory_id = uuid("directory_id", &request.directory_id)?;
        let quorum = controller.quorum();
        let added = quorum.add_learner(request.voter_id, directory_id, request.internal_address);
        let result = match added.await {
            Ok(()) => enter_response::Result::Entered(enter_response::Entered {}),
            Err(error) => enter_response::Result::NotNow(error.to_string()),
        };
        Ok(Response::new(EnterResponse { result: Some(result) }))
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Result<Response<HeartbeatResponse>, Status> {
        let sent = request.into_inner();
        let heard = self.of_cluster(&sent.cluster_id)?.heard(SignOfLife {
            broker_id: sent.broker_id,
            broker_epoch: sent.broker_epoch,
            applied_index: sent.applied_index,
            disk_writes: sent.disk_writes,
            directory_failed: sent.directory_failed,
        });
        use heartbeat_response::{Counted, NotLeader, Removed, Result as Answer, Superseded};
        let result = match heard {
            Heard::Counted {
                applied_by_others,
                lease_ago,
            } => Answer::Counted(Counted {
                applied_by_others,
                // Up to the next one: never younger than it is.
                lease_ago_us: lease_ago
                    .map(|ago| u64::try_from(ago.as_micros()).map_or(u64::MAX, |us| us.saturating_add(1))),
            }),
            Heard::NotLeader => Answer::NotLeader(NotLeader {}),
            Heard::Superseded { broker_epoch } => Answer::Superseded(Superseded { broker_epoch }),
            Heard::Removed => Answer::Removed(Removed {}),
        };
        Ok(Response::new(HeartbeatResponse { result: Some(result) }))
    }
}

/// A broker that wants to join.
struct Candidate {
    node_id: BrokerId,
    directory_id: Uuid,
    incarnation: Uuid,
    sent: JoinRequest,
}

impl Candidate {
    /// The lengths of texts are for the command's rules to bound.
    fn read(sent: JoinRequest) -> Result<Self, Status> {
        Ok(Self {
            node_id: sent.node_id,
            directory_id: uuid("directory_id", &sent.directory_id)?,
            incarnation: uuid("incarnation", &sent.incarnation)?,
            sent,
        })
    }

    /// Its registration; `known` is what the number stands for so far.
    fn start(&self, cluster_id: &str, known: Option<&Broker>) -> Command {
        Command::StartBroker(StartBroker {
            registration: RegisterBroker {
                broker_id: self.node_id,
                incarnation: self.incarnation,
                cluster_id: cluster_id.to_owned(),
                directory_id: self.directory_id,
                address: self.sent.address.clone(),
                rack: self.sent.rack.clone(),
                version: self.sent.version.clone(),
                now_ms: now_ms(),
            },
            internal_address: self.sent.internal_address.clone(),
            // It is empty.
            directory: DirectoryReport::default(),
            // The disk is another one, so that only an operator's word lets it follow on that life.
            replaces: known.map(|known| known.epoch),
        })
    }
}

fn uuid(field: &str, bytes: &[u8]) -> Result<Uuid, Status> {
    Uuid::from_slice(bytes).map_err(|_| Status::invalid_argument(format!("{field} must have 16 bytes")))
}

/// Why a broker is not let in.
enum NotAdmitted {
    /// For good.
    Refused(Reason, String),
    /// At the moment.
    NotNow(String),
    /// It is in the cluster and only wanted to know that.
    Known,
}

impl From<QuorumError> for NotAdmitted {
    fn from(error: QuorumError) -> Self {
        Self::NotNow(error.to_string())
    }
}

impl NotAdmitted {
    fn rejected(node_id: BrokerId, rejection: &Rejection) -> Self {
        let reason = match rejection {
            Rejection::OtherCluster { .. } => Reason::OtherCluster,
            Rejection::OtherDirectory { .. } => Reason::OtherDirectory,
            Rejection::DirectoryOfOtherBroker { .. } => Reason::DirectoryOfOtherBroker,
            Rejection::Registration(
                RegistrationError::Removed { .. } | RegistrationError::DirectoryOfRemovedBroker { .. },
            ) => Reason::Removed,
            _ => Reason::Unspecified,
        };
        Self::Refused(reason, in_words(node_id, rejection))
    }
}

/// Registers a broker and gives its disk a number in the quorum. Each step can run twice: a broker
/// that crashes before it has noted the answer asks again with the same disk.
async fn admit(quorum: &Quorum, candidate: &Candidate) -> Result<join_response::Admitted, NotAdmitted> {
    let not_now = |why: &str| Err(NotAdmitted::NotNow(why.to_owned()));
    if !quorum.is_bootstrapped() {
        return not_now("this broker is in no cluster itself yet");
    }
    if candidate.sent.returning && candidate.sent.cluster_id == quorum.place().0 {
        quorum.told_of_address(candidate.directory_id, &candidate.sent.internal_address);
    }
    if candidate.sent.returning && is_only_voter(quorum, candidate.directory_id) {
        // It may be waiting for this answer, before it leads.
        return not_now("it is the metadata quorum's only voter: the others wait for it");
    }
    quorum.read_index().await?;
    let cluster = quorum.cluster();
    let (cluster_id, _) = quorum.place();
    if !candidate.sent.cluster_id.is_empty() && candidate.sent.cluster_id != cluster_id {
        let wanted = &candidate.sent.cluster_id;
        let message = format!(
            "the seeds are of another cluster than {wanted:?}: set seeds to brokers of that one, or mount the right volume"
        );
        return Err(NotAdmitted::Refused(Reason::OtherCluster, message));
    }
    if cluster.voters.next == 0 {
        return not_now("the cluster has just begun");
    }
    let known = cluster.brokers.get(&candidate.node_id);
    if candidate.sent.returning {
        return match cluster.check(&candidate.start(cluster_id, known)) {
            Ok(()) => Err(NotAdmitted::Known),
            Err(rejection) => Err(NotAdmitted::rejected(candidate.node_id, &rejection)),
        };
    }
    // A disk that is registered already is not begun anew: the life that it has now may be another
    // process, and this question an old one that comes late.
    if known.is_none_or(|known| known.directory_id != candidate.directory_id) {
        match quorum.submit(candidate.start(cluster_id, known)).await? {
            Ok(_) => {}
            Err(rejection) => return Err(NotAdmitted::rejected(candidate.node_id, &rejection)),
        }
    }
    let register = Command::RegisterVoter {
        broker_id: candidate.node_id,
        directory_id: candidate.directory_id,
        highest_in_use: highest_voter_id(quorum),
        bootstrap_id: None,
    };
    match quorum.submit(register).await? {
        Ok(Outcome::Voter { voter_id }) => Ok(join_response::Admitted {
            cluster_id: cluster_id.to_owned(),
            voter_id,
        }),
        Ok(other) => not_now(&format!("an unexpected answer: {other:?}")),
        Err(rejection) => Err(NotAdmitted::rejected(candidate.node_id, &rejection)),
    }
}

/// Whether the quorum has no voter but the one with this disk, as far as is known here.
fn is_only_voter(quorum: &Quorum, directory_id: Uuid) -> bool {
    let members = quorum.status().members;
    let mut voters = members.iter().filter(|member| member.is_voter);
    voters.next().is_some_and(|voter| voter.directory_id == directory_id) && voters.next().is_none()
}

/// The highest number in the quorum's membership.
pub(super) fn highest_voter_id(quorum: &Quorum) -> u64 {
    let members = quorum.status().members;
    members.iter().map(|member| member.voter_id).max().unwrap_or(0)
}
