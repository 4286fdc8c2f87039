//! Sees every log and every answer, and says what must never have been.

use std::collections::{BTreeMap, BTreeSet};

use millrace_engine::BrokerId;

use crate::shadow::{Entry, Shadow};

/// Something that must not happen, happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule, in words.
    pub rule: &'static str,
    /// What was seen.
    pub seen: String,
}

/// What is known of one partition over all brokers and time.
#[derive(Debug, Default)]
pub(crate) struct Track {
    /// What was ever below a leader's high watermark.
    pub committed: Vec<Entry>,
    /// In which leader epoch each of them came below it.
    committed_in: Vec<i32>,
    /// The chain of every record that was ever in a log, by offset and epoch.
    places: BTreeMap<(i64, i32), u64>,
    /// The highest watermark that a client was told, by leader epoch.
    exposed: BTreeMap<i32, i64>,
    /// Which process life led in an epoch.
    leaders: BTreeMap<i32, (BrokerId, u64)>,
    /// Where a value was committed.
    values: BTreeMap<u64, i64>,
    /// Somebody has asked for all below to be deleted.
    pub deleted_below: i64,
}

impl Track {
    pub(crate) fn end(&self) -> i64 {
        i64::try_from(self.committed.len()).unwrap_or(i64::MAX)
    }

    pub(crate) fn committed_at(&self, offset: i64) -> Option<&Entry> {
        usize::try_from(offset).ok().and_then(|at| self.committed.get(at))
    }

    pub(crate) fn is_committed(&self, value: u64) -> bool {
        self.values.contains_key(&value)
    }

    /// The chain of the record before `offset`, if that is committed.
    pub(crate) fn chain_before(&self, offset: i64) -> u64 {
        self.committed_at(offset - 1).map_or(0, |entry| entry.chain)
    }

    /// Where the part of a log ends that is as it was committed.
    pub(crate) fn agrees_up_to(&self, shadow: &Shadow) -> i64 {
        let (mut low, mut high) = (shadow.start, self.end().min(shadow.end()).max(shadow.start));
        // Chains are equal up to where logs part, and nowhere behind.
        while low < high {
            let last = low + (high - low) / 2;
            let same = self.committed_at(last).map(|entry| entry.chain) == shadow.at(last).map(|entry| entry.chain);
            (low, high) = if same { (last + 1, high) } else { (low, last) };
        }
        low
    }

    /// Whether a log's disk holds all that is committed; `written`: its machine's memory counts, too.
    pub(crate) fn is_held_by(&self, shadow: &Shadow, written: bool) -> bool {
        match self.committed.last() {
            None => true,
            Some(last) => {
                let at = self.end() - 1;
                let held = if written { shadow.end() } else { shadow.durable };
                held > at && (at < shadow.start || shadow.at(at).map(|entry| entry.chain) == Some(last.chain))
            }
        }
    }
}

/// What was seen so far.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    pub tracks: Vec<Track>,
    /// Acknowledged values and their places.
    pub acked: BTreeMap<u64, (u32, i64)>,
    /// Values whose producer heard that they are stored, before it gave them up.
    pub told: BTreeMap<u64, i64>,
    /// Values whose producer was told that they were surely not written.
    pub refused: BTreeSet<u64>,
    pub violation: Option<Violation>,
}

impl Observer {
    pub(crate) fn new(partitions: u32) -> Self {
        Self {
            tracks: (0..partitions).map(|_| Track::default()).collect(),
            ..Self::default()
        }
    }

    pub(crate) fn violate(&mut self, rule: &'static str, seen: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(Violation { rule, seen: seen() });
        }
    }

    pub(crate) fn track(&mut self, partition: u32) -> &mut Track {
        &mut self.tracks[partition as usize]
    }

    /// A record was put into a log: one offset and epoch has one content and one history
    /// (the log matching property), and epochs never fall along a log.
    pub(crate) fn appended(&mut self, partition: u32, offset: i64, entry: Entry, last_epoch: i32) {
        if entry.epoch < last_epoch {
            self.violate("leader epochs never fall along a log", || {
                format!(
                    "partition {partition}: epoch {} after {last_epoch} at {offset}",
                    entry.epoch
                )
            });
        }
        let track = self.track(partition);
        let known = *track.places.entry((offset, entry.epoch)).or_insert(entry.chain);
        if known != entry.chain {
            self.violate(
                "records of one offset and leader epoch are equal, and so is all before them",
                || {
                    format!(
                        "partition {partition}: another record at {offset} in epoch {}",
                        entry.epoch
                    )
                },
            );
        }
    }

    /// A sound log loses its end from `to` on, or all of it: never what is committed, unless somebody has
    /// asked for its deletion. What a later leader has committed since, of whom the replica has not heard in its `epoch`,
    /// it may lose: it does not count for that one.
    pub(crate) fn cut(&mut self, partition: u32, (broker, epoch): (BrokerId, i32), shadow: &Shadow, to: i64) {
        let track = &self.tracks[partition as usize];
        let by_then = track.committed_in.iter().take_while(|known| **known <= epoch).count();
        let kept = track
            .agrees_up_to(shadow)
            .min(i64::try_from(by_then).unwrap_or(i64::MAX));
        let deleted = track.deleted_below;
        let lost = kept > to.max(shadow.start) && kept > deleted;
        if lost && !shadow.unsure {
            self.violate("nothing committed is cut from a sound log", || {
                format!("partition {partition} on broker {broker}: all below {kept} was committed, cut to {to}")
            });
        }
    }

    /// A log's oldest records go, all below `to`.
    pub(crate) fn starts_at(&mut self, partition: u32, broker: BrokerId, to: i64) {
        let asked = self.tracks[partition as usize].deleted_below;
        if to > asked {
            self.violate("the oldest records go only when somebody has asked for it", || {
                format!("partition {partition} on broker {broker}: begins at {to}, deleted is all below {asked}")
            });
        }
    }

    /// What a directory has recorded of a log: up to where it was flushed.
    pub(crate) fn recorded(&mut self, partition: u32, broker: BrokerId, before: i64, flushed: i64) {
        if flushed < before {
            self.violate("a flushed point as recorded goes back only with the log", || {
                format!("partition {partition} on broker {broker}: {flushed}, {before} before")
            });
        }
    }

    /// A process began to lead.
    pub(crate) fn leads(&mut self, partition: u32, epoch: i32, by: (BrokerId, u64), newest: bool, shadow: &Shadow) {
        let known = *self.track(partition).leaders.entry(epoch).or_insert(by);
        if known != by {
            self.violate("one process life appends in a leader epoch", || {
                format!("partition {partition}: epoch {epoch} is led by {by:?} and was by {known:?}")
            });
        }
        // A lead that is over by now when it is heard of may lack what was committed since.
        let track = &self.tracks[partition as usize];
        let end = track.end();
        let lacks = track
            .committed
            .last()
            .is_some_and(|last| end > shadow.start && shadow.at(end - 1).map(|entry| entry.chain) != Some(last.chain));
        if newest && lacks {
            self.violate("a new leader's log holds all that was committed", || {
                format!(
                    "partition {partition}: broker {} leads epoch {epoch} with a log to {}; {end} records are committed",
                    by.0,
                    shadow.end()
                )
            });
        }
    }

    /// A replica moved its high watermark.
    pub(crate) fn watermark(
        &mut self,
        partition: u32,
        (broker, epoch): (BrokerId, i32),
        leads: bool,
        to: i64,
        shadow: &Shadow,
    ) {
        let track = &mut self.tracks[partition as usize];
        let shared = to.min(track.end());
        let same = shared <= shadow.start
            || track.committed_at(shared - 1).map(|entry| entry.chain)
                == shadow.at(shared - 1).map(|entry| entry.chain);
        if !same {
            return self.violate("what was committed stays as it was", || {
                format!("partition {partition}: broker {broker} shows another record below {to}")
            });
        }
        if to <= track.end() {
            return;
        }
        if !leads {
            let end = track.end();
            return self.violate("no follower's high watermark is ahead of every leader's", || {
                format!("partition {partition}: broker {broker} shows {to}, leaders showed {end}")
            });
        }
        let mut repeated = None;
        let before = track.committed.len();
        for offset in track.end()..to {
            let Some(entry) = shadow.at(offset).copied() else {
                return self.violate("a high watermark is not above the log's end", || {
                    format!("partition {partition}: broker {broker} shows {to}")
                });
            };
            if let Some(before) = track.values.insert(entry.value, offset) {
                repeated = Some((entry.value, before, offset));
            }
            track.committed.push(entry);
            track.committed_in.push(epoch);
        }
        if let Some((value, before, offset)) = repeated {
            self.violate("no record is stored twice", || {
                format!("partition {partition}: {value:#x} is at {before} and at {offset}")
            });
        }
        self.check_refused(partition, before);
    }

    /// Nothing that was committed from an offset on was refused for sure.
    pub(crate) fn check_refused(&mut self, partition: u32, from: usize) {
        let committed = &self.tracks[partition as usize].committed[from..];
        let refused = committed.iter().find(|entry| self.refused.contains(&entry.value));
        if let Some(Entry { value, .. }) = refused.copied() {
            self.violate("what was refused for sure never shows up", || {
                format!("partition {partition}: {value:#x} was refused and is committed")
            });
        }
    }

    /// A client was told a high watermark: never less than another client was told by a leader
    /// of this or an earlier epoch.
    pub(crate) fn exposed(&mut self, partition: u32, epoch: i32, high_watermark: i64) {
        let track = self.track(partition);
        let before = track
            .exposed
            .range(..=epoch)
            .map(|(_, known)| *known)
            .max()
            .unwrap_or(0);
        if high_watermark < before {
            self.violate("the end that clients are told never goes back", || {
                format!("partition {partition}: {high_watermark} in epoch {epoch}, {before} before")
            });
        } else {
            track.exposed.insert(epoch, high_watermark);
        }
    }

    /// A producer is told that its records are stored.
    pub(crate) fn acknowledged(&mut self, partition: u32, base_offset: i64, values: &[u64]) {
        for (offset, value) in (base_offset..).zip(values) {
            let track = &self.tracks[partition as usize];
            if track.committed_at(offset).map(|entry| entry.value) != Some(*value) {
                self.violate("what is acknowledged is committed at its offset", || {
                    format!("partition {partition}: {value:#x} acknowledged at {offset}")
                });
            }
            self.acked.insert(*value, (partition, offset));
        }
    }

    /// A producer is told that its records were stored, without where.
    pub(crate) fn acknowledged_somewhere(&mut self, partition: u32, values: &[u64]) {
        for value in values {
            match self.tracks[partition as usize].values.get(value).copied() {
                Some(offset) => {
                    self.acked.insert(*value, (partition, offset));
                }
                None => self.violate("what is acknowledged is committed", || {
                    format!("partition {partition}: {value:#x} acknowledged as a repeat")
                }),
            }
        }
    }

    /// A consumer gets records.
    pub(crate) fn read(&mut self, partition: u32, records: &[(i64, u64)]) {
        for (offset, value) in records {
            let track = &self.tracks[partition as usize];
            if track.committed_at(*offset).map(|entry| entry.value) != Some(*value) {
                self.violate("consumers read only what is committed, always the same", || {
                    format!("partition {partition}: {value:#x} read at {offset}")
                });
            }
        }
    }

    /// A producer is told that its records were not written.
    pub(crate) fn refused(&mut self, partition: u32, values: &[u64]) {
        for value in values {
            if let Some(offset) = self.track(partition).values.get(value).copied() {
                self.violate("what was refused for sure never shows up", || {
                    format!("partition {partition}: {value:#x} is committed at {offset} and refused")
                });
            }
            self.refused.insert(*value);
        }
    }

    /// Somebody was sent records that do not match their checksum.
    pub(crate) fn sent_damaged(&mut self, partition: u32, broker: BrokerId, problem: &str) {
        self.violate("nobody is sent records that fail their checksum", || {
            format!("partition {partition} by broker {broker}: {problem}")
        });
    }

    /// A log could not be read although its disk is sound.
    pub(crate) fn unreadable(&mut self, partition: u32, broker: BrokerId, problem: &str) {
        self.violate("a sound log can be read", || {
            format!("partition {partition} on broker {broker}: {problem}")
        });
    }

    /// A log was opened that ends at `end`: it is a prefix of what was written, and holds what was reported durable.
    pub(crate) fn opened(
        &mut self,
        partition: u32,
        broker: BrokerId,
        before: &Shadow,
        (start, found, end): (i64, &[(i64, i32, u64)], i64),
    ) {
        if before.unsure {
            return;
        }
        // An empty one may be about to begin lower, with a batch that reaches beyond its start.
        if start < before.start && !found.is_empty() {
            self.violate("a log's start never goes back", || {
                format!(
                    "partition {partition} on broker {broker}: begins at {start}, {} before",
                    before.start
                )
            });
        }
        for (offset, epoch, value) in found {
            let known = before.at(*offset).map(|entry| (entry.epoch, entry.value));
            if known != Some((*epoch, *value)) {
                return self.violate("a crash leaves a prefix of what was written", || {
                    format!("partition {partition} on broker {broker}: {value:#x} at {offset}, written was {known:?}")
                });
            }
        }
        if end < before.durable {
            self.lost_durable(partition, broker, end, before.durable);
        }
    }

    /// A log ends below what was reported durable.
    pub(crate) fn lost_durable(&mut self, partition: u32, broker: BrokerId, end: i64, durable: i64) {
        self.violate("what was reported durable survives a crash", || {
            format!("partition {partition} on broker {broker}: ends at {end}, {durable} was durable")
        });
    }
}
