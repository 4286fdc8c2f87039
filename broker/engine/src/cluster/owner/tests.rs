use std::collections::BTreeMap;

use uuid::Uuid;

use super::super::*;

fn owner(name: &str, uid: &str) -> TopicOwner {
    TopicOwner {
        namespace: "shop".into(),
        name: name.into(),
        uid: uid.into(),
    }
}

/// One broker, and the topic "t" of this owner.
fn cluster(owner: Option<TopicOwner>) -> Cluster {
    let mut cluster = Cluster::default();
    let registration = RegisterBroker {
        broker_id: 0,
        incarnation: Uuid::from_u128(1),
        cluster_id: "c1".into(),
        directory_id: Uuid::from_u128(2),
        address: "127.0.0.1:9650".into(),
        rack: String::new(),
        version: "0".into(),
        now_ms: 1,
    };
    cluster.apply(1, &Command::RegisterBroker(registration)).unwrap();
    let create = CreateTopic {
        name: "t".into(),
        id: Uuid::from_u128(7),
        assignments: vec![vec![0]],
        configs: BTreeMap::new(),
        now_ms: 2,
        owner,
    };
    cluster.apply(2, &Command::CreateTopic(create)).unwrap();
    cluster
}

fn claim(owner: &TopicOwner, adopt: bool) -> Command {
    Command::ClaimTopic {
        name: "t".into(),
        id: None,
        owner: owner.clone(),
        adopt,
    }
}

fn release(owner: &TopicOwner) -> Command {
    Command::ReleaseTopic {
        name: "t".into(),
        owner: owner.clone(),
    }
}

fn as_owner(owner: &TopicOwner, command: Command) -> Command {
    Command::AsOwner {
        name: "t".into(),
        owner: owner.clone(),
        command: Box::new(command),
    }
}

fn delete() -> Command {
    Command::DeleteTopic {
        name: "t".into(),
        id: None,
    }
}

fn refused_as_of(cluster: &mut Cluster, command: &Command, owner: &TopicOwner) {
    let before = cluster.clone();
    assert_eq!(
        cluster.apply(9, command),
        Err(Rejection::TopicOwned {
            name: "t".into(),
            owner: owner.to_string()
        })
    );
    assert_eq!(*cluster, before);
}

#[test]
fn the_first_claim_wins_and_the_loser_can_do_nothing() {
    let (first, second) = (owner("a", "1"), owner("b", "2"));
    let mut cluster = cluster(None);
    let claimed = Ok(Outcome::Claimed { adopted: true });
    assert_eq!(cluster.apply(3, &claim(&first, true)), claimed);
    refused_as_of(&mut cluster, &claim(&second, true), &first);
    refused_as_of(&mut cluster, &release(&second), &first);
    refused_as_of(&mut cluster, &as_owner(&second, delete()), &first);
    // The same claim again changes nothing.
    let version = cluster.version;
    assert_eq!(
        cluster.apply(4, &claim(&first, false)),
        Ok(Outcome::Claimed { adopted: false })
    );
    assert_eq!(cluster.version, version);
    assert_eq!(cluster.apply(5, &as_owner(&first, delete())), Ok(Outcome::Done));
    assert!(cluster.topics.is_empty());
}

#[test]
fn nobodys_topic_is_taken_over_only_if_that_is_wished() {
    let one = owner("a", "1");
    let mut cluster = cluster(None);
    let nobodys = Err(Rejection::TopicNotOwned { name: "t".into() });
    assert_eq!(cluster.apply(3, &claim(&one, false)), nobodys);
    assert_eq!(cluster.apply(3, &as_owner(&one, delete())), nobodys);
    assert_eq!(cluster.topics["t"].owner, None);
    // Nothing to give back is fine.
    assert_eq!(cluster.apply(3, &release(&one)), Ok(Outcome::Done));
}

#[test]
fn an_object_that_took_the_owners_place_inherits_and_the_former_one_is_out() {
    let (former, restored) = (owner("a", "1"), owner("a", "2"));
    let mut cluster = cluster(Some(former.clone()));
    refused_as_of(&mut cluster, &as_owner(&restored, delete()), &former);
    assert_eq!(
        cluster.apply(3, &claim(&restored, false)),
        Ok(Outcome::Claimed { adopted: false })
    );
    refused_as_of(&mut cluster, &as_owner(&former, delete()), &restored);
    refused_as_of(&mut cluster, &release(&former), &restored);
}

#[test]
fn a_released_topic_keeps_its_data_and_may_be_claimed() {
    let (first, second) = (owner("a", "1"), owner("b", "2"));
    let mut cluster = cluster(Some(first.clone()));
    assert_eq!(cluster.apply(3, &release(&first)), Ok(Outcome::Done));
    assert_eq!(cluster.topics["t"].id, Uuid::from_u128(7));
    assert_eq!(
        cluster.apply(4, &claim(&second, true)),
        Ok(Outcome::Claimed { adopted: true })
    );
}

#[test]
fn a_claim_is_for_the_topic_that_was_meant() {
    let mut cluster = cluster(None);
    let claim = Command::ClaimTopic {
        name: "t".into(),
        id: Some(Uuid::from_u128(8)),
        owner: owner("a", "1"),
        adopt: true,
    };
    let other = Err(Rejection::OtherTopicId { name: "t".into() });
    assert_eq!(cluster.apply(3, &claim), other);
}

#[test]
fn an_owner_commands_its_own_topic_and_nothing_else() {
    let one = owner("a", "1");
    let mut cluster = cluster(Some(one.clone()));
    let other_topic = Command::DeleteTopic {
        name: "u".into(),
        id: None,
    };
    let cordon = Command::CordonBroker {
        broker_id: 0,
        cordoned: true,
    };
    let twice = as_owner(&one, delete());
    for command in [other_topic, cordon, twice, claim(&one, true)] {
        assert_eq!(
            cluster.apply(3, &as_owner(&one, command)),
            Err(Rejection::NotAnOwnersCommand { name: "t".into() })
        );
    }
    // Whoever names no owner is a person who knows what they do.
    assert_eq!(cluster.apply(3, &delete()), Ok(Outcome::Done));
}

#[test]
fn parts_of_an_owner_are_bounded_and_plain() {
    assert_eq!(owner("orders.v1", "0-a").check(), Ok(()));
    let long = "n".repeat(254);
    for (bad, field) in [
        (owner("", "1"), "name"),
        (owner(&long, "1"), "name"),
        (owner("a/b", "1"), "name"),
        (owner("a", ""), "uid"),
        (owner("a", "ü"), "uid"),
        (
            TopicOwner {
                namespace: "n".repeat(64),
                ..owner("a", "1")
            },
            "namespace",
        ),
    ] {
        assert_eq!(bad.check().unwrap_err().field, field);
        let refused = cluster(None).apply(3, &claim(&bad, true)).unwrap_err();
        assert!(
            matches!(&refused, Rejection::InvalidOwner { field: named, .. } if named == field),
            "{refused:?}"
        );
    }
}

#[test]
fn metadata_of_former_versions_has_no_owners() {
    let cluster = cluster(None);
    let text = serde_json::to_string(&cluster).unwrap();
    assert!(!text.contains("owner"), "{text}");
    assert_eq!(serde_json::from_str::<Cluster>(&text).unwrap(), cluster);
}
