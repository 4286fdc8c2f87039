//! What a topic survives, in numbers and in words.

use millrace_client::v1::PartitionDescription;

use crate::output::count;

/// The setting that says how many replicas have an acknowledged message.
pub const MIN_IN_SYNC_KEY: &str = "min.insync.replicas";

/// What a topic survives, about messages that were acknowledged with acks=all.
///
/// More copies may have a message, but only `min.insync.replicas` are promised (KIP-966).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survival {
    /// Brokers that may be lost for ever without an acknowledged message being lost.
    pub brokers_lost_without_loss: i32,
    /// Brokers that may be down while acks=all still writes.
    pub brokers_down_while_writable: i32,
    /// The same for people.
    pub text: String,
}

/// What a topic survives with `replicas` copies, of which `min_in_sync` (at most all counts) have each
/// acknowledged message.
pub fn survival(replicas: i32, min_in_sync: i32) -> Survival {
    let replicas = replicas.max(1);
    let min_in_sync = min_in_sync.clamp(1, replicas);
    let (lost, down) = (min_in_sync - 1, replicas - min_in_sync);
    let text = match (replicas, lost, down) {
        (1, ..) => "1 copy: if this broker's disk is lost, so are the messages; while the broker is down nothing \
                    can be read or written"
            .to_owned(),
        (_, lost, 0) => format!(
            "{replicas} copies: acknowledged messages survive the loss of {}; writes stop when any broker is down",
            brokers(lost)
        ),
        (_, 0, down) => format!(
            "{replicas} copies, 1 sure at the acknowledgement: the loss of 1 broker can lose acknowledged messages; \
             writes go on with {} down",
            brokers(down)
        ),
        (_, lost, down) => format!(
            "{replicas} copies: acknowledged messages survive the loss of {}; writes go on with {} down",
            brokers(lost),
            brokers(down)
        ),
    };
    Survival {
        brokers_lost_without_loss: lost,
        brokers_down_while_writable: down,
        text,
    }
}

/// What a topic's partitions survive as their replicas are now: the worst of them decides.
pub fn at_the_moment(partitions: &[PartitionDescription]) -> String {
    let all = partitions.len();
    let share = |affected: usize| match all {
        _ if affected == all => if all == 1 { "the partition" } else { "all partitions" }.to_owned(),
        _ => format!("{} of {} partitions", count(affected as i64), count(all as i64)),
    };
    let number = |is_so: &dyn Fn(&PartitionDescription) -> bool| partitions.iter().filter(|part| is_so(part)).count();
    let offline = number(&|part| part.leader_id.is_none());
    if offline > 0 {
        return format!("{}: no leader, neither written nor read", share(offline));
    }
    let short = |part: &PartitionDescription| {
        usize::try_from(part.required_in_sync_replicas).is_ok_and(|required| part.in_sync_replicas.len() < required)
    };
    let unwritable = number(&short);
    if unwritable > 0 {
        return format!("{}: too few replicas in sync to be written", share(unwritable));
    }
    let worst = |of: &dyn Fn(&millrace_client::v1::Survival) -> i32| {
        let known = partitions.iter().map(|part| part.survival.as_ref().map(of));
        // Unknown of one is unknown of all.
        known
            .collect::<Option<Vec<i32>>>()
            .and_then(|all| all.into_iter().min())
    };
    match (
        worst(&|survival| survival.losses_now),
        worst(&|survival| survival.outages_now),
    ) {
        (Some(losses), Some(outages)) => {
            let lost = match losses {
                ..=0 => "the loss of one broker's disk can lose messages".to_owned(),
                some => format!("no message is lost with the disks of {}", brokers(some)),
            };
            format!("{lost}; writes go on with {} down", brokers_or_none(outages))
        }
        _ => "unknown".to_owned(),
    }
}

fn brokers_or_none(number: i32) -> String {
    match number {
        ..=0 => "no broker".to_owned(),
        some => brokers(some),
    }
}

fn brokers(number: i32) -> String {
    format!("{number} broker{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use millrace_client::v1::Survival as Told;

    use super::*;

    fn partition(leader_id: Option<i32>, in_sync: usize, losses_now: i32, outages_now: i32) -> PartitionDescription {
        PartitionDescription {
            leader_id,
            in_sync_replicas: (0..in_sync).map(|id| i32::try_from(id).unwrap()).collect(),
            required_in_sync_replicas: 2,
            survival: Some(Told {
                losses_now,
                outages_now,
                ..Told::default()
            }),
            ..PartitionDescription::default()
        }
    }

    #[test]
    fn the_worst_partition_says_what_the_topic_survives_now() {
        let well = || partition(Some(0), 3, 2, 1);
        let lagging = || partition(Some(0), 2, 1, 0);
        assert_eq!(
            at_the_moment(&[well(), well()]),
            "no message is lost with the disks of 2 brokers; writes go on with 1 broker down"
        );
        assert_eq!(
            at_the_moment(&[well(), lagging()]),
            "no message is lost with the disks of 1 broker; writes go on with no broker down"
        );
        assert_eq!(
            at_the_moment(&[partition(Some(0), 2, 0, 0)]),
            "the loss of one broker's disk can lose messages; writes go on with no broker down"
        );
        let unwritable = partition(Some(0), 1, 1, 0);
        assert_eq!(
            at_the_moment(&[well(), unwritable.clone(), lagging()]),
            "1 of 3 partitions: too few replicas in sync to be written"
        );
        let offline = partition(None, 0, 0, 0);
        assert_eq!(
            at_the_moment(&[well(), unwritable, offline.clone()]),
            "1 of 3 partitions: no leader, neither written nor read"
        );
        assert_eq!(
            at_the_moment(&[offline]),
            "the partition: no leader, neither written nor read"
        );
        let mut untold = well();
        untold.survival = None;
        assert_eq!(at_the_moment(&[well(), untold]), "unknown");
    }

    #[test]
    fn it_says_what_is_promised_and_no_more() {
        let one = "1 copy: if this broker's disk is lost, so are the messages; while the broker is down nothing can be \
                   read or written";
        for (replicas, min, lost, down, text) in [
            (1, 1, 0, 0, one),
            (1, 2, 0, 0, one),
            (
                3,
                2,
                1,
                1,
                "3 copies: acknowledged messages survive the loss of 1 broker; writes go on with 1 broker down",
            ),
            (
                3,
                1,
                0,
                2,
                "3 copies, 1 sure at the acknowledgement: the loss of 1 broker can lose acknowledged messages; writes \
                 go on with 2 brokers down",
            ),
            (
                3,
                3,
                2,
                0,
                "3 copies: acknowledged messages survive the loss of 2 brokers; writes stop when any broker is down",
            ),
        ] {
            let survival = survival(replicas, min);
            assert_eq!(survival.text, text);
            assert_eq!(
                (survival.brokers_lost_without_loss, survival.brokers_down_while_writable),
                (lost, down)
            );
        }
    }
}
