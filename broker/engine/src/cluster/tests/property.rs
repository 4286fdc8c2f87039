//! Random commands of random senders, of the past too: whatever comes, each state and each step
//! is valid, what is refused changes nothing, and equal logs make equal states.

use std::collections::BTreeMap;

use proptest::prelude::*;
use uuid::Uuid;

use super::{super::*, support::*};

const BROKERS: BrokerId = 5;

/// A random step; what it needs of the state is taken when it is run.
#[derive(Clone, Debug)]
enum Step {
    Start {
        id: BrokerId,
        life: u128,
        report: u8,
        disk: u8,
        late: bool,
    },
    Fence {
        id: BrokerId,
        failed: bool,
        stale: bool,
    },
    Unfence {
        id: BrokerId,
        end: Option<i64>,
        stale: bool,
    },
    ShutDown {
        id: BrokerId,
        stale: bool,
    },
    Alter {
        topic: u8,
        sender: Option<BrokerId>,
        isr: u8,
        lost: u8,
        high_watermark: i64,
        flaw: u8,
    },
    Elect {
        topic: u8,
        kind: u8,
        replica: BrokerId,
    },
    Move {
        topic: u8,
        target: Option<Vec<BrokerId>>,
        throttle: u64,
    },
    Mark {
        id: BrokerId,
        drain: bool,
        on: bool,
    },
    Remove {
        id: BrokerId,
        force: bool,
    },
    Replace {
        id: BrokerId,
        exact: bool,
        accept: bool,
    },
    Maintain {
        id: BrokerId,
        holder: u8,
        at: i64,
    },
    Release {
        id: BrokerId,
        holder: u8,
    },
    Voter {
        id: BrokerId,
    },
    RemoveVoter {
        voter: u64,
    },
    MinIsr {
        topic: Option<u8>,
        value: u8,
    },
    Flush {
        topic: u8,
        os: bool,
    },
    Create {
        topic: u8,
        replicas: Vec<BrokerId>,
    },
    Delete {
        topic: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let id = || 0..BROKERS;
    let topic = || 0u8..2;
    let replicas = || proptest::sample::subsequence((0..BROKERS).collect::<Vec<_>>(), 1..=4).prop_shuffle();
    let stale = || proptest::bool::weighted(0.1);
    prop_oneof![
        6 => (id(), 0u128..6, 0u8..5, 0u8..12, stale()).prop_map(|(id, life, report, disk, late)| Step::Start { id, life, report, disk, late }),
        5 => (id(), proptest::bool::weighted(0.1), stale()).prop_map(|(id, failed, stale)| Step::Fence { id, failed, stale }),
        12 => (id(), proptest::option::weighted(0.8, 0i64..60), stale()).prop_map(|(id, end, stale)| Step::Unfence { id, end, stale }),
        3 => (id(), stale()).prop_map(|(id, stale)| Step::ShutDown { id, stale }),
        16 => (topic(), proptest::option::weighted(0.15, id()), 0u8..32, 0u8..32, 0i64..60, 0u8..20)
            .prop_map(|(topic, sender, isr, lost, high_watermark, flaw)| Step::Alter { topic, sender, isr, lost, high_watermark, flaw }),
        4 => (topic(), 0u8..3, id()).prop_map(|(topic, kind, replica)| Step::Elect { topic, kind, replica }),
        4 => (topic(), proptest::option::weighted(0.8, replicas()), 0..3_u64).prop_map(|(topic, target, throttle)| Step::Move { topic, target, throttle }),
        1 => (id(), any::<bool>(), any::<bool>()).prop_map(|(id, drain, on)| Step::Mark { id, drain, on }),
        1 => (id(), any::<bool>()).prop_map(|(id, force)| Step::Remove { id, force }),
        2 => (id(), any::<bool>(), any::<bool>()).prop_map(|(id, exact, accept)| Step::Replace { id, exact, accept }),
        2 => (id(), 0u8..2, 0i64..10_000).prop_map(|(id, holder, at)| Step::Maintain { id, holder, at }),
        1 => (id(), 0u8..2).prop_map(|(id, holder)| Step::Release { id, holder }),
        1 => id().prop_map(|id| Step::Voter { id }),
        1 => (0u64..8).prop_map(|voter| Step::RemoveVoter { voter }),
        1 => (proptest::option::of(topic()), 1u8..4).prop_map(|(topic, value)| Step::MinIsr { topic, value }),
        1 => (topic(), any::<bool>()).prop_map(|(topic, os)| Step::Flush { topic, os }),
        2 => (topic(), replicas()).prop_map(|(topic, replicas)| Step::Create { topic, replicas }),
        1 => topic().prop_map(|topic| Step::Delete { topic }),
    ]
}

fn topic_name(topic: u8) -> String {
    format!("t{topic}")
}

fn members(mask: u8, log: &Log) -> Vec<IsrMember> {
    (0..BROKERS)
        .filter(|id| mask & (1 << id) != 0)
        .map(|id| IsrMember {
            broker_id: id,
            broker_epoch: log.epoch(id),
        })
        .collect()
}

/// The command of a step, in the present state.
fn command(step: &Step, log: &Log) -> Command {
    let epoch = |id: BrokerId, stale: bool| log.epoch(id) - i64::from(stale);
    let change = |key: &str, value: String| ConfigChange {
        set: BTreeMap::from([(key.to_owned(), value)]),
        unset: Vec::new(),
    };
    match step {
        Step::Start {
            id,
            life,
            report,
            disk,
            late,
        } => {
            let known = log.cluster.brokers.get(id);
            let last = known.and_then(|b| b.last_served_epoch).unwrap_or(log.epoch(*id));
            let report = match report {
                0 => DirectoryReport::default(),
                1 => clean(log.epoch(*id)),
                2 => crashed(log.epoch(*id)),
                3 => crashed(last - 1),
                _ => DirectoryReport {
                    damaged: true,
                    ..clean(last)
                },
            };
            let mut start = start(*id, *life, report);
            start.replaces = known.map(|known| known.epoch - i64::from(*late));
            start.registration.directory_id = match disk {
                0 => Uuid::from_u128(500 + life),
                1 => directory((id + 1) % BROKERS),
                _ => known.map_or(directory(*id), |known| known.directory_id),
            };
            Command::StartBroker(start)
        }
        Step::Fence { id, failed, stale } => Command::FenceBroker {
            broker_id: *id,
            broker_epoch: epoch(*id, *stale),
            reason: if *failed {
                FenceReason::DirectoryFailed
            } else {
                FenceReason::LeaseExpired
            },
        },
        Step::Unfence { id, end, stale } => {
            let ends = log.cluster.topics.values().filter_map(|topic| {
                end.map(|log_end| TopicLogEnds {
                    topic_id: topic.id,
                    ends: vec![LogEnd {
                        partition: 0,
                        log_end,
                        last_epoch: 0,
                    }],
                })
            });
            Command::UnfenceBroker(UnfenceBroker {
                broker_id: *id,
                broker_epoch: epoch(*id, *stale),
                applied_index: log.next_index(),
                log_ends: ends.collect(),
            })
        }
        Step::ShutDown { id, stale } => Command::ControlledShutdown {
            broker_id: *id,
            broker_epoch: epoch(*id, *stale),
        },
        Step::Alter {
            topic,
            sender,
            isr,
            lost,
            high_watermark,
            flaw,
        } => {
            let name = topic_name(*topic);
            let present = log.cluster.topics.get(&name).map(|topic| &topic.partitions[0]);
            let sender = sender.or(present.and_then(|p| p.leader)).unwrap_or(0);
            let mut mask = if *flaw == 0 { *isr } else { isr | 1 << sender };
            if let (Some(p), 1..) = (present, flaw) {
                mask &= p.replicas.iter().fold(0, |all, id| all | 1 << id);
            }
            let lost = (0..BROKERS).filter(|id| lost & !mask & (1 << id) != 0 && flaw % 4 == 1);
            let mut isr = members(mask, log);
            if *flaw == 2 {
                isr.iter_mut().for_each(|member| member.broker_epoch -= 1);
            }
            Command::AlterPartitions(AlterPartitions {
                broker_id: sender,
                broker_epoch: epoch(sender, *flaw == 3),
                changes: vec![IsrChange {
                    partition: at(&name),
                    leader_epoch: present.map_or(0, |p| p.leader_epoch) - i32::from(*flaw == 4),
                    partition_epoch: present.map_or(0, |p| p.partition_epoch) - i32::from(*flaw == 5),
                    isr,
                    recovering: *flaw == 6 || *flaw == 7 && present.is_some_and(|p| p.recovering),
                    high_watermark: *high_watermark,
                    lost: lost.collect(),
                    supersedes: *flaw == 8,
                }],
            })
        }
        Step::Elect { topic, kind, replica } => Command::ElectLeaders {
            elections: vec![Election {
                partition: at(&topic_name(*topic)),
                kind: match kind {
                    0 => ElectionKind::Preferred,
                    1 => ElectionKind::InSync { replica: *replica },
                    _ => ElectionKind::Unclean { replica: *replica },
                },
            }],
        },
        Step::Move {
            topic,
            target,
            throttle,
        } => Command::ReassignPartitions {
            moves: vec![Move {
                partition: at(&topic_name(*topic)),
                target: target.clone(),
                throttle: std::num::NonZeroU64::new(*throttle),
            }],
        },
        Step::Mark { id, drain: true, on } => Command::DrainBroker {
            broker_id: *id,
            draining: *on,
        },
        Step::Mark { id, on, .. } => Command::CordonBroker {
            broker_id: *id,
            cordoned: *on,
        },
        Step::Remove { id, force } => Command::RemoveBroker {
            broker_id: *id,
            force: *force,
            now_ms: 0,
        },
        Step::Replace { id, exact, accept } => Command::ReplaceDirectory {
            broker_id: *id,
            directory: if *exact {
                ExpectedDirectory::Id(Uuid::from_u128(501))
            } else {
                ExpectedDirectory::Any
            },
            accept_data_loss: *accept,
            only_if_removed: false,
        },
        Step::Maintain { id, holder, at } => Command::AcquireMaintenance(AcquireMaintenance {
            holder: holder.to_string(),
            broker_id: *id,
            broker_epoch: epoch(*id, false),
            ttl_ms: 1_000,
            now_ms: *at,
        }),
        Step::Release { id, holder } => Command::ReleaseMaintenance {
            holder: holder.to_string(),
            broker_id: *id,
            until_ms: None,
        },
        Step::Voter { id } => Command::RegisterVoter {
            broker_id: *id,
            directory_id: log.cluster.brokers.get(id).map_or(directory(*id), |b| b.directory_id),
            highest_in_use: 0,
            bootstrap_id: None,
        },
        Step::RemoveVoter { voter } => Command::RemoveVoter { voter_id: *voter },
        Step::MinIsr { topic, value } => {
            let change = change("min.insync.replicas", value.to_string());
            match topic {
                Some(topic) => Command::AlterTopicConfigs {
                    name: topic_name(*topic),
                    change,
                },
                None => Command::AlterTopicDefaults { change },
            }
        }
        Step::Flush { topic, os } => Command::AlterTopicConfigs {
            name: topic_name(*topic),
            change: change("flush", if *os { "os" } else { "ack" }.into()),
        },
        Step::Create { topic, replicas } => create(&topic_name(*topic), &[replicas]),
        Step::Delete { topic } => Command::DeleteTopic {
            name: topic_name(*topic),
            id: None,
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases * 4, ..ProptestConfig::default() })]

    #[test]
    fn every_state_and_every_step_is_valid(steps in proptest::collection::vec(step(), 1..120)) {
        let mut log = Log::with_brokers(BROKERS - 1);
        log.create("t0", &[0, 1, 2]);
        let mut commands = Vec::new();
        let begun = log.clone();
        for step in &steps {
            let command = command(step, &log);
            // `run` checks the state, the step, and that what is refused changes nothing.
            let _ = log.run(&command);
            commands.push(command);
        }
        // The same log makes the same state, and a snapshot in between changes nothing.
        let mut again = begun;
        for (at, command) in commands.iter().enumerate() {
            if at == commands.len() / 2 {
                let text = serde_json::to_string(&again.cluster).unwrap();
                again.cluster = serde_json::from_str(&text).unwrap();
            }
            let _ = again.run(command);
        }
        prop_assert_eq!(again.cluster, log.cluster);
    }
}

/// The first word of a debug form: the variant's name.
fn variant(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}")
        .chars()
        .take_while(|c| c.is_alphanumeric())
        .collect()
}

/// Random steps are worth something only if they get through, and are refused, in all ways.
#[test]
fn the_random_steps_reach_every_command_and_most_refusals() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut accepted: BTreeMap<String, usize> = BTreeMap::new();
    let mut refused: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..300 {
        let steps = proptest::collection::vec(step(), 100)
            .new_tree(&mut runner)
            .unwrap()
            .current();
        let mut log = Log::with_brokers(BROKERS - 1);
        log.create("t0", &[0, 1, 2]);
        for step in &steps {
            let command = command(step, &log);
            match log.run(&command) {
                Ok(Outcome::Altered(answers)) => match &answers[0] {
                    Ok(_) => *accepted.entry("AlterPartitions".into()).or_default() += 1,
                    Err(error) => *refused.entry(variant(error)).or_default() += 1,
                },
                Ok(Outcome::Elected(answers)) => match &answers[0] {
                    Ok(elected) => {
                        let kind = if elected.floor_before.is_some() {
                            "Unclean"
                        } else {
                            "Clean"
                        };
                        *accepted.entry(kind.into()).or_default() += 1;
                    }
                    Err(error) => *refused.entry(variant(error)).or_default() += 1,
                },
                Ok(_) => *accepted.entry(variant(&command)).or_default() += 1,
                Err(rejection) => {
                    let text = format!("{rejection:?}");
                    let inner = text.split(['(', '{', ':']).map(str::trim).nth(1).unwrap_or_default();
                    *refused.entry(format!("{}/{inner}", variant(&rejection))).or_default() += 1;
                }
            }
        }
    }
    for command in [
        "StartBroker",
        "FenceBroker",
        "UnfenceBroker",
        "ControlledShutdown",
        "AlterPartitions",
        "Clean",
        "Unclean",
        "ReassignPartitions",
        "CordonBroker",
        "DrainBroker",
        "RemoveBroker",
        "ReplaceDirectory",
        "AcquireMaintenance",
        "ReleaseMaintenance",
        "RegisterVoter",
        "RemoveVoter",
        "AlterTopicConfigs",
        "AlterTopicDefaults",
        "CreateTopic",
        "DeleteTopic",
    ] {
        assert!(
            accepted.contains_key(command),
            "{command} never got through: {accepted:?}"
        );
    }
    for reason in [
        "FencedLeaderEpoch",
        "NotLeader",
        "InvalidUpdateVersion",
        "InvalidIsr",
        "InvalidRecovery",
        "IneligibleReplica",
        "NotInSync",
        "HasLeader",
        "NotAvailable",
    ] {
        assert!(refused.contains_key(reason), "never refused as {reason}: {refused:?}");
    }
    assert!(refused.len() > 20, "{refused:?}");
}
