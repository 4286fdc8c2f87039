//! A network within the process: one-way cuts, delays that reorder messages, losses, repeats. A message that is on its
//! way arrives, or not, whether or not its sender still waits for the answer. It overhears who votes and who leads.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use millrace_log::fs::faulty::SplitMix64;
use openraft::{
    Raft, RaftNetworkFactory, RaftNetworkV2,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{Backoff, RPCOption},
    raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse},
};
use parking_lot::Mutex;

use super::super::{
    state_machine::StateMachine,
    types::{RaftSnapshot, TypeConfig, Vote, Voter},
};

type Voters = BTreeMap<u64, Raft<TypeConfig, StateMachine>>;

struct State {
    voters: Voters,
    cut: BTreeSet<(u64, u64)>,
    rng: SplitMix64,
    /// Each message takes up to so long, in microseconds.
    max_delay_us: u64,
    /// So many of a million messages are lost.
    loss_per_million: u32,
    /// So many of a million messages take up to [`LONG_DELAY`].
    late_per_million: u32,
    /// So many of a million questions arrive a second time.
    repeat_per_million: u32,
    /// How many did.
    repeated: u64,
    snapshots: u64,
    /// How many of them were installed.
    installed: u64,
    /// Whose votes, and who stands for election, nobody hears.
    mute: BTreeSet<u64>,
    said: BTreeSet<Said>,
}

/// What a voter has said to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Said {
    /// That it votes for `candidate`.
    Vote { voter: u64, term: u64, candidate: u64 },
    /// That it leads.
    Leads { term: u64, leader: u64 },
}

/// More than any timeout that there is, so that what arrives then is out of date.
const LONG_DELAY: Duration = Duration::from_secs(2);

/// The network; clones are one.
#[derive(Clone)]
pub struct Router(Arc<Mutex<State>>);

impl Router {
    pub fn new(seed: u64, max_delay_us: u64) -> Self {
        let rng = SplitMix64::new(seed);
        Self(Arc::new(Mutex::new(State {
            voters: BTreeMap::new(),
            cut: BTreeSet::new(),
            rng,
            max_delay_us,
            loss_per_million: 0,
            late_per_million: 0,
            repeat_per_million: 0,
            repeated: 0,
            snapshots: 0,
            installed: 0,
            mute: BTreeSet::new(),
            said: BTreeSet::new(),
        })))
    }

    pub fn from(&self, from: u64) -> Side {
        Side {
            from,
            router: self.clone(),
        }
    }

    pub fn connect(&self, id: u64, raft: Raft<TypeConfig, StateMachine>) {
        self.0.lock().voters.insert(id, raft);
    }

    pub fn disconnect(&self, id: u64) {
        self.0.lock().voters.remove(&id);
    }

    /// Messages from `from` to `to` are lost from now on.
    pub fn cut(&self, from: u64, to: u64) {
        self.0.lock().cut.insert((from, to));
    }

    /// Cuts `id` off from all others, both ways.
    pub fn isolate(&self, id: u64, others: impl IntoIterator<Item = u64>) {
        for other in others {
            self.cut(id, other);
            self.cut(other, id);
        }
    }

    pub fn heal(&self) {
        let mut state = self.0.lock();
        state.cut.clear();
        state.loss_per_million = 0;
        state.late_per_million = 0;
        state.repeat_per_million = 0;
    }

    pub fn delay(&self, per_million: u32) {
        self.0.lock().late_per_million = per_million;
    }

    pub fn repeat(&self, per_million: u32) {
        self.0.lock().repeat_per_million = per_million;
    }

    /// How many questions arrived twice.
    pub fn repeated(&self) -> u64 {
        self.0.lock().repeated
    }

    pub fn lose(&self, per_million: u32) {
        self.0.lock().loss_per_million = per_million;
    }

    /// How many snapshots were sent.
    pub fn snapshots(&self) -> u64 {
        self.0.lock().snapshots
    }

    /// How many snapshots were installed.
    pub fn installed(&self) -> u64 {
        self.0.lock().installed
    }

    /// From now on `id` neither votes nor stands for election, as far as others hear.
    pub fn mute(&self, id: u64) {
        self.0.lock().mute.insert(id);
    }

    /// What was said since the last call, each thing once.
    pub fn take_said(&self) -> BTreeSet<Said> {
        std::mem::take(&mut self.0.lock().said)
    }

    fn note(&self, said: Said) {
        self.0.lock().said.insert(said);
    }

    /// One message on its way; `false` if it is lost.
    async fn carry(&self, from: u64, to: u64) -> bool {
        let (delay, lost) = {
            let mut state = self.0.lock();
            let late = state.late_per_million;
            let bound = match state.rng.chance(late) {
                true => u64::try_from(LONG_DELAY.as_micros()).unwrap(),
                false => state.max_delay_us,
            };
            let delay = state.rng.below(bound);
            let loss = state.loss_per_million;
            let lost = state.cut.contains(&(from, to)) || state.rng.chance(loss);
            (delay, lost)
        };
        if delay > 0 {
            tokio::time::sleep(Duration::from_micros(delay)).await;
        }
        !lost
    }

    fn voter(&self, id: u64) -> Option<Raft<TypeConfig, StateMachine>> {
        self.0.lock().voters.get(&id).cloned()
    }

    /// Whether a question is to arrive twice.
    fn repeats(&self) -> bool {
        let mut state = self.0.lock();
        let chance = state.repeat_per_million;
        let repeats = state.rng.chance(chance);
        state.repeated += u64::from(repeats);
        repeats
    }

    /// Takes a question to a voter and its answer back.
    async fn exchange<T, F>(
        self,
        from: u64,
        to: u64,
        question: impl FnOnce(Raft<TypeConfig, StateMachine>) -> F,
    ) -> Result<T, RPCError<TypeConfig>>
    where
        F: Future<Output = Option<T>>,
    {
        let unreachable = || Unreachable::from_string("no such process");
        if !self.carry(from, to).await {
            return Err(lost());
        }
        // Whoever has this number by now: its present life may be another than when this was sent.
        let voter = self.voter(to).ok_or_else(unreachable)?;
        let answer = question(voter).await.ok_or_else(unreachable)?;
        if self.carry(to, from).await {
            Ok(answer)
        } else {
            Err(lost())
        }
    }
}

/// The network as one voter sees it.
pub struct Side {
    from: u64,
    router: Router,
}

impl RaftNetworkFactory<TypeConfig> for Side {
    type Network = Link;

    async fn new_client(&mut self, to: u64, _node: &Voter) -> Link {
        Link {
            from: self.from,
            to,
            router: self.router.clone(),
        }
    }
}

/// The way from one voter to another.
pub struct Link {
    from: u64,
    to: u64,
    router: Router,
}

impl Link {
    /// Votes of some, and for some, are lost.
    fn check_heard(&self) -> Result<(), RPCError<TypeConfig>> {
        let state = self.router.0.lock();
        match state.mute.contains(&self.from) || state.mute.contains(&self.to) {
            true => Err(lost()),
            false => Ok(()),
        }
    }

    /// Asks the other side, if question and answer get through in time.
    async fn ask<T, F>(
        &self,
        option: &RPCOption,
        question: impl Fn(Raft<TypeConfig, StateMachine>) -> F + Clone + Send + 'static,
    ) -> Result<T, RPCError<TypeConfig>>
    where
        F: Future<Output = Option<T>> + Send + 'static,
        T: Send + 'static,
    {
        let (from, to) = (self.from, self.to);
        if self.router.repeats() {
            tokio::spawn(self.router.clone().exchange(from, to, question.clone()));
        }
        let exchange = tokio::spawn(self.router.clone().exchange(from, to, question));
        match tokio::time::timeout(option.soft_ttl(), exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(lost()),
        }
    }
}

fn lost() -> RPCError<TypeConfig> {
    NetworkError::from_string("lost").into()
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.router.note(Said::Leads {
            term: request.vote.leader_id.term,
            leader: self.from,
        });
        self.ask(&option, move |voter| {
            let request = request.clone();
            async move { voter.append_entries(request).await.ok() }
        })
        .await
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.check_heard()?;
        let (to, router) = (self.to, self.router.clone());
        self.ask(&option, move |voter| {
            let (request, router) = (request.clone(), router.clone());
            async move {
                let vote = request.vote;
                let answer = voter.vote(request).await.ok()?;
                if answer.is_granted_to(&vote) {
                    router.note(Said::Vote {
                        voter: to,
                        term: vote.leader_id.term,
                        candidate: vote.leader_id.voted_for,
                    });
                }
                Some(answer)
            }
        })
        .await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.check_heard()?;
        self.ask(&option, move |voter| {
            let request = request.clone();
            async move { voter.pre_vote(request).await.ok() }
        })
        .await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: RaftSnapshot,
        _cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        self.router.0.lock().snapshots += 1;
        let router = self.router.clone();
        let install = move |voter: Raft<TypeConfig, StateMachine>| {
            let (snapshot, router) = (snapshot.clone(), router.clone());
            async move {
                let answer = voter.install_full_snapshot(vote, snapshot).await.ok()?;
                router.0.lock().installed += u64::from(answer.vote == vote);
                Some(answer)
            }
        };
        Ok(self.ask(&option, install).await?)
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(Duration::from_millis(20))))
    }
}
