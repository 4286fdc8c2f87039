//! From a Cluster's spec and what is known of it to what its objects are made of.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    budget,
    scale::Scale,
    seen::{OperatorDefaults, Seen},
    wishes::Wishes,
};
use crate::{
    names,
    record::Record,
    render::{self, Blueprint, Kind, RenderError},
};

/// What is known of the cluster: what its ConfigMap says. Where that is gone, all that shows that there once was a
/// cluster forbids to begin one.
#[must_use]
pub fn record(seen: &Seen) -> Record {
    let status = seen.cluster.status.as_ref();
    if let Some(map) = seen.objects.get(&Kind::ConfigMap) {
        let annotations = &map["metadata"]["annotations"];
        let annotations: BTreeMap<String, String> = serde_json::from_value(annotations.clone()).unwrap_or_default();
        let mut record = Record::read(&annotations);
        record.created |= was_ready(seen);
        if let Some(known) = status.and_then(|status| status.cluster_id.clone()) {
            // An operator that was held up for long may have written it once more, or somebody has taken it out.
            record.forming = None;
            record.cluster_id.get_or_insert(known);
        }
        return record;
    }
    let known = status.and_then(|status| status.cluster_id.clone());
    let was_there = known.is_some()
        || !seen.claims.is_empty()
        || !seen.pods.is_empty()
        || seen.objects.contains_key(&Kind::StatefulSet);
    Record {
        forming: (!was_there).then(|| seen.cluster.metadata.uid.clone().unwrap_or_default()),
        cluster_id: known,
        created: was_ready(seen),
        version: status.and_then(|status| status.version.clone()),
        // Those that the quorum knows have their share or are filled by hand: better one move too few.
        balanced: seen
            .brokers
            .told()
            .map(|told| told.cluster.brokers.iter().map(|broker| broker.broker_id).collect())
            .unwrap_or_default(),
        image: live_image(seen),
        image_pull_policy: live_pull_policy(seen),
        image_pull_secrets: live_pull_secrets(seen),
        renderer: status.and_then(|status| status.renderer_revision),
        ..Record::default()
    }
}

/// Whether it was told to be ready: its record may be lost, or of a time before that was recorded.
fn was_ready(seen: &Seen) -> bool {
    let conditions = seen.cluster.status.iter().flat_map(|status| &status.conditions);
    let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
    // The others were only told of one whose creation had ended.
    let outages = ["QuorumLost", "PartitionsOffline", "BrokersUnready"];
    ready.any(|ready| ready.status == "True" || outages.contains(&ready.reason.as_str()))
}

/// Whether all of it serves, and as many vote as come by themselves: that ends its creation.
#[must_use]
pub fn is_whole(seen: &Seen, wishes: &Wishes) -> bool {
    seen.brokers.told().is_some_and(|told| {
        told.quorum_leader().is_some()
            && told.cluster.offline_partitions == 0
            && (0..wishes.replicas).all(|id| seen.is_ready(id))
            && told.voters().len() >= usize::try_from(wishes.auto_voters()).unwrap_or_default()
    })
}

/// A part of the pods' template that there is, by its path in the pods' spec.
fn live<'a>(seen: &'a Seen, path: &str) -> Option<&'a Value> {
    seen.objects.get(&Kind::StatefulSet)?["spec"]["template"]["spec"].pointer(path)
}

/// The image of the StatefulSet that there is.
fn live_image(seen: &Seen) -> Option<String> {
    let image = live(seen, "/containers/0/image").filter(|_| seen.cluster.spec.image.is_none());
    image?.as_str().map(str::to_owned)
}

fn live_pull_policy(seen: &Seen) -> Option<String> {
    live(seen, "/containers/0/imagePullPolicy")?.as_str().map(str::to_owned)
}

fn live_pull_secrets(seen: &Seen) -> Vec<String> {
    let secrets = live(seen, "/imagePullSecrets").and_then(Value::as_array);
    let names = secrets.into_iter().flatten();
    names
        .filter_map(|secret| secret["name"].as_str().map(str::to_owned))
        .collect()
}

/// What the objects are made of, and the pods' template made of it, if the user's part of it fits.
pub fn make(seen: &Seen, wishes: &Wishes, record: &Record, scale: &Scale) -> (Blueprint, Result<Value, RenderError>) {
    let spec = &seen.cluster.spec;
    let mut record = record.clone();
    let version = spec.version.clone();
    let version = version.or_else(|| record.version.clone());
    let version = version.unwrap_or_else(|| seen.operator.version.clone());
    let image = match (&record.image, &record.version) {
        // Kept: a newer operator has another one and restarts nobody.
        (Some(image), Some(known)) if *known == version => image.clone(),
        // Its version is not known any more: it stays what it is.
        (Some(image), None) if spec.version.is_none() => image.clone(),
        _ => image_of(&seen.operator, &version),
    };
    let is_kept = record.image.as_ref() == Some(&image);
    if !is_kept || record.image_pull_policy.is_none() {
        record.image_pull_policy = Some(seen.operator.image_pull_policy.clone());
        record.image_pull_secrets.clone_from(&seen.operator.image_pull_secrets);
    }
    record.version = Some(version);
    record.image = Some(image.clone());

    let annotation = |name: &str| {
        let annotations = seen.cluster.metadata.annotations.as_ref();
        annotations.and_then(|all| all.get(name)).cloned()
    };
    let mut blueprint = Blueprint {
        key: seen.key.clone(),
        uid: seen.cluster.metadata.uid.clone().unwrap_or_default(),
        revision: record.renderer.unwrap_or(render::NEWEST),
        image: spec.image.clone().unwrap_or(image),
        image_pull_policy: record.image_pull_policy.clone().unwrap_or_default(),
        image_pull_secrets: record.image_pull_secrets.clone(),
        config: wishes.settings.clone(),
        auto_voters: wishes.auto_voters(),
        replicas: scale.replicas,
        storage_size: spec.storage.size.clone(),
        storage_class: spec.storage.storage_class_name.clone(),
        disruptions: budget::disruptions(seen, wishes, scale),
        opened_for_roll: false,
        evicts_unready: false,
        restarted_at: annotation(names::RESTARTED_AT),
        pod_template: spec.pod_template.clone(),
        service_template: spec.service_template.clone(),
        record,
    };
    let adopted = annotation(names::ADOPT_RENDERER).and_then(|value| value.parse().ok());
    let template = template(&mut blueprint, live_hash(seen), adopted);
    blueprint.record.renderer = Some(blueprint.revision);
    (blueprint, template)
}

/// The operator's own image with the tag of a version.
fn image_of(operator: &OperatorDefaults, version: &str) -> String {
    let image = &operator.image;
    if version == operator.version {
        return image.clone();
    }
    let image = image.split('@').next().unwrap_or(image);
    // A colon before the last slash is a port.
    let (path, last) = image.rsplit_once('/').map_or(("", image), |(path, last)| (path, last));
    let name = last.split(':').next().unwrap_or(last);
    if path.is_empty() {
        format!("{name}:{version}")
    } else {
        format!("{path}/{name}:{version}")
    }
}

/// The hash of the template that pods are made from now.
#[must_use]
pub fn live_hash(seen: &Seen) -> Option<&str> {
    let set = seen.objects.get(&Kind::StatefulSet)?;
    Some(render::template_hash(&set["spec"]["template"])).filter(|hash| !hash.is_empty())
}

/// The pods' template, of the revision that the cluster has until its pods are restarted anyway or its user takes a
/// newer one.
fn template(blueprint: &mut Blueprint, live: Option<&str>, adopted: Option<i32>) -> Result<Value, RenderError> {
    let has = blueprint.revision.clamp(1, render::NEWEST);
    blueprint.revision = adopted.map_or(has, |adopted| adopted.clamp(has, render::NEWEST));
    if adopted.is_none() && blueprint.revision < render::NEWEST {
        let template = render::pod_template(blueprint)?;
        if live == Some(render::template_hash(&template)) {
            return Ok(template);
        }
        blueprint.revision = render::NEWEST;
    }
    render::pod_template(blueprint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_another_tag_of_the_same_image() {
        for (image, wanted) in [
            ("millrace/millrace:0.1.0", "millrace/millrace:0.2.0"),
            ("registry:5000/a/millrace", "registry:5000/a/millrace:0.2.0"),
            ("registry:5000/millrace:0.1.0@sha256:00", "registry:5000/millrace:0.2.0"),
            ("millrace", "millrace:0.2.0"),
        ] {
            let operator = OperatorDefaults {
                version: "0.1.0".into(),
                image: image.into(),
                image_pull_policy: String::new(),
                image_pull_secrets: Vec::new(),
            };
            assert_eq!(image_of(&operator, "0.2.0"), wanted);
            assert_eq!(image_of(&operator, "0.1.0"), image);
        }
    }
}
