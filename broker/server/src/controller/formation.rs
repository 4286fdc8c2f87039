//! How a broker comes into a cluster: it begins a new one, joins one, or is in one already. Never a
//! guess: an empty disk that takes itself for a new cluster, or for the broker whose number it has,
//! is how data was lost elsewhere (redpanda-data/redpanda #13133, nats-io/nats-server #7038).
//!
//! ```text
//!  data directory      seeds    join-state  begin.node      ⇒
//!  in a quorum         any      any         any             starts, asks no one; but:
//!  its only voter      some     any         any             asks once; refused if others have a leader
//!  was in one, lost    any      any         any             refused: its metadata log is gone
//!  empty               none     none        none, this one  formats, begins a cluster
//!  empty               some     none        this one        looks for a cluster: if there is none formats, begins one;
//!                                                           if there is one as below
//!  empty               some     any         else            asks, formats, enters
//!  formatted only      none     none        none, this one  begins a cluster (a crash came between)
//!  formatted only      some     none        this one        looks for a cluster: if there is none begins one;
//!                                                           if there is one as below
//!  formatted only      some     or there    else            asks if it has no answer yet, enters
//!  empty, formatted    none     there       any             refused: it was joining
//!  empty, formatted    none     none        another         refused: another one is to begin
//! ```
//!
//! `begin.node` is of use where all brokers share a configuration, and with it the seeds. Where
//! `cluster.id` is set as well it counts as another's: who knows the id has seen the cluster. Who looks for
//! a cluster and finds nobody begins one (the others may be waiting for it): so a `begin.node` that
//! stays lets a second one begin once the disk is lost and no other broker is there.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use millrace_log::{DirIdentity, LogDir, OsFileSystem};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    join::{Applicant, be_admitted, enter, told_of_a_cluster, told_of_another_leader, told_removed},
    join_state::{Admitted, JoinState},
};
use crate::{
    config::BrokerConfig,
    http::Health,
    limits,
    quorum::{Quorum, QuorumError, QuorumOptions, stored_voter_id},
    serve::{StartError, format},
};

/// The number of the voter that a quorum is begun with. Not the broker's: a voter's number is never
/// used for another disk, a broker's may be.
const FIRST_VOTER_ID: u64 = 1;

/// Where others are told to come.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    /// HOST:PORT for clients.
    pub(crate) client: String,
    /// HOST:PORT for other brokers.
    pub(crate) internal: String,
}

impl Addresses {
    /// As configured, or as listened at.
    pub(crate) fn new(config: &BrokerConfig, client: SocketAddr, internal: SocketAddr) -> Self {
        let told = |who: &str, key: &str, configured: &Option<String>, bound: SocketAddr| {
            configured.clone().unwrap_or_else(|| {
                let advertised = advertise(bound);
                if bound.ip().is_unspecified() {
                    tracing::warn!(
                        %advertised,
                        "{who} are told to come to this address, which only those on this machine reach: set {key} for others"
                    );
                }
                advertised
            })
        };
        Self {
            client: told("clients", "advertised.address", &config.advertised_address, client),
            internal: if config.seeds.is_empty() {
                let configured = config.advertised_internal_address.clone();
                configured.unwrap_or_else(|| advertise(internal))
            } else {
                let key = "advertised.internal.address";
                told("other brokers", key, &config.advertised_internal_address, internal)
            },
        }
    }
}

/// Where those on this machine reach a listener; an unspecified address is this host's loopback.
fn advertise(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        format!("localhost:{}", address.port())
    } else {
        address.to_string()
    }
}

/// Whether this broker may begin a cluster with a directory that was never meant to join one.
fn may_begin(config: &BrokerConfig) -> bool {
    match config.begin_node {
        None => config.seeds.is_empty(),
        Some(node_id) => node_id == config.node_id && config.cluster_id.is_none(),
    }
}

/// Whether this broker may begin a cluster and nobody tells of one.
async fn is_to_begin(
    config: &BrokerConfig,
    applicant: &Applicant<'_>,
    state: Option<&JoinState>,
    health: &Health,
) -> Result<bool, StartError> {
    if state.is_some() || !may_begin(config) {
        return Ok(false);
    }
    if !config.seeds.is_empty() && told_of_a_cluster(applicant, health).await? {
        tracing::warn!("begin.node names this broker, but there is a cluster: take begin.node out");
        return Ok(false);
    }
    Ok(true)
}

/// Gives an unformatted data directory an identity: a new cluster's, or that of the seeds, which are
/// asked until one answers. `may_form`: whether an empty directory may be taken for a new one. Returns
/// whether it is to begin a cluster.
///
/// # Errors
/// The directory is not empty, can't be written or may not be formed; or the cluster refuses this
/// broker.
pub(crate) async fn prepare_directory(
    config: &BrokerConfig,
    applicant: &Applicant<'_>,
    may_form: bool,
    health: &Health,
) -> Result<bool, StartError> {
    let fs = OsFileSystem::shared();
    let state = JoinState::load(&*fs, &config.data_dir)?;
    if state.is_none() && !may_form {
        return Err(StartError::NotFormatted(config.data_dir.clone()));
    }
    if is_to_begin(config, applicant, state.as_ref(), health).await? {
        format(config)?;
        return Ok(true);
    }
    if config.seeds.is_empty() {
        return Err(must_not_begin(config, state.is_some()));
    }
    LogDir::prepare_format(&fs, &config.data_dir)?;
    let state = match state {
        Some(state) => state,
        None => {
            let state = JoinState::new(config.node_id, Uuid::new_v4());
            state.store(&*fs, &config.data_dir)?;
            state
        }
    };
    let admitted = admission(config, applicant, state.clone(), config.cluster_id.as_deref(), health).await?;
    let identity = DirIdentity {
        cluster_id: admitted.cluster_id,
        node_id: config.node_id,
        directory_id: state.directory_id,
    };
    LogDir::format(&fs, &config.data_dir, &identity)?;
    Ok(false)
}

/// Why this broker, which has no seeds, does not begin a cluster.
fn must_not_begin(config: &BrokerConfig, was_joining: bool) -> StartError {
    let data_dir = config.data_dir.display();
    let why = match config.begin_node {
        _ if was_joining => format!("{data_dir} has begun to join a cluster and must not begin a new one"),
        Some(node_id) if node_id != config.node_id => format!(
            "broker {} must not begin a cluster with {data_dir}: begin.node has broker {node_id} do that",
            config.node_id
        ),
        _ => format!("it must not begin a cluster with {data_dir}: where cluster.id is set there is one"),
    };
    StartError::Refused(format!("{why}: set seeds to HOST:PORT of brokers of that cluster"))
}

/// A cluster was begun with this directory, but never came to be, and others have one.
fn is_of_no_cluster(config: &BrokerConfig) -> StartError {
    StartError::Refused(format!(
        "{} was formatted for a new cluster, but the seeds are in another one: empty it to join theirs, or mount the \
         right volume",
        config.data_dir.display()
    ))
}

/// The answer that is noted, or a new one that is noted then.
async fn admission(
    config: &BrokerConfig,
    applicant: &Applicant<'_>,
    mut state: JoinState,
    cluster_id: Option<&str>,
    health: &Health,
) -> Result<Admitted, StartError> {
    if state.node_id != config.node_id {
        return Err(StartError::Refused(format!(
            "{} has begun to join as broker {}, this is broker {}: mount the right volume",
            config.data_dir.display(),
            state.node_id,
            config.node_id
        )));
    }
    if let Some(admitted) = state.admitted {
        return Ok(admitted);
    }
    let admitted = be_admitted(applicant, state.directory_id, cluster_id, health).await?;
    state.admitted = Some(admitted.clone());
    state.store(&*OsFileSystem::shared(), &config.data_dir)?;
    Ok(admitted)
}

/// A broker's place in the metadata quorum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seat {
    voter_id: u64,
    /// Whether it begins a quorum, if it is in none. Else it may only enter one that there is.
    begins: bool,
}

/// Opens this broker's member of the metadata quorum: under the number that its disk has, else that
/// of the first voter, or of a broker that the seeds admit. `begins`: whether the directory was just
/// formatted to begin a cluster.
///
/// # Errors
/// The disk's, or the cluster refuses this broker, or others of the cluster have a leader although
/// this broker is the only voter by its disk.
pub(crate) async fn open_quorum(
    config: &BrokerConfig,
    applicant: &Applicant<'_>,
    dir: &Arc<LogDir>,
    mut begins: bool,
    health: &Health,
) -> Result<(Quorum, Seat), StartError> {
    let fs = OsFileSystem::shared();
    let state = JoinState::load(&*fs, &config.data_dir)?;
    let stored = stored_voter_id(&*fs, dir)?;
    if stored.is_none() && !begins {
        begins = is_to_begin(config, applicant, state.as_ref(), health).await?;
    }
    let was_joining = state.is_some();
    let voter_id = match stored {
        Some(voter_id) => voter_id,
        None if begins => FIRST_VOTER_ID,
        None => {
            let identity = dir.identity();
            let state = state.unwrap_or_else(|| JoinState::new(config.node_id, identity.directory_id));
            if state.admitted.is_none() && config.seeds.is_empty() {
                return Err(must_not_begin(config, was_joining));
            }
            let cluster_id = Some(identity.cluster_id.as_str());
            admission(config, applicant, state, cluster_id, health).await?.voter_id
        }
    };
    health.starting("reading the metadata log");
    let directory_id = dir.identity().directory_id;
    let address = applicant.addresses.internal.clone();
    let quorum = Quorum::open(QuorumOptions {
        snapshot_every: limits::METADATA_SNAPSHOT_EVERY,
        heartbeat_interval: limits::METADATA_HEARTBEAT,
        election_timeout: limits::METADATA_ELECTION,
        leads_alone: config.seeds.is_empty(),
        ..QuorumOptions::new(voter_id, directory_id, address, fs, dir.clone())
    })
    .await?;
    // A crash came just before it began.
    if stored.is_some() && !was_joining && !quorum.is_bootstrapped() && may_begin(config) {
        begins = is_to_begin(config, applicant, None, health).await?;
        if !begins {
            quorum.shutdown().await;
            return Err(is_of_no_cluster(config));
        }
    }
    if quorum.holds_back() {
        health.starting("asking the seeds whether another broker leads the metadata quorum");
        if let Some(refusal) = told_of_another_leader(applicant, &quorum).await {
            quorum.shutdown().await;
            return Err(StartError::Refused(refusal));
        }
        quorum.lead_alone().await?;
    }
    Ok((quorum, Seat { voter_id, begins }))
}

/// Begins a quorum, enters one, or finds itself in one; returns once a leader is known and
/// everything that was acknowledged before is seen here. The quorum's service is being served.
///
/// # Errors
/// The quorum's storage fails, or this broker can't join for want of seeds, or was removed from the
/// cluster. The only voter also gives up after a while: there is no one to wait for.
pub(crate) async fn begin_or_enter(
    quorum: &Quorum,
    seat: Seat,
    config: &BrokerConfig,
    applicant: &Applicant<'_>,
    health: &Health,
) -> Result<(), StartError> {
    if !quorum.is_bootstrapped() && seat.begins {
        let (cluster_id, _) = quorum.place();
        tracing::info!(cluster_id, "beginning a new cluster");
        quorum.bootstrap().await?;
    }
    let was_in_it = quorum.is_bootstrapped();
    tokio::select! {
        done = find_leader(quorum, seat, config, applicant, health) => done,
        refusal = told_removed(applicant, quorum), if was_in_it => Err(StartError::Refused(refusal)),
    }
}

/// Enters if need be, and waits for a leader.
async fn find_leader(
    quorum: &Quorum,
    seat: Seat,
    config: &BrokerConfig,
    applicant: &Applicant<'_>,
    health: &Health,
) -> Result<(), StartError> {
    let (cluster_id, directory_id) = quorum.place();
    let began = Instant::now();
    let mut wait = Wait::new(health);
    loop {
        if !quorum.is_bootstrapped() {
            if config.seeds.is_empty() {
                let state = JoinState::load(&*OsFileSystem::shared(), &config.data_dir)?;
                return Err(must_not_begin(config, state.is_some()));
            }
            health.starting("entering the cluster");
            if let Err(problem) = enter(applicant, cluster_id, (seat.voter_id, directory_id)).await {
                wait.tell("entering the cluster", &problem);
                wait.pause().await;
                continue;
            }
        }
        let problem = match reach_leader(quorum).await {
            Ok(()) => return Ok(()),
            Err(error) if !may_pass(&error) => return Err(error.into()),
            Err(error) if began.elapsed() >= limits::METADATA_WAIT && is_alone(quorum) => return Err(error.into()),
            Err(error) => error.to_string(),
        };
        if began.elapsed() >= limits::METADATA_LEADER_LOOK {
            wait.tell("waiting for the metadata quorum's leader", &problem);
        }
    }
}

async fn reach_leader(quorum: &Quorum) -> Result<(), QuorumError> {
    quorum.wait_for_leader(limits::METADATA_LEADER_LOOK).await?;
    quorum.read_index().await
}

fn is_alone(quorum: &Quorum) -> bool {
    quorum.status().voters == [quorum.voter_id()]
}

/// Whether it may be otherwise in a while.
pub(super) fn may_pass(error: &QuorumError) -> bool {
    matches!(
        error,
        QuorumError::NotLeader { .. }
            | QuorumError::NoMajority
            | QuorumError::Overloaded { .. }
            | QuorumError::OutcomeUnknown { .. }
            | QuorumError::Timeout { .. }
            | QuorumError::ChangeInProgress
    )
}

/// Tells what a starting broker waits for: in the readiness report at once, in the log when it has
/// lasted for a moment, when it changes, and again after a while.
pub(super) struct Wait<'a> {
    health: &'a Health,
    began: Instant,
    told: Option<(String, Instant)>,
    pause: Duration,
}

impl<'a> Wait<'a> {
    pub(super) fn new(health: &'a Health) -> Self {
        Self {
            health,
            began: Instant::now(),
            told: None,
            pause: limits::START_PAUSE_FIRST,
        }
    }

    pub(super) fn tell(&mut self, what: &str, problem: &str) {
        let text = format!("{what}: {problem}");
        self.health.starting(text.as_str());
        let is_due = match &self.told {
            None => self.began.elapsed() >= limits::START_TOLD_FIRST,
            Some((told, at)) => {
                let is_new = *told != text && at.elapsed() >= limits::START_TOLD_APART;
                is_new || at.elapsed() >= limits::START_TOLD_AGAIN
            }
        };
        if is_due {
            tracing::warn!(problem, "{what}");
            self.told = Some((text, Instant::now()));
        }
    }

    /// Longer each time, up to a bound.
    pub(super) async fn pause(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(limits::START_PAUSE_LONGEST);
    }
}
