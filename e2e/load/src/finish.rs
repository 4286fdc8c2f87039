//! The end: all that was sent is answered, all that is there is read, and then read once more from the beginning.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use millrace_client::{Isolation, Start};

use crate::{
    consume,
    reading::Reading,
    work::{Mode, Work},
};

const LOOKS_EVERY: Duration = Duration::from_millis(100);

/// Ends the work, at most for so long; a second call waits for the first. Gives what could not be done.
pub async fn finish(work: &Arc<Work>, within: Duration) -> Vec<String> {
    let mut end = work.end.lock().await;
    if let Some(undone) = &*end {
        return undone.clone();
    }
    let deadline = Instant::now() + within;
    let undone = match bring_to_an_end(work, deadline).await {
        Ok(()) => Vec::new(),
        Err(what) => vec![what],
    };
    *end = Some(undone.clone());
    undone
}

async fn bring_to_an_end(work: &Arc<Work>, deadline: Instant) -> Result<(), String> {
    work.set_mode(Mode::Ending);
    until(deadline, "not all that was sent is answered", || {
        *work.ended.borrow() >= work.options.producers
    })
    .await?;
    let ends = ends(work, deadline).await?;
    until(deadline, "readers did not come to the end", || {
        reached(work, &ends, |partition| Some(&partition.following))
    })
    .await?;
    for partition in work.partitions() {
        partition.lock().again = Some(Reading::default());
    }
    let again = tokio::spawn(again(work.clone()));
    let read = until(deadline, "the second reading did not come to the end", || {
        reached(work, &ends, |partition| partition.again.as_ref())
    })
    .await;
    again.abort();
    read
}

async fn again(work: Arc<Work>) {
    consume::read(&work, |partition| partition.again.get_or_insert_default(), |_| false).await;
}

/// How far each partition goes.
async fn ends(work: &Work, deadline: Instant) -> Result<Vec<i64>, String> {
    let client = work.connect("millrace-load-ends").await;
    let mut topics: BTreeMap<Arc<str>, Vec<i32>> = BTreeMap::new();
    for partition in work.partitions() {
        let partition = partition.lock();
        topics
            .entry(partition.topic.clone())
            .or_default()
            .push(partition.number);
    }
    let mut found: BTreeMap<(Arc<str>, i32), i64> = BTreeMap::new();
    for (topic, numbers) in topics {
        let starts: Vec<(i32, Start)> = numbers.iter().map(|number| (*number, Start::End)).collect();
        let listed = loop {
            match client
                .admin()
                .list_offsets(&topic, starts.clone(), Isolation::ReadUncommitted)
                .await
            {
                Ok(listed) => break listed,
                Err(error) if Instant::now() > deadline => {
                    return Err(format!("the end of {topic} is not known: {error}"));
                }
                Err(_) => tokio::time::sleep(LOOKS_EVERY).await,
            }
        };
        found.extend(
            listed
                .into_iter()
                .map(|end| ((topic.clone(), end.partition), end.offset)),
        );
    }
    let end = |topic: &Arc<str>, number| found.get(&(topic.clone(), number)).copied().unwrap_or(0);
    let partitions = work.partitions().iter().map(|partition| partition.lock());
    Ok(partitions
        .map(|partition| end(&partition.topic, partition.number))
        .collect())
}

fn reached(work: &Work, ends: &[i64], which: impl Fn(&crate::partition::Partition) -> Option<&Reading>) -> bool {
    work.partitions().iter().zip(ends).all(|(partition, end)| {
        let partition = partition.lock();
        which(&partition).is_some_and(|reading| reading.next >= *end)
    })
}

async fn until(deadline: Instant, what: &str, condition: impl Fn() -> bool) -> Result<(), String> {
    while !condition() {
        if Instant::now() > deadline {
            return Err(what.to_owned());
        }
        tokio::time::sleep(LOOKS_EVERY).await;
    }
    Ok(())
}
