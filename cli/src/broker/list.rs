//! `millrace broker list`.

use jiff::Timestamp;
use millrace_client::Admin;

use super::{Broker, table};
use crate::output::{OutputFormat, tell};

/// Lists them.
pub async fn run(admin: &Admin, format: OutputFormat) -> anyhow::Result<()> {
    let cluster = admin.describe_cluster().await?;
    let brokers: Vec<Broker> = cluster.brokers.into_iter().map(Broker::from).collect();
    tell(format, &table(&brokers, Timestamp::now()), &brokers)
}
