//! What is to be done with a cluster: pure, from what was seen. All rules of one concern are in a file of their own;
//! here they are put together, in the order of what matters most. No rule waits for another one that may wait for it
//! (pingcap/tidb-operator#865), and nothing that repairs waits for health.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use millrace_client::v1;
use serde_json::Value;

use super::{
    balance, blueprint,
    budget::{self, Budgets},
    quorum,
    roll::{self, KeptBack, Roll},
    scale::{self, Scale},
    seen::{Seen, Told},
    wishes::Wishes,
};
use crate::{
    names::{APPLIED_HASH, NUDGED_AT},
    record::Record,
    render::{self, Blueprint, Kind, Object, RenderError},
};

/// So long a missing pod is the StatefulSet's controller's business alone; then twice as long each time,
const NUDGE_FIRST: SignedDuration = SignedDuration::from_secs(10);
/// up to this.
const NUDGE_SELDOM: SignedDuration = SignedDuration::from_secs(60);

/// One thing to do. Each may be done twice.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Make or change an object.
    Apply(Object),
    /// Take the disruption budget away: one broker has nothing to share.
    DeleteBudget,
    /// So many pods, of the template that there is.
    Resize(i32),
    /// Touch the StatefulSet, so that its controller looks at it: the how manieth time.
    Nudge(u32),
    /// Permit the number of a removed broker to be used again.
    PermitNumber(i32),
    /// Set and unset defaults of all topics.
    AlterTopicDefaults {
        /// These are set.
        set: Vec<(String, String)>,
        /// These go back to what is built in.
        unset: Vec<String>,
    },
    /// Give a broker a vote.
    AddVoter(i32),
    /// Take a broker's vote away.
    RemoveVoter(i32),
    /// Take the vote of a disk away that no broker has any more; the voter's own number.
    RemoveLostVoter(i64),
    /// Move all replicas away from brokers.
    Drain(Vec<i32>),
    /// They may have replicas again.
    CancelDrain(Vec<i32>),
    /// Give new brokers their share.
    Rebalance {
        /// Who they are.
        onto: Vec<i32>,
        /// The record that they had it: written when the moves have begun. Whoever dies before asks for a plan again,
        /// which is then empty.
        record: Object,
    },
    /// Let a broker that is gone, and held nothing, go for good.
    RemoveBroker(i32),
    /// Delete the claim of a broker that is gone, and held nothing.
    DeleteClaim(i32),
    /// Give back the maintenance slot of a broker that is not to be restarted after all.
    ReleaseSlot(i32),
    /// Restart one of these brokers, the first that may.
    Restart {
        /// In this order.
        candidates: Vec<i32>,
        /// The template that they are to come back with.
        hash: String,
        /// The disruption budget, where it lets nobody go at will.
        budgets: Option<Box<Budgets>>,
    },
    /// Evict a pod whose broker does not run, so that it is made from the new template.
    Replace {
        /// Whose pod.
        broker: i32,
        /// The template that it is to come back with.
        hash: String,
    },
}

/// What is to be done, and what there is to say.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// In this order.
    pub steps: Vec<Step>,
    /// How the roll stands.
    pub roll: Roll,
    /// How scaling stands.
    pub scale: Scale,
    /// What is wrong with the spec.
    pub problems: Vec<String>,
    /// Why nothing is done.
    pub hold: Option<Hold>,
    /// What is known of the cluster for the next pass.
    pub record: Record,
    /// Whether the first broker is about to begin the cluster.
    pub forming: bool,
}

/// Why nothing is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Its user wants it so.
    Paused,
    /// Objects of these names belong to somebody else.
    Foreign(String),
    /// Objects of these names are of a Cluster of this name that was deleted, and are about to go with it.
    Leftover(String),
    /// The claims of a former cluster of this name are about to go.
    ClaimsGoing,
    /// The brokers are of another cluster than the one known.
    OtherCluster {
        /// The one known.
        known: String,
        /// What the brokers say.
        found: String,
    },
}

/// Decides.
#[must_use]
pub fn decide(seen: &Seen) -> Decision {
    let wishes = Wishes::of(&seen.cluster);
    let before = blueprint::record(seen);
    let mut decision = Decision {
        record: before.clone(),
        forming: before.is_forming(),
        ..Decision::default()
    };
    decision.hold = foreign(seen)
        .or_else(|| wishes.paused.then_some(Hold::Paused))
        .or_else(|| claims_go(seen).then_some(Hold::ClaimsGoing));
    if decision.hold.is_some() {
        decision.steps = take_back(seen, &wishes, &before);
        return decision;
    }
    let told = seen.brokers.told();
    if let (Some(known), Some(told)) = (&before.cluster_id, told)
        && *known != told.cluster.cluster_id
    {
        decision.hold = Some(Hold::OtherCluster {
            known: known.clone(),
            found: told.cluster.cluster_id.clone(),
        });
        decision.steps = take_back(seen, &wishes, &before);
        return decision;
    }

    decision.scale = scale::plan(seen, &wishes, &before);
    let defaults = told
        .map(|told| topic_defaults(told, &wishes, &before))
        .unwrap_or_default();
    let balance = told.and_then(|told| balance::new_brokers(seen, told, &wishes, &before));
    let record = next_record(seen, &wishes, &before, &decision.scale, &defaults);

    let (mut wanted, template) = blueprint::make(seen, &wishes, &record, &decision.scale);
    decision.problems = wishes.problems(told.map_or(&Default::default(), |told| &told.settings));
    let target = Target::of(seen, &wishes, &before, template, &mut decision.problems);
    let is_kept = target.template.is_none();
    if is_kept {
        wanted.record.keep_template_of(&record);
    }
    decision.roll = roll::plan(seen, &wishes, target.hash, target.kept_back);
    // A pod whose container crashes again and again runs, for the disruption budget: with most brokers so, Kubernetes
    // would evict none of them, and a template that mends them could not come.
    wanted.evicts_unready = matches!(decision.roll.step, Some(Step::Replace { .. }));
    if let Some(Step::Restart { budgets, .. }) = &mut decision.roll.step {
        *budgets = Budgets::of(&wanted).map(Box::new);
    }
    if decision.roll.permitted.is_some() && budget::is_opened(seen) {
        // Only the restart opens it, when the quorum has been asked; what it has opened is shut where it asks in vain.
        budget::open(&mut wanted);
    }
    let (objects, error) = render::render(&wanted, target.template);
    decision.problems.extend(error.map(|error| format!("{error}.")));
    if !decision.problems.is_empty() && !seen.objects.contains_key(&Kind::StatefulSet) {
        // There is nothing yet that could go on as it was.
        return decision;
    }
    decision.steps.extend(changes(seen, objects, &wanted));
    if is_kept {
        decision.steps.extend(resize(seen, wanted.replicas));
    }
    decision.record = wanted.record.clone();
    decision.forming = wanted.record.is_forming();

    decision.steps.extend(nudge(seen));
    decision.steps.extend(decision.scale.before.iter().cloned());
    decision.steps.extend(defaults.step());
    if let Some(told) = told {
        decision.steps.extend(quorum::step(seen, told, &wishes));
    }
    decision.steps.extend(decision.roll.stale_slot.map(Step::ReleaseSlot));
    decision.steps.extend(decision.roll.step.clone());
    decision.steps.extend(decision.scale.after.iter().cloned());
    if let Some(onto) = balance {
        let mut balanced = wanted.clone();
        balanced.record.balanced.extend(&onto);
        decision.steps.push(Step::Rebalance {
            onto,
            record: render::config_map(&balanced),
        });
    }
    decision
}

/// Which template pods are to be made from.
struct Target {
    /// The one to apply; none: the one that there is stays.
    template: Option<Value>,
    /// The hash of what pods are to have.
    hash: String,
    /// Why another one is not applied, if it is not the spec's fault.
    kept_back: Option<KeptBack>,
}

impl Target {
    /// The template that the spec makes, unless something is wrong with the spec or nobody has approved it yet. Then
    /// the StatefulSet keeps what it has, which is also what a pod that fails meanwhile comes back with: a mistake in
    /// the spec must not keep anything from being repaired.
    fn of(
        seen: &Seen,
        wishes: &Wishes,
        record: &Record,
        template: Result<Value, RenderError>,
        problems: &mut Vec<String>,
    ) -> Self {
        let live = blueprint::live_hash(seen).unwrap_or_default().to_owned();
        let template = template.map_err(|error| problems.push(format!("{error}."))).ok();
        let kept = |kept_back| Self {
            template: None,
            hash: live.clone(),
            kept_back,
        };
        let Some(template) = template.filter(|_| problems.is_empty()) else {
            return kept(None);
        };
        let hash = render::template_hash(&template).to_owned();
        // Where there is no cluster yet nobody can be disturbed.
        let begun = record.cluster_id.is_some() && !live.is_empty();
        if begun && hash != live {
            if wishes.rolls_when_approved && !roll::is_approved(seen, &hash) {
                return kept(Some(KeptBack::Unapproved(hash)));
            }
            if has_unknown_settings(seen, wishes) && !roll::is_approved(seen, &hash) {
                return kept(Some(KeptBack::Unasked(hash)));
            }
        }
        Self {
            template: Some(template),
            hash,
            kept_back: None,
        }
    }
}

/// Whether there are settings that no broker could be asked about, and that no broker had so far: those that are there
/// already may be what an outage is mended with.
fn has_unknown_settings(seen: &Seen, wishes: &Wishes) -> bool {
    if seen.brokers.told().is_some_and(|told| !told.settings.is_empty()) {
        return false;
    }
    let set = seen.objects.get(&Kind::StatefulSet);
    let has = |name: String| set.is_some_and(|set| variables(set).any(|each| each["name"] == *name));
    let mut names = wishes.settings.keys();
    names.any(|name| !has(render::variable(name)))
}

/// What is taken back where nothing is done: permissions for a restart that does not come are nobody else's.
fn take_back(seen: &Seen, wishes: &Wishes, record: &Record) -> Vec<Step> {
    let budget = seen.objects.get(&Kind::DisruptionBudget);
    let (wanted, _) = blueprint::make(seen, wishes, record, &Scale::default());
    let shut = budget::shut(seen, &wanted).filter(|_| budget.is_some_and(|budget| is_ours(seen, budget)));
    let slot = roll::idle_slot(seen).map(Step::ReleaseSlot);
    shut.map(Step::Apply).into_iter().chain(slot).collect()
}

/// Whether an object is this Cluster's.
fn is_ours(seen: &Seen, object: &Value) -> bool {
    let uid = seen.cluster.metadata.uid.as_deref().unwrap_or_default();
    owners(object).any(|owner| owner["uid"] == uid)
}

fn owners(object: &Value) -> impl Iterator<Item = &Value> {
    let owners = object["metadata"]["ownerReferences"].as_array();
    owners.into_iter().flatten()
}

/// Whether an object of one of our names is not this Cluster's.
fn foreign(seen: &Seen) -> Option<Hold> {
    let mut others = seen.objects.iter().filter(|(_, object)| !is_ours(seen, object));
    others.next().map(|(kind, object)| {
        let (_, _, name, _) = kind.api();
        let what = format!("{name} {}", kind.name(&seen.key));
        let namesake = owners(object).any(|owner| owner["kind"] == "Cluster" && owner["name"] == *seen.key.name);
        if namesake {
            Hold::Leftover(what)
        } else {
            Hold::Foreign(what)
        }
    })
}

/// Whether the only thing that shows a former cluster of this name are claims that were told to go. Until they are gone
/// nobody knows whether that succeeds, and so whether a new cluster may be begun.
fn claims_go(seen: &Seen) -> bool {
    let known = seen
        .cluster
        .status
        .as_ref()
        .is_some_and(|status| status.cluster_id.is_some());
    let begins =
        !known && !seen.objects.contains_key(&Kind::ConfigMap) && !seen.objects.contains_key(&Kind::StatefulSet);
    begins && !seen.claims.is_empty() && seen.claims.values().all(|claim| claim.terminating)
}

/// Another number of pods where the rest of the StatefulSet stays as it is.
fn resize(seen: &Seen, replicas: i32) -> Option<Step> {
    let set = seen.objects.get(&Kind::StatefulSet)?;
    (set["spec"]["replicas"] != replicas).then_some(Step::Resize(replicas))
}

/// What is to be known the next time.
fn next_record(seen: &Seen, wishes: &Wishes, before: &Record, scale: &Scale, defaults: &DefaultsChange) -> Record {
    let mut record = before.clone();
    if let Some(told) = seen.brokers.told() {
        if before.is_forming() {
            // Those that join now share what there is from the beginning.
            record.balanced = (0..wishes.replicas).collect();
        }
        if record.balanced.is_empty() {
            // The record was lost: better one move too few than all of them again.
            record.balanced = told.cluster.brokers.iter().map(|broker| broker.broker_id).collect();
        }
        record.forming = None;
        record.cluster_id = Some(told.cluster.cluster_id.clone());
    }
    record.created |= blueprint::is_whole(seen, wishes);
    record.leaving.clone_from(&scale.leaving);
    record
        .balanced
        .retain(|id| *id < wishes.replicas && !scale.leaving.contains(id));
    if seen.brokers.told().is_some() {
        record.topic_defaults.clone_from(&defaults.ours);
    }
    record
}

/// Pods are missing although nothing stands in their way any more. The StatefulSet's controller waits longer and longer
/// after each failure, minutes in the end, and hears nothing when the cause is gone: a pod of a StatefulSet of the same
/// name that was deleted, a quota.
fn nudge(seen: &Seen) -> Option<Step> {
    let set = seen.objects.get(&Kind::StatefulSet)?;
    let replicas = set["spec"]["replicas"]
        .as_i64()
        .and_then(|replicas| i32::try_from(replicas).ok())?;
    if (0..replicas).all(|id| seen.pods.contains_key(&id)) {
        return None;
    }
    let metadata = &set["metadata"];
    let time = |text: &str| text.parse::<Timestamp>().ok();
    // The time, and the how manieth time it was.
    let nudged = metadata["annotations"][NUDGED_AT].as_str().unwrap_or_default();
    let (last, count) = nudged.split_once(' ').unwrap_or((nudged, "1"));
    let (last, count) = match time(last) {
        Some(last) => (last, count.parse().unwrap_or(1)),
        None => (time(metadata["creationTimestamp"].as_str()?)?, 0),
    };
    let pause = NUDGE_FIRST * 2_i32.pow(count.min(8));
    let (pause, passed) = (pause.min(NUDGE_SELDOM), seen.now.duration_since(last));
    // Long ago: that was for something else.
    let count = if passed > pause * 2 { 0 } else { count };
    (passed >= pause).then_some(Step::Nudge(count + 1))
}

/// The objects that are not as they are wanted.
fn changes(seen: &Seen, objects: Vec<Object>, wanted: &Blueprint) -> Vec<Step> {
    let mut steps: Vec<Step> = objects
        .into_iter()
        .filter(|object| seen.objects.get(&object.kind).is_none_or(|live| differs(object, live)))
        .map(Step::Apply)
        .collect();
    if wanted.disruptions.is_none() && seen.objects.contains_key(&Kind::DisruptionBudget) {
        steps.push(Step::DeleteBudget);
    }
    steps
}

/// Whether an object is not as it is wanted: what was applied last was something else, or somebody has changed it
/// since. Only what the API server keeps as it was written is compared.
fn differs(wanted: &Object, live: &Value) -> bool {
    let applied = |value: &Value| value["metadata"]["annotations"][APPLIED_HASH].clone();
    if applied(&wanted.value) != applied(live) {
        return true;
    }
    let compared: &[&str] = match wanted.kind {
        Kind::ServiceAccount => &["/automountServiceAccountToken"],
        Kind::ConfigMap => &["/data", "/metadata/annotations"],
        Kind::HeadlessService => &["/spec"],
        // The rest may be the user's, in forms that the API server writes in its own way.
        Kind::BootstrapService => &["/spec/selector"],
        Kind::NetworkPolicy | Kind::DisruptionBudget => &["/spec"],
        Kind::StatefulSet => &[
            "/spec/replicas",
            "/spec/updateStrategy",
            "/spec/persistentVolumeClaimRetentionPolicy",
            "/spec/template/metadata",
            "/spec/template/spec/containers/0/image",
            "/spec/template/spec/containers/0/command",
        ],
    };
    let changed = compared.iter().any(|path| {
        let wanted = wanted.value.pointer(path);
        wanted.is_some_and(|wanted| live.pointer(path).is_none_or(|live| !contains(live, wanted)))
    });
    changed || wanted.kind == Kind::StatefulSet && has_other_settings(&wanted.value, live)
}

/// The variables of a StatefulSet's brokers.
fn variables(set: &Value) -> impl Iterator<Item = &Value> {
    let env = set.pointer("/spec/template/spec/containers/0/env");
    env.and_then(Value::as_array).into_iter().flatten()
}

/// Whether somebody has changed a variable of the brokers' environment. Others may be added: those are the user's.
fn has_other_settings(wanted: &Value, live: &Value) -> bool {
    // The API server leaves out what is empty.
    let value = |variable: &Value| variable["value"].as_str().unwrap_or_default().to_owned();
    variables(wanted).any(|wanted| {
        let live = variables(live).find(|live| live["name"] == wanted["name"]);
        live.is_none_or(|live| value(live) != value(wanted) || !contains(&live["valueFrom"], &wanted["valueFrom"]))
    })
}

/// Whether all that is wanted is there; the API server adds fields of its own.
fn contains(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => wanted
            .iter()
            .all(|(name, wanted)| live.get(name).is_some_and(|live| contains(live, wanted))),
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len() && live.iter().zip(wanted).all(|(live, wanted)| contains(live, wanted))
        }
        (live, wanted) => live == wanted,
    }
}

/// Whether a step takes a pod away to have it made anew.
pub(super) fn takes_a_pod(step: &Step) -> bool {
    matches!(step, Step::Restart { .. } | Step::Replace { .. })
}

/// Whether a step takes a pod away by way of the StatefulSet.
pub(super) fn shrinks(seen: &Seen, step: &Step) -> bool {
    let replicas = |value: &Value| value["spec"]["replicas"].as_i64();
    let wanted = match step {
        Step::Apply(object) if object.kind == Kind::StatefulSet => replicas(&object.value),
        Step::Resize(wanted) => Some(i64::from(*wanted)),
        _ => return false,
    };
    let live = seen.objects.get(&Kind::StatefulSet);
    live.is_some_and(|live| replicas(live) > wanted)
}

/// How the topics' defaults differ from what is wanted.
#[derive(Clone, Debug, Default)]
struct DefaultsChange {
    set: Vec<(String, String)>,
    unset: Vec<String>,
    /// Those that are set by the Cluster, or are about to be unset.
    ours: std::collections::BTreeSet<String>,
}

impl DefaultsChange {
    fn step(&self) -> Option<Step> {
        (!self.set.is_empty() || !self.unset.is_empty()).then(|| Step::AlterTopicDefaults {
            set: self.set.clone(),
            unset: self.unset.clone(),
        })
    }
}

fn topic_defaults(told: &Told, wishes: &Wishes, before: &Record) -> DefaultsChange {
    let set = wishes
        .topic_defaults
        .iter()
        .filter(|(name, value)| told.topic_defaults.get(*name) != Some(value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    // What somebody else has set stays as it is.
    let unset: Vec<String> = before
        .topic_defaults
        .iter()
        .filter(|name| !wishes.topic_defaults.contains_key(*name) && told.topic_defaults.contains_key(*name))
        .cloned()
        .collect();
    let ours = wishes.topic_defaults.keys().chain(&unset).cloned().collect();
    DefaultsChange { set, unset, ours }
}

/// A broker that may hold replicas and lead.
pub(super) fn is_serving(broker: &v1::BrokerDescription) -> bool {
    broker.available && !broker.draining && !broker.shutting_down
}
