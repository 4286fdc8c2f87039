//! A fetch's request: it is decoded once it has the memory for that.

use bytes::Bytes;
use millrace_proto::{codec, v1};
use prost::encoding::{DecodeContext, decode_key, skip_field};
use tonic::Status;

use super::allowance::no_memory;
use crate::{
    limits,
    memory::{ConnectionBudget, MemoryPermit},
    rpc::produce::check_partition_count,
};

/// Field number of the contract.
const PARTITIONS_FIELD: u32 = 6;

/// A decoded request, and the memory it counts until it is answered.
#[derive(Debug)]
pub struct Admitted {
    /// The request.
    pub request: v1::FetchRequest,
    /// Its memory, unless it is small.
    pub permit: Option<MemoryPermit>,
}

/// Decodes a request once it has the memory that it will take: a few bytes name a partition, and
/// its place in memory is many times as large. It counts as the answers' memory, so that requests
/// that wait for data leave room for writers.
///
/// # Errors
/// Too many partitions, no memory for them, or no message.
pub async fn admit(budget: Option<&ConnectionBudget>, encoded: Bytes) -> Result<Admitted, Status> {
    let partitions = count_partitions(&encoded);
    check_partition_count(partitions)?;
    let bytes = encoded.len() + partitions * limits::FETCH_PART_MEMORY_BYTES;
    let permit = match budget.filter(|_| bytes > limits::UNCOUNTED_FETCH_BYTES) {
        None => None,
        Some(budget) => match budget.acquire_for_answer(bytes).await {
            Some(permit) => Some(permit),
            None => Some(budget.acquire_for_large_answer(bytes).await.ok_or_else(no_memory)?),
        },
    };
    Ok(Admitted {
        request: codec::decode(encoded)?,
        permit,
    })
}

/// The partitions that an encoded request names; up to where it is no message, which is as far as
/// it can be decoded.
fn count_partitions(mut encoded: &[u8]) -> usize {
    let mut count = 0;
    while !encoded.is_empty() {
        let Ok((field, wire_type)) = decode_key(&mut encoded) else {
            break;
        };
        count += usize::from(field == PARTITIONS_FIELD);
        if skip_field(wire_type, field, &mut encoded, DecodeContext::default()).is_err() {
            break;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prost::Message as _;

    use super::*;
    use crate::memory::MemoryBudget;

    fn encoded(partitions: usize) -> Bytes {
        let request = v1::FetchRequest {
            correlation_id: 7,
            partitions: vec![v1::FetchPartition::default(); partitions],
            ..Default::default()
        };
        request.encode_to_vec().into()
    }

    #[tokio::test]
    async fn a_request_is_decoded_once_it_has_the_memory_for_it() {
        let memory = MemoryBudget::new(20 << 20, 10 << 20);
        let budget = memory.connection();
        let small = admit(Some(&budget), encoded(16)).await.unwrap();
        assert_eq!((small.request.partitions.len(), memory.used()), (16, 0));
        let large = admit(Some(&budget), encoded(10_000)).await.unwrap();
        assert_eq!(large.request.partitions.len(), 10_000);
        let held = large.request.partitions.capacity() * size_of::<v1::FetchPartition>();
        assert!(
            held > 1 << 20 && memory.used() >= held,
            "{held} bytes count {}",
            memory.used()
        );
        drop(large);
        assert_eq!(memory.used(), 0);
        let all = budget.try_for_answer(usize::MAX);
        let rest = budget.acquire_for_large_answer(usize::MAX).await;
        assert!(all.is_some() && rest.is_some());
        let waiting = admit(Some(&budget), encoded(10_000));
        assert!(tokio::time::timeout(Duration::from_millis(200), waiting).await.is_err());
        drop(rest);
        assert!(admit(Some(&budget), encoded(10_000)).await.is_ok());
    }

    /// Two bytes name a partition: an allowed message could name eight million.
    #[tokio::test]
    async fn too_many_partitions_are_refused_before_they_take_memory() {
        for (partitions, allowed) in [(0, false), (1, true), (10_000, true), (10_001, false)] {
            let admitted = admit(None, encoded(partitions)).await;
            assert_eq!(admitted.is_ok(), allowed, "{partitions}");
        }
        let torn = encoded(10_001);
        assert_eq!(count_partitions(&torn[..torn.len() - 1]), 10_001);
        let torn = admit(None, encoded(3).slice(..5)).await.unwrap_err();
        assert_eq!(torn.code(), tonic::Code::InvalidArgument);
    }
}
