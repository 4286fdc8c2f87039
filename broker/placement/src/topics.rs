//! How many replicas of each topic every broker has.

/// The counts of one topic.
enum Row {
    /// By broker, for a topic with at least as many replicas as there are brokers, so that all rows
    /// together need no more room than the replicas themselves.
    Dense(Vec<u32>),
    /// The brokers that have some, in order.
    Sparse(Vec<(u32, u32)>),
}

/// The counts of all topics.
pub(crate) struct TopicCounts {
    brokers: usize,
    rows: Vec<Row>,
}

impl TopicCounts {
    pub fn new(brokers: usize) -> Self {
        Self {
            brokers,
            rows: Vec::new(),
        }
    }

    /// Adds a topic that has, or will have, about `replicas` replicas.
    pub fn push(&mut self, replicas: usize) {
        self.rows.push(if replicas >= self.brokers {
            Row::Dense(vec![0; self.brokers])
        } else {
            Row::Sparse(Vec::new())
        });
    }

    /// How many topics there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn get(&self, topic: usize, broker: usize) -> u32 {
        match &self.rows[topic] {
            Row::Dense(counts) => counts[broker],
            Row::Sparse(counts) => {
                let found = counts.binary_search_by_key(&(broker as u32), |(at, _)| *at);
                found.map_or(0, |at| counts[at].1)
            }
        }
    }

    pub fn add(&mut self, topic: usize, broker: usize, change: i32) {
        let count = match &mut self.rows[topic] {
            Row::Dense(counts) => &mut counts[broker],
            Row::Sparse(counts) => {
                let found = counts.binary_search_by_key(&(broker as u32), |(at, _)| *at);
                let at = found.unwrap_or_else(|at| {
                    counts.insert(at, (broker as u32, 0));
                    at
                });
                &mut counts[at].1
            }
        };
        *count = count.saturating_add_signed(change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_count_alike() {
        let mut counts = TopicCounts::new(4);
        counts.push(3);
        counts.push(4);
        assert_eq!(counts.len(), 2);
        for topic in 0..2 {
            for (broker, change) in [(3, 2), (1, 1), (3, -1), (0, 5), (1, -1)] {
                counts.add(topic, broker, change);
            }
            let all: Vec<u32> = (0..4).map(|broker| counts.get(topic, broker)).collect();
            assert_eq!(all, [5, 0, 0, 1]);
        }
    }
}
