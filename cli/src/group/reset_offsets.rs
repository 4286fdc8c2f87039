//! `millrace group reset-offsets`.

use std::{collections::BTreeSet, str::FromStr};

use anyhow::bail;
use clap::ArgGroup;
use millrace_client::{Admin, OffsetTarget, v1, v1::TopicPartitions};
use serde::Serialize;

use super::topic_name;
use crate::{
    error::UsageError,
    output::{OutputFormat, TextTable, plural, tell, uuid},
    text::StartAt,
};

/// Set where a group goes on to read; a dry run unless --execute is given.
///
/// Without --execute it only shows what would be set, and changes nothing. Partitions that a member uses are
/// left alone: stop the members first. Places that a partition does not hold become its nearest end. A group that
/// does not exist yet is made by it, as by Kafka's tool, and said to be new: its name may be misspelt.
#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("target").required(true)), group(ArgGroup::new("scope").required(true).multiple(true)))]
pub struct ResetOffsetsArgs {
    /// The group's id. One that does not exist yet is made by it.
    #[arg(value_name = "GROUP")]
    name: String,
    /// A topic, or some of its partitions: `orders` or `orders:0,2`. May be given several times.
    #[arg(long = "topic", group = "scope", value_name = "TOPIC[:N,...]")]
    topics: Vec<Topic>,
    /// All partitions for which the group has an offset.
    #[arg(long, group = "scope", conflicts_with = "topics")]
    all_topics: bool,
    /// To the oldest message that is kept.
    #[arg(long, group = "target", alias = "to-beginning")]
    to_earliest: bool,
    /// Behind the newest message.
    #[arg(long, group = "target", alias = "to-end")]
    to_latest: bool,
    /// To the first message of this time or later: 2026-01-31T12:00:00Z, 2026-01-31, a time ago such as -1h, or @
    /// and milliseconds since 1970.
    #[arg(long, group = "target", value_name = "TIME", allow_hyphen_values = true, value_parser = time)]
    to_time: Option<i64>,
    /// So many messages on, or back if negative.
    #[arg(long, group = "target", value_name = "N", allow_hyphen_values = true)]
    shift_by: Option<i64>,
    /// To this offset.
    #[arg(long, group = "target", value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    to_offset: Option<i64>,
    /// To nothing: the offsets are forgotten, and the group begins where its members say.
    #[arg(long, group = "target")]
    forget: bool,
    /// Set them. Without it nothing is changed.
    #[arg(long, conflicts_with = "dry_run")]
    execute: bool,
    /// Only show what would be set. The default.
    #[arg(long)]
    dry_run: bool,
    /// The group's version, as an earlier run told it: nothing is set if offsets were committed since, or members came
    /// or went.
    #[arg(long, value_name = "VERSION")]
    expected_version: Option<String>,
    /// Kafka's words for what is here under another name: each is refused as it is read.
    #[arg(long, hide = true, allow_hyphen_values = true, value_parser = no_datetime)]
    to_datetime: Option<String>,
    #[arg(long, hide = true, allow_hyphen_values = true, value_parser = no_duration)]
    by_duration: Option<String>,
    #[arg(long, hide = true, num_args = 0, default_missing_value = "", value_parser = no_current)]
    to_current: Option<String>,
    #[arg(long, hide = true, value_parser = no_file)]
    from_file: Option<String>,
    #[arg(long, hide = true, value_parser = no_group)]
    group: Option<String>,
}

fn no_datetime(_: &str) -> Result<String, String> {
    Err("it is called --to-time here, and takes the same times".to_owned())
}

fn no_duration(_: &str) -> Result<String, String> {
    Err("it is --to-time here, with a time ago such as -1h30m".to_owned())
}

fn no_current(_: &str) -> Result<String, String> {
    Err("it would change nothing; see where the group is with millrace group describe".to_owned())
}

fn no_group(group: &str) -> Result<String, String> {
    Err(format!(
        "the group is named without a flag: millrace group reset-offsets {group}"
    ))
}

fn no_file(_: &str) -> Result<String, String> {
    Err("there are no plans in files; --topic may be given several times, with partitions as in orders:0,2".to_owned())
}

fn time(text: &str) -> Result<i64, String> {
    let expected = "expected a time such as 2026-01-31T12:00:00Z, a date such as 2026-01-31, a time ago such as -1h or \
                    -30m, or @ and milliseconds since 1970";
    match text.parse() {
        Ok(StartAt::Time(ms)) => Ok(ms),
        Ok(StartAt::Beginning) => Err("use --to-earliest".to_owned()),
        Ok(StartAt::End) => Err("use --to-latest".to_owned()),
        Ok(StartAt::Offset(offset)) => Err(format!(
            "use --to-offset {offset} for an offset, @{offset} for milliseconds since 1970"
        )),
        Err(_) => Err(expected.to_owned()),
    }
}

/// A topic or some of its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Topic {
    name: String,
    /// Empty: all.
    partitions: BTreeSet<i32>,
}

impl FromStr for Topic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A topic's name has no colon.
        let (name, numbers) = match text.split_once(':') {
            Some((name, numbers)) => (name, Some(numbers)),
            None => (text, None),
        };
        if name.is_empty() {
            return Err("the topic is missing".to_owned());
        }
        let mut partitions = BTreeSet::new();
        for part in numbers.into_iter().flat_map(|numbers| numbers.split(',')) {
            let number = part.trim().parse::<i32>().ok().filter(|number| *number >= 0);
            let number = number
                .ok_or_else(|| format!("{part:?} is no partition: write numbers parted by commas, as in orders:0,2"))?;
            if !partitions.insert(number) {
                return Err(format!("partition {number} is named twice"));
            }
        }
        Ok(Self {
            name: name.to_owned(),
            partitions,
        })
    }
}

#[derive(Serialize)]
struct Outcome {
    group: String,
    /// There was none before.
    is_new: bool,
    /// For --expected-version.
    version: String,
    partitions: Vec<Partition>,
    dry_run: bool,
}

#[derive(Serialize)]
struct Partition {
    topic: String,
    topic_id: String,
    partition: i32,
    /// Absent: nothing was committed.
    before: Option<i64>,
    /// Absent: nothing is committed.
    after: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

#[derive(Serialize)]
struct Failure {
    reason: &'static str,
    message: String,
}

impl From<v1::ResetPartition> for Partition {
    fn from(partition: v1::ResetPartition) -> Self {
        Self {
            topic: topic_name(&partition.topic, &partition.topic_id),
            topic_id: uuid(&partition.topic_id),
            partition: partition.partition,
            before: partition.before,
            after: partition.after,
            error: partition.error.map(|error| Failure {
                reason: error.reason().reason_name(),
                message: error.message,
            }),
        }
    }
}

impl ResetOffsetsArgs {
    /// What the flags make impossible together.
    ///
    /// # Errors
    /// A topic that is named twice.
    pub fn check(&self) -> Result<(), UsageError> {
        let mut names = BTreeSet::new();
        match self.topics.iter().find(|topic| !names.insert(&topic.name)) {
            Some(twice) => Err(UsageError(format!(
                "topic {:?} is named twice: name its partitions at once, as in {}:0,2",
                twice.name, twice.name
            ))),
            None => Ok(()),
        }
    }

    fn target(&self) -> Option<OffsetTarget> {
        let flags = [
            (self.to_earliest, OffsetTarget::Beginning),
            (self.to_latest, OffsetTarget::End),
            (self.forget, OffsetTarget::Forget),
        ];
        let flags = flags
            .into_iter()
            .filter_map(|(is_set, target)| is_set.then_some(target));
        flags
            .chain(self.to_time.map(OffsetTarget::Time))
            .chain(self.shift_by.map(OffsetTarget::ShiftBy))
            .chain(self.to_offset.map(OffsetTarget::Offset))
            .next()
    }
}

/// Sets them, or shows what would be set.
pub async fn run(args: ResetOffsetsArgs, admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    let Some(target) = args.target() else {
        bail!(UsageError("what to set the offsets to is missing".to_owned()));
    };
    let topics = args.topics.into_iter().map(|topic| TopicPartitions {
        topic: topic.name,
        partitions: topic.partitions.into_iter().collect(),
        ..TopicPartitions::default()
    });
    let dry_run = !args.execute;
    let admin = admin.clone().validate_only(dry_run);
    let expected = args.expected_version.as_deref();
    let answer = admin
        .reset_group_offsets(&args.name, topics.collect(), target, expected)
        .await?;
    let outcome = Outcome {
        group: args.name,
        is_new: answer.is_new,
        version: answer.version,
        partitions: answer.partitions.into_iter().map(Partition::from).collect(),
        dry_run,
    };
    tell(format, &text(&outcome), &outcome)?;
    let failed = outcome.partitions.iter().filter(|partition| partition.error.is_some());
    match failed.count() {
        0 => {
            if dry_run && format == OutputFormat::Text && !outcome.partitions.is_empty() {
                eprintln!("Nothing was changed: {}", next_step(&outcome));
            }
            Ok(())
        }
        count => bail!(
            "the offsets of {} {} left as they were: see why beside each",
            plural(count as u64, "partition"),
            if count == 1 { "were" } else { "are" }
        ),
    }
}

fn text(outcome: &Outcome) -> String {
    if outcome.partitions.is_empty() {
        // A group that was never there has none, either.
        return format!(
            "group/{} has no offsets: name topics with --topic, or check its spelling with millrace group list\n",
            outcome.group
        );
    }
    let number = |value: Option<i64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let mut table = TextTable::new(&["TOPIC", "PARTITION", "BEFORE", "AFTER", "RESULT"]).right(&[1, 2, 3]);
    for partition in &outcome.partitions {
        let result = match &partition.error {
            Some(error) => crate::error::one_line(&error.message),
            None if outcome.dry_run => "would be set (dry run)".to_owned(),
            None => "set".to_owned(),
        };
        table.row([
            partition.topic.clone(),
            partition.partition.to_string(),
            number(partition.before),
            number(partition.after),
            result,
        ]);
    }
    match new_group(outcome) {
        Some(note) => format!("{}{note}\n", table.render()),
        None => table.render(),
    }
}

/// What there is to say of a group that was not there.
fn new_group(outcome: &Outcome) -> Option<String> {
    let is_made = outcome
        .partitions
        .iter()
        .any(|part| part.error.is_none() && part.after.is_some());
    let what = match (is_made, outcome.dry_run) {
        (true, true) => "is new: it would be made by this",
        (true, false) => "is new: it was made by this",
        (false, _) => "does not exist",
    };
    let name = &outcome.group;
    outcome
        .is_new
        .then(|| format!("group/{name} {what}; millrace group list shows which there are"))
}

/// How to do what a dry run has shown.
fn next_step(outcome: &Outcome) -> String {
    format!(
        "add --execute to do it, and --expected-version {} to do it only if the group is as it is now.",
        outcome.version
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use millrace_client::ErrorReason;

    use super::*;
    use crate::{
        args::{Cli, Command},
        group::GroupCommand,
    };

    fn parse(more: &[&str]) -> Result<ResetOffsetsArgs, clap::Error> {
        let all = ["millrace", "group", "reset-offsets", "g"].iter().chain(more);
        match Cli::try_parse_from(all)?.command {
            Command::Group(GroupCommand::ResetOffsets(args)) => Ok(*args),
            _ => unreachable!(),
        }
    }

    #[test]
    fn each_target_has_a_flag() {
        for (flags, target) in [
            (&["--to-earliest"][..], OffsetTarget::Beginning),
            (&["--to-latest"], OffsetTarget::End),
            (&["--to-time", "@1700000000123"], OffsetTarget::Time(1_700_000_000_123)),
            (
                &["--to-time", "2023-11-14T22:13:20Z"],
                OffsetTarget::Time(1_700_000_000_000),
            ),
            (&["--shift-by", "-5"], OffsetTarget::ShiftBy(-5)),
            (&["--shift-by", "5"], OffsetTarget::ShiftBy(5)),
            (&["--to-offset", "0"], OffsetTarget::Offset(0)),
            (&["--forget"], OffsetTarget::Forget),
        ] {
            let args = parse(&[&["--all-topics"], flags].concat()).unwrap();
            assert_eq!(args.target(), Some(target), "{flags:?}");
            assert!(!args.execute, "a dry run is the default");
        }
        assert!(parse(&["--all-topics", "--forget", "--execute"]).unwrap().execute);
    }

    #[test]
    fn topics_may_name_partitions() {
        let topic = |text: &str| text.parse::<Topic>();
        let some = |name: &str, partitions: &[i32]| Topic {
            name: name.into(),
            partitions: partitions.iter().copied().collect(),
        };
        assert_eq!(topic("orders"), Ok(some("orders", &[])));
        assert_eq!(topic("orders:2,0"), Ok(some("orders", &[0, 2])));
        for bad in ["", ":0", "orders:", "orders:0,", "orders:-1", "orders:0,0", "orders:x"] {
            assert!(topic(bad).is_err(), "{bad}");
        }
        let twice = parse(&["--topic", "a:0", "--topic", "b", "--topic", "a:1", "--forget"]).unwrap();
        assert!(twice.check().unwrap_err().0.contains("\"a\" is named twice"));
        let two = parse(&["--topic", "a:0", "--topic", "b", "--forget"]).unwrap();
        two.check().unwrap();
        assert_eq!(two.topics, [some("a", &[0]), some("b", &[])]);
    }

    #[test]
    fn flags_of_kafka_s_command_say_what_is_meant_here() {
        for (flags, word) in [
            (&["--to-datetime", "2026-01-31T12:00:00.000"][..], "--to-time"),
            (&["--by-duration", "PT1H"], "--to-time"),
            (&["--from-file", "plan.csv"], "--topic"),
            (&["--to-current"], "group describe"),
            (&["--to-latest", "--group", "g"], "without a flag"),
            (&["--to-time", "latest"], "--to-latest"),
            (&["--to-time", "17"], "--to-offset 17"),
        ] {
            let error = parse(&[&["--all-topics"], flags].concat()).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(word), "{flags:?}: {error}");
        }
        let usage = parse(&[]).unwrap_err().to_string();
        assert!(usage.contains("--to-earliest|"), "{usage}");
        assert!(!usage.contains("--to-datetime"), "{usage}");
    }

    #[test]
    fn before_and_after_stand_side_by_side() {
        let partition = |number, before, after, error: Option<&str>| {
            Partition::from(v1::ResetPartition {
                topic: "orders".into(),
                topic_id: vec![1; 16].into(),
                partition: number,
                before,
                after,
                error: error.map(|message| v1::Error {
                    code: 9,
                    reason: ErrorReason::GroupNotEmpty.into(),
                    message: message.into(),
                    ..v1::Error::default()
                }),
            })
        };
        let outcome = |dry_run| Outcome {
            group: "g".into(),
            is_new: false,
            version: "00ff".into(),
            partitions: vec![
                partition(0, Some(10), Some(0), None),
                partition(1, None, Some(3), None),
                partition(2, Some(4), None, Some("Stop the\nmember.")),
            ],
            dry_run,
        };
        assert_eq!(
            text(&outcome(true)),
            "TOPIC    PARTITION   BEFORE   AFTER   RESULT\n\
             orders           0       10       0   would be set (dry run)\n\
             orders           1        -       3   would be set (dry run)\n\
             orders           2        4       -   Stop the member.\n"
        );
        assert!(text(&outcome(false)).contains("10       0   set\n"));
        let json = serde_json::to_string(&outcome(false)).unwrap();
        assert!(json.contains(r#""reason":"GROUP_NOT_EMPTY""#), "{json}");
        assert!(json.contains(r#""is_new":false,"version":"00ff""#), "{json}");
        assert!(next_step(&outcome(true)).contains("--expected-version 00ff "));
    }

    #[test]
    fn a_group_that_was_not_there_is_said_to_be_new() {
        let outcome = |after, dry_run| Outcome {
            group: "biling".into(),
            is_new: true,
            version: String::new(),
            partitions: vec![Partition::from(v1::ResetPartition {
                topic: "orders".into(),
                after,
                ..v1::ResetPartition::default()
            })],
            dry_run,
        };
        let last = |outcome: &Outcome| text(outcome).lines().last().map(str::to_owned);
        let note = |what: &str| {
            Some(format!(
                "group/biling {what}; millrace group list shows which there are"
            ))
        };
        assert_eq!(last(&outcome(Some(3), true)), note("is new: it would be made by this"));
        assert_eq!(last(&outcome(Some(3), false)), note("is new: it was made by this"));
        assert_eq!(last(&outcome(None, false)), note("does not exist"), "nothing is set");
        let json = serde_json::to_string(&outcome(Some(3), true)).unwrap();
        assert!(json.contains(r#""is_new":true"#), "{json}");
    }
}
