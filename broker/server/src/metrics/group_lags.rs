//! The lag of consumer groups as metrics: one set, replaced as a whole, so that a scrape never sees half of it.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, metrics::MetricType, registry::Unit};

/// How far a group is behind in a partition.
#[derive(Clone, Debug)]
pub struct GroupLag {
    /// Which partition of the groups' topic the group belongs to.
    pub coordinator: u32,
    /// The group's id.
    pub group: Arc<str>,
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: u32,
    /// How many records are left.
    pub records: i64,
    /// For how long the oldest of them has been waiting, in milliseconds; `None`: not known.
    pub waiting_ms: Option<i64>,
}

/// What was found out last.
#[derive(Debug, Default)]
pub struct GroupLags {
    /// Of each group and partition; what is not known is not there.
    pub partitions: Vec<GroupLag>,
    /// How many more there are, beyond the bound.
    pub omitted: usize,
    /// Of how many partitions the leaders did not tell all.
    pub unknown: usize,
    /// Of how many groups the coordinators here did not tell all.
    pub unknown_groups: usize,
}

/// The last set; none before the first.
#[derive(Clone, Debug, Default)]
pub struct GroupLagGauges(Arc<Mutex<Option<GroupLags>>>);

impl GroupLagGauges {
    /// Replaces the set; `None`: nothing is known.
    pub fn set(&self, lags: Option<GroupLags>) {
        *self.0.lock() = lags;
    }

    /// Forgets what others coordinate now, and tell.
    pub fn retain(&self, is_here: impl Fn(u32) -> bool) {
        if let Some(lags) = &mut *self.0.lock() {
            lags.partitions.retain(|lag| is_here(lag.coordinator));
        }
    }
}

impl Collector for GroupLagGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let lags = self.0.lock();
        let Some(lags) = &*lags else {
            return Ok(());
        };
        let labels = |lag: &GroupLag| {
            [
                ("group", lag.group.to_string()),
                ("topic", lag.topic.to_string()),
                ("partition", lag.partition.to_string()),
            ]
        };
        let unit = Unit::Other("records".to_owned());
        let mut records = encoder.encode_descriptor(
            "consumer_group_lag",
            "Records of a partition that a consumer group coordinated here has not committed yet, as last looked up",
            Some(&unit),
            MetricType::Gauge,
        )?;
        for lag in &lags.partitions {
            records.encode_family(&labels(lag))?.encode_gauge(&lag.records)?;
        }
        let mut seconds = encoder.encode_descriptor(
            "consumer_group_lag",
            "How long the oldest of these records has been waiting, 0 if there is none, as last looked up",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        for lag in &lags.partitions {
            if let Some(ms) = lag.waiting_ms {
                #[expect(clippy::cast_precision_loss, reason = "milliseconds of 285,000 years are exact")]
                let waiting = ms as f64 / 1_000.0;
                seconds.encode_family(&labels(lag))?.encode_gauge(&waiting)?;
            }
        }
        for (name, help, count) in [
            (
                "consumer_group_lag_omitted_partitions",
                "Partitions of consumer groups coordinated here whose lag is not told, as there are too many; the largest are",
                lags.omitted,
            ),
            (
                "consumer_group_lag_unknown_partitions",
                "Partitions of consumer groups coordinated here whose lag, or whose lag in seconds, is not known, as their leaders did not answer",
                lags.unknown,
            ),
            (
                "consumer_group_lag_unknown_groups",
                "Consumer groups coordinated here whose lag is not known, as their coordinator, which may be just beginning, did not answer in time",
                lags.unknown_groups,
            ),
        ] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            encoder
                .encode_descriptor(name, help, None, MetricType::Gauge)?
                .encode_gauge(&count)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::text::encode, registry::Registry};

    use super::*;

    fn text(gauges: &GroupLagGauges) -> String {
        let mut registry = Registry::with_prefix("millrace");
        registry.register_collector(Box::new(gauges.clone()));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    fn lag(coordinator: u32, group: &str, records: i64, waiting_ms: Option<i64>) -> GroupLag {
        GroupLag {
            coordinator,
            group: group.into(),
            topic: "orders".into(),
            partition: 3,
            records,
            waiting_ms,
        }
    }

    #[test]
    fn what_is_not_known_is_absent_and_never_zero() {
        let gauges = GroupLagGauges::default();
        assert_eq!(text(&gauges), "# EOF\n", "nothing was looked up yet");
        gauges.set(Some(GroupLags {
            partitions: vec![
                lag(0, "billing", 12, Some(1_500)),
                lag(1, "stock", 7, None),
                lag(1, "done", 0, Some(0)),
            ],
            omitted: 4,
            unknown: 2,
            unknown_groups: 3,
        }));
        let told = text(&gauges);
        let series: Vec<&str> = told.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            series,
            [
                "millrace_consumer_group_lag_records{group=\"billing\",topic=\"orders\",partition=\"3\"} 12",
                "millrace_consumer_group_lag_records{group=\"stock\",topic=\"orders\",partition=\"3\"} 7",
                "millrace_consumer_group_lag_records{group=\"done\",topic=\"orders\",partition=\"3\"} 0",
                "millrace_consumer_group_lag_seconds{group=\"billing\",topic=\"orders\",partition=\"3\"} 1.5",
                "millrace_consumer_group_lag_seconds{group=\"done\",topic=\"orders\",partition=\"3\"} 0.0",
                "millrace_consumer_group_lag_omitted_partitions 4",
                "millrace_consumer_group_lag_unknown_partitions 2",
                "millrace_consumer_group_lag_unknown_groups 3",
            ]
        );
        assert!(
            told.contains("# UNIT millrace_consumer_group_lag_seconds seconds"),
            "{told}"
        );
    }

    #[test]
    fn what_others_coordinate_is_forgotten() {
        let gauges = GroupLagGauges::default();
        gauges.set(Some(GroupLags {
            partitions: vec![lag(0, "here", 1, None), lag(1, "there", 1, None)],
            ..GroupLags::default()
        }));
        gauges.retain(|coordinator| coordinator == 0);
        let told = text(&gauges);
        assert!(
            told.contains("group=\"here\"") && !told.contains("group=\"there\""),
            "{told}"
        );
    }

    #[test]
    fn a_group_s_name_is_no_syntax() {
        let gauges = GroupLagGauges::default();
        gauges.set(Some(GroupLags {
            partitions: vec![lag(0, "a\"} 1\\", 1, None)],
            ..GroupLags::default()
        }));
        let told = text(&gauges);
        assert!(told.contains(r#"{group="a\"} 1\\",topic="#), "{told}");
    }
}
