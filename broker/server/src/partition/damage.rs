//! Damage that a read meets in a running broker.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use millrace_engine::partition::Event;

use super::Partition;

/// No offset.
const NOWHERE: i64 = i64::MAX;

/// Where reads met damage.
#[derive(Debug)]
pub(super) struct DamageMet {
    /// The first offset that is to be looked at, or `NOWHERE`.
    at: AtomicI64,
    /// Where nothing was found when it was looked last, or `NOWHERE`: reads that fail there all the same are no
    /// reason to read the whole segment every few seconds.
    unfounded: AtomicI64,
}

impl Default for DamageMet {
    fn default() -> Self {
        Self {
            at: AtomicI64::new(NOWHERE),
            unfounded: AtomicI64::new(NOWHERE),
        }
    }
}

impl DamageMet {
    fn note(&self, offset: i64) {
        if self.unfounded.load(Ordering::Acquire) != offset {
            self.at.fetch_min(offset, Ordering::AcqRel);
        }
    }

    /// What is to be looked at now.
    fn take(&self) -> Option<i64> {
        Some(self.at.swap(NOWHERE, Ordering::AcqRel)).filter(|offset| *offset != NOWHERE)
    }
}

impl Partition {
    /// A read met damage at `from`. Whether it is there, or the read raced with a cut, is looked at by
    /// [`Partition::look_at_damage`].
    pub(super) fn note_damage(&self, from: i64) {
        let known = self.log.damage();
        if !known.iter().any(|range| (range.from..range.to).contains(&from)) {
            self.damage.note(from);
        }
    }

    /// Checks the segment in which a read met damage, if one did. What is found is quarantined, as if it had been found
    /// at the start: told of in the partition's description, and not read again; and the replica's rules are told.
    pub(super) fn look_at_damage(self: &Arc<Self>) {
        if let Some(from) = self.damage.take() {
            self.scrub_at(from);
        }
        self.tell_damage();
    }

    /// Tells the replica's rules of damage of which they do not know: what was looked for, and what the log has met by
    /// itself, where it made the producers' state anew.
    fn tell_damage(self: &Arc<Self>) {
        let damaged_from = self.log.damage().iter().map(|range| range.from).min();
        let Some(from) = damaged_from.map(|from| from.max(self.log.log_start_offset())) else {
            return;
        };
        let mut cell = self.cell.lock();
        if cell.replica.damaged_from().is_none_or(|known| from < known) {
            self.step(&mut cell, Event::DamageFound { from });
        }
    }

    fn scrub_at(&self, from: i64) {
        // One byte asks for one segment.
        let report = match self.log.scrub(from, 1) {
            Ok(report) => report,
            Err(error) => {
                tracing::error!(topic = self.topic, partition = self.number, %error, "damaged data can't be looked at");
                return;
            }
        };
        if report.damage.is_empty() {
            self.damage.unfounded.store(from, Ordering::Release);
        }
        for damage in &report.damage {
            tracing::error!(
                topic = self.topic,
                partition = self.number,
                ?damage,
                "stored data is damaged; it is not served. Where other brokers have it, one of them leads from now on, and this one fetches it again"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_unfounded_is_not_looked_at_again() {
        let met = DamageMet::default();
        assert_eq!(met.take(), None);
        met.note(7);
        met.note(5);
        assert_eq!((met.take(), met.take()), (Some(5), None));
        met.unfounded.store(5, Ordering::Release);
        met.note(5);
        assert_eq!(met.take(), None);
        met.note(6);
        assert_eq!(met.take(), Some(6));
    }
}
