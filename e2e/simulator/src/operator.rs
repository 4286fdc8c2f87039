//! What operators change of the topic, in random runs and in scenarios.

use std::time::Duration;

use millrace_engine::{Command, cluster::ConfigChange};

use crate::{
    slots::{GENERATIONS, TOPIC, generation_in, slot, topic_id},
    world::{Event, World},
};

impl World {
    /// An operator changes a setting of the topic.
    pub fn alter_topic(&mut self, key: &str, value: &str) {
        let change = ConfigChange {
            set: [(key.to_owned(), value.to_owned())].into(),
            unset: Vec::new(),
        };
        let name = TOPIC.to_owned();
        self.propose(Command::AlterTopicConfigs { name, change }, None);
    }

    /// An operator deletes the topic.
    pub fn delete_topic(&mut self) {
        let id = self.quorum.cluster().topics.get(TOPIC).map(|topic| topic.id);
        let name = TOPIC.to_owned();
        self.propose(Command::DeleteTopic { name, id }, None);
    }

    /// An operator creates the topic again, once it is deleted; how its partitions are named from then on:
    /// that of number 0.
    pub fn create_topic_again(&mut self) -> u32 {
        let generation = u32::try_from(self.deleted.len()).unwrap_or(0);
        self.propose_topic(generation);
        slot(generation, 0)
    }

    /// An operator deletes the topic, and creates it again before long.
    pub(crate) fn replace_topic(&mut self) {
        let present = generation_in(self.quorum.cluster());
        let Some(next) = present.map(|present| present + 1).filter(|next| *next < GENERATIONS) else {
            return;
        };
        self.seen("topic deleted");
        self.replacing = Some(next);
        self.delete_topic();
        let delay = self.up_to(Duration::from_secs(3));
        self.schedule(delay, Event::CreateAgain { generation: next });
    }

    /// It is tried until it is there: the deletion may wait for a majority, or be lost with a controller.
    pub(crate) fn on_create_again(&mut self, generation: u32) {
        let is_there = generation_in(self.quorum.cluster()) == Some(generation);
        if is_there || self.deleted.contains(&topic_id(generation)) {
            if self.replacing == Some(generation) {
                self.replacing = None;
            }
            return;
        }
        if self.deleted.contains(&topic_id(generation - 1)) {
            self.propose_topic(generation);
        } else {
            self.delete_topic();
        }
        self.schedule(Duration::from_secs(1), Event::CreateAgain { generation });
    }

    /// A setting of the topic's own by the newest metadata.
    #[must_use]
    pub fn topic_setting(&self, key: &str) -> Option<&str> {
        let topic = self.quorum.cluster().topics.get(TOPIC)?;
        topic.configs.get(key).map(String::as_str)
    }
}
