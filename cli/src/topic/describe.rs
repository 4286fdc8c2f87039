//! `millrace topic describe`.

use std::collections::BTreeMap;

use millrace_client::{
    Admin,
    v1::{DescribeTopicResponse, PartitionDescription},
};
use serde::Serialize;

use super::{
    survival::{MIN_IN_SYNC_KEY, at_the_moment, survival},
    tell,
};
use crate::output::{OutputFormat, TextTable, bytes, count, fields, ids, setting, uuid};

/// Settings that are shown although they are the defaults: how long and how safely messages are kept.
const SHOWN_SETTINGS: [&str; 4] = ["flush", MIN_IN_SYNC_KEY, "retention.bytes", "retention.ms"];

/// Show a topic's partitions, sizes, settings and what it survives.
///
/// IN SYNC are the brokers that have all acknowledged messages and are in service. ELIGIBLE are those that
/// left IN SYNC while fewer than min.insync.replicas were in it: they have all acknowledged messages as
/// well, and one of them may lead if nobody in IN SYNC can (KIP-966).
#[derive(Debug, clap::Args)]
pub struct DescribeArgs {
    /// The topic.
    name: String,
    /// Show all settings with their values and meanings, not only those that differ from the defaults.
    #[arg(long)]
    all_settings: bool,
}

#[derive(Serialize)]
struct Topic {
    name: String,
    topic_id: String,
    /// The object that manages it, as namespace/name.
    #[serde(skip_serializing_if = "Option::is_none")]
    managed_by: Option<String>,
    replication_factor: i32,
    /// A sentence; the two numbers below say the same.
    survives: String,
    brokers_lost_without_loss: i32,
    brokers_down_while_writable: i32,
    /// What it survives as its replicas are now; a sentence.
    survives_now: String,
    /// Readable messages; absent where a leader did not tell.
    messages: Option<i64>,
    size_bytes: Option<i64>,
    /// Those set for this topic.
    settings: BTreeMap<String, String>,
    /// What is in force of those that decide how long and how safely messages are kept.
    effective_settings: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    all_settings: Vec<Setting>,
    partitions: Vec<Partition>,
}

#[derive(Serialize)]
struct Setting {
    name: String,
    value: String,
    default: String,
    documentation: String,
}

#[derive(Serialize)]
struct Partition {
    partition: i32,
    leader: Option<i32>,
    leader_epoch: i32,
    replicas: Vec<i32>,
    in_sync_replicas: Vec<i32>,
    eligible_leader_replicas: Vec<i32>,
    last_known_eligible_replicas: Vec<i32>,
    adding_replicas: Vec<i32>,
    removing_replicas: Vec<i32>,
    required_in_sync_replicas: i32,
    survives: Option<Survives>,
    log_start: Option<i64>,
    high_watermark: Option<i64>,
    log_end: Option<i64>,
    size_bytes: Option<i64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    problem: String,
}

/// What a partition survives now.
#[derive(Serialize)]
struct Survives {
    brokers_lost_without_loss: i32,
    brokers_down_while_writable: i32,
    text: String,
}

impl From<PartitionDescription> for Partition {
    fn from(from: PartitionDescription) -> Self {
        Self {
            partition: from.partition,
            leader: from.leader_id,
            leader_epoch: from.leader_epoch,
            replicas: from.replicas,
            in_sync_replicas: from.in_sync_replicas,
            eligible_leader_replicas: from.eligible_leader_replicas,
            last_known_eligible_replicas: from.last_known_eligible_replicas,
            adding_replicas: from.adding_replicas,
            removing_replicas: from.removing_replicas,
            required_in_sync_replicas: from.required_in_sync_replicas,
            survives: from.survival.map(|survival| Survives {
                brokers_lost_without_loss: survival.losses_now,
                brokers_down_while_writable: survival.outages_now,
                text: survival.text,
            }),
            log_start: from.log_start,
            high_watermark: from.high_watermark,
            log_end: from.log_end,
            size_bytes: from.size_bytes,
            problem: from.problem,
        }
    }
}

/// Shows it.
pub async fn run(args: DescribeArgs, admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    let described = admin.describe_topic(&args.name).await?;
    let configs = admin.describe_configs(&args.name).await?;
    let min_in_sync = configs
        .iter()
        .find(|config| config.name == MIN_IN_SYNC_KEY)
        .and_then(|config| config.value.parse().ok())
        .unwrap_or(1);
    let mut topic = topic(args.name, described, min_in_sync);
    topic.effective_settings = configs
        .iter()
        .filter(|config| SHOWN_SETTINGS.contains(&config.name.as_str()))
        .map(|config| (config.name.clone(), config.value.clone()))
        .collect();
    if args.all_settings {
        topic.all_settings = configs
            .into_iter()
            .map(|config| Setting {
                name: config.name,
                value: config.value,
                default: config.default_value,
                documentation: config.documentation,
            })
            .collect();
    }
    tell(format, &text(&topic), &topic)
}

fn topic(name: String, described: DescribeTopicResponse, min_in_sync: i32) -> Topic {
    let summary = described.topic.unwrap_or_default();
    let survives_now = at_the_moment(&described.partitions);
    let partitions: Vec<Partition> = described.partitions.into_iter().map(Partition::from).collect();
    let survival = survival(summary.replication_factor, min_in_sync);
    Topic {
        name,
        topic_id: uuid(&summary.topic_id),
        managed_by: summary.owner.map(|owner| format!("{}/{}", owner.namespace, owner.name)),
        replication_factor: summary.replication_factor,
        survives: survival.text,
        brokers_lost_without_loss: survival.brokers_lost_without_loss,
        brokers_down_while_writable: survival.brokers_down_while_writable,
        survives_now,
        // A sum with an unknown part is unknown.
        messages: partitions
            .iter()
            .map(|p| Some(p.high_watermark?.saturating_sub(p.log_start?)))
            .sum(),
        size_bytes: partitions.iter().map(|p| p.size_bytes).sum(),
        settings: described
            .configs
            .into_iter()
            .map(|entry| (entry.name, entry.value))
            .collect(),
        effective_settings: BTreeMap::new(),
        all_settings: Vec::new(),
        partitions,
    }
}

fn text(topic: &Topic) -> String {
    let unknown = || "unknown".to_owned();
    let mut known = vec![("Name", topic.name.clone()), ("Topic id", topic.topic_id.clone())];
    if let Some(owner) = &topic.managed_by {
        known.push(("Managed by", format!("Topic {owner}, which puts back what it decides")));
    }
    known.extend([
        ("Partitions", topic.partitions.len().to_string()),
        ("Replication factor", topic.replication_factor.to_string()),
        ("Durability", topic.survives.clone()),
        ("At the moment", topic.survives_now.clone()),
        ("Messages", topic.messages.map_or_else(unknown, count)),
        (
            "Size",
            topic.size_bytes.map_or_else(unknown, |size| bytes(size.unsigned_abs())),
        ),
    ]);
    let mut text = fields(&known);
    if !topic.all_settings.is_empty() {
        text.push_str("Settings:\n");
        for item in &topic.all_settings {
            let mark = if item.value == item.default {
                ""
            } else {
                " (differs from the default)"
            };
            text.push_str(&format!(
                "  {} = {}{mark}\n      {}\n",
                item.name,
                setting(&item.name, &item.value),
                item.documentation
            ));
        }
    } else {
        text.push_str("Settings (--all-settings shows the others, which are the brokers' defaults):\n");
        let mut shown = topic.effective_settings.clone();
        shown.extend(topic.settings.clone());
        for (key, value) in &shown {
            let mut notes = String::new();
            if topic.settings.contains_key(key) {
                notes.push_str(", set for this topic");
            }
            if key == MIN_IN_SYNC_KEY && value.parse().is_ok_and(|min: i32| min > topic.replication_factor) {
                notes.push_str(&format!(" ({} with this replication factor)", topic.replication_factor));
            }
            text.push_str(&format!("  {key} = {}{notes}\n", setting(key, value)));
        }
    }
    text.push('\n');
    text.push_str(&table(&topic.partitions));
    for partition in &topic.partitions {
        for note in notes(partition) {
            text.push_str(&format!("\npartition {}: {note}", partition.partition));
        }
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// How many of the replicas are in sync, and which if not all are.
fn in_sync(partition: &Partition) -> String {
    let (in_sync, all) = (&partition.in_sync_replicas, &partition.replicas);
    if in_sync.len() == all.len() {
        format!("{}/{}", in_sync.len(), all.len())
    } else {
        format!("{}/{} {}", in_sync.len(), all.len(), ids(in_sync))
    }
}

/// What is unusual about a partition, each in a line of its own.
fn notes(partition: &Partition) -> Vec<String> {
    let mut notes = Vec::new();
    if !partition.adding_replicas.is_empty() || !partition.removing_replicas.is_empty() {
        notes.push(format!(
            "moves: adds {}, removes {}",
            ids(&partition.adding_replicas),
            ids(&partition.removing_replicas)
        ));
    }
    if !partition.problem.is_empty() {
        notes.push(partition.problem.clone());
    }
    notes
}

fn table(partitions: &[Partition]) -> String {
    let number = |value: Option<i64>| value.map_or_else(|| "?".to_owned(), |value| value.to_string());
    let header = [
        "PARTITION",
        "LEADER",
        "EPOCH",
        "REPLICAS",
        "IN SYNC",
        "ELIGIBLE",
        "START",
        "END",
        "SIZE",
    ];
    let mut table = TextTable::new(&header).right(&[0, 2, 6, 7, 8]);
    for partition in partitions {
        table.row([
            partition.partition.to_string(),
            partition
                .leader
                .map_or_else(|| "none".to_owned(), |id| format!("broker {id}")),
            partition.leader_epoch.to_string(),
            ids(&partition.replicas),
            in_sync(partition),
            match &partition.eligible_leader_replicas[..] {
                [] => "-".to_owned(),
                eligible => ids(eligible),
            },
            number(partition.log_start),
            number(partition.high_watermark),
            partition
                .size_bytes
                .map_or_else(|| "?".to_owned(), |size| bytes(size.unsigned_abs())),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use millrace_client::v1::{ConfigEntry, TopicSummary};

    use super::*;

    fn partition(number: i32, high_watermark: Option<i64>) -> PartitionDescription {
        PartitionDescription {
            partition: number,
            leader_id: Some(0),
            replicas: vec![0],
            in_sync_replicas: vec![0],
            log_start: Some(10),
            high_watermark,
            log_end: high_watermark,
            size_bytes: Some(2048),
            ..PartitionDescription::default()
        }
    }

    fn described(high_watermark: Option<i64>) -> Topic {
        let response = DescribeTopicResponse {
            topic: Some(TopicSummary {
                name: "t".into(),
                topic_id: vec![0; 16].into(),
                partitions: 2,
                replication_factor: 1,
                owner: None,
            }),
            partitions: vec![partition(0, Some(15)), partition(1, high_watermark)],
            configs: vec![ConfigEntry {
                name: "retention.ms".into(),
                value: "3600000".into(),
            }],
        };
        let mut topic = topic("t".into(), response, 1);
        topic.effective_settings = [(MIN_IN_SYNC_KEY, "2"), ("retention.ms", "3600000")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        topic
    }

    #[test]
    fn sums_are_of_all_partitions() {
        let topic = described(Some(11));
        assert_eq!((topic.messages, topic.size_bytes), (Some(6), Some(4096)));
        let text = text(&topic);
        assert!(
            text.contains("retention.ms = 3600000 (1h), set for this topic\n"),
            "{text}"
        );
        assert!(
            text.contains("min.insync.replicas = 2 (1 with this replication factor)\n"),
            "{text}"
        );
        assert!(text.contains("1 copy: if this broker's disk is lost"), "{text}");
        assert!(
            text.lines()
                .any(|line| line.contains("broker 0") && line.contains("1/1")),
            "{text}"
        );
    }

    #[test]
    fn who_lags_can_be_told() {
        let mut lagging = Partition::from(partition(0, None));
        lagging.replicas = vec![0, 1, 2];
        lagging.in_sync_replicas = vec![0, 2];
        assert_eq!(in_sync(&lagging), "2/3 [0,2]");
    }

    #[test]
    fn who_may_lead_next_and_what_moves_are_told() {
        let mut moving = partition(0, Some(15));
        moving.leader_id = None;
        moving.eligible_leader_replicas = vec![2];
        moving.adding_replicas = vec![3];
        moving.problem = "it has no leader".into();
        let moving = Partition::from(moving);
        assert_eq!(notes(&moving), ["moves: adds [3], removes []", "it has no leader"]);
        let table = table(&[moving]);
        assert!(table.lines().nth(1).unwrap().contains("[2]"), "{table}");
    }

    #[test]
    fn what_a_leader_does_not_tell_is_unknown_and_not_zero() {
        let topic = described(None);
        assert_eq!(topic.messages, None);
        assert!(
            text(&topic).contains("Messages:            unknown"),
            "{}",
            text(&topic)
        );
    }
}
