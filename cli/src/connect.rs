//! The connection that a command works with.

use anyhow::Context;
use millrace_client::{Client, ErrorKind};

use crate::{args::GlobalArgs, error::UsageError, limits};

/// Connects to the cluster that the flags name.
pub async fn client(global: &GlobalArgs) -> anyhow::Result<Client> {
    let builder = Client::builder()
        .bootstrap(&global.bootstrap)
        .client_id(concat!("millrace-cli/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(limits::CONNECT_TIMEOUT);
    match builder.build().await {
        Err(error) if *error.kind() == ErrorKind::InvalidArgument => Err(UsageError(error.to_string()).into()),
        built => built.with_context(|| {
            format!(
                "no broker answers at {}; start one, for example with millrace dev, or name another with --bootstrap",
                global.bootstrap
            )
        }),
    }
}
