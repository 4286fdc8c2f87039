//! Which brokers become voters of the metadata quorum by themselves. Pure.

use std::collections::BTreeSet;

/// A member of the quorum, as its leader sees it.
#[derive(Clone, Debug)]
pub(crate) struct Member<'a> {
    pub(crate) voter_id: u64,
    pub(crate) is_voter: bool,
    /// Whether its broker is in service.
    pub(crate) is_live: bool,
    /// Whether it follows closely, so that a majority that needs it does not stand still.
    pub(crate) is_caught_up: bool,
    /// Whether it has no vote because an operator took it away.
    pub(crate) is_withheld: bool,
    /// Its broker's failure domain; empty if none.
    pub(crate) rack: &'a str,
}

/// The learner to promote next, if any: the voters shall be as many as the largest odd number of
/// at most `limit` and of the brokers in service.
///
/// An even number outlives no more failures than the odd one below it and needs one more answer,
/// so the first step to an even number is made only if the next one can follow at once. Brokers in
/// racks without a voter come first.
pub(crate) fn next_voter(members: &[Member<'_>], limit: usize) -> Option<u64> {
    let voters = members.iter().filter(|member| member.is_voter).count();
    let live = members.iter().filter(|member| member.is_live).count();
    let able: Vec<&Member<'_>> = members
        .iter()
        .filter(|member| !member.is_voter && !member.is_withheld && member.is_live && member.is_caught_up)
        .collect();
    if largest_odd(limit.min(live).min(voters + able.len())) <= voters {
        return None;
    }
    let racks: BTreeSet<&str> = members.iter().filter(|m| m.is_voter).map(|m| m.rack).collect();
    able.iter()
        .min_by_key(|member| (racks.contains(member.rack), member.voter_id))
        .map(|member| member.voter_id)
}

fn largest_odd(at_most: usize) -> usize {
    at_most.saturating_sub(usize::from(at_most.is_multiple_of(2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members<'a>(voters: &[u64], learners: &[u64], behind: &[u64], racks: &[(u64, &'a str)]) -> Vec<Member<'a>> {
        voters
            .iter()
            .chain(learners)
            .chain(behind)
            .map(|id| Member {
                voter_id: *id,
                is_voter: voters.contains(id),
                is_live: true,
                is_caught_up: !behind.contains(id),
                is_withheld: false,
                rack: racks.iter().find(|(of, _)| of == id).map_or("", |(_, rack)| rack),
            })
            .collect()
    }

    #[test]
    fn the_number_of_voters_grows_by_two() {
        let next = |voters: &[u64], learners: &[u64], behind: &[u64], limit| {
            next_voter(&members(voters, learners, behind, &[]), limit)
        };
        assert_eq!(next(&[1], &[2], &[], 3), None, "two outlive no more than one");
        assert_eq!(next(&[1], &[2], &[3], 3), None, "the third is behind");
        assert_eq!(next(&[1], &[2, 3], &[], 3), Some(2));
        assert_eq!(next(&[1, 2], &[3], &[], 3), Some(3), "left half-way");
        assert_eq!(next(&[1, 2], &[], &[3], 3), None);
        assert_eq!(next(&[1, 2, 3], &[4, 5], &[], 3), None);
        assert_eq!(next(&[1, 2, 3], &[4, 5], &[], 4), None);
        assert_eq!(next(&[1, 2, 3], &[4, 5], &[], 5), Some(4));
        assert_eq!(next(&[1], &[2, 3], &[], 0), None);
        assert_eq!(next(&[1], &[2, 3], &[], 1), None);
        assert_eq!(next(&[1], &[2, 3], &[4, 5], 5), Some(2), "three now, five later");
        let mut taken_away = members(&[1, 2], &[3, 4], &[], &[]);
        taken_away[2].is_withheld = true;
        assert_eq!(
            next_voter(&taken_away, 3),
            Some(4),
            "not the one whose vote was taken away"
        );
    }

    #[test]
    fn the_dead_count_for_nothing_and_nobody_is_removed() {
        let mut all = members(&[1], &[2, 3], &[], &[]);
        all[2].is_live = false;
        assert_eq!(next_voter(&all, 3), None);
        let mut all = members(&[1, 2, 3], &[4], &[], &[]);
        all[0].is_live = false;
        assert_eq!(next_voter(&all, 3), None, "the dead voter is for a person to remove");
    }

    #[test]
    fn racks_without_a_voter_come_first() {
        let racks = [(1, "a"), (2, "a"), (3, "b"), (4, "c")];
        let next = |voters: &[u64], learners: &[u64]| next_voter(&members(voters, learners, &[], &racks), 3);
        assert_eq!(next(&[1], &[2, 3, 4]), Some(3));
        assert_eq!(next(&[1, 3], &[2, 4]), Some(4));
    }

    #[test]
    fn by_itself_it_always_ends_with_an_odd_number() {
        for brokers in 1..8u64 {
            for limit in 0..10 {
                let mut voters = vec![1];
                loop {
                    let learners: Vec<u64> = (1..=brokers).filter(|id| !voters.contains(id)).collect();
                    match next_voter(&members(&voters, &learners, &[], &[]), limit) {
                        Some(next) => voters.push(next),
                        None => break,
                    }
                }
                let wanted = largest_odd(limit.min(usize::try_from(brokers).unwrap())).max(1);
                assert_eq!(voters.len(), wanted, "{brokers} brokers, limit {limit}");
            }
        }
    }
}
