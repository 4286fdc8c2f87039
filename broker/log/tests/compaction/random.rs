//! Random operations with crashes, and readers that take their time.

use millrace_log::fs::faulty::SplitMix64;
use millrace_log::{CompactionBounds, CompactionOptions, CompactionStep, LogConfig, ReadError};

use crate::broker::{Broker, config};
use crate::model::{CODECS, Entry, build, entries, record, state};

const STEPS: usize = 150;
/// Small against how far the clock goes in a run, and large against how long a reader takes at most.
const DELETE_RETENTION_MS: i64 = 20_000;

/// Somebody who reads from the log start to its end, a few batches at a time.
struct Reader {
    since_ms: i64,
    start: i64,
    offset: i64,
    seen: Vec<Entry>,
}

struct World {
    broker: Broker,
    rng: SplitMix64,
    high_watermark: i64,
    readers: Vec<Reader>,
    /// Next sequence of each producer.
    sequences: [i32; 3],
    /// The batches of producers: where they end, whose they are, and what comes next.
    told: Vec<(i64, usize, i32)>,
    finished_readers: usize,
    compactions: usize,
    /// Compactions that were cut short or dropped.
    unfinished: usize,
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = SplitMix64::new(seed);
        let config = LogConfig {
            segment_bytes: [500, 1_000, 1 << 20][rng.below(3) as usize],
            index_interval_bytes: [1, 100, 4_096][rng.below(3) as usize],
            delete_retention_ms: DELETE_RETENTION_MS,
            min_compaction_lag_ms: [0, 0, 300][rng.below(3) as usize],
            ..config()
        };
        World {
            broker: Broker::new(config, rng.next_u64()),
            rng,
            high_watermark: 0,
            readers: Vec::new(),
            sequences: [0; 3],
            told: Vec::new(),
            finished_readers: 0,
            compactions: 0,
            unfinished: 0,
        }
    }

    fn step(&mut self) {
        self.broker.now_ms += self.rng.below(400) as i64;
        if self.rng.below(12) == 0 {
            self.broker.now_ms += self.rng.below(60_000) as i64;
        }
        self.broker.disk.set_clock_ms(self.broker.now_ms);
        match self.rng.below(100) {
            0..35 => self.append(),
            35..45 => self.commit(),
            45..55 => {
                self.broker.log().roll().unwrap();
            }
            55..75 => self.compact(),
            75..80 => self.truncate(),
            80..84 => self.crash(),
            84..86 => self.delete_records(),
            _ => self.begin_reader(),
        }
        for _ in 0..3 {
            self.read_on();
        }
        self.broker.model.check(self.broker.log());
        self.check_producers();
    }

    fn append(&mut self) {
        let rng = &mut self.rng;
        let records: Vec<_> = (0..=rng.below(5))
            .map(|_| {
                let (key, value) = (format!("k{}", rng.below(12)), format!("v{}", rng.next_u64()));
                record(&key, (rng.below(4) > 0).then_some(&value))
            })
            .collect();
        let producer = self.rng.below(6) as usize;
        let header = self.sequences.get(producer).map(|next| (producer as i64, 0, *next));
        let codec = CODECS[self.rng.below(5) as usize];
        let time = self.broker.now_ms - self.rng.below(200) as i64;
        let batch = build(&records, time, codec, header);
        self.broker.append(&batch);
        if let Some(next) = self.sequences.get_mut(producer) {
            *next += records.len() as i32;
            self.told.push((self.broker.model.log_end, producer, *next));
        }
    }

    /// What is durable is committed.
    fn commit(&mut self) {
        self.high_watermark = self.broker.log().flush().unwrap();
    }

    fn compact(&mut self) {
        let bounds = CompactionBounds {
            high_watermark: self.high_watermark,
            last_stable_offset: self.high_watermark,
        };
        let options = CompactionOptions {
            map_bytes: [0, 24 * 8, 1 << 20][self.rng.below(3) as usize],
            hash_key: [self.rng.below(256) as u8; 16],
        };
        let now_ms = self.broker.now_ms;
        let Some(mut round) = self.broker.log().begin_compaction(|| bounds, &options, now_ms).unwrap() else {
            return;
        };
        let model = &mut self.broker.model;
        model.untouched_from = model.untouched_from.max(self.high_watermark);
        let step_bytes = [1, 300, u64::MAX][self.rng.below(3) as usize];
        loop {
            match round.step(step_bytes, self.broker.now_ms).unwrap() {
                CompactionStep::Done(report) => {
                    drop(round);
                    self.compactions += 1;
                    if let Some(end) = report.cleaned_offset {
                        self.check_clean(end);
                    }
                    return;
                }
                CompactionStep::More => {}
            }
            // In between all goes on.
            self.broker.now_ms += self.rng.below(50) as i64;
            match self.rng.below(60) {
                0..6 => self.append(),
                6..12 => self.read_on(),
                12..14 => self.begin_reader(),
                14 => self.truncate(),
                15 => {
                    self.broker.log().roll().unwrap();
                }
                16 => self.delete_records(),
                17 => {
                    self.unfinished += 1;
                    return;
                }
                18 => {
                    self.unfinished += 1;
                    drop(round);
                    self.crash();
                    return;
                }
                _ => {}
            }
        }
    }

    /// Below the end of a round each key has one record.
    fn check_clean(&self, end: i64) {
        let start = self.broker.log().log_start_offset();
        if end <= start {
            return;
        }
        let found = crate::model::read(self.broker.log(), start, i64::MAX);
        let mut keys: Vec<_> = found
            .iter()
            .filter(|entry| entry.offset < end)
            .map(|entry| &entry.key)
            .collect();
        let all = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), all, "two records of one key below {end}");
    }

    fn truncate(&mut self) {
        let end = self.broker.model.log_end;
        let to = end - self.rng.below((end - self.high_watermark) as u64 + 1) as i64;
        let new_end = self.broker.log().truncate_to(to).unwrap();
        assert!(new_end >= self.high_watermark, "{new_end} below the high watermark");
        self.cut(new_end);
    }

    fn cut(&mut self, end: i64) {
        self.broker.model.cut_to(end);
        self.told.retain(|(batch_end, ..)| *batch_end <= end);
        self.sequences = [0; 3];
        for (_, producer, next) in &self.told {
            self.sequences[*producer] = *next;
        }
    }

    fn crash(&mut self) {
        let durable = self.broker.log().durable_end_offset();
        if self.rng.below(3) == 0 {
            self.broker.disk.kill_process();
        } else {
            self.broker.disk.crash();
        }
        self.broker.reopen();
        assert_eq!(self.broker.log().damage(), []);
        let end = self.broker.log().log_end_offset();
        assert!(end >= durable && end <= self.broker.model.log_end);
        self.cut(end);
    }

    fn delete_records(&mut self) {
        let start = self.broker.model.log_start;
        let span = (self.high_watermark - start).clamp(0, 10) as u64;
        let to = start + self.rng.below(span + 1) as i64;
        self.broker.log().advance_log_start(to).unwrap();
        self.broker.model.log_start = to;
        // Who reads there sees what is deleted so as an error, and begins anew.
        self.readers.retain(|reader| reader.start >= to);
    }

    fn begin_reader(&mut self) {
        let start = self.broker.log().log_start_offset();
        self.readers.push(Reader {
            since_ms: self.broker.now_ms,
            start,
            offset: start,
            seen: Vec::new(),
        });
    }

    /// One of the readers gets a batch. One that is at the end must know what is there, if it was fast enough.
    fn read_on(&mut self) {
        if self.readers.is_empty() {
            return;
        }
        let at = self.rng.below(self.readers.len() as u64) as usize;
        let reader = &mut self.readers[at];
        let data = match self.broker.log().read(reader.offset, 1, true, self.high_watermark) {
            Ok(data) => data,
            Err(ReadError::OffsetOutOfRange { .. }) => {
                self.readers.swap_remove(at);
                return;
            }
            Err(error) => panic!("{error}"),
        };
        if !data.bytes.is_empty() {
            reader.seen.extend(entries(&data.bytes, reader.offset));
            reader.offset = data.next_offset;
            return;
        }
        let reader = self.readers.swap_remove(at);
        if self.broker.now_ms - reader.since_ms >= DELETE_RETENTION_MS {
            return;
        }
        let history = self.broker.model.history.iter();
        let all = history.filter(|entry| entry.offset >= reader.start && entry.offset < self.high_watermark);
        assert_eq!(
            state(&reader.seen),
            state(all),
            "a reader from {} at {} missed something",
            reader.start,
            reader.since_ms
        );
        self.finished_readers += 1;
    }

    /// No retry is stored twice: the last sequence of each producer is known whatever was compacted.
    fn check_producers(&self) {
        for producer in self.broker.log().producers() {
            let next = self.sequences[producer.producer_id as usize];
            assert_eq!(producer.last_sequence + 1, next, "producer {}", producer.producer_id);
        }
        let known = self.broker.log().producers().len();
        assert_eq!(known, self.sequences.iter().filter(|next| **next > 0).count());
    }
}

#[test]
fn random_runs_keep_each_keys_last_record_and_show_each_reader_every_delete() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().expect("a number"))
    };
    let seeds = match number("MILLRACE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MILLRACE_SIM_SEEDS").unwrap_or(300),
    };
    let count = seeds.end - seeds.start;
    let (mut readers, mut compactions, mut unfinished) = (0, 0, 0);
    for seed in seeds {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..STEPS {
                world.step();
            }
            world.broker.log().flush().unwrap();
            world.broker.check();
            (world.finished_readers, world.compactions, world.unfinished)
        });
        let (read, compacted, ended) = run.unwrap_or_else(|_| panic!("seed {seed} fails"));
        (readers, compactions, unfinished) = (readers + read, compactions + compacted, unfinished + ended);
    }
    // What was never reached was never tested.
    println!("{readers} readers, {compactions} compactions, {unfinished} unfinished");
    if count >= 100 {
        assert!(readers > 10 && compactions > 100 && unfinished > 10);
    }
}
