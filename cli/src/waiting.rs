//! Telling why nothing goes on.

use std::{future::Future, pin::pin};

use millrace_client::Client;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};

use crate::{limits, output::ids};

/// What was told last of topics that are waited for; each news is told once.
pub struct Waiting {
    client: Client,
    topics: Vec<String>,
    /// Every wait is for brokers' answers, and none for what others may write.
    for_answers: bool,
    told: Option<String>,
    /// Since when something is waited for.
    since: Option<Instant>,
    /// When to look what is wrong, since something is waited for.
    look_at: Option<Instant>,
    looking: Option<JoinHandle<Option<String>>>,
}

impl Waiting {
    /// To wait for answers to writes: none within a few seconds is told even if the topic is in order.
    pub fn for_answers(client: &Client, topic: &str) -> Self {
        Self {
            for_answers: true,
            ..Self::new(client, &[topic])
        }
    }

    /// To wait for something of these topics.
    pub fn new<T: AsRef<str>>(client: &Client, topics: &[T]) -> Self {
        Self {
            client: client.clone(),
            topics: topics.iter().map(|topic| topic.as_ref().to_owned()).collect(),
            for_answers: false,
            told: None,
            since: None,
            look_at: None,
            looking: None,
        }
    }

    /// The work's result. While it takes long, what is wrong with the topic is told on standard error: the client
    /// tries again and again, and says nothing. Dropped and called again, it goes on to count the time.
    pub async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = work.as_mut() => {
                    (self.since, self.look_at) = (None, None);
                    if let Some(looking) = self.looking.take() {
                        looking.abort();
                    }
                    return done;
                }
                problem = self.next_look() => self.tell(problem),
            }
        }
    }

    /// What the next look finds.
    async fn next_look(&mut self) -> Option<String> {
        let since = *self.since.get_or_insert_with(Instant::now);
        sleep_until(*self.look_at.get_or_insert(since + limits::WAIT_UNTOLD)).await;
        let (client, topics) = (&self.client, &self.topics);
        let looking = self
            .looking
            .get_or_insert_with(|| tokio::spawn(look_at_each(client.clone(), topics.clone())));
        let mut problem = looking.await.ok().flatten();
        self.looking = None;
        if self.for_answers {
            problem = problem.or_else(|| unanswered(client, since));
        }
        self.look_at = Some(Instant::now() + limits::WAIT_LOOK_EVERY);
        problem
    }

    fn tell(&mut self, problem: Option<String>) {
        if self.told == problem {
            return;
        }
        match &problem {
            Some(problem) => eprintln!("millrace: waiting: {problem}"),
            None => eprintln!("millrace: {:?} is in order again", self.topics.join(", ")),
        }
        self.told = problem;
    }
}

/// The first problem of these topics.
async fn look_at_each(client: Client, topics: Vec<String>) -> Option<String> {
    for topic in topics {
        if let Some(problem) = look(&client, &topic).await {
            return Some(problem);
        }
    }
    None
}

/// What keeps the topic from being written and read, if anything does.
async fn look(client: &Client, topic: &str) -> Option<String> {
    let admin = client.admin();
    let described = match timeout(limits::WAIT_LOOK, admin.describe_topic(topic)).await {
        Ok(Ok(described)) => described,
        Ok(Err(error)) => return Some(error.to_string()),
        Err(_) => return Some("no broker answers".to_owned()),
    };
    let leaderless: Vec<i32> = described
        .partitions
        .iter()
        .filter(|partition| partition.leader_id.is_none())
        .map(|partition| partition.partition)
        .collect();
    (!leaderless.is_empty()).then(|| no_leader(topic, described.partitions.len(), &leaderless))
}

/// Why no answer came since then although the topic has leaders: the last attempt's failure, if there is one.
fn unanswered(client: &Client, since: Instant) -> Option<String> {
    match client.last_retried() {
        Some((at, error)) if at >= since.into_std() => {
            Some(format!("tried again, as the last attempt failed: {error}"))
        }
        _ if since.elapsed() >= limits::WAIT_UNANSWERED => {
            Some("no broker has answered yet; see millrace cluster describe".to_owned())
        }
        _ => None,
    }
}

fn no_leader(topic: &str, all: usize, leaderless: &[i32]) -> String {
    let which = match leaderless.len() {
        1 => format!("partition {} of {topic:?} has", leaderless[0]),
        some if some == all => format!("all {all} partitions of {topic:?} have"),
        some if some > limits::NAMED_PARTITIONS => format!("{some} of {all} partitions of {topic:?} have"),
        _ => format!("partitions {} of {topic:?} have", ids(leaderless)),
    };
    format!("{which} no leader now; see millrace topic describe {topic}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_leader_is_named() {
        let told = |all, leaderless: &[i32]| no_leader("t", all, leaderless);
        assert_eq!(
            told(3, &[1]),
            "partition 1 of \"t\" has no leader now; see millrace topic describe t"
        );
        assert!(
            told(3, &[0, 2]).starts_with("partitions [0,2] of \"t\" have"),
            "{}",
            told(3, &[0, 2])
        );
        assert!(told(3, &[0, 1, 2]).starts_with("all 3 partitions of"));
        let many: Vec<i32> = (0..50).collect();
        assert!(told(60, &many).starts_with("50 of 60 partitions of"));
    }
}
