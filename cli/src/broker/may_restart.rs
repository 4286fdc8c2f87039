//! `millrace broker may-restart`.

use anyhow::anyhow;
use millrace_client::{Admin, v1::MayRestartResponse};
use serde::Serialize;

use super::Maintenance;
use crate::{
    cluster::Partitions,
    output::{OutputFormat, plural, tell},
};

/// Tell whether a broker may be taken down now without writes stopping anywhere.
///
/// Partitions whose writes stop without any of their replicas forbid nothing, and are told too.
///
/// Exit code 0: it may. 1: it may not, and what forbids it is told. To keep others from taking a second
/// broker down meanwhile, use `millrace broker maintenance acquire`.
#[derive(Debug, clap::Args)]
pub struct MayRestartArgs {
    /// The broker's id.
    broker: i32,
}

/// The answer.
#[derive(Serialize)]
struct Answer {
    broker_id: i32,
    broker_epoch: i64,
    allowed: bool,
    reasons: Vec<String>,
    notices: Vec<String>,
    forbidding: Partitions,
    exempt: Partitions,
    maintenance: Option<Maintenance>,
}

/// Asks.
pub async fn run(args: MayRestartArgs, admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    let answer = answer(args.broker, admin.may_restart(args.broker).await?);
    tell(format, &text(&answer), &answer)?;
    if answer.allowed {
        Ok(())
    } else {
        Err(anyhow!(
            "broker {} may not be taken down now: wait, and look at `millrace cluster describe`",
            args.broker
        ))
    }
}

fn answer(broker_id: i32, told: MayRestartResponse) -> Answer {
    Answer {
        broker_id,
        broker_epoch: told.broker_epoch,
        allowed: told.allowed,
        reasons: told.reasons,
        notices: told.notices,
        forbidding: told.forbidding.unwrap_or_default().into(),
        exempt: told.exempt.unwrap_or_default().into(),
        maintenance: told.maintenance.map(Maintenance::from),
    }
}

fn text(answer: &Answer) -> String {
    let mut text = format!(
        "broker/{} {}\n",
        answer.broker_id,
        if answer.allowed {
            "may restart"
        } else {
            "may not restart"
        }
    );
    for sentence in answer.reasons.iter().chain(&answer.notices) {
        text.push_str(&format!("  {sentence}\n"));
    }
    if answer.forbidding.count > 0 {
        let partitions = plural(answer.forbidding.count.unsigned_abs(), "partition");
        text.push_str(&format!("{partitions} would stop without it:\n"));
        text.push_str(&answer.forbidding.lines());
    }
    if answer.exempt.count > 0 {
        let partitions = plural(answer.exempt.count.unsigned_abs(), "partition");
        let verb = if answer.exempt.count == 1 { "stops" } else { "stop" };
        text.push_str(&format!(
            "{partitions} {verb} while it is down, as their replication factor leaves no choice:\n"
        ));
        text.push_str(&answer.exempt.lines());
    }
    text
}

#[cfg(test)]
mod tests {
    use millrace_client::v1::{ListedPartition, PartitionList};

    use super::*;

    fn list(count: i64) -> Option<PartitionList> {
        Some(PartitionList {
            count,
            first: vec![ListedPartition {
                topic: "t".into(),
                partition: 4,
                reason: "1 in sync without it, 2 needed".into(),
            }],
        })
    }

    #[test]
    fn what_forbids_it_is_named() {
        let told = MayRestartResponse {
            forbidding: list(3),
            reasons: vec!["Another broker is under maintenance.".into()],
            ..MayRestartResponse::default()
        };
        assert_eq!(
            text(&answer(2, told)),
            "broker/2 may not restart\n  Another broker is under maintenance.\n3 partitions would stop without it:\n  \
             t-4: 1 in sync without it, 2 needed\n  and 2 more\n"
        );
    }

    #[test]
    fn what_has_no_choice_forbids_nothing() {
        let told = MayRestartResponse {
            allowed: true,
            exempt: list(1),
            notices: vec!["Broker 0 is the only voter.".into()],
            ..MayRestartResponse::default()
        };
        let text = text(&answer(0, told));
        assert!(
            text.starts_with("broker/0 may restart\n  Broker 0 is the only voter.\n1 partition stops while"),
            "{text}"
        );
    }
}
