//! Lists of groups: of all coordinators, in the order of their ids.

use std::{collections::BTreeMap, sync::Arc};

use futures::{StreamExt as _, stream};
use millrace_engine::group::{Answer, MAX_GROUP_ID_BYTES, MAX_LISTED_GROUPS, Request as Asked, check_group_id};
use millrace_proto::{
    internal::v1::GroupsCall,
    v1::{self, ErrorReason},
};
use prost::Message as _;

use super::{
    Origin,
    refusals::no_coordinator,
    route::{self, Place, Search, ask, asks_again, given_up, place_of},
    unexpected,
    views::{invalid_token, page_size, state_out},
};
use crate::{broker::Broker, error::ApiError, forward::Peer, groups, limits};

/// Lists groups.
///
/// # Errors
/// Some coordinator does not answer: what it has must not be taken for nothing.
pub(super) async fn list(
    broker: &Broker,
    request: v1::ListGroupsRequest,
    origin: &Origin,
) -> Result<v1::ListGroupsResponse, ApiError> {
    let size = page_size(request.page_size, MAX_LISTED_GROUPS)?;
    if request.prefix.len() > MAX_GROUP_ID_BYTES {
        let problem = format!("has at most {MAX_GROUP_ID_BYTES} bytes");
        return Err(ApiError::field("prefix", problem));
    }
    // It is a group's id.
    if !request.page_token.is_empty() && check_group_id(&request.page_token).is_err() {
        return Err(invalid_token());
    }
    let mut search = Search::new();
    loop {
        match try_list(broker, &request, size, origin).await {
            Err(error) if asks_again(&error, true) => {
                if !search.again(broker).await {
                    return Err(given_up(error));
                }
            }
            listed => return listed,
        }
    }
}

async fn try_list(
    broker: &Broker,
    request: &v1::ListGroupsRequest,
    size: usize,
    origin: &Origin,
) -> Result<v1::ListGroupsResponse, ApiError> {
    let Some((_, topic)) = groups::find_topic(broker).await? else {
        return Ok(v1::ListGroupsResponse::default());
    };
    let mut own = Vec::new();
    let mut others: BTreeMap<i32, (Arc<Peer>, Vec<u32>)> = BTreeMap::new();
    for (number, partition) in (0u32..).zip(&topic.partitions) {
        match place_of(broker, number, partition.leader)? {
            Place::Here(_) => own.push(number),
            Place::There(peer) => others
                .entry(peer.id())
                .or_insert_with(|| (peer, Vec::new()))
                .1
                .push(number),
        }
    }
    let asked = others.into_values().map(|(peer, partitions)| async move {
        let call = route::send(
            &peer,
            GroupsCall::List,
            request.encode_to_vec().into(),
            partitions,
            true,
        );
        let listed = v1::ListGroupsResponse::decode(call.await?);
        listed.map_err(|error| ApiError::internal("a coordinator's list", &error))
    });
    let mut listed = here(broker, request, &own, origin).await?;
    let mut answers = stream::iter(asked).buffer_unordered(limits::GROUP_LISTS);
    while let Some(there) = answers.next().await {
        listed = merge([listed, there?].into_iter(), size);
    }
    Ok(listed)
}

/// The first `size` of lists that are each in order.
fn merge(lists: impl Iterator<Item = v1::ListGroupsResponse>, size: usize) -> v1::ListGroupsResponse {
    // Behind the end of one that has more, it may have some that come before those of others.
    let mut known_to: Option<String> = None;
    let mut groups = Vec::new();
    for list in lists {
        let end = Some(list.next_page_token).filter(|token| !token.is_empty());
        known_to = match (known_to, end) {
            (Some(known), Some(end)) => Some(known.min(end)),
            (known, end) => known.or(end),
        };
        groups.extend(list.groups);
    }
    groups.sort_unstable_by(|one, other| one.group.cmp(&other.group));
    if let Some(known) = &known_to {
        groups.retain(|group| group.group <= *known);
    }
    let more = known_to.is_some() || groups.len() > size;
    groups.truncate(size);
    let next_page_token = match groups.last() {
        Some(last) if more => last.group.clone(),
        _ => String::new(),
    };
    v1::ListGroupsResponse {
        groups,
        next_page_token,
    }
}

/// The groups of some coordinators that are here.
///
/// # Errors
/// One of them is not, or does not answer.
pub(super) async fn here(
    broker: &Broker,
    request: &v1::ListGroupsRequest,
    partitions: &[u32],
    origin: &Origin,
) -> Result<v1::ListGroupsResponse, ApiError> {
    let size = page_size(request.page_size, MAX_LISTED_GROUPS)?;
    let after = match before(&request.prefix) {
        first if first > request.page_token => first,
        _ => request.page_token.clone(),
    };
    // Others wait for their turn: each holds up to two pages.
    let _turn = broker.groups.listing.acquire().await;
    let mut listed = v1::ListGroupsResponse::default();
    for number in partitions {
        let coordinator = route::here(broker, *number)?;
        let asked = Asked::List {
            after: after.clone(),
            limit: size,
        };
        let (found, more) = match ask(broker, &coordinator, asked, origin).await {
            Ok(Answer::Groups { groups, more }) => (groups, more),
            Ok(other) => return Err(unexpected(&other)),
            // It loads, or has just ended: asked again as a whole.
            Err(error) if error.reason() == ErrorReason::NotCoordinator => {
                return Err(no_coordinator("it is just changing"));
            }
            Err(error) => return Err(error),
        };
        let all = found.len();
        let groups: Vec<v1::GroupSummary> = found
            .into_iter()
            .take_while(|listed| listed.group.starts_with(&request.prefix))
            .map(|listed| v1::GroupSummary {
                group: listed.group.to_string(),
                state: state_out(listed.state).into(),
                members: i32::try_from(listed.members).unwrap_or(i32::MAX),
                coordinator_id: broker.config.node_id,
            })
            .collect();
        let more = more && groups.len() == all;
        let next_page_token = match groups.last() {
            Some(last) if more => last.group.clone(),
            _ => String::new(),
        };
        let next = v1::ListGroupsResponse {
            groups,
            next_page_token,
        };
        listed = merge([listed, next].into_iter(), size);
    }
    Ok(listed)
}

/// A text below all that begin with `prefix`, and above all groups' ids that are below these.
fn before(prefix: &str) -> String {
    let Some(last) = prefix.chars().next_back() else {
        return String::new();
    };
    let mut text = prefix[..prefix.len() - last.len_utf8()].to_owned();
    // The character before it; none between the halves of surrogates.
    let previous = (u32::from(last) > 0).then(|| match u32::from(last) {
        0xe000 => 0xd7ff,
        code => code - 1,
    });
    if let Some(previous) = previous.and_then(char::from_u32) {
        text.push(previous);
        // Longer than any group's id.
        text.extend(std::iter::repeat_n(
            char::MAX,
            MAX_GROUP_ID_BYTES / char::MAX.len_utf8() + 1,
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_begins_where_nothing_of_it_comes_before() {
        assert_eq!(before(""), "");
        for prefix in ["a", "ab", "b\u{e000}", "\u{1}", "\u{0}", "a\u{10000}"] {
            let first = before(prefix);
            assert!(*first < *prefix, "{prefix:?}");
        }
        let below_b = format!("a{}", char::MAX.to_string().repeat(63));
        assert!(below_b.len() <= MAX_GROUP_ID_BYTES && below_b < before("b") && *before("b") < *"b");
    }

    #[test]
    fn pages_of_many_coordinators_are_one_in_order() {
        let list = |names: &[&str], next: &str| v1::ListGroupsResponse {
            groups: names
                .iter()
                .map(|name| v1::GroupSummary {
                    group: (*name).into(),
                    ..v1::GroupSummary::default()
                })
                .collect(),
            next_page_token: next.into(),
        };
        let names = |listed: &v1::ListGroupsResponse| -> Vec<String> {
            listed.groups.iter().map(|group| group.group.clone()).collect()
        };
        let merged = merge([list(&["b", "d"], ""), list(&["a", "c"], "")].into_iter(), 3);
        assert_eq!(
            (names(&merged), merged.next_page_token.as_str()),
            (vec!["a".into(), "b".into(), "c".into()], "c")
        );
        let merged = merge([list(&["b"], ""), list(&["a"], "a")].into_iter(), 2);
        assert_eq!(names(&merged), ["a"], "what comes next may be of the one that has more");
        assert_eq!(merged.next_page_token, "a");
        assert_eq!(merge([list(&["a"], "")].into_iter(), 1).next_page_token, "");
        // One after the other is the same as all at once.
        let all = [list(&["b", "e"], "e"), list(&["a", "d"], ""), list(&["c"], "c")];
        for size in 1..6 {
            let folded = all.iter().cloned();
            let folded = folded.fold(v1::ListGroupsResponse::default(), |all, one| {
                merge([all, one].into_iter(), size)
            });
            let at_once = merge(all.iter().cloned(), size);
            assert_eq!(folded, at_once, "{size}");
        }
    }
}
