//! Damage that a read meets in a running broker.

use std::sync::atomic::Ordering;

use super::Partition;

/// No read met any.
pub(super) const NO_DAMAGE_MET: i64 = i64::MAX;

impl Partition {
    /// A read met damage at `from`. Whether it is there, or the read raced with a cut, is looked at by
    /// [`Partition::look_at_damage`].
    pub(super) fn note_damage(&self, from: i64) {
        let known = self.log.damage();
        if !known.iter().any(|range| (range.from..range.to).contains(&from)) {
            self.damage_met.fetch_min(from, Ordering::AcqRel);
        }
    }

    /// Checks the segment in which a read met damage, if one did. What is found is quarantined, as if it had been found
    /// at the start: told of in the partition's description, and not read again.
    pub(super) fn look_at_damage(&self) {
        let from = self.damage_met.swap(NO_DAMAGE_MET, Ordering::AcqRel);
        if from == NO_DAMAGE_MET {
            return;
        }
        // One byte asks for one segment.
        match self.log.scrub(from, 1) {
            Ok(report) => {
                for damage in &report.damage {
                    tracing::error!(
                        topic = self.topic,
                        partition = self.number,
                        ?damage,
                        "stored data is damaged; it is not served. Where other brokers have it, restart this one: it is fetched again then"
                    );
                }
            }
            Err(error) => {
                tracing::error!(topic = self.topic, partition = self.number, %error, "damaged data can't be looked at");
            }
        }
    }
}
