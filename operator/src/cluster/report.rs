//! What a Cluster's status says: pure, from what was seen, decided and done.

use std::collections::BTreeMap;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};
use millrace_crds::{BrokerStatus, ClusterStatus, Moves, PartitionCounts, QuorumStatus, RolloutStatus};

use super::{
    act::{Outcome, SCALE_IN},
    decide::{Decision, Hold},
    quorum, racks,
    roll::{self, KeptBack},
    scale::named,
    seen::{Pod, Reach, Seen, Told},
    wishes::Wishes,
};
use crate::{
    conditions::{self, Status, Wanted, whole_seconds},
    options::VERSION,
    pass,
};

/// More brokers than these are not listed.
const MAX_BROKERS: usize = 200;
/// After so long without a broker that answers a new cluster is told to be stuck.
const PATIENCE: SignedDuration = SignedDuration::from_mins(10);
/// So many brokers without a vote are named.
const MAX_AWAITED: usize = 3;

/// All of it.
#[must_use]
pub fn status(seen: &Seen, decision: &Decision, outcome: &Outcome, error: Option<&str>) -> ClusterStatus {
    let wishes = Wishes::of(&seen.cluster);
    let before = seen.cluster.status.clone().unwrap_or_default();
    let told = seen.brokers.told();
    let generation = seen.cluster.metadata.generation;
    let wanted = Report {
        seen,
        decision,
        outcome,
        error,
        wishes: &wishes,
        told,
    };
    let rollout = wanted.rollout(before.rollout.as_ref());
    let conditions = conditions::merge(&before.conditions, &wanted.conditions(), generation, seen.now);
    let pods = i32::try_from(seen.pods.len()).ok();
    let ready = seen.pods.values().filter(|pod| pod.is_ready()).count();
    let updated = seen
        .pods
        .values()
        .filter(|pod| pod.hash == decision.roll.newest())
        .count();
    ClusterStatus {
        observed_generation: generation,
        conditions,
        replicas: pods,
        ready_replicas: i32::try_from(ready).ok(),
        updated_replicas: if decision.roll.newest().is_empty() {
            before.updated_replicas
        } else {
            i32::try_from(updated).ok()
        },
        selector: Some(seen.key.selector()),
        version: decision.record.version.clone().or(before.version),
        cluster_id: decision.record.cluster_id.clone().or(before.cluster_id),
        bootstrap: Some(seen.key.bootstrap_address()),
        quorum: told.map(quorum_status),
        brokers: brokers(seen, told),
        partitions: told.map(partitions).or(before.partitions),
        moves: told.map(moves),
        rollout,
        renderer_revision: decision.record.renderer.or(before.renderer_revision),
        operator_version: Some(VERSION.to_owned()),
    }
}

fn quorum_status(told: &Told) -> QuorumStatus {
    QuorumStatus {
        leader: told.quorum_leader(),
        voters: told.voters().into_iter().collect(),
    }
}

fn brokers(seen: &Seen, told: Option<&Told>) -> Vec<BrokerStatus> {
    let mut all: BTreeMap<i32, BrokerStatus> = BTreeMap::new();
    for (id, pod) in &seen.pods {
        let broker = all.entry(*id).or_default();
        broker.pod = Some(pod.name.clone());
        broker.ready = pod.is_ready();
    }
    for known in told.iter().flat_map(|told| &told.cluster.brokers) {
        let broker = all.entry(known.broker_id).or_default();
        broker.rack = Some(known.rack.clone()).filter(|rack| !rack.is_empty());
        broker.version = Some(known.version.clone()).filter(|version| !version.is_empty());
        broker.in_sync = known.available && told.is_some_and(|told| !told.out_of_sync.contains(&known.broker_id));
    }
    all.into_iter()
        .take(MAX_BROKERS)
        .map(|(id, broker)| BrokerStatus { id, ..broker })
        .collect()
}

fn partitions(told: &Told) -> PartitionCounts {
    let (under_min_isr, _) = told.endangered();
    PartitionCounts {
        total: told.cluster.partitions,
        under_replicated: told.cluster.under_replicated_partitions,
        under_min_isr: i32::try_from(under_min_isr).unwrap_or(i32::MAX),
        offline: told.cluster.offline_partitions,
    }
}

fn moves(told: &Told) -> Moves {
    Moves {
        active: i32::try_from(told.moves.len()).unwrap_or(i32::MAX),
    }
}

struct Report<'a> {
    seen: &'a Seen,
    decision: &'a Decision,
    outcome: &'a Outcome,
    error: Option<&'a str>,
    wishes: &'a Wishes,
    told: Option<&'a Told>,
}

impl Report<'_> {
    fn conditions(&self) -> Vec<Wanted> {
        let (reconciling, stalled) = (self.reconciling(), self.stalled());
        let mut all = vec![glance(self.ready(), stalled.as_ref().or(reconciling.as_ref()))];
        all.extend(reconciling);
        all.extend(stalled);
        all.push(self.up_to_date());
        all.push(self.replicas_in_sync());
        all.push(racks::condition(self.seen));
        all.push(self.storage_ready());
        all
    }

    fn is_invalid(&self) -> bool {
        !self.decision.problems.is_empty()
    }

    fn ready(&self) -> Wanted {
        let no = |reason, text: String| Wanted::no("Ready", reason, text);
        let wanted = self.wishes.replicas;
        let ready = self
            .seen
            .pods
            .iter()
            .filter(|(id, pod)| **id < wanted && pod.is_ready())
            .count();
        let enough = usize::try_from(wanted).unwrap_or(usize::MAX);
        if self.is_invalid() && self.seen.objects.is_empty() {
            return no("InvalidSpec", self.decision.problems.join(" "));
        }
        let created = self.decision.record.created;
        // Also what comes between is of the creation: only when that has ended is it an outage.
        let lasting = |reason| if created { reason } else { "Creating" };
        let told = match &self.seen.brokers {
            Reach::Reached(told) => told,
            Reach::Unasked | Reach::Unreachable(_) if !created => {
                let text = format!("{ready} of {wanted} brokers are ready{}", self.patience());
                return no("Creating", text);
            }
            Reach::Unasked => return no("BrokersUnready", "no broker runs".into()),
            Reach::Unreachable(why) => return no("BrokersUnready", format!("no broker answers: {why}")),
        };
        if let Some(Hold::OtherCluster { known, found }) = &self.decision.hold {
            return no("OtherCluster", exchanged(known, found));
        }
        if told.quorum_leader().is_none() {
            return no(
                lasting("QuorumLost"),
                "the metadata quorum has no leader: most of its voters must run".into(),
            );
        }
        if told.cluster.offline_partitions > 0 {
            let text = format!("{} partitions have no leader", told.cluster.offline_partitions);
            return no(lasting("PartitionsOffline"), text);
        }
        let rolling = !self.decision.roll.outdated.is_empty() || self.decision.roll.current.is_some();
        let spare = usize::from(rolling && enough > 1);
        if ready + spare < enough {
            // By the pods: where nothing is done nothing was planned either.
            let is_ready = |id: &i32| self.seen.pods.get(id).is_some_and(Pod::is_ready);
            let missing: Vec<i32> = (0..wanted).filter(|id| !is_ready(id)).collect();
            let missing = named(&missing);
            return no(
                lasting("BrokersUnready"),
                format!("{ready} of {wanted} brokers are ready; not yet: {missing}"),
            );
        }
        if let Some(votes) = self.missing_votes().filter(|_| !created) {
            // Who waits for it may lose a node then, and must keep a quorum.
            return no("Creating", votes);
        }
        Wanted::yes("Ready", "Ready", format!("{ready} of {wanted} brokers serve"))
    }

    /// How many vote, if those are fewer than come by themselves. Votes beyond are given when their time has come.
    fn missing_votes(&self) -> Option<String> {
        let (given, wanted) = (self.told?.voters().len(), self.wishes.auto_voters());
        let missing = given < usize::try_from(wanted).unwrap_or_default();
        missing.then(|| format!("{given} of {wanted} votes on the metadata are given{}", self.awaited()))
    }

    /// Whose votes are missing, and why.
    fn awaited(&self) -> String {
        let awaited = self.told.map(|told| quorum::without_vote(told, self.wishes));
        let mut each = awaited.iter().flatten().map(|(id, why)| format!("broker {id} {why}"));
        let first: Vec<String> = each.by_ref().take(MAX_AWAITED).collect();
        let more = match each.count() {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        if first.is_empty() {
            return more;
        }
        format!("; without one: {}{more}", first.join(", "))
    }

    /// Votes that do not come although a broker has been there for them for as long as a broker may take to come back.
    fn late_votes(&self) -> Option<String> {
        let votes = self.missing_votes()?;
        let deadline = SignedDuration::from_secs(self.wishes.rollout_deadline_seconds.into());
        let is_late = |since: Timestamp| self.seen.now.duration_since(since) > deadline;
        let without = quorum::without_vote(self.told?, self.wishes);
        let ready_since = |id: &i32| self.seen.pods.get(id)?.ready_since;
        let conditions = self.seen.cluster.status.iter().flat_map(|status| &status.conditions);
        // Not since something else was waited for.
        let is_of_votes = |reason: &str| reason == "AddingVoters" || reason == "Creating";
        let mut waits = conditions
            .filter(|known| known.type_ == "Reconciling" && known.status == "True" && is_of_votes(&known.reason));
        let is_stuck = waits.any(|since| is_late(since.last_transition_time.0))
            && without.keys().filter_map(ready_since).any(is_late);
        let hint = "see `millrace quorum describe`, and the brokers' logs";
        is_stuck.then(|| {
            format!(
                "{votes}, for more than {} s: {hint}",
                self.wishes.rollout_deadline_seconds
            )
        })
    }

    /// What a person may do about a cluster that does not begin.
    fn patience(&self) -> String {
        let created = self.seen.cluster.metadata.creation_timestamp.as_ref();
        let late = created.is_some_and(|created| self.seen.now.duration_since(created.0) > PATIENCE);
        let may_begin = self.decision.record.is_forming();
        if late && !may_begin && self.decision.record.cluster_id.is_none() {
            return format!(
                "; there were claims of this name when it was made, so no new cluster is begun: if what is on them is not \
                 wanted, delete this Cluster, then `kubectl delete pvc -n {} -l {}`, and make it again",
                self.seen.key.namespace,
                self.seen.key.selector()
            );
        }
        String::new()
    }

    fn reconciling(&self) -> Option<Wanted> {
        let yes = |reason, text: String| Some(Wanted::yes("Reconciling", reason, text));
        match (self.under_way(), self.error) {
            (Some((reason, text)), Some(error)) => yes(reason, format!("{text}; a step failed: {error}")),
            (Some((reason, text)), None) => yes(reason, text),
            (None, Some(error)) => yes("Retrying", error.to_owned()),
            (None, None) => None,
        }
    }

    /// What goes on, with the reason for the condition.
    fn under_way(&self) -> Option<(&'static str, String)> {
        let yes = |reason, text: String| Some((reason, text));
        match &self.decision.hold {
            Some(Hold::Leftover(what)) => {
                let text = format!("{what} of the Cluster of this name that was deleted before is about to go");
                return yes("Creating", text);
            }
            Some(Hold::ClaimsGoing) => {
                let text =
                    "claims of a former cluster of this name are about to go: a new one begins when they are gone";
                return yes("Creating", text.into());
            }
            Some(_) => return None,
            None => {}
        }
        if self.is_invalid() && self.seen.objects.is_empty() {
            return None;
        }
        if self.decision.forming {
            return yes(
                "Creating",
                "the first broker begins the cluster, the others join it".into(),
            );
        }
        let roll = &self.decision.roll;
        let kept = self.scale_in_waits();
        if !roll.outdated.is_empty() {
            let mut text = format!("to be restarted: {}", named(&roll.outdated));
            text.extend(self.roll_waits().map(|waits| format!("; waiting: {waits}")));
            text.extend(kept.map(|kept| format!("; {kept}")));
            return yes("Rolling", text);
        }
        match (&self.decision.scale.waiting, kept) {
            (Some(waiting), Some(kept)) => return yes("Draining", format!("{waiting}; {kept}")),
            (Some(waiting), None) => return yes("Draining", waiting.clone()),
            // Nothing is left of it but its claim.
            (None, Some(kept)) => return yes("Draining", kept.to_owned()),
            (None, None) => {}
        }
        if !self.decision.scale.coming.is_empty() {
            let coming = &self.decision.scale.coming;
            let text = format!("waiting for {} to become ready", named(coming));
            let is_new = |id: &i32| self.told.is_some_and(|told| told.broker(*id).is_none());
            let reason = match roll.current {
                Some(_) => "Rolling",
                None if coming.iter().any(is_new) => "ScalingOut",
                None => "Recovering",
            };
            return yes(reason, text);
        }
        if let Some(votes) = self.missing_votes() {
            return yes("AddingVoters", votes);
        }
        let moves = self.told.map_or(0, |told| told.moves.len());
        if moves > 0 {
            return yes("MovingReplicas", format!("{moves} partitions are being moved"));
        }
        None
    }

    fn stalled(&self) -> Option<Wanted> {
        let yes = |reason, text: String| Some(Wanted::yes("Stalled", reason, text));
        match &self.decision.hold {
            Some(Hold::Paused) => return yes("Paused", "nothing is changed until the pause is taken back".into()),
            Some(Hold::Foreign(what)) => {
                let text = format!("{what} belongs to somebody else: delete it, or give this Cluster another name");
                return yes("NameTaken", text);
            }
            Some(Hold::OtherCluster { known, found }) => {
                return yes("OtherCluster", exchanged(known, found));
            }
            Some(Hold::Leftover(_) | Hold::ClaimsGoing) | None => {}
        }
        if self.is_invalid() {
            return yes("InvalidSpec", self.decision.problems.join(" "));
        }
        if let Some(words) = &self.outcome.forbidden {
            return yes("Forbidden", pass::lacking(words));
        }
        if let Some(refused) = self.outcome.refused.first() {
            return yes(refused.reason, refused.text.clone());
        }
        if let Some((_, stuck)) = self.decision.roll.stuck.first_key_value() {
            return yes(stuck.reason, stuck.text.clone());
        }
        yes("VotersMissing", self.late_votes()?)
    }

    fn up_to_date(&self) -> Wanted {
        let outdated = &self.decision.roll.outdated;
        if self.decision.roll.hash.is_empty() {
            return Wanted::unknown(
                "UpToDate",
                "NotLooked",
                "nothing is compared while nothing may be changed",
            );
        }
        if self.is_invalid() {
            let text = "the spec is not carried out: see the condition Stalled";
            return Wanted::no("UpToDate", "InvalidSpec", text);
        }
        let roll = &self.decision.roll;
        if let Some(kept_back) = &roll.kept_back {
            let reason = match kept_back {
                KeptBack::Unapproved(_) => "AwaitingApproval",
                KeptBack::Unasked(_) => "RestartPending",
            };
            return Wanted::no("UpToDate", reason, kept_back.waiting().text);
        }
        if outdated.is_empty() {
            return Wanted::yes("UpToDate", "UpToDate", "all brokers run what is wanted");
        }
        let text = format!("to be restarted: {}", named(outdated));
        Wanted::no("UpToDate", "RestartPending", text)
    }

    fn replicas_in_sync(&self) -> Wanted {
        let Some(told) = self.told else {
            return Wanted::unknown("ReplicasInSync", "Unreachable", "no broker can be asked");
        };
        let counts = partitions(told);
        if counts.under_min_isr > 0 {
            let text = format!("{} partitions take no records with acks=all", counts.under_min_isr);
            return Wanted::no("ReplicasInSync", "UnderMinISR", text);
        }
        if counts.under_replicated > 0 {
            let text = format!(
                "{} partitions have replicas that are not in sync",
                counts.under_replicated
            );
            return Wanted::no("ReplicasInSync", "UnderReplicated", text);
        }
        Wanted::yes("ReplicasInSync", "InSync", "all replicas of all partitions are in sync")
    }

    fn storage_ready(&self) -> Wanted {
        let staying = |id: i32| id < self.seen.cluster.spec.replicas && self.seen.pods.contains_key(&id);
        let going = self.seen.claims.iter().filter(|(_, claim)| claim.terminating);
        let going: Vec<i32> = going.map(|(id, _)| *id).filter(|id| staying(*id)).collect();
        if !going.is_empty() {
            return Wanted::no("StorageReady", "ClaimDeleted", roll::claim_goes(&going));
        }
        let unbound: Vec<i32> = self
            .seen
            .claims
            .iter()
            .filter(|(_, claim)| !claim.bound)
            .map(|(id, _)| *id)
            .collect();
        if !unbound.is_empty() {
            let text = format!("no volume yet for the claim of {}", named(&unbound));
            return Wanted::no("StorageReady", "Binding", text);
        }
        if self.seen.claims.is_empty() {
            return Wanted::unknown("StorageReady", "NoClaims", "there are no claims yet");
        }
        Wanted::yes("StorageReady", "Bound", "each claim has its volume")
    }

    fn roll_waits(&self) -> Option<String> {
        match &self.outcome.held {
            Some((gate, text)) if *gate != SCALE_IN => Some(text.clone()),
            _ => self.decision.roll.waiting.as_ref().map(|waiting| waiting.text.clone()),
        }
    }

    /// Why a broker that leaves may not go yet.
    fn scale_in_waits(&self) -> Option<&str> {
        let held = self.outcome.held.as_ref().filter(|(gate, _)| *gate == SCALE_IN);
        held.map(|(_, text)| text.as_str())
    }

    fn rollout(&self, before: Option<&RolloutStatus>) -> Option<RolloutStatus> {
        let roll = &self.decision.roll;
        if roll.outdated.is_empty() && roll.current.is_none() && roll.kept_back.is_none() {
            return None;
        }
        let waiting_for = self.roll_waits();
        let same = before.filter(|before| before.current == roll.current && before.waiting_for == waiting_for);
        let since = same.and_then(|before| before.since_time.clone());
        Some(RolloutStatus {
            template_hash: roll.newest().to_owned(),
            current: roll.current,
            waiting_for,
            since_time: Some(since.unwrap_or(Time(now(self.seen.now)))),
        })
    }
}

/// Who serves while something goes on, or is stuck, says so where `kubectl get` looks: its column REASON is that of
/// `Ready`.
fn glance(ready: Wanted, also: Option<&Wanted>) -> Wanted {
    match also.filter(|_| ready.status == Status::True) {
        Some(also) => Wanted {
            message: format!("{}; see the condition {}", ready.message, also.kind),
            reason: also.reason,
            ..ready
        },
        None => ready,
    }
}

fn exchanged(known: &str, found: &str) -> String {
    format!(
        "the brokers are of cluster {found}, and this is {known}: their disks were exchanged; bring the right ones back"
    )
}

fn now(now: Timestamp) -> Timestamp {
    whole_seconds(now)
}

#[cfg(test)]
mod tests;
