//! What Kafka's flags and commands are called here: the tip for those who type them.

use clap::{
    builder::StyledStr,
    error::{ContextKind, ContextValue, ErrorKind},
};

/// Where an argument or a command that is not known is one of Kafka's tools', puts what it is called here in place of
/// clap's guess.
pub fn advise(mut error: clap::Error) -> clap::Error {
    let tip = match error.kind() {
        ErrorKind::UnknownArgument => flag(&error),
        ErrorKind::InvalidSubcommand => subcommand(&error),
        _ => None,
    };
    if let Some(tip) = tip {
        error.remove(ContextKind::SuggestedArg);
        error.remove(ContextKind::SuggestedSubcommand);
        // It is made for the argument that clap guessed.
        error.remove(ContextKind::Usage);
        error.insert(
            ContextKind::Suggested,
            ContextValue::StyledStrs(vec![StyledStr::from(tip)]),
        );
    }
    error
}

fn flag(error: &clap::Error) -> Option<String> {
    let flag = text(error, ContextKind::InvalidArg)?;
    let flag = flag.split(['=', ' ']).next()?;
    let usage = error.get(ContextKind::Usage)?.to_string();
    // "Usage: millrace topic create [OPTIONS] <NAME>": the words up to what is not a command's name.
    let commands: Vec<&str> = usage
        .split_whitespace()
        .skip_while(|word| *word != "millrace")
        .skip(1)
        .take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
        .collect();
    let called = commands.join(" ");
    let tip = match (flag, commands.first().copied()?) {
        ("--bootstrap-server" | "--broker-list", _) => "it is called --bootstrap here".to_owned(),
        ("--topic", "topic" | "produce" | "consume") if called != "topic" => {
            format!("the topic is named without a flag: millrace {called} TOPIC")
        }
        ("--group", "group") if called != "group" => {
            format!("the group is named without a flag: millrace {called} GROUP")
        }
        ("--create" | "--list" | "--describe" | "--alter" | "--delete", "topic")
        | ("--list" | "--describe" | "--delete" | "--reset-offsets", "group")
            if commands.len() == 1 =>
        {
            format!(
                "what is to be done is a command: millrace {called} {}",
                flag.trim_start_matches('-')
            )
        }
        ("--partitions", "topic") => "partitions are added with millrace topic add-partitions".to_owned(),
        ("--add-config", "topic") => "it is called --config here".to_owned(),
        ("--delete-config", "topic") => "it is called --unset here".to_owned(),
        ("--from-beginning", "consume") => "write --from beginning".to_owned(),
        ("--offset", "consume") => "it is called --from here, and takes an offset or a time as well".to_owned(),
        ("--whitelist" | "--include", "consume") => "it is called --topic-pattern here, and needs --group".to_owned(),
        ("--timeout-ms", "consume") => "--exit-at-end ends when all is read that was there at the start".to_owned(),
        ("--property" | "--formatter-property", "consume") => {
            "keys are shown with --format key-value or --key-separator, all else with --format json".to_owned()
        }
        ("--property" | "--reader-property", "produce") => {
            "keys are split off with --key-separator; --header adds headers".to_owned()
        }
        ("--request-required-acks", "produce") => "it is called --acks here".to_owned(),
        ("--compression-codec", "produce") => "it is called --compression here".to_owned(),
        (
            "--producer-property"
            | "--producer.config"
            | "--consumer-property"
            | "--consumer.config"
            | "--command-property"
            | "--command-config",
            _,
        ) => "there are no client properties: --help lists the flags".to_owned(),
        _ => return None,
    };
    Some(tip)
}

fn subcommand(error: &clap::Error) -> Option<String> {
    let typed = text(error, ContextKind::InvalidSubcommand)?;
    let name = typed.strip_suffix(".sh").unwrap_or(&typed);
    let here = match name.strip_prefix("kafka-").unwrap_or(name) {
        "topics" => "topic",
        "console-producer" => "produce",
        "console-consumer" => "consume",
        "consumer-groups" => "group",
        _ => return None,
    };
    Some(format!("it is called here: millrace {here}"))
}

fn text(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;
    use crate::args::Cli;

    fn told(line: &str) -> String {
        advise(Cli::try_parse_from(line.split(' ')).expect_err(line)).to_string()
    }

    #[test]
    fn kafkas_flags_are_told_by_what_they_are_called_here() {
        for (line, tip) in [
            ("topic list --bootstrap-server h:1", "it is called --bootstrap here"),
            ("produce t --broker-list=h:1", "it is called --bootstrap here"),
            ("topic create --topic t", "millrace topic create TOPIC"),
            ("consume --topic t --from-beginning", "millrace consume TOPIC"),
            ("produce --topic t", "millrace produce TOPIC"),
            ("consume t --from-beginning", "--from beginning"),
            ("consume t --offset earliest", "--from here"),
            ("consume --include a.* --group g", "--topic-pattern"),
            ("consume t --timeout-ms 5", "--exit-at-end"),
            ("consume t --property print.key=true", "--format key-value"),
            ("produce t --property parse.key=true", "--key-separator"),
            ("produce t --request-required-acks 1", "--acks"),
            ("produce t --compression-codec gzip", "--compression"),
            ("produce t --producer-property acks=all", "no client properties"),
            ("group describe --group g", "millrace group describe GROUP"),
            ("group --list", "millrace group list"),
            ("group --reset-offsets --to-earliest", "millrace group reset-offsets"),
            ("topic --create --topic t", "millrace topic create"),
            ("topic alter t --partitions 12", "millrace topic add-partitions"),
            ("topic alter t --add-config a=b", "--config"),
            ("topic alter t --delete-config a", "--unset"),
            ("kafka-topics.sh --list", "millrace topic"),
            ("topics", "millrace topic"),
            ("console-consumer", "millrace consume"),
            ("kafka-console-producer", "millrace produce"),
            ("consumer-groups", "millrace group"),
        ] {
            let told = told(&format!("millrace {line}"));
            let tips: Vec<_> = told.lines().filter(|line| line.contains("tip:")).collect();
            assert!(matches!(&tips[..], [one] if one.contains(tip)), "{line}: {told}");
        }
    }

    #[test]
    fn what_is_not_kafkas_is_left_to_clap() {
        for line in [
            "millrace topic list --bootstrp h:1",
            "millrace consume t --partitions 0",
            "millrace topic creat",
            "millrace group list --topic t",
            "millrace group --alter",
            "millrace topic create t --list",
        ] {
            let error = Cli::try_parse_from(line.split(' ')).expect_err(line).to_string();
            assert_eq!(told(line), error);
        }
    }

    #[test]
    fn the_commands_that_are_named_are_there() {
        for line in [
            "topic create",
            "topic add-partitions",
            "topic alter",
            "group describe",
            "group reset-offsets",
        ] {
            let mut command = &mut Cli::command();
            for name in line.split(' ') {
                command = command.find_subcommand_mut(name).expect(line);
            }
        }
    }
}
