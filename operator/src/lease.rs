//! Only one operator works at a time: who holds a Lease, as Kubernetes' own controllers do (client-go's
//! `leaderelection`). What it does is safe if two work for a moment, since each step is a compare-and-set; the Lease
//! keeps them from getting in each other's way.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

/// For how long the Lease is given.
pub const DURATION: Duration = Duration::from_secs(15);
/// How often it is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// Work ends so long before the Lease does: clocks differ, and a request that is under way may take a moment.
const STOP_BEFORE: Duration = Duration::from_secs(5);
/// How often somebody who stands by looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The Lease, and who asks for it.
pub struct Elector {
    api: Api<Lease>,
    name: String,
    identity: String,
    /// What was last seen of another holder, and when by this process's own clock: clocks of other machines are not
    /// believed.
    seen: Option<(Seen, Instant)>,
}

#[derive(Clone, Debug, PartialEq)]
struct Seen {
    holder: String,
    renewed: Option<Timestamp>,
    transitions: i32,
}

impl Elector {
    /// Somebody who asks for a Lease.
    #[must_use]
    pub fn new(api: Api<Lease>, name: impl Into<String>, identity: impl Into<String>) -> Self {
        Self {
            api,
            name: name.into(),
            identity: identity.into(),
            seen: None,
        }
    }

    /// Waits until the Lease is this process's. An API server that can't be reached is waited for.
    pub async fn acquire(&mut self) -> Instant {
        loop {
            let began = Instant::now();
            match self.try_acquire().await {
                Ok(true) => return began,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, lease = self.name, "the lease could not be asked for"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Renews the Lease until that fails for too long or somebody else has it; then says why.
    pub async fn keep(&mut self, acquired: Instant) -> String {
        let mut renewed = acquired;
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            let left = (renewed + DURATION - STOP_BEFORE).saturating_duration_since(Instant::now());
            let began = Instant::now();
            match tokio::time::timeout(left, self.renew(left)).await {
                Ok(Ok(true)) => renewed = began,
                Ok(Ok(false)) => return "somebody else has the lease".into(),
                Ok(Err(error)) => return format!("the lease could not be renewed: {error:#}"),
                Err(_) => return "the lease could not be renewed in time".into(),
            }
        }
    }

    /// Takes the Lease whoever has it, for so long: its holder ends its work when it next looks. `false`: there is none.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn seize(&self, for_: Duration) -> anyhow::Result<bool> {
        loop {
            let Some(lease) = self.api.get_opt(&self.name).await.context("read the lease")? else {
                return Ok(false);
            };
            let seconds = i32::try_from(for_.as_secs())?;
            match self
                .write(&lease, &self.identity, seconds, transitions(&lease) + 1)
                .await
            {
                Ok(()) => return Ok(true),
                // Renewed meanwhile: it is read again.
                Err(error) if is_conflict(&error) => tokio::time::sleep(Duration::from_millis(100)).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives the Lease back, so that another need not wait for its end.
    pub async fn release(&self) {
        let released = async {
            let lease = self.api.get(&self.name).await?;
            if holder(&lease) == self.identity {
                self.write(&lease, "", 1, transitions(&lease)).await?;
            }
            anyhow::Ok(())
        };
        if let Err(error) = released.await {
            tracing::info!(%error, "the lease was not given back: another operator waits for its end");
        }
    }

    /// Tries until it is known, at most so long: a request that failed may have been carried out.
    async fn renew(&mut self, within: Duration) -> anyhow::Result<bool> {
        let deadline = Instant::now() + within;
        loop {
            match self.try_acquire().await {
                Ok(held) => return Ok(held),
                Err(error) if Instant::now() + Duration::from_secs(1) > deadline => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
    }

    /// Whether the Lease is this process's. An error says nothing about it: a conflict may be with a request of its own
    /// whose answer was lost.
    async fn try_acquire(&mut self) -> anyhow::Result<bool> {
        let Some(lease) = self.api.get_opt(&self.name).await.context("read the lease")? else {
            return self.create().await;
        };
        let holder = holder(&lease);
        if holder != self.identity && !holder.is_empty() && !self.has_expired(&lease) {
            return Ok(false);
        }
        let taken_over = i32::from(holder != self.identity);
        let seconds = i32::try_from(DURATION.as_secs()).unwrap_or(i32::MAX);
        self.write(&lease, &self.identity, seconds, transitions(&lease) + taken_over)
            .await?;
        Ok(true)
    }

    /// Whether another's Lease was not renewed for its time, by this process's own clock.
    fn has_expired(&mut self, lease: &Lease) -> bool {
        let spec = lease.spec.as_ref();
        let now = Seen {
            holder: holder(lease),
            renewed: spec.and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0),
            transitions: transitions(lease),
        };
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or_default();
        let lasts = Duration::from_secs(u64::try_from(seconds).unwrap_or_default()).max(DURATION);
        match &self.seen {
            Some((seen, since)) if *seen == now => since.elapsed() > lasts,
            _ => {
                self.seen = Some((now, Instant::now()));
                false
            }
        }
    }

    async fn create(&self) -> anyhow::Result<bool> {
        let lease: Lease = serde_json::from_value(json!({
            "metadata": { "name": self.name },
            "spec": self.spec(&self.identity, i32::try_from(DURATION.as_secs())?, 0),
        }))?;
        match self.api.create(&PostParams::default(), &lease).await {
            Ok(_) => Ok(true),
            Err(error) => Err(error).context("make the lease"),
        }
    }

    /// Writes the Lease if it still is as it was read: two who take it over at once don't both have it.
    async fn write(&self, lease: &Lease, holder: &str, seconds: i32, transitions: i32) -> anyhow::Result<()> {
        let Some(version) = &lease.metadata.resource_version else {
            bail!("the lease has no resource version");
        };
        let patch = json!({
            "metadata": { "resourceVersion": version },
            "spec": self.spec(holder, seconds, transitions),
        });
        let params = PatchParams::default();
        let written = self.api.patch(&self.name, &params, &Patch::Merge(&patch)).await;
        written.map(drop).context("write the lease")
    }

    fn spec(&self, holder: &str, seconds: i32, transitions: i32) -> serde_json::Value {
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(Timestamp::now());
        json!({
            "holderIdentity": holder,
            "leaseDurationSeconds": seconds,
            "renewTime": now,
            "leaseTransitions": transitions,
        })
    }
}

fn is_conflict(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if status.code == 409)
}

fn holder(lease: &Lease) -> String {
    let spec = lease.spec.as_ref();
    spec.and_then(|spec| spec.holder_identity.clone()).unwrap_or_default()
}

fn transitions(lease: &Lease) -> i32 {
    let spec = lease.spec.as_ref();
    spec.and_then(|spec| spec.lease_transitions).unwrap_or_default()
}
