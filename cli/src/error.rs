//! How commands fail, and what becomes of it: one line and an exit code.

use std::{io, process::ExitCode};

use millrace_client::ErrorKind;
use serde::Serialize;
use thiserror::Error;

use crate::{connect::ConnectError, interrupt::InterruptedError, output::OutputFormat};

/// The reason of what the arguments make impossible.
const WRONG_USAGE: &str = "WRONG_USAGE";

/// Standard output could not be written. Told apart from other IO errors because a closed
/// pipe (`millrace consume t | head`) is no failure.
#[derive(Debug, Error)]
#[error("can't write to standard output: {0}")]
pub struct OutputError(#[from] pub io::Error);

/// Flags that each are right but do not go together, or with what they name.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// A client's error with words of this command about what to do.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct AdvisedError {
    /// All there is to say.
    pub message: String,
    /// What the client said; not a source, because the message has it already.
    pub cause: millrace_client::Error,
}

/// A failure for programs.
#[derive(Serialize)]
struct Failure<'a> {
    error: FailureBody<'a>,
}

#[derive(Serialize)]
struct FailureBody<'a> {
    reason: &'a str,
    message: &'a str,
}

/// Tells a failure on standard error, as a sentence or as one line of JSON, and gives the exit code.
pub fn report(error: &anyhow::Error, format: OutputFormat) -> ExitCode {
    if is_closed_pipe(error) {
        return ExitCode::SUCCESS;
    }
    let message = one_line(&format!("{error:#}"));
    let json = match format {
        OutputFormat::Text => None,
        OutputFormat::Json => failure(reason(error), &message),
    };
    match json {
        Some(json) => eprintln!("{json}"),
        None => eprintln!("millrace: {message}"),
    }
    exit_code(error)
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<InterruptedError>() {
        Some(interrupted) => ExitCode::from(interrupted.by.exit_code()),
        None if error.is::<UsageError>() => ExitCode::from(2),
        None => ExitCode::FAILURE,
    }
}

/// Tells what clap makes of the arguments: wrong usage as other failures are told, help and version as clap does.
pub fn report_usage(error: &clap::Error, format: OutputFormat) -> ExitCode {
    let json = match format {
        OutputFormat::Json if error.use_stderr() => failure(WRONG_USAGE, &usage_message(error)),
        _ => None,
    };
    match json {
        Some(json) => eprintln!("{json}"),
        // A closed pipe is no failure, and there is no other place to tell of it.
        None => drop(error.print()),
    }
    ExitCode::from(if error.use_stderr() { 2 } else { 0 })
}

fn usage_message(error: &clap::Error) -> String {
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // clap's text is the whole help.
        return "A command is missing: see what there is with --help.".to_owned();
    }
    let text = one_line(&error.render().to_string());
    text.strip_prefix("error: ").unwrap_or(&text).to_owned()
}

fn failure(reason: &str, message: &str) -> Option<String> {
    let error = FailureBody { reason, message };
    serde_json::to_string(&Failure { error }).ok()
}

/// The broker's reason by the name that the contract gives it; for other failures a word of the same kind.
fn reason(error: &anyhow::Error) -> &'static str {
    if error.is::<UsageError>() {
        return WRONG_USAGE;
    }
    if error.is::<InterruptedError>() {
        return "INTERRUPTED";
    }
    if error.chain().any(|cause| cause.is::<ConnectError>()) {
        return "CONNECTION";
    }
    let client = error.chain().find_map(|cause| {
        let advised = cause.downcast_ref::<AdvisedError>().map(|advised| &advised.cause);
        advised.or_else(|| cause.downcast_ref::<millrace_client::Error>())
    });
    match client.map(millrace_client::Error::kind) {
        Some(ErrorKind::Server(reason)) => reason.reason_name(),
        Some(ErrorKind::Connection) => "CONNECTION",
        Some(ErrorKind::TimedOut) => "TIMED_OUT",
        Some(ErrorKind::OffsetOutOfRange { .. }) => "OFFSET_OUT_OF_RANGE",
        Some(ErrorKind::Truncated { .. }) => "TRUNCATED",
        Some(ErrorKind::CorruptRecords { .. }) => "CORRUPT_RECORDS",
        Some(ErrorKind::RecordTooLarge) => "RECORD_TOO_LARGE",
        _ => "FAILED",
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<OutputError>()
            .is_some_and(|OutputError(io)| io.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// Line breaks and other control characters as spaces: scripts read errors by line, and a
/// server's text must not steer a terminal.
pub fn one_line(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    clean
        .split(' ')
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use anyhow::Context;
    use clap::Parser as _;

    use super::*;
    use crate::{args::Cli, interrupt::Interrupt};

    #[test]
    fn an_error_is_one_line() {
        assert_eq!(one_line("a\n  b\r\n\x1b[1mc\n"), "a b [1mc");
    }

    #[test]
    fn programs_are_told_the_reason_by_its_name() {
        let refused = || ConnectError::Unreachable("h:1: connection refused".to_owned());
        assert_eq!(reason(&anyhow::Error::new(refused())), "CONNECTION");
        assert_eq!(reason(&anyhow::Error::new(refused()).context("while")), "CONNECTION");
        assert_eq!(reason(&UsageError("no".to_owned()).into()), "WRONG_USAGE");
        assert_eq!(reason(&anyhow::anyhow!("no")), "FAILED");
        let (by, done) = (Interrupt::CtrlC, "1 message written".to_owned());
        let interrupted = anyhow::Error::new(InterruptedError { by, done });
        assert_eq!(reason(&interrupted), "INTERRUPTED");
        assert_eq!(exit_code(&interrupted), ExitCode::from(130));
        assert_eq!(
            failure("FAILED", "a \"b\"").unwrap(),
            r#"{"error":{"reason":"FAILED","message":"a \"b\""}}"#
        );
    }

    #[test]
    fn wrong_usage_is_one_line_that_names_the_argument() {
        let message = |args: &[&str]| {
            let error = Cli::try_parse_from(std::iter::once(&"millrace").chain(args)).unwrap_err();
            assert!(error.use_stderr());
            usage_message(&error)
        };
        let missing = message(&["topic", "create"]);
        assert!(missing.starts_with("the following required arguments"), "{missing}");
        assert!(missing.contains("<NAME>") && !missing.contains('\n'), "{missing}");
        let unknown = message(&["topic", "list", "--colour"]);
        assert!(unknown.starts_with("unexpected argument '--colour'"), "{unknown}");
        for args in [&[][..], &["topic"]] {
            assert_eq!(message(args), "A command is missing: see what there is with --help.");
        }
    }

    #[test]
    fn the_format_is_known_of_wrong_arguments_too() {
        for (args, json) in [
            (&["topic", "--output", "json", "--no-such"][..], true),
            (&["--output=json"], true),
            (&["-o", "json"], true),
            (&["-ojson"], true),
            (&["--output", "text", "json"], false),
            (&["--output"], false),
            (&["produce", "--", "--output=json"], false),
            (&[], false),
        ] {
            let format = OutputFormat::of_unparsed(args.iter().map(Into::into));
            assert_eq!(format == OutputFormat::Json, json, "{args:?}");
        }
    }

    #[test]
    fn only_a_closed_standard_output_is_no_failure() {
        let pipe = || io::Error::from(io::ErrorKind::BrokenPipe);
        let output: anyhow::Result<()> = Err(OutputError(pipe())).context("while consuming");
        assert!(is_closed_pipe(&output.unwrap_err()));
        assert!(!is_closed_pipe(&anyhow::Error::new(pipe())));
        assert!(!is_closed_pipe(&anyhow::Error::new(OutputError(
            io::ErrorKind::StorageFull.into()
        ))));
    }
}
