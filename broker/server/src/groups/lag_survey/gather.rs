//! What the groups that are coordinated here read, as their coordinators tell it.

use std::{collections::BTreeMap, sync::Arc};

use futures::future::join_all;
use millrace_engine::group::{
    Answer, GroupId, GroupRejection, MAX_LISTED_GROUPS, MAX_PARTITIONS_PER_REQUEST, Position, Request, TopicPartition,
};
use tokio::time::{Instant, timeout_at};

use crate::{groups::Coordinator, limits};

/// A partition that a group reads, and where it goes on there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Read {
    /// Which coordinator has it.
    pub coordinator: u32,
    pub group: GroupId,
    pub at: TopicPartition,
    /// `None`: at the oldest record.
    pub next: Option<i64>,
}

/// What coordinators have told.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// At most [`limits::GROUP_LAG_LOOKED_AT`], by group and partition within a coordinator.
    pub reads: Vec<Read>,
    /// Partitions beyond that.
    pub omitted: usize,
    /// Groups of which not all is known; at least one for each coordinator that did not tell which groups it has.
    pub unknown_groups: usize,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silence {
    /// Another broker coordinates the groups now, and tells of them.
    Gone,
    /// It was refused: other questions may be answered.
    Refused,
    /// It did not come in time: the coordinator waits for its replicas, say, and other answers may not come, too.
    Late,
}

/// How far one coordinator was asked.
#[derive(Debug, Default)]
struct Progress {
    listed: usize,
    /// Groups of which all is known.
    known: usize,
    /// Questions without an answer.
    unanswered: usize,
}

/// Asks coordinators, one after the other in their order, so that the same is beyond the bound each time. All are asked a
/// first question at once: one that does not answer it comes last, so that it takes no time from the others.
pub(super) async fn gather(coordinators: &BTreeMap<u32, Arc<Coordinator>>, until: Instant) -> Gathered {
    let asking = coordinators.values().map(|coordinator| list(coordinator, "", 1, until));
    let answers = join_all(asking).await;
    let mut order: Vec<(bool, u32, &Coordinator)> = Vec::with_capacity(coordinators.len());
    for ((number, coordinator), answer) in coordinators.iter().zip(answers) {
        if !matches!(answer, Err(Silence::Gone)) {
            order.push((answer.is_err(), *number, coordinator));
        }
    }
    order.sort_by_key(|(is_silent, number, _)| (*is_silent, *number));
    let mut gathered = Gathered::default();
    for (_, number, coordinator) in order {
        let (before, omitted) = (gathered.reads.len(), gathered.omitted);
        let mut progress = Progress::default();
        let told = gather_of(number, coordinator, &mut gathered, &mut progress, until).await;
        match told {
            Ok(()) => gathered.unknown_groups += progress.listed - progress.known,
            // What it has told would pass for all that there is.
            Err(Silence::Gone) => {
                gathered.reads.truncate(before);
                gathered.omitted = omitted;
            }
            Err(_) => {
                let counted = coordinator.counted.lock().groups().max(progress.listed);
                gathered.unknown_groups += counted.saturating_sub(progress.known).max(1);
            }
        }
    }
    gathered
}

/// Gathers what a coordinator's groups read.
async fn gather_of(
    number: u32,
    coordinator: &Coordinator,
    gathered: &mut Gathered,
    progress: &mut Progress,
    until: Instant,
) -> Result<(), Silence> {
    let mut after = String::new();
    loop {
        let (listed, more) = match list(coordinator, &after, MAX_LISTED_GROUPS, until).await {
            Ok(listed) => listed,
            // Nothing goes on behind a list that is refused.
            Err(Silence::Refused) => return Err(Silence::Refused),
            Err(silence) => {
                progress.miss(silence)?;
                continue;
            }
        };
        progress.listed += listed.len();
        for (group, is_readable) in &listed {
            // What can't be read has no offsets that could be told.
            let told = match is_readable {
                true => gather_group(number, coordinator, group, gathered, until).await,
                false => Ok(()),
            };
            match told {
                Ok(()) => progress.known += 1,
                Err(silence) => progress.miss(silence)?,
            }
            // Answers from memory may come at once, and there may be many.
            tokio::task::consume_budget().await;
        }
        match listed.last() {
            Some((last, _)) if more => after = last.to_string(),
            _ => return Ok(()),
        }
    }
}

impl Progress {
    /// Takes note of a question that was not answered.
    ///
    /// # Errors
    /// It makes no sense to ask more.
    fn miss(&mut self, silence: Silence) -> Result<(), Silence> {
        self.unanswered += 1;
        let most = match silence {
            Silence::Gone => 0,
            Silence::Refused => usize::MAX,
            Silence::Late => limits::GROUP_LAG_UNANSWERED,
        };
        if self.unanswered < most { Ok(()) } else { Err(silence) }
    }
}

/// Groups behind one, by name, and whether each can be read; and whether there are more.
async fn list(
    coordinator: &Coordinator,
    after: &str,
    limit: usize,
    until: Instant,
) -> Result<(Vec<(GroupId, bool)>, bool), Silence> {
    let asked = Request::List {
        after: after.to_owned(),
        limit,
    };
    match ask(coordinator, &asked, until).await? {
        Some(Answer::Groups { groups, more }) => {
            let groups = groups.into_iter();
            let listed = groups.map(|listed| (listed.group, listed.state.is_some()));
            Ok((listed.collect(), more))
        }
        _ => Err(Silence::Refused),
    }
}

/// Gathers what one group reads; of a group that is no more, that is nothing.
async fn gather_group(
    number: u32,
    coordinator: &Coordinator,
    group: &GroupId,
    gathered: &mut Gathered,
    until: Instant,
) -> Result<(), Silence> {
    let mut after = None;
    loop {
        let asked = Request::OffsetPage {
            group: group.clone(),
            after,
            limit: MAX_PARTITIONS_PER_REQUEST,
        };
        let Some(answer) = ask(coordinator, &asked, until).await? else {
            return Ok(());
        };
        let Answer::OffsetPage { positions, more } = answer else {
            return Err(Silence::Refused);
        };
        after = positions.last().map(|(at, _)| *at);
        for (at, position) in positions {
            let next = match position {
                Position::Committed { offset, .. } => Some(offset),
                Position::Beginning => None,
                // Where it begins is not known.
                Position::Pending | Position::None => continue,
            };
            if gathered.reads.len() >= limits::GROUP_LAG_LOOKED_AT {
                gathered.omitted += 1;
                continue;
            }
            gathered.reads.push(Read {
                coordinator: number,
                group: group.clone(),
                at,
                next,
            });
        }
        if !more {
            return Ok(());
        }
    }
}

/// Asks one question, again while there are too many, for as long as one may take. `None`: there is no such group.
async fn ask(coordinator: &Coordinator, request: &Request, until: Instant) -> Result<Option<Answer>, Silence> {
    use GroupRejection::{GroupNotFound, NotCoordinator, Overloaded};
    let until = until.min(Instant::now() + limits::GROUP_LAG_ASK_WITHIN);
    loop {
        let asking = coordinator.ask(request.clone(), None, None);
        match timeout_at(until, asking).await {
            Ok(Ok(answer)) => return Ok(Some(answer)),
            Ok(Err(GroupNotFound { .. })) => return Ok(None),
            Ok(Err(NotCoordinator { .. })) => return Err(Silence::Gone),
            Ok(Err(Overloaded)) if Instant::now() < until => tokio::time::sleep(limits::GROUP_LAG_ASK_AGAIN).await,
            // It loads, perhaps: that takes as long for any question.
            Ok(Err(Overloaded | GroupRejection::Loading)) | Err(_) => return Err(Silence::Late),
            Ok(Err(_)) => return Err(Silence::Refused),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use millrace_engine::group::{GroupListing, GroupState};
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;
    use uuid::Uuid;

    use super::*;
    use crate::{
        groups::census::{Census, Counted},
        partition::Partition,
        testing::TestBroker,
    };

    /// A coordinator of the groups "a", "b" and "c", each with an offset in one partition, that answers what `refuses`
    /// lets it; `None`: never.
    fn coordinator(
        partition: &Arc<Partition>,
        refuses: impl Fn(&Request) -> Option<Option<GroupRejection>> + Send + 'static,
    ) -> Arc<Coordinator> {
        let (queue, mut asked) = mpsc::channel::<crate::groups::Ask>(16);
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Some(ask) = asked.recv().await {
                let refused = refuses(&ask.request);
                match refused {
                    None => _ = ask.answer.send(Ok(answer(&ask.request))),
                    Some(Some(rejection)) => _ = ask.answer.send(Err(rejection)),
                    Some(None) => held.push(ask),
                }
            }
        });
        let mut census = Census::default();
        census.groups[0] = 3;
        Arc::new(Coordinator {
            partition: partition.clone(),
            leader_epoch: 0,
            queue,
            ended: mpsc::unbounded_channel().0,
            stop: CancellationToken::new(),
            counted: Counted::new(census.into()),
        })
    }

    fn answer(request: &Request) -> Answer {
        match request {
            Request::List { after, limit } => {
                let listed = |name: &&str| GroupListing {
                    group: (*name).into(),
                    state: Some(GroupState::Empty),
                    members: 0,
                };
                let left: Vec<_> = ["a", "b", "c"].iter().filter(|name| **name > after.as_str()).collect();
                Answer::Groups {
                    groups: left.iter().take(*limit).copied().map(listed).collect(),
                    more: left.len() > *limit,
                }
            }
            Request::OffsetPage { .. } => Answer::OffsetPage {
                positions: vec![(at(), Position::Beginning)],
                more: false,
            },
            other => panic!("{other:?}"),
        }
    }

    fn at() -> TopicPartition {
        TopicPartition {
            topic: Uuid::nil(),
            partition: 0,
        }
    }

    fn asks_for(request: &Request, name: &str) -> bool {
        matches!(request, Request::OffsetPage { group, .. } if &**group == name)
    }

    /// Checks which groups of which coordinators are told, and how many are not known. Questions have short deadlines: on
    /// a machine that is busy with other things one may pass although nothing is wrong.
    async fn check(coordinators: [Arc<Coordinator>; 2], within: Duration, expected: (Vec<(u32, String)>, usize)) {
        let coordinators: BTreeMap<u32, Arc<Coordinator>> = (0..).zip(coordinators).collect();
        let until = Instant::now() + LONG;
        loop {
            let gathered = gather(&coordinators, Instant::now() + within).await;
            let reads = gathered.reads.iter();
            let names = reads.map(|read| (read.coordinator, read.group.to_string())).collect();
            let told: (Vec<(u32, String)>, usize) = (names, gathered.unknown_groups);
            if told == expected {
                return;
            }
            assert!(Instant::now() < until, "{told:?}, and not {expected:?}");
        }
    }

    fn names(coordinator: u32, groups: &str) -> Vec<(u32, String)> {
        groups.chars().map(|group| (coordinator, group.to_string())).collect()
    }

    const SECOND: Duration = Duration::from_secs(1);
    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test(flavor = "multi_thread")]
    async fn a_coordinator_that_does_not_answer_keeps_away_no_other() {
        let test = TestBroker::start().await;
        let partition = test.partition("t", &[0]).await;
        let silent = coordinator(&partition, |_| Some(None));
        let sound = coordinator(&partition, |_| None);
        check([silent, sound], 2 * SECOND, (names(1, "abc"), 3)).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_group_that_is_not_told_keeps_away_no_other() {
        let test = TestBroker::start().await;
        let partition = test.partition("t", &[0]).await;
        let refused = GroupRejection::NotStored;
        let refusing = coordinator(&partition, move |asked| {
            asks_for(asked, "b").then(|| Some(refused.clone()))
        });
        let silent = coordinator(&partition, |asked| asks_for(asked, "a").then_some(None));
        let expected = [names(0, "ac"), names(1, "bc")].concat();
        check([refusing, silent], LONG, (expected, 2)).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_another_broker_coordinates_now_is_its_to_tell() {
        let test = TestBroker::start().await;
        let partition = test.partition("t", &[0]).await;
        let gone = |asked: &Request| {
            let outcome_unknown = false;
            asks_for(asked, "c").then_some(Some(GroupRejection::NotCoordinator { outcome_unknown }))
        };
        let (gone, sound) = (coordinator(&partition, gone), coordinator(&partition, |_| None));
        check([gone, sound], LONG, (names(1, "abc"), 0)).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_that_has_too_much_to_do_is_asked_again_and_one_that_failed_is_not() {
        let test = TestBroker::start().await;
        let partition = test.partition("t", &[0]).await;
        let asked = AtomicUsize::new(0);
        let busy = coordinator(&partition, move |_| {
            let count = asked.fetch_add(1, Ordering::SeqCst);
            count.is_multiple_of(2).then_some(Some(GroupRejection::Overloaded))
        });
        let failed = coordinator(&partition, |_| Some(Some(GroupRejection::Loading)));
        check([busy, failed], LONG, (names(0, "abc"), 3)).await;
    }
}
