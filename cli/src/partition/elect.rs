//! `millrace partition elect`.

use anyhow::anyhow;
use millrace_client::{Admin, Election, ErrorReason, v1::ElectionResult};
use serde::Serialize;

use crate::output::{OutputFormat, TextTable, plural, tell};

/// Choose leaders.
///
/// Without --to, the preferred leader, which is the first of a partition's replicas: brings leaders back
/// to where they should be after a restart.
#[derive(Debug, clap::Args)]
pub struct ElectArgs {
    /// The topic.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    topic: Option<String>,
    /// The partition. Default: all of the topic.
    #[arg(value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// The partitions of all topics that another broker leads than should.
    #[arg(long)]
    all: bool,
    /// The broker that shall lead, from now on: it becomes the first of the replicas. It must be in sync.
    #[arg(long, value_name = "BROKER", requires = "partition")]
    to: Option<i32>,
    /// Take a replica that is not in sync, where nobody leads: --to, or without it the one with the longest
    /// log among those in service, which must all tell. What was acknowledged and it does not have is lost for ever.
    #[arg(long, conflicts_with = "all", requires = "accept_data_loss")]
    unclean: bool,
    /// Say that you know this.
    #[arg(long, requires = "unclean")]
    accept_data_loss: bool,
    /// Check everything, change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Elected {
    topic: String,
    partition: i32,
    leader: Option<i32>,
    leader_epoch: Option<i32>,
    /// After an unclean election: all below was known to be acknowledged.
    #[serde(skip_serializing_if = "Option::is_none")]
    committed_before: Option<i64>,
    /// After an unclean election: the end of the new leader's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    log_end: Option<i64>,
    /// After an unclean election: replicas that did not tell how far their logs reach.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unheard_replicas: Vec<i32>,
    /// Whether the leader is another one now.
    elected: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

impl From<ElectionResult> for Elected {
    fn from(from: ElectionResult) -> Self {
        let (reason, message) = match from.error {
            None => (None, None),
            Some(error) => (Some(error.reason().reason_name()), Some(error.message)),
        };
        Self {
            topic: from.topic,
            partition: from.partition,
            leader: from.leader_id,
            leader_epoch: from.leader_epoch,
            committed_before: from.committed_before,
            log_end: from.log_end,
            unheard_replicas: from.unheard_replicas,
            elected: reason.is_none(),
            reason,
            message,
        }
    }
}

impl Elected {
    /// Who should lead does not. That it led already is no failure.
    fn has_failed(&self) -> bool {
        self.reason
            .is_some_and(|reason| reason != ErrorReason::ElectionNotNeeded.reason_name())
    }
}

/// Chooses them.
pub async fn run(args: ElectArgs, admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    let election = match (args.to, args.unclean) {
        (None, false) => Election::Preferred,
        (Some(broker_id), false) => Election::InSync { broker_id },
        (broker_id, true) => Election::Unclean {
            broker_id,
            accept_data_loss: args.accept_data_loss,
        },
    };
    let partitions: Vec<(String, i32)> = match (args.topic, args.partition) {
        (None, _) => Vec::new(),
        (Some(topic), Some(partition)) => vec![(topic, partition)],
        (Some(topic), None) => {
            let described = admin.describe_topic(&topic).await?;
            // An unclean election is for partitions that nobody leads.
            let meant = described
                .partitions
                .iter()
                .filter(|partition| !args.unclean || partition.leader_id.is_none());
            meant.map(|partition| (topic.clone(), partition.partition)).collect()
        }
    };
    if args.unclean && partitions.is_empty() {
        let none: [Elected; 0] = [];
        return tell(format, "all partitions have a leader: nothing to give up\n", &none);
    }
    let changing = admin.clone().validate_only(args.dry_run);
    let results: Vec<Elected> = changing
        .elect_leaders(partitions, election)
        .await?
        .into_iter()
        .map(Elected::from)
        .collect();
    tell(format, &text(&results, args.dry_run), &results)?;
    let failed: Vec<&Elected> = results.iter().filter(|result| result.has_failed()).collect();
    match failed.first() {
        None => Ok(()),
        Some(first) => Err(anyhow!(
            "{} could not be led as asked; {}-{}: {}",
            plural(failed.len() as u64, "partition"),
            first.topic,
            first.partition,
            first.message.as_deref().unwrap_or_default()
        )),
    }
}

/// What an unclean election has cost.
fn unclean(result: &Elected, floor: i64, dry_run: bool) -> String {
    let mut text = if dry_run { "would be elected" } else { "elected" }.to_owned();
    match result.log_end {
        Some(end) if end < floor => {
            text += &format!(
                "; its log ends at {end}: offsets {end} to {} were acknowledged and are lost, perhaps more",
                floor - 1
            );
        }
        Some(end) => {
            text += &format!(
                "; its log ends at {end}: all below {floor} had been acknowledged, what came behind may be lost"
            );
        }
        None => text += &format!("; all below offset {floor} had been acknowledged"),
    }
    if !result.unheard_replicas.is_empty() {
        text += &format!("; brokers {:?} did not tell what they have", result.unheard_replicas);
    }
    text
}

fn text(results: &[Elected], dry_run: bool) -> String {
    if results.is_empty() {
        return "all partitions that can be are led by their preferred leaders\n".to_owned();
    }
    let mut table = TextTable::new(&["TOPIC", "PARTITION", "LEADER", "RESULT"]).right(&[1]);
    for result in results {
        let outcome = match (&result.message, result.committed_before) {
            (Some(message), _) => message.clone(),
            (None, Some(floor)) => unclean(result, floor, dry_run),
            (None, None) if dry_run => "would be elected".to_owned(),
            (None, None) => "elected".to_owned(),
        };
        table.row([
            result.topic.clone(),
            result.partition.to_string(),
            result
                .leader
                .map_or_else(|| "-".to_owned(), |leader| format!("broker {leader}")),
            outcome,
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use millrace_client::v1::Error;

    use super::*;

    fn result(reason: Option<ErrorReason>) -> Elected {
        ElectionResult {
            topic: "t".into(),
            partition: 1,
            leader_id: reason.is_none().then_some(3),
            error: reason.map(|reason| Error {
                reason: reason.into(),
                message: "Broker 3 leads already.".into(),
                ..Error::default()
            }),
            ..ElectionResult::default()
        }
        .into()
    }

    #[test]
    fn who_leads_already_has_not_failed() {
        assert!(!result(None).has_failed());
        assert!(!result(Some(ErrorReason::ElectionNotNeeded)).has_failed());
        assert!(result(Some(ErrorReason::EligibleLeaderNotAvailable)).has_failed());
    }

    #[test]
    fn each_partition_has_its_line() {
        let text = text(&[result(None), result(Some(ErrorReason::ElectionNotNeeded))], false);
        assert!(text.contains("broker 3   elected\n"), "{text}");
        assert!(text.ends_with("-          Broker 3 leads already.\n"), "{text}");
    }
}
