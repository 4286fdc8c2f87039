//! Compaction: the real rounds of `millrace-log`, one for each replica at its own pace, under the bounds and the clock that
//! the broker uses; and what must hold of each log after each step.
//!
//! The observer's shadows have all records of a log, also those that compaction took out: where a follower copies a log
//! with gaps they are filled with what was committed there, and what was not must not be left out.
//!
//! | file | what |
//! |---|---|
//! | `keys` | what is committed of each key, and what of it a log must hold |
//! | `scan` | readers from the start |

mod keys;
mod scan;
mod settings;

use std::time::Duration;

use millrace_log::{
    Compaction, CompactionBounds, CompactionError, CompactionOptions, CompactionReport, CompactionStep, Log,
};

use self::keys::Left;
pub use self::settings::CompactionSettings;
pub(crate) use self::{
    keys::{Keyed, Keys, number_of_key},
    scan::Scan,
};
use crate::{
    shadow::{Shadow, Stored, read_all},
    slots::{SLOTS, record_of},
    trace::mix,
    world::{Event, World},
};

/// What tells a record's key, and whether it is a tombstone, from its value.
const KEY: u64 = 0x6E79_0000_0001;
const TOMBSTONE: u64 = 0x6E79_0000_0002;
/// Room for all keys of any log here.
const LARGE_MAP: usize = 1 << 16;

/// Something of compaction that is due.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CompactionEvent {
    /// A broker looks at a log, or goes on with it.
    Look { at: usize, life: u64, partition: u32 },
    /// A reader from the start reads on.
    Scan { reader: usize },
}

impl CompactionEvent {
    /// The broker that it happens at.
    pub(crate) fn target(self) -> Option<usize> {
        match self {
            Self::Look { at, .. } => Some(at),
            Self::Scan { .. } => None,
        }
    }
}

/// All that a run has of compaction.
pub(crate) struct Compactions {
    /// By slot.
    pub(crate) keys: Vec<Keys>,
    pub(crate) scans: Vec<Option<Scan>>,
}

impl Compactions {
    pub(crate) fn new(settings: Option<&CompactionSettings>) -> Self {
        Self {
            keys: (0..SLOTS).map(|_| Keys::default()).collect(),
            scans: (0..settings.map_or(0, |settings| settings.scans))
                .map(|_| None)
                .collect(),
        }
    }
}

/// What a broker does next.
enum Next {
    /// It looks at the log again later.
    Later,
    /// The round goes on.
    Step,
    /// The process has ended.
    Ended,
}

impl World {
    pub(crate) fn is_compacted(&self) -> bool {
        self.settings.compaction.is_some()
    }

    /// Readers from the start begin.
    pub(crate) fn begin_scans(&mut self) {
        for reader in 0..self.compactions.scans.len() {
            self.scan_soon(reader);
        }
    }

    /// What the key of a record is that has this value, and whether it is a tombstone.
    pub(crate) fn keyed(&self, value: u64) -> Keyed {
        if self.has_groups() {
            return self.keyed_of_groups(value);
        }
        let (keys, percent) = self
            .settings
            .compaction
            .as_ref()
            .map_or((1, 0), |settings| (settings.keys, settings.tombstone_percent));
        Keyed {
            key: number_of_key(&key_bytes(value, keys)),
            is_tombstone: mix(TOMBSTONE, value) % 100 < percent,
        }
    }

    /// The key of a producer's record, if the topic is compacted.
    pub(crate) fn key_of(&self, value: u64) -> Option<[u8; 8]> {
        let settings = self.settings.compaction.as_ref()?;
        Some(key_bytes(value, settings.keys))
    }

    fn times_ms(&self) -> (i64, i64) {
        let retention = self
            .settings
            .compaction
            .as_ref()
            .map(|settings| settings.delete_retention);
        let retention_ms = i64::try_from(retention.unwrap_or_default().as_millis()).unwrap_or(i64::MAX);
        (self.now_ms(), retention_ms)
    }

    fn learn_keys(&mut self, partition: u32) {
        let mut keys = std::mem::take(&mut self.compactions.keys[partition as usize]);
        keys.learn(&self.observer.tracks[partition as usize], |value| self.keyed(value));
        self.compactions.keys[partition as usize] = keys;
    }

    /// A broker has a log to look at.
    pub(crate) fn look_at_log(&mut self, at: usize, partition: u32) {
        let Some(every) = self.settings.compaction.as_ref().map(|settings| settings.look_every) else {
            return;
        };
        self.look_in(at, partition, every * 2);
    }

    fn look_in(&mut self, at: usize, partition: u32, most: Duration) {
        let delay = self.up_to(most) + Duration::from_micros(20);
        if let Some(life) = self.brokers[at].life() {
            let look = CompactionEvent::Look { at, life, partition };
            self.schedule(delay, Event::Compaction(look));
        }
    }

    pub(crate) fn on_compaction_event(&mut self, event: CompactionEvent) {
        match event {
            CompactionEvent::Look { at, life, partition } => {
                if self.brokers[at].is_life(life) {
                    self.on_look(at, partition);
                }
            }
            CompactionEvent::Scan { reader } => self.on_scan(reader),
        }
    }

    fn on_look(&mut self, at: usize, partition: u32) {
        let Some(settings) = self.settings.compaction.clone() else {
            return;
        };
        let Some(hosted) = self.brokers[at].hosted_mut(partition) else {
            return;
        };
        let next = match hosted.compaction.take() {
            _ if hosted.log.offline().is_some() => Next::Later,
            None => self.begin_round(at, partition, &settings),
            Some(compaction) => self.round_on(at, partition, compaction, &settings),
        };
        match next {
            // Each log is looked at at its own pace.
            Next::Later => {
                let pace = 1 + u32::try_from(mix(u64::from(partition), at as u64) % 3).unwrap_or(0);
                self.look_in(at, partition, settings.look_every * pace);
            }
            Next::Step => self.look_in(at, partition, settings.pause_max),
            Next::Ended => {}
        }
    }

    /// Begins a round if one is due, and now and then if it is not.
    fn begin_round(&mut self, at: usize, partition: u32, settings: &CompactionSettings) -> Next {
        let (now_ms, is_eager) = (self.now_ms(), self.below(8) == 0);
        let options = CompactionOptions {
            map_bytes: settings.map_bytes,
            hash_key: self.draw_uuid().into_bytes(),
        };
        let Some(hosted) = self.brokers[at].hosted(partition) else {
            return Next::Later;
        };
        let high_watermark = hosted.replica.high_watermark();
        let bounds = CompactionBounds {
            high_watermark,
            last_stable_offset: high_watermark,
        };
        let log = hosted.log.clone();
        let begun = match log.compaction_need(&bounds, now_ms) {
            Ok(need) if !need.is_due && !is_eager => return Next::Later,
            Ok(_) => log.begin_compaction(|| bounds, &options, now_ms),
            Err(error) => Err(error),
        };
        match begun {
            Ok(None) => Next::Later,
            Ok(Some(compaction)) => {
                self.compactions.keys[partition as usize].round_begins(high_watermark, now_ms);
                self.note([50, at as u64, u64::from(partition)], || {
                    format!("broker {at} compacts partition {partition} below {high_watermark}")
                });
                if let Some(hosted) = self.brokers[at].hosted_mut(partition) {
                    hosted.compaction = Some(compaction);
                }
                Next::Step
            }
            Err(error) => self.round_failed(at, partition, &error),
        }
    }

    fn round_on(
        &mut self,
        at: usize,
        partition: u32,
        mut compaction: Compaction,
        settings: &CompactionSettings,
    ) -> Next {
        let now_ms = self.now_ms();
        let dies = self.faulty && self.rng.chance(settings.die_per_million);
        let changes = 1 + self.below(20) as u64;
        let Some(process) = &self.brokers[at].process else {
            return Next::Ended;
        };
        let power = std::sync::Arc::clone(&process.power);
        if dies {
            power.ends_after(changes);
        }
        let stepped = compaction.step(settings.step_bytes, now_ms);
        if power.has_ended() {
            drop(compaction);
            self.seen("death in a step of compaction");
            if self.below(2) == 0 {
                self.crash(at);
            } else {
                self.kill(at);
            }
            let delay = self.up_to(Duration::from_secs(4));
            self.schedule(delay, Event::Start { at });
            return Next::Ended;
        }
        power.stays();
        let next = match stepped {
            Ok(CompactionStep::More) => {
                if let Some(hosted) = self.brokers[at].hosted_mut(partition) {
                    hosted.compaction = Some(compaction);
                }
                Next::Step
            }
            Ok(CompactionStep::Done(report)) => {
                self.round_ended(at, partition, &report);
                Next::Later
            }
            Err(error) => return self.round_failed(at, partition, &error),
        };
        self.check_compacted(at, partition);
        next
    }

    fn round_ended(&mut self, at: usize, partition: u32, report: &CompactionReport) {
        self.note([51, at as u64, report.superseded_records], || {
            format!("broker {at} has compacted partition {partition}: {report:?}")
        });
        self.seen(if report.cleaned_offset.is_some() {
            "round of compaction"
        } else {
            "round of compaction overtaken by a cut"
        });
        if report.superseded_records > 0 {
            self.seen("records replaced by later ones");
        }
        if report.deleted_tombstones > 0 {
            self.seen("tombstone gone");
        }
    }

    fn round_failed(&mut self, at: usize, partition: u32, error: &CompactionError) -> Next {
        self.note([52, at as u64, u64::from(partition)], || {
            format!("broker {at} does not compact partition {partition}: {error}")
        });
        match error {
            CompactionError::Offline(_) => self.directory_failed(at),
            CompactionError::Refused(_) => self.seen("round of compaction refused"),
            CompactionError::Damaged { offset, .. } if self.brokers[at].disk.damaged => {
                let offset = *offset;
                if let Some(hosted) = self.brokers[at].hosted_mut(partition) {
                    hosted.damage_met = Some(hosted.damage_met.map_or(offset, |met| met.min(offset)));
                }
            }
            CompactionError::Closed => {}
            CompactionError::Damaged { .. } | CompactionError::Busy => {
                let id = self.brokers[at].id;
                self.observer.unreadable(partition, id, &error.to_string());
            }
        }
        Next::Later
    }

    /// What is left of a replica's log is what compaction must leave.
    pub(crate) fn check_compacted(&mut self, at: usize, partition: u32) {
        let Some(hosted) = self.brokers[at].hosted(partition) else {
            return;
        };
        if !self.is_compacted() || hosted.log.offline().is_some() {
            return;
        }
        let log = hosted.log.clone();
        self.check_left(at, partition, &log);
    }

    /// The same for a log whose shadow is known.
    pub(crate) fn check_left(&mut self, at: usize, partition: u32, log: &Log) {
        let (id, damaged) = (self.brokers[at].id, self.brokers[at].disk.damaged);
        let (found, problem) = read_all(log);
        match problem {
            Some(_) if damaged => return,
            Some(problem) => return self.observer.unreadable(partition, id, &problem),
            None => {}
        }
        self.learn_keys(partition);
        let Some(shadow) = &self.brokers[at].disk.shadows[partition as usize] else {
            return;
        };
        let agreed = self.observer.tracks[partition as usize].agrees_up_to(shadow);
        let left = Left {
            start: shadow.start,
            agreed,
            missed: &shadow.missed,
            sees_deletes: true,
        };
        let offsets: Vec<i64> = found.iter().map(|record| record.0).collect();
        let broken = is_part_of(&found, shadow)
            .or_else(|| has_all_from(&offsets, agreed, shadow))
            .or_else(|| self.compactions.keys[partition as usize].judge(&left, &offsets, self.times_ms()));
        if let Some((rule, seen)) = broken {
            self.observer
                .violate(rule, || format!("partition {partition} on broker {id}: {seen}"));
        }
    }

    /// Whether a broker was away for so long that its log has what was deleted, by tombstones that it never got: a documented
    /// limit.
    pub(crate) fn deleted_came_back(&mut self, at: usize, partition: u32) -> bool {
        self.learn_keys(partition);
        let Some(hosted) = self.brokers[at].hosted(partition) else {
            return false;
        };
        let (found, _) = read_all(&hosted.log);
        let offsets: Vec<i64> = found.iter().map(|record| record.0).collect();
        let shadow = self.brokers[at].disk.shadows[partition as usize].as_ref();
        shadow.is_some_and(|shadow| {
            let left = Left {
                start: shadow.start,
                agreed: self.observer.tracks[partition as usize].agrees_up_to(shadow),
                missed: &shadow.missed,
                sees_deletes: true,
            };
            self.compactions.keys[partition as usize].came_back(&left, &offsets)
        })
    }

    /// Fills what a log leaves out before `to` with what was committed there, which nothing else than compaction may have
    /// taken out where it was copied from.
    pub(crate) fn fill_gap(&mut self, at: usize, partition: u32, to: i64) {
        let from = self.brokers[at].disk.shadow(partition).end();
        if from >= to {
            return;
        }
        self.seen("gap copied");
        self.check_not_in_sync(at, partition, from);
        self.learn_keys(partition);
        let times_ms = self.times_ms();
        for offset in from..to {
            let keys = &self.compactions.keys[partition as usize];
            let known = self.observer.tracks[partition as usize].committed_at(offset).copied();
            let Some(known) = known.filter(|_| keys.may_be_missing(offset, times_ms)) else {
                if self.brokers[at].disk.damaged {
                    // What can't be read on it is not in its shadow, perhaps.
                    return;
                }
                return self.observer.violate(
                    "followers get every record that has no later one of its key, and no tombstone that is gone",
                    || format!("partition {partition} on broker {at}: {offset} is left out, committed is {known:?}"),
                );
            };
            let is_tombstone = keys.is_tombstone(offset);
            let before =
                self.observer.tracks[partition as usize].chain_before(self.brokers[at].disk.shadow(partition).start);
            let shadow = self.brokers[at].disk.shadow(partition);
            let last_epoch = shadow.entries.last().map_or(0, |last| last.epoch);
            let entry = shadow.push(known.epoch, known.value, before);
            if is_tombstone {
                shadow.missed.insert(offset);
            }
            self.observer.appended(partition, offset, entry, last_epoch);
            if is_tombstone {
                self.seen("tombstone gone before it was copied");
            }
        }
    }

    /// Who is in sync has all that a round elsewhere looks at.
    fn check_not_in_sync(&mut self, at: usize, partition: u32, from: i64) {
        let broker = &self.brokers[at];
        let has_lost = broker.lost_data || broker.disk.damaged || (self.written_counts && broker.was_unclean);
        let record = record_of(self.quorum.cluster(), partition);
        if !has_lost && record.is_some_and(|record| record.isr.contains(&broker.id)) {
            let id = broker.id;
            self.observer
                .violate("nothing is compacted that a replica in sync has not got yet", || {
                    format!("partition {partition} on broker {id}: gets a gap from {from} on")
                });
        }
    }

    /// What a reader is not given between two offsets compaction may have taken out.
    pub(crate) fn check_read(&mut self, partition: u32, (from, to): (i64, i64), records: &[(i64, u64)]) {
        if !self.is_compacted() {
            return;
        }
        self.learn_keys(partition);
        let keys = &self.compactions.keys[partition as usize];
        let times_ms = self.times_ms();
        let is_given = |offset: &i64| records.binary_search_by_key(offset, |record| record.0).is_ok();
        let lost = (from..to).find(|offset| !is_given(offset) && !keys.may_be_missing(*offset, times_ms));
        if let Some(lost) = lost {
            self.observer.violate("readers get the last record of each key", || {
                format!("partition {partition}: {lost} is not there, read was from {from} to {to}")
            });
        }
    }

    /// Compacts a log until nothing is left to do: for when nothing else is under way.
    pub(crate) fn compact_to_the_end(&mut self, at: usize, partition: u32) {
        let (now_ms, hash_key) = (self.now_ms(), self.draw_uuid().into_bytes());
        let Some(hosted) = self.brokers[at].hosted_mut(partition) else {
            return;
        };
        hosted.compaction = None;
        let high_watermark = hosted.replica.high_watermark();
        let bounds = CompactionBounds {
            high_watermark,
            last_stable_offset: high_watermark,
        };
        let options = CompactionOptions {
            map_bytes: LARGE_MAP,
            hash_key,
        };
        let log = hosted.log.clone();
        self.compactions.keys[partition as usize].round_begins(high_watermark, now_ms);
        let whole_round = || -> Result<Option<CompactionReport>, CompactionError> {
            let Some(mut compaction) = log.begin_compaction(|| bounds, &options, now_ms)? else {
                return Ok(None);
            };
            loop {
                if let CompactionStep::Done(report) = compaction.step(u64::MAX, now_ms)? {
                    return Ok(Some(report));
                }
            }
        };
        match whole_round() {
            Ok(Some(report)) => self.round_ended(at, partition, &report),
            Ok(None) => {}
            Err(error) => _ = self.round_failed(at, partition, &error),
        }
        self.check_compacted(at, partition);
    }
}

fn key_bytes(value: u64, keys: u64) -> [u8; 8] {
    (mix(KEY, value) % keys.max(1)).to_be_bytes()
}

/// Each record of a log was written there, in this order.
fn is_part_of(found: &[Stored], shadow: &Shadow) -> Option<keys::Broken> {
    let is_ordered = found.windows(2).all(|pair| pair[0].0 < pair[1].0);
    let wrong = found.iter().find(|(offset, epoch, value)| {
        let known = shadow.at(*offset).map(|entry| (entry.epoch, entry.value));
        *offset >= shadow.start && known != Some((*epoch, *value))
    });
    if is_ordered && wrong.is_none() {
        return None;
    }
    Some((
        "compaction keeps records as they are, at their offsets",
        format!("in order: {is_ordered}, another one is {wrong:?}"),
    ))
}

/// Nothing went that is not known to be committed.
fn has_all_from(offsets: &[i64], agreed: i64, shadow: &Shadow) -> Option<keys::Broken> {
    let lost = (agreed.max(shadow.start)..shadow.end()).find(|offset| offsets.binary_search(offset).is_err())?;
    Some((
        "compaction takes out only what is committed",
        format!("{lost} is not there, committed is all below {agreed}"),
    ))
}
