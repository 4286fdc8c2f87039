//! Reading and checking settings.

use super::*;

fn load(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<BrokerConfig, ConfigProblem> {
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(path.path(), file).unwrap();
    let own = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    };
    BrokerConfig::load(Some(path.path()), own(environment).into_iter(), &own(flags))
}

#[test]
fn flags_win_over_the_environment_and_this_over_the_file() {
    let config = load(
        "# comment\n\ndata.dir = /a\nnode.id=1\nrack=x\ntopic.default.retention.ms=5",
        &[
            ("MILLRACE_NODE_ID", "2"),
            ("MILLRACE_RACK", "y"),
            ("HOME", "/"),
            ("MILLRACE_BOOTSTRAP", "h:1"),
        ],
        &[("node.id", "3")],
    )
    .unwrap();
    assert_eq!((config.node_id, config.rack.as_str()), (3, "y"));
    assert_eq!(config.data_dir, PathBuf::from("/a"));
    assert_eq!(config.topic_defaults["retention.ms"], "5");
}

#[test]
fn wrong_keys_are_refused_by_name_and_place() {
    let error = load("data.dir=/a\nnod.id=1", &[], &[]).unwrap_err().to_string();
    assert!(error.contains(":2: there is no setting \"nod.id\""), "{error}");
    assert!(error.contains("did you mean \"node.id\"?"), "{error}");
    let error = load("data.dir=/a", &[("MILLRACE_RAK", "1")], &[])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("environment MILLRACE_RAK") && error.contains("\"rack\""),
        "{error}"
    );
    let error = load("data.dir=/a", &[], &[("topic.default.retention", "1")])
        .unwrap_err()
        .to_string();
    assert!(error.contains("topic.default.retention"), "{error}");
}

#[test]
fn links_to_services_of_the_namespace_are_no_settings() {
    let links = [
        ("MILLRACE_SERVICE_HOST", "10.0.0.1"),
        ("MILLRACE_SERVICE_PORT", "9650"),
        ("MILLRACE_BROKER_SERVICE_HOST", "10.0.0.1"),
        ("MILLRACE_BROKER_SERVICE_PORT_GRPC", "9650"),
        ("MILLRACE_PORT", "tcp://10.0.0.1:9650"),
        ("MILLRACE_BOOTSTRAP_PORT", "tcp://10.0.0.1:9650"),
        ("MILLRACE_PORT_9650_TCP", "tcp://10.0.0.1:9650"),
        ("MILLRACE_A_B_PORT_9650_TCP_ADDR", "10.0.0.1"),
        ("MILLRACE_PORT_53_UDP_PROTO", "udp"),
    ];
    for link in links {
        load("data.dir=/a", &[link], &[]).unwrap_or_else(|error| panic!("{link:?}: {error}"));
    }
    for (name, value) in [
        ("MILLRACE_PORT", "9650"),
        ("MILLRACE_PORT_X_TCP", "1"),
        ("MILLRACE_PORT_1_TCP_ADR", "1"),
        ("MILLRACE_SERVICE_HOSTS", "1"),
    ] {
        assert!(load("data.dir=/a", &[(name, value)], &[]).is_err(), "{name}");
    }
}

#[test]
fn wrong_values_are_refused_with_what_is_allowed() {
    for (key, value) in [
        ("node.id", "-1"),
        ("begin.node", "-1"),
        ("begin.node", "b-0"),
        ("listen.client", "localhost"),
        ("memory.in.flight.bytes", "1"),
        ("log.format", "xml"),
        ("topic.default.flush", "never"),
        ("advertised.address", "nohost"),
        ("cluster.id", "a b"),
        ("default.replication.factor", "0"),
        ("advertised.internal.address", "nohost"),
        ("listen.internal", "localhost:1"),
        ("broker.heartbeat.interval.ms", "9"),
        ("broker.session.timeout.ms", "99"),
        ("quorum.auto.voters", "10"),
        ("group.coordinator.state.max.bytes", "16777215"),
        ("seeds", "a:1,b"),
        ("seeds", "a:1,http://b:2"),
    ] {
        let error = load("data.dir=/a", &[], &[(key, value)]).unwrap_err();
        assert!(matches!(error, ConfigProblem::InvalidValue { .. }), "{key}: {error:?}");
    }
    assert!(matches!(
        load("", &[], &[]),
        Err(ConfigProblem::Missing { key: "data.dir", .. })
    ));
    assert!(matches!(
        load("data.dir", &[], &[]),
        Err(ConfigProblem::NotAnAssignment { .. })
    ));
}

#[test]
fn who_begins_is_named_by_number_or_not_at_all() {
    let named = |value: &str| {
        load("data.dir=/a", &[("MILLRACE_BEGIN_NODE", value)], &[])
            .unwrap()
            .begin_node
    };
    assert_eq!((named("0"), named("7"), named("")), (Some(0), Some(7), None));
    assert_eq!(load("data.dir=/a", &[], &[]).unwrap().begin_node, None);
}

#[test]
fn seeds_are_a_list_and_a_late_heartbeat_costs_no_lease() {
    let seeds = "data.dir=/a\nadvertised.internal.address=x:1\nseeds= a:1, b.c:2 ,[::1]:3,";
    let config = load(seeds, &[], &[]).unwrap();
    assert_eq!(config.seeds, ["a:1", "b.c:2", "[::1]:3"]);
    assert!(load("data.dir=/a", &[], &[]).unwrap().seeds.is_empty());
    let error = load("data.dir=/a", &[], &[("broker.heartbeat.interval.ms", "300")]).unwrap_err();
    assert!(matches!(error, ConfigProblem::Contradiction(_)), "{error:?}");
}

#[test]
fn settings_of_groups_are_checked_together() {
    let file = "data.dir=/a\noffsets.retention.minutes=2\ngroup.consumer.max.size=3";
    let groups = load(file, &[], &[]).unwrap().groups;
    assert_eq!(
        (groups.offset_retention, groups.max_members),
        (Duration::from_secs(120), 3)
    );
    let flags = [
        ("group.consumer.min.session.timeout.ms", "6000"),
        ("group.consumer.max.session.timeout.ms", "5000"),
    ];
    let error = load("data.dir=/a", &[], &flags).unwrap_err();
    assert!(matches!(error, ConfigProblem::Contradiction(_)), "{error:?}");
}

#[test]
fn who_joins_brokers_elsewhere_says_where_it_is_found() {
    let with = |more: &[(&str, &str)]| {
        let flags: Vec<_> = [("data.dir", "/a")].into_iter().chain(more.iter().copied()).collect();
        load("", &[], &flags)
    };
    let error = with(&[("seeds", "localhost:9651,b:9651")]).unwrap_err().to_string();
    assert!(error.contains("seeds has b:9651"), "{error}");
    assert!(error.contains("set advertised.internal.address"), "{error}");
    assert!(with(&[("seeds", "10.0.0.1:9651"), ("listen.internal", "127.0.0.1:9651")]).is_err());
    for fine in [
        &[("seeds", "b:9651"), ("advertised.internal.address", "a:9651")][..],
        &[("seeds", "b:9651"), ("listen.internal", "10.0.0.2:9651")],
        &[("seeds", "localhost:1,127.0.0.1:2,[::1]:3")],
        &[],
    ] {
        assert!(with(fine).is_ok(), "{fine:?}");
    }
}

#[test]
fn every_key_is_documented_once_in_order() {
    assert!(BROKER_KEYS.is_sorted_by(|a, b| a.name < b.name));
    assert!(BROKER_KEYS.iter().all(|key| key.documentation.len() > 10));
}
