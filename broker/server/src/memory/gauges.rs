//! What the memory's metrics show.

use prometheus_client::{
    metrics::gauge::Gauge,
    registry::{Registry, Unit},
};

use super::MemoryBudget;

/// One gauge for each pool of memory, in bytes.
#[derive(Debug, Default)]
pub struct MemoryGauges {
    in_flight: Gauge,
    decoded: Gauge,
    acknowledgements: Gauge,
    streams: Gauge,
    large_answers: Gauge,
    windows: Gauge,
}

impl MemoryGauges {
    /// Puts the gauges where they are read.
    pub fn register(&self, registry: &mut Registry) {
        for (name, help, gauge) in [
            (
                "memory_in_flight",
                "Bytes of requests and answers held now",
                &self.in_flight,
            ),
            (
                "memory_decoded_requests",
                "Bytes that requests in flight take decoded beyond their length, as far as they are counted",
                &self.decoded,
            ),
            (
                "memory_acknowledgements",
                "Bytes of what writes in flight will be answered with, as far as they are counted",
                &self.acknowledgements,
            ),
            (
                "memory_streams",
                "Bytes of what open streams remember of their partitions and topics",
                &self.streams,
            ),
            (
                "memory_large_answers",
                "Bytes of answers with one large batch each that were made though the budget was used up",
                &self.large_answers,
            ),
            (
                "memory_widened_windows",
                "Bytes by which connections may send more than usual, as some of their calls do not read",
                &self.windows,
            ),
        ] {
            registry.register_with_unit(name, help, Unit::Bytes, gauge.clone());
        }
    }

    /// Shows what is held now.
    pub fn show(&self, memory: &MemoryBudget) {
        for (gauge, bytes) in [
            (&self.in_flight, memory.used()),
            (&self.decoded, memory.decoded_used()),
            (&self.acknowledgements, memory.acknowledgements_used()),
            (&self.streams, memory.streams_used()),
            (&self.large_answers, memory.large_answers_used()),
            (&self.windows, memory.windows_used()),
        ] {
            gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }
}
