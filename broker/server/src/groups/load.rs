//! Reading what is stored of groups, before their coordinator serves.

use std::sync::Arc;

use bytes::Bytes;
use millrace_log::ReadData;
use millrace_proto::{
    batch::{BatchView, DecodeLimits, OwnedRecord, owned_batches},
    v1::ErrorReason,
};
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
    let start = partition.offsets().log_start;
    let read = |offset, max_bytes| read_within(partition, offset, max_bytes, end);
    read_up_to(start, end, read, parts).await
}

/// Sends all batches from `offset` up to `end`, as `read` brings them from an offset on, of so many bytes at most.
///
/// # Errors
/// Of reading; or it brings nothing although the end is not reached.
async fn read_up_to<F: Future<Output = Result<ReadData, ApiError>>>(
    mut offset: i64,
    end: i64,
    read: impl Fn(i64, usize) -> F,
    parts: &mpsc::Sender<Part>,
) -> Result<(), ApiError> {
    let mut max_bytes = limits::GROUP_LOAD_BYTES;
    while offset < end {
        let data = read(offset, max_bytes).await?;
        if let Some(needed) = data.first_batch_too_large {
            max_bytes = needed;
            continue;
        }
        max_bytes = limits::GROUP_LOAD_BYTES;
        // The last batch of a log stays whatever is compacted. What is not there is unknown: taken for nothing, it
        // would have members begin anew.
        if data.bytes.is_empty() {
            let text = format!("The records of groups from offset {offset} to the log's end {end} can't be found.");
            return Err(ApiError::new(ErrorReason::Internal, text));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::batch;

    fn read(bytes: Bytes, next_offset: i64) -> ReadData {
        ReadData {
            bytes,
            base_offset: 0,
            next_offset,
            first_batch_too_large: None,
            crc_verified: true,
            log_start: 0,
            log_end: 3,
        }
    }

    /// Whatever a read that brings nothing comes from: what is below the end is unknown, and not nothing.
    #[tokio::test]
    async fn a_read_without_batches_below_the_end_is_not_taken_for_the_end() {
        let (parts, mut told) = mpsc::channel(8);
        let bytes = Bytes::copy_from_slice(batch(None).bytes());
        let answers = |offset: i64| match offset {
            0 => read(bytes.clone(), 1),
            _ => read(Bytes::new(), offset),
        };
        let all = read_up_to(0, 1, |offset, _| async move { Ok(answers(offset)) }, &parts).await;
        assert_eq!(all, Ok(()));
        let gap = read_up_to(0, 3, |offset, _| async move { Ok(answers(offset)) }, &parts).await;
        let error = gap.unwrap_err();
        assert_eq!(error.reason(), ErrorReason::Internal);
        assert!(
            error.message().contains("offset 1") && error.message().contains("end 3"),
            "{error:?}"
        );
        drop(parts);
        let mut count = 0;
        while let Some(part) = told.recv().await {
            assert!(matches!(part, Part::Batches(_)));
            count += 1;
        }
        assert_eq!(count, 2);
    }

    /// A batch that is larger than what is read at once comes by itself.
    #[tokio::test]
    async fn a_large_batch_is_asked_for_with_its_size() {
        let (parts, _told) = mpsc::channel(8);
        let asked = parking_lot::Mutex::new(Vec::new());
        let all = read_up_to(
            0,
            1,
            |offset, max_bytes| {
                asked.lock().push(max_bytes);
                let too_large = (max_bytes < 5 << 20).then_some(5 << 20);
                let bytes = match too_large {
                    Some(_) => read(Bytes::new(), offset),
                    None => read(Bytes::from_static(b"batch"), 1),
                };
                std::future::ready(Ok(ReadData {
                    first_batch_too_large: too_large,
                    ..bytes
                }))
            },
            &parts,
        );
        assert_eq!(all.await, Ok(()));
        assert_eq!(*asked.lock(), [limits::GROUP_LOAD_BYTES, 5 << 20]);
    }
}
