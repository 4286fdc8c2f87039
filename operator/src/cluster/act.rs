//! Carrying out what was decided.

mod objects;
mod restart;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolumeClaim};
use kube::{
    Api,
    api::{DeleteParams, Preconditions},
    core::Status,
};
use millrace_client::{Admin, ErrorReason, VoterName};

use super::{
    carry_out::{Doer, Progress, carry_out},
    decide::{Step, shrinks},
    scale::named,
    seen::Seen,
    wishes::Wishes,
};
use crate::{
    context::{Context, Told},
    pass::{self, gone_is_fine},
    render::Object,
};

/// The check before a broker goes for good, or its claim. All others are a roll's.
pub const SCALE_IN: &str = "scale-in";

/// What came of the steps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// How many were carried out.
    pub done: usize,
    /// What was refused: for the condition.
    pub refused: Vec<Refused>,
    /// The check that kept all candidates from being restarted, and what it says.
    pub held: Option<(&'static str, String)>,
    /// A right that the operator lacks, in the API server's words.
    pub forbidden: Option<String>,
    /// An object had changed since it was seen: nothing that goes by it was done.
    pub outran: bool,
}

/// Something that was refused, and that repeating alone will not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// For the condition: `AdmissionDenied`.
    pub reason: &'static str,
    /// In the words of who refused.
    pub text: String,
}

/// Carries out steps until one fails.
pub struct Actor<'a> {
    context: &'a Context,
    seen: &'a Seen,
    regarding: ObjectReference,
    outcome: Outcome,
    /// Whether a pod was taken away by way of the StatefulSet.
    shrunk: bool,
}

impl<'a> Actor<'a> {
    /// One for what was seen.
    #[must_use]
    pub fn new(context: &'a Context, seen: &'a Seen, regarding: ObjectReference) -> Self {
        Self {
            context,
            seen,
            regarding,
            outcome: Outcome::default(),
            shrunk: false,
        }
    }

    /// Carries out all steps, as far as that goes.
    ///
    /// # Errors
    /// As of [`carry_out`]; what was refused is in the outcome.
    pub async fn run(mut self, steps: &[Step]) -> (Outcome, anyhow::Result<()>) {
        let result = carry_out(&mut self, steps).await;
        (self.outcome, result)
    }
}

impl Doer for Actor<'_> {
    fn seen(&self) -> &Seen {
        self.seen
    }

    fn progress(&self) -> Progress {
        Progress {
            shrunk: self.shrunk,
            outran: self.outcome.outran,
            refused: !self.outcome.refused.is_empty(),
        }
    }

    async fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        let done = match step {
            Step::Apply(_) | Step::Resize(_) if shrinks(self.seen, step) => self.shrink(step).await,
            Step::Apply(object) => self.apply(object).await,
            Step::DeleteBudget => self.delete_budget().await,
            Step::Resize(replicas) => self.resize(*replicas).await,
            Step::Nudge(count) => self.nudge(*count).await,
            Step::PermitNumber(id) => self.permit_number(*id).await,
            Step::AlterTopicDefaults { set, unset } => self.alter_topic_defaults(set, unset).await,
            Step::AddVoter(id) => self.add_voter(*id).await,
            Step::RemoveVoter(id) => self.remove_voter(*id).await,
            Step::RemoveLostVoter(voter_id) => self.remove_lost_voter(*voter_id).await,
            Step::Drain(ids) => self.drain(ids).await,
            Step::CancelDrain(ids) => self.cancel_drain(ids).await,
            Step::Rebalance { onto, record } => self.rebalance(onto, record).await,
            Step::RemoveBroker(id) => self.remove_broker(*id).await,
            Step::DeleteClaim(id) => self.delete_claim(*id).await,
            Step::ReleaseSlot(id) => self.release_slot(*id).await,
            Step::Restart {
                candidates,
                hash,
                budgets,
            } => self.restart(candidates, hash, budgets.as_deref()).await,
            Step::Replace { broker, hash } => self.replace(*broker, hash).await,
        };
        if let Err(error) = &done {
            if pass::is_forbidden(error) {
                self.outcome.forbidden.get_or_insert_with(|| pass::in_words(error));
            }
            tracing::info!(cluster = %self.seen.key, error = pass::in_words(error), "a step failed");
        }
        done
    }
}

impl Actor<'_> {
    async fn admin(&self) -> anyhow::Result<Admin> {
        let uid = self.seen.cluster.metadata.uid.as_deref().unwrap_or_default();
        let admin = self.context.links.admin(&self.seen.key, uid).await;
        admin.context("reach the brokers")
    }

    fn moving_admin(&self, admin: Admin) -> Admin {
        admin.throttle(Wishes::of(&self.seen.cluster).move_bytes_per_second)
    }

    async fn tell(&mut self, told: Told) {
        self.outcome.done += 1;
        self.context.tell(&self.regarding, told).await;
    }

    /// A broker's pod, also one that is gone: events of two brokers are two events by it.
    fn broker(&self, id: i32) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(self.seen.key.pod(id)),
            namespace: Some(self.seen.key.namespace.clone()),
            uid: self.seen.pods.get(&id).map(|pod| pod.uid.clone()),
            ..ObjectReference::default()
        }
    }

    fn refuse(&mut self, reason: &'static str, text: impl Into<String>) {
        let text = text.into();
        tracing::info!(cluster = %self.seen.key, reason, text, "refused");
        self.outcome.refused.push(Refused { reason, text });
    }

    async fn permit_number(&mut self, id: i32) -> anyhow::Result<()> {
        let permitted = self.admin().await?.permit_removed_broker(id).await;
        match permitted {
            Ok(_) => {
                let note = format!("broker {id} was removed before and may come again, empty");
                let told = Told::normal("BrokerNumberPermitted", "ScaleOut", note).about(self.broker(id));
                self.tell(told).await;
                Ok(())
            }
            // It was never there, or is by now.
            Err(error)
                if matches!(
                    error.reason(),
                    Some(ErrorReason::UnknownBroker | ErrorReason::BrokerState)
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error).with_context(|| format!("permit the number of broker {id}")),
        }
    }

    async fn alter_topic_defaults(&mut self, set: &[(String, String)], unset: &[String]) -> anyhow::Result<()> {
        let admin = self.admin().await?;
        let set = set.iter().map(|(name, value)| (name.clone(), value.clone()));
        match admin.alter_topic_defaults(set, unset.iter().cloned()).await {
            Ok(()) => {
                let note = "the defaults of topics are as the Cluster says";
                self.tell(Told::normal("TopicDefaultsChanged", "Configure", note)).await;
                Ok(())
            }
            Err(error) if error.reason() == Some(ErrorReason::InvalidConfig) => {
                self.refuse("InvalidConfig", format!("config: topic.default: {error}"));
                Ok(())
            }
            Err(error) => Err(error).context("change the defaults of topics"),
        }
    }

    async fn add_voter(&mut self, id: i32) -> anyhow::Result<()> {
        self.admin()
            .await?
            .add_voter(id)
            .await
            .with_context(|| format!("give broker {id} a vote"))?;
        let note = format!("broker {id} votes on the metadata");
        let told = Told::normal("VoterAdded", "ChangeQuorum", note).about(self.broker(id));
        self.tell(told).await;
        Ok(())
    }

    async fn remove_voter(&mut self, id: i32) -> anyhow::Result<()> {
        let admin = self.admin().await?;
        let removed = admin.remove_voter(VoterName::Broker(id)).await;
        removed.with_context(|| format!("take the vote of broker {id} away"))?;
        let note = format!("broker {id} does not vote on the metadata any more");
        let told = Told::normal("VoterRemoved", "ChangeQuorum", note).about(self.broker(id));
        self.tell(told).await;
        Ok(())
    }

    async fn remove_lost_voter(&mut self, voter_id: i64) -> anyhow::Result<()> {
        let admin = self.admin().await?;
        let removed = admin.remove_voter(VoterName::Id(voter_id)).await;
        removed.with_context(|| format!("take the vote of the lost voter {voter_id} away"))?;
        let note = format!("voter {voter_id} is gone: its disk was replaced");
        self.tell(Told::normal("VoterRemoved", "ChangeQuorum", note)).await;
        Ok(())
    }

    async fn drain(&mut self, ids: &[i32]) -> anyhow::Result<()> {
        let admin = self.moving_admin(self.admin().await?);
        match admin.drain_brokers(ids.iter().copied()).await {
            Ok(moves) => {
                let note = format!(
                    "emptying {}: {} replicas of {} partitions are moved",
                    named(ids),
                    moves.replicas_to_copy,
                    moves.partitions
                );
                self.tell(Told::normal("Draining", "ScaleIn", note)).await;
                Ok(())
            }
            Err(error) if is_no_place(&error) => {
                let text = format!("cannot empty {}: {error} Set replicas back, or make room.", named(ids));
                self.refuse("ScaleInBlocked", text);
                Ok(())
            }
            Err(error) => Err(error).context("drain brokers"),
        }
    }

    async fn cancel_drain(&mut self, ids: &[i32]) -> anyhow::Result<()> {
        let admin = self.admin().await?;
        admin
            .cancel_drain(ids.iter().copied())
            .await
            .context("end the drain of brokers")?;
        let note = format!("may stay after all: {}", named(ids));
        self.tell(Told::normal("DrainCancelled", "ScaleIn", note)).await;
        Ok(())
    }

    async fn rebalance(&mut self, onto: &[i32], record: &Object) -> anyhow::Result<()> {
        let admin = self.moving_admin(self.admin().await?);
        match admin.rebalance(onto.iter().copied()).await {
            Ok(moves) => {
                let note = format!(
                    "a share for {}: {} replicas of {} partitions are moved",
                    named(onto),
                    moves.replicas_to_copy,
                    moves.partitions
                );
                self.tell(Told::normal("Rebalancing", "ScaleOut", note)).await;
                self.apply(record).await
            }
            Err(error) if is_no_place(&error) => {
                let text = format!("cannot give {} a share: {error}", named(onto));
                self.refuse("RebalanceBlocked", text);
                Ok(())
            }
            Err(error) => Err(error).context("give new brokers their share"),
        }
    }

    async fn remove_broker(&mut self, id: i32) -> anyhow::Result<()> {
        match self.admin().await?.remove_broker(id, false).await {
            Ok(()) => {
                let note = format!("broker {id} is gone; it held nothing");
                let told = Told::normal("BrokerRemoved", "ScaleIn", note).about(self.broker(id));
                self.tell(told).await;
                Ok(())
            }
            Err(error) if error.reason() == Some(ErrorReason::UnknownBroker) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("remove broker {id}")),
        }
    }

    async fn delete_claim(&mut self, id: i32) -> anyhow::Result<()> {
        let Some(claim) = self.seen.claims.get(&id) else {
            return Ok(());
        };
        if !self.holds_nothing(id).await? {
            return Ok(());
        }
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.context.kube.clone(), &self.seen.key.namespace);
        let params = DeleteParams::background().preconditions(Preconditions {
            uid: Some(claim.uid.clone()),
            resource_version: Some(claim.resource_version.clone()),
        });
        let deleted = claims.delete(&claim.name, &params).await;
        gone_is_fine(deleted.map(drop)).with_context(|| format!("delete claim {}", claim.name))?;
        let note = format!("deleted claim {}: all that broker {id} held is on others", claim.name);
        let told = Told::normal("ClaimDeleted", "ScaleIn", note).about(self.broker(id));
        self.tell(told).await;
        Ok(())
    }
}

/// What repeating will not change: the request itself is not taken. A field that there is not, or of another type, is
/// answered as if the API server had failed (kubernetes/kubernetes#122480).
fn is_refusal(status: &Status) -> bool {
    let is_refused = matches!(status.code, 400 | 403 | 422);
    let is_untyped = status.code == 500 && status.message.contains("failed to create typed patch object");
    (is_refused || is_untyped) && !pass::lacks_right(status)
}

/// Whether a broker's replicas have nowhere to go.
fn is_no_place(error: &millrace_client::Error) -> bool {
    matches!(
        error.reason(),
        Some(ErrorReason::NotEnoughBrokers | ErrorReason::PlacementBlocked)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_told_from_what_failed() {
        let status = |code, message: &str| Status::failure(message, "").with_code(code);
        let untyped = "failed to create typed patch object (demo/orders-broker; apps/v1, Kind=StatefulSet): \
                       .spec.template.spec.priorityClas: field not declared in schema";
        assert!(is_refusal(&status(500, untyped)));
        assert!(is_refusal(&status(422, "spec.replicas: Invalid value")));
        assert!(is_refusal(&status(403, "exceeded quota: small")));
        assert!(!is_refusal(&status(500, "etcdserver: request timed out")));
        let lacks = "statefulsets.apps is forbidden: User \"operator\" cannot patch resource";
        assert!(!is_refusal(&status(403, lacks)));
    }
}
