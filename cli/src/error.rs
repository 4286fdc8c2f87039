//! How commands fail, and what becomes of it: one line and an exit code.

use std::{io, process::ExitCode};

use thiserror::Error;

/// Standard output could not be written. Told apart from other IO errors because a closed
/// pipe (`millrace consume t | head`) is no failure.
#[derive(Debug, Error)]
#[error("can't write to standard output: {0}")]
pub struct OutputError(#[from] pub io::Error);

/// Flags that each are right but do not go together, or with what they name.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Tells a failure on standard error and gives the exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if is_closed_pipe(error) {
        return ExitCode::SUCCESS;
    }
    eprintln!("millrace: {}", one_line(&format!("{error:#}")));
    if error.is::<UsageError>() {
        ExitCode::from(2)
    } else {
        ExitCode::FAILURE
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

    use super::*;

    #[test]
    fn an_error_is_one_line() {
        assert_eq!(one_line("a\n  b\r\n\x1b[1mc\n"), "a b [1mc");
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
