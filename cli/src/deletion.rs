//! Deleting several things of a kind, one after the other.

use millrace_client::{Error, ErrorReason};
use serde::Serialize;

use crate::output::{OutputFormat, done, tell};

/// What is to be deleted.
pub struct Deletion {
    /// As it is told: `topic`.
    pub kind: &'static str,
    /// In this order.
    pub names: Vec<String>,
    /// What does not exist is no error.
    pub if_exists: bool,
    /// It is only checked.
    pub dry_run: bool,
    /// How a broker says that there is none.
    pub unknown: ErrorReason,
}

#[derive(Serialize)]
struct Deleted {
    deleted: Vec<String>,
    missing: Vec<String>,
    dry_run: bool,
}

/// Deletes each; the first that can't be deleted ends it, and what was deleted before is told in any case.
pub async fn delete_each(
    deletion: Deletion,
    format: OutputFormat,
    delete: impl AsyncFn(&str) -> Result<(), Error>,
    refused: impl Fn(&str, Error) -> anyhow::Error,
) -> anyhow::Result<()> {
    let Deletion { kind, dry_run, .. } = deletion;
    let mut text = String::new();
    let mut result = Deleted {
        deleted: Vec::new(),
        missing: Vec::new(),
        dry_run,
    };
    for name in deletion.names {
        match delete(&name).await {
            Ok(()) => {
                text.push_str(&done(kind, &name, "deleted", dry_run));
                result.deleted.push(name);
            }
            Err(error) if deletion.if_exists && error.reason() == Some(deletion.unknown) => {
                text.push_str(&done(kind, &name, "does not exist", dry_run));
                result.missing.push(name);
            }
            Err(error) => {
                if !text.is_empty() {
                    tell(format, &text, &result)?;
                }
                return Err(refused(&name, error));
            }
        }
    }
    tell(format, &text, &result)
}
