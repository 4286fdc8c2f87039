//! `Groups.Heartbeat`: the stream of one member.

use std::sync::Arc;

use millrace_engine::group::{self, Answer, MAX_OWNED_PARTITIONS, Request as Asked};
use millrace_proto::v1::{self, heartbeat_response::Result as Told};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::{Origin, ask, convert, named, unexpected};
use crate::{
    broker::Broker,
    error::{ApiError, broker_stopping},
    groups::{Coordinator, MemberStream},
    memory::{MemoryPermit, MessagePermits},
};

/// What stays the same in all requests of a stream, and whom its heartbeats went to last.
struct Member {
    instance: Option<String>,
    group: String,
    id: String,
    stream: Arc<MemberStream>,
    coordinator: Option<Arc<Coordinator>>,
}

impl Drop for Member {
    /// However the stream ends.
    fn drop(&mut self) {
        if let Some(coordinator) = &self.coordinator {
            coordinator.stream_ended(&self.stream);
        }
    }
}

/// Serves one stream until it ends.
pub(super) async fn serve(
    broker: Arc<Broker>,
    permits: MessagePermits,
    mut requests: Streaming<v1::HeartbeatRequest>,
    answers: mpsc::Sender<Result<v1::HeartbeatResponse, Status>>,
) {
    permits.claim();
    let mut member: Option<Member> = None;
    loop {
        let told = tokio::select! {
            () = answers.closed() => return,
            () = broker.stopping.cancelled() => Err(broker_stopping()),
            () = news(member.as_ref()) => Ok(Told::HeartbeatNow(v1::HeartbeatNow {})),
            request = requests.message() => match request {
                Ok(Some(request)) => {
                    let memory = permits.take();
                    answer(&broker, &mut member, request, memory).await.map(Told::Answer)
                }
                // It has said all that it had to say, or its connection is gone.
                Ok(None) | Err(_) => return,
            },
        };
        let failed = told.as_ref().err().cloned();
        let told = told.map(|told| v1::HeartbeatResponse { result: Some(told) });
        if let Some(error) = failed {
            broker.metrics.count_error(&error);
            // Before its client hears of it, who may come again at once.
            drop(member);
            let _ = answers.send(told.map_err(Status::from)).await;
            return;
        }
        if answers.send(told.map_err(Status::from)).await.is_err() {
            return;
        }
    }
}

/// Waits until there is news for the member; for ever, if nothing is known of it yet.
async fn news(member: Option<&Member>) {
    match member {
        Some(member) => member.stream.news().await,
        None => std::future::pending().await,
    }
}

async fn answer(
    broker: &Broker,
    member: &mut Option<Member>,
    request: v1::HeartbeatRequest,
    memory: Option<MemoryPermit>,
) -> Result<v1::HeartbeatAnswer, ApiError> {
    group::check_group_id(&request.group)?;
    convert::check_id("member_id", &request.member_id)?;
    if let Some(instance) = &request.instance_id {
        convert::check_id("instance_id", instance)?;
    }
    let member = match member {
        Some(member) => member,
        None => member.insert(Member {
            instance: request.instance_id.clone(),
            group: request.group.clone(),
            id: request.member_id.clone(),
            stream: Arc::new(MemberStream::new(
                request.group.as_str().into(),
                request.member_id.as_str().into(),
            )),
            coordinator: None,
        }),
    };
    for (field, same) in [
        ("group", member.group == request.group),
        ("member_id", member.id == request.member_id),
        ("instance_id", member.instance == request.instance_id),
    ] {
        if !same {
            return Err(ApiError::field(field, "must be the same in all requests of a stream"));
        }
    }
    let details = request
        .settings
        .map(|settings| convert::details(settings, member.instance.is_some()))
        .transpose()?;
    let owned = match &request.owned {
        Some(owned) => Some(named::partitions_in(broker, "owned", &owned.topics, MAX_OWNED_PARTITIONS).await?),
        None => None,
    };
    let beat = Asked::Heartbeat(group::Heartbeat {
        group: member.group.as_str().into(),
        member: member.id.as_str().into(),
        instance: member.instance.clone(),
        epoch: request.member_epoch,
        version: request.assignment_version,
        details,
        owned,
    });
    let origin = Origin {
        stream: Some(member.stream.clone()),
        memory,
    };
    let (answer, coordinator) = ask(broker, &member.group, &beat, &origin).await?;
    member.coordinator = Some(coordinator);
    match answer {
        Answer::Heartbeat(answer) => Ok(answer_out(broker, answer)),
        other => Err(unexpected(&other)),
    }
}

fn answer_out(broker: &Broker, answer: group::HeartbeatAnswer) -> v1::HeartbeatAnswer {
    let snapshot = broker.groups.topics(broker);
    v1::HeartbeatAnswer {
        member_epoch: answer.epoch,
        assignment_version: answer.version,
        heartbeat_interval: convert::duration_out(answer.heartbeat_interval),
        assignment: answer.assignment.map(|told| v1::MemberAssignment {
            assigned: named::partitions_out(&snapshot, &told.assigned),
            revoking: named::partitions_out(&snapshot, &told.revoking),
            revoke_within: told.revoke_within.and_then(convert::duration_out),
        }),
    }
}
