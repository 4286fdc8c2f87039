//! Reading what is stored of groups, before their coordinator serves.

use std::sync::Arc;

use bytes::Bytes;
use millrace_proto::batch::{BatchView, DecodeLimits, OwnedRecord, owned_batches};
use tokio::sync::{Notify, mpsc};

use crate::{error::ApiError, limits, partition::Partition, rpc::read_within};

/// What reading brings. That it ends is said: a reader that is gone has not read all.
#[derive(Debug)]
pub(super) enum Part {
    /// Whole batches.
    Batches(Bytes),
    /// That was all.
    End,
    /// It can't be read, now or here.
    Failed(ApiError),
}

/// Sends all committed batches up to the log's end, which is that of the epoch's beginning or, if the last
/// coordinator of this broker has written since, later.
pub(super) async fn read(partition: Arc<Partition>, leader_epoch: i32, parts: mpsc::Sender<Part>) {
    let last = match read_all(&partition, leader_epoch, &parts).await {
        Ok(()) => Part::End,
        Err(error) => Part::Failed(error),
    };
    // Who does not listen any more has ended.
    let _ = parts.send(last).await;
}

async fn read_all(partition: &Arc<Partition>, leader_epoch: i32, parts: &mpsc::Sender<Part>) -> Result<(), ApiError> {
    let end = partition.offsets().log_end;
    wait_for_commit(partition, leader_epoch, end).await?;
    let mut offset = partition.offsets().log_start;
    let mut max_bytes = limits::GROUP_LOAD_BYTES;
    while offset < end {
        let data = read_within(partition, offset, max_bytes, end).await?;
        if let Some(needed) = data.first_batch_too_large {
            max_bytes = needed;
            continue;
        }
        max_bytes = limits::GROUP_LOAD_BYTES;
        // Without batches there are none below the end.
        if data.bytes.is_empty() {
            return Ok(());
        }
        offset = data.next_offset;
        if parts.send(Part::Batches(data.bytes)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

async fn wait_for_commit(partition: &Arc<Partition>, leader_epoch: i32, end: i64) -> Result<(), ApiError> {
    loop {
        let news = Arc::new(Notify::new());
        partition.notify_on_data(&news);
        partition.check_epoch(Some(leader_epoch))?;
        if partition.offsets().high_watermark >= end {
            return Ok(());
        }
        news.notified().await;
    }
}

/// The records of whole batches.
///
/// # Errors
/// They are damaged, or of a later version.
pub(super) fn records(part: Bytes) -> Result<Vec<OwnedRecord>, String> {
    let mut records = Vec::new();
    for batch in owned_batches(part) {
        let batch = batch.map_err(|error| error.to_string())?;
        let checked = BatchView::parse(batch.bytes()).and_then(|view| view.verify_crc());
        checked.map_err(|error| error.to_string())?;
        if batch.header().is_control() {
            continue;
        }
        let found = batch
            .records(&DecodeLimits::DEFAULT)
            .map_err(|error| error.to_string())?;
        for record in found {
            records.push(record.map_err(|error| error.to_string())?);
        }
    }
    Ok(records)
}
