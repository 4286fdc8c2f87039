//! Topic settings on the command line: how they are given, their list, and where it is when one is wrong.

use clap::builder::StyledStr;
use millrace_client::ErrorReason;
use millrace_engine::config::TOPIC_KEYS;

use crate::{error::AdvisedError, output::setting};

/// Where the list of settings is, for people.
const WHERE: &str = "`millrace topic create --help` lists all topic settings.";

/// The list of all settings, for the foot of a command's long help.
pub fn reference() -> StyledStr {
    let mut text = String::from(
        "Topic settings (a topic without one follows the brokers' topic.default.*; topic describe NAME \
         --all-settings shows what is in force):\n",
    );
    for key in TOPIC_KEYS {
        text.push_str(&format!(
            "  {}  [default: {}]\n      {}\n",
            key.name,
            setting(key.name, key.default),
            key.documentation
        ));
    }
    text.into()
}

/// Says where the list is, if it is a setting that was refused.
pub fn advise(error: millrace_client::Error) -> anyhow::Error {
    if error.reason() != Some(ErrorReason::InvalidConfig) {
        return error.into();
    }
    let mut message = error.to_string();
    if !message.ends_with(['.', '?']) {
        message.push('.');
    }
    AdvisedError {
        message: format!("{message} {WHERE}"),
        cause: error,
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_has_each_setting_with_its_default() {
        let text = reference().to_string();
        assert_eq!(text.matches("[default: ").count(), TOPIC_KEYS.len());
        assert!(text.contains("  retention.ms  [default: 604800000 (7d)]\n"), "{text}");
    }
}
