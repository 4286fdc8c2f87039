//! What a member's step asks for, done: the stream to the coordinator, and what the application is told of partitions.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Instant,
};

use millrace_member::{Effect, Event, Member, PartitionId};
use millrace_proto::v1::{self, ErrorReason, heartbeat_response::Result as Said};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::AbortHandle,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    client::Client,
    connection::check_address,
    error::{Error, Result},
    limits,
    offsets::within,
};

/// What a member shares with its task.
#[derive(Debug)]
pub struct Shared {
    pub client: Client,
    pub group: String,
    pub member: Mutex<Member>,
    /// Where the coordinator was found; forgotten when a call there fails.
    pub coordinator: Mutex<Option<Arc<str>>>,
    pub told: Mutex<Told>,
    /// Something was told.
    pub news: Notify,
    /// The member is to be looked at.
    pub wake: Notify,
}

impl Shared {
    /// Tells the application what concerns it.
    fn tell(&self, effects: &[Effect<Error>]) {
        let mut told = self.told.lock();
        for effect in effects {
            told.take(effect.clone());
        }
        if !told.is_empty() {
            self.news.notify_one();
        }
    }

    /// A call failed: the coordinator may be elsewhere by now.
    pub fn moved(&self) {
        *self.coordinator.lock() = None;
    }
}

/// What the application is yet to be told, in this order: each set is bounded by the partitions that there are.
#[derive(Debug, Default)]
pub struct Told {
    pub lost: BTreeSet<PartitionId>,
    /// With the time until which the coordinator waits.
    pub release: BTreeMap<PartitionId, Instant>,
    pub used: BTreeSet<PartitionId>,
    pub failed: Option<Error>,
}

impl Told {
    /// Whether nothing is to be told.
    pub fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.release.is_empty() && self.used.is_empty() && self.failed.is_none()
    }

    fn take(&mut self, effect: Effect<Error>) {
        match effect {
            Effect::Use(partitions) => self.used.extend(partitions),
            Effect::Release(partitions, until) => self.release.extend(partitions.into_iter().map(|id| (id, until))),
            Effect::Lose(partitions) => {
                for id in partitions {
                    self.used.remove(&id);
                    self.release.remove(&id);
                    self.lost.insert(id);
                }
            }
            Effect::Fail(error) => self.failed = Some(error),
            _ => {}
        }
    }
}

/// What the application asks the task for.
#[derive(Debug)]
pub enum Command {
    Released(Vec<PartitionId>),
    /// It leaves, for good or to come back; answered once the coordinator knows.
    Leave {
        temporary: bool,
        done: oneshot::Sender<Result<()>>,
    },
}

/// A stream to a coordinator.
struct Stream {
    requests: mpsc::Sender<v1::HeartbeatRequest>,
    reader: AbortHandle,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Drives a member until it leaves or fails.
pub async fn run(shared: Arc<Shared>, mut commands: mpsc::Receiver<Command>) {
    // A stream has at most one request that is not answered: an answer and a call for one more.
    let (came, mut events) = mpsc::channel(8);
    let mut stream = None;
    let mut event = Event::MemberId(member_id());
    let mut leaving: Option<(bool, oneshot::Sender<Result<()>>)> = None;
    loop {
        let effects = {
            // Told before it is unlocked, so that nobody finds a session that goes on and has lost nothing.
            let mut member = shared.member.lock();
            let effects = member.step(Instant::now(), event);
            shared.tell(&effects);
            effects
        };
        let (mut is_drawn, mut left) = (false, None);
        for effect in effects {
            match effect {
                Effect::DrawMemberId => is_drawn = true,
                Effect::Open(number, first) => stream = Some(open(&shared, number, *first, &came)),
                Effect::Send(request) => {
                    if let Some(Stream { requests, .. }) = &stream {
                        // The reader tells of a stream that is gone.
                        let _ = requests.try_send(*request);
                    }
                }
                Effect::Close => {
                    // It said nothing, or too late.
                    shared.moved();
                    stream = None;
                }
                Effect::Leave(id) => left = Some(id),
                Effect::Fail(_) | Effect::Use(_) | Effect::Release(..) | Effect::Lose(_) => {}
            }
        }
        if let Some((temporary, done)) = leaving {
            let result = match left {
                Some(id) => leave(&shared, id, temporary).await,
                // The coordinator does not know of it.
                None => Ok(()),
            };
            // Nobody may wait for it any more.
            let _ = done.send(result);
            return;
        }
        if is_drawn {
            event = Event::MemberId(member_id());
            continue;
        }
        let wake_at = shared.member.lock().wake_at();
        let sleep = async {
            match wake_at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        event = tokio::select! {
            Some(event) = events.recv() => event,
            command = commands.recv() => match command {
                Some(Command::Released(partitions)) => Event::Released(partitions),
                Some(Command::Leave { temporary, done }) => {
                    leaving = Some((temporary, done));
                    Event::Leave
                }
                None => return,
            },
            () = shared.wake.notified() => Event::Tick,
            () = sleep => Event::Tick,
        };
    }
}

/// Opens a stream in a task of its own, which tells what comes of it.
fn open(shared: &Arc<Shared>, number: u64, first: v1::HeartbeatRequest, came: &mpsc::Sender<Event<Error>>) -> Stream {
    // One request at a time; each is answered before the next.
    let (requests, queue) = mpsc::channel(2);
    let _ = requests.try_send(first);
    let (shared, came) = (shared.clone(), came.clone());
    let reader = tokio::spawn(async move {
        let error = read(&shared, number, queue, &came).await;
        tracing::debug!(group = shared.group, %error, "the stream of a member ended");
        shared.client.inner.note_retry(&error);
        shared.client.inner.refresh.notify_one();
        let _ = came.send(Event::Broken(number, error)).await;
    });
    Stream {
        requests,
        reader: reader.abort_handle(),
    }
}

/// Tells what comes on a stream, and answers with what ended it.
async fn read(
    shared: &Shared,
    number: u64,
    requests: mpsc::Receiver<v1::HeartbeatRequest>,
    came: &mpsc::Sender<Event<Error>>,
) -> Error {
    let address = coordinator(shared).await;
    let reading = async {
        let mut groups = shared.client.inner.connections.groups(&address)?;
        let mut answers = groups.heartbeat(ReceiverStream::new(requests)).await?.into_inner();
        while let Some(response) = answers.message().await? {
            let event = match response.result {
                Some(Said::Answer(answer)) => Event::Answer(number, Box::new(answer)),
                Some(Said::HeartbeatNow(_)) => Event::HeartbeatNow(number),
                // Of a later version.
                None => continue,
            };
            if came.send(event).await.is_err() {
                return Err(Error::closed("group consumer"));
            }
        }
        Err(Error::connection(&address, "the broker ended the stream"))
    };
    let error = match reading.await {
        Ok(()) => Error::connection(&address, "the broker ended the stream"),
        Err(error) => error,
    };
    shared.client.inner.connections.reach.failed(&address, &error);
    shared.moved();
    error
}

/// Where the group's coordinator is; any broker takes its calls where that is not known.
pub async fn coordinator(shared: &Shared) -> Arc<str> {
    if let Some(known) = shared.coordinator.lock().clone() {
        return known;
    }
    let contact = shared.client.contact();
    let asked = async {
        let mut groups = shared.client.inner.connections.groups(&contact)?;
        let request = v1::FindCoordinatorRequest {
            group: shared.group.clone(),
        };
        Ok::<_, Error>(groups.find_coordinator(request).await?.into_inner())
    };
    match timeout(limits::FIND_COORDINATOR_WAIT, asked).await {
        Ok(Ok(found)) if check_address(&found.address).is_ok() => {
            let found: Arc<str> = found.address.into();
            *shared.coordinator.lock() = Some(found.clone());
            found
        }
        _ => contact,
    }
}

async fn leave(shared: &Shared, member_id: String, temporary: bool) -> Result<()> {
    let request = v1::LeaveGroupRequest {
        group: shared.group.clone(),
        member_id,
        temporary,
    };
    let address = coordinator(shared).await;
    let mut groups = shared.client.inner.connections.groups(&address)?;
    let deadline = tokio::time::Instant::now() + limits::CLOSE_WAIT;
    let left = within(deadline, async { Ok(groups.leave_group(request).await?) }).await;
    match left {
        // It is gone already.
        Err(error)
            if matches!(
                error.reason(),
                Some(ErrorReason::UnknownMember | ErrorReason::FencedMember | ErrorReason::UnknownGroup)
            ) =>
        {
            Ok(())
        }
        left => left.map(drop),
    }
}

/// 128 bits as a UUID of version 4; the standard library's hashers have keys from the system's randomness.
fn member_id() -> String {
    let random = || u128::from(RandomState::new().hash_one(Instant::now()));
    let bits = (random() << 64 | random()) & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_member_id_is_another_one() {
        let ids: BTreeSet<String> = (0..1_000).map(|_| member_id()).collect();
        assert_eq!(ids.len(), 1_000);
        for id in ids {
            let parts: Vec<usize> = id.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12], "{id}");
            assert_eq!(&id[14..15], "4", "{id}");
            assert!("89ab".contains(&id[19..20]), "{id}");
        }
    }

    #[test]
    fn what_is_lost_is_neither_begun_nor_released() {
        let id = |partition| (bytes::Bytes::from_static(b"t"), partition);
        let mut told = Told::default();
        told.take(Effect::Use(vec![id(0), id(1)]));
        told.take(Effect::Release(vec![id(1)], Instant::now()));
        told.take(Effect::Lose(vec![id(0), id(1)]));
        assert!(told.used.is_empty() && told.release.is_empty());
        told.take(Effect::Use(vec![id(0)]));
        assert_eq!(
            (told.lost.len(), told.used.len()),
            (2, 1),
            "lost first, then begun anew"
        );
    }
}
