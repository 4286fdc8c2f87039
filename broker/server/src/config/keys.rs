//! The table of broker settings.

use millrace_engine::config::TOPIC_KEYS;

/// What stands in front of a topic setting to make it the default of all topics.
pub const TOPIC_DEFAULT_PREFIX: &str = "topic.default.";

/// One setting of the broker.
#[derive(Clone, Copy, Debug)]
pub struct BrokerKey {
    /// Its name.
    pub name: &'static str,
    /// The value where nobody sets one; empty: none.
    pub default: &'static str,
    /// What it does, with unit and bounds.
    pub documentation: &'static str,
}

const fn key(name: &'static str, default: &'static str, documentation: &'static str) -> BrokerKey {
    BrokerKey {
        name,
        default,
        documentation,
    }
}

/// All settings of the broker, by name.
pub const BROKER_KEYS: &[BrokerKey] = &[
    key(
        "advertised.address",
        "",
        "HOST:PORT under which clients reach this broker. Default: the address that it listens on, or localhost where that is all addresses (0.0.0.0, ::): then set it for clients elsewhere.",
    ),
    key(
        "advertised.internal.address",
        "",
        "HOST:PORT under which other brokers reach this one; it should stay the same for the life of the data directory. Default: the address of listen.internal, or localhost where that is all addresses.",
    ),
    key(
        "begin.node",
        "",
        "The node.id of the one broker that may begin a new cluster although seeds are set, in a configuration that all brokers share; every other one only joins, also without seeds. With an empty data directory that broker first asks the seeds for some seconds, and begins only if nobody there is in a cluster. Take it out as soon as there is the cluster: if later the disk is lost while no other broker answers, a second cluster would begin. Where cluster.id is set there is a cluster, and nobody begins one. Default: a broker without seeds begins. 0 to 2,147,483,647.",
    ),
    key(
        "broker.heartbeat.interval.ms",
        "100",
        "How often the broker tells the leader of the metadata quorum that it lives. 10 to 60,000, and at most half of broker.session.timeout.ms.",
    ),
    key(
        "broker.session.timeout.ms",
        "500",
        "A broker that was not heard of for so long is fenced: others take over what it led. Judged by the leader of the metadata quorum by its own setting, so all brokers should have the same. 100 to 600,000.",
    ),
    key(
        "cluster.id",
        "",
        "The cluster's id. Needed only to format; default: a new one, or that of the seeds.",
    ),
    key("data.dir", "", "The directory that holds all data. Required."),
    key(
        "default.replication.factor",
        "-1",
        "Replicas of a topic that names none; -1: three, or as many as there are brokers if fewer. Those that are down for a restart count, those that are cordoned or drained do not.",
    ),
    key(
        "disk.reserve.bytes",
        "67108864",
        "Writes are refused while the disk has less than this many bytes free, so that retention, recovery and metadata still work. 0 to 1 TiB.",
    ),
    key(
        "group.consumer.heartbeat.interval.ms",
        "1000",
        "How often members of consumer groups are told to say that they live. 100 to 60,000; a third of the shortest session that members ask for, or less, lets an answer get lost.",
    ),
    key(
        "group.consumer.max.session.timeout.ms",
        "1800000",
        "The longest session that a member of a consumer group may ask for: for so long a frozen one keeps its partitions. 1,000 to 86,400,000.",
    ),
    key(
        "group.consumer.max.size",
        "10000",
        "The most members of one consumer group. 1 to 1,000,000.",
    ),
    key(
        "group.consumer.min.session.timeout.ms",
        "1000",
        "The shortest session that a member of a consumer group may ask for. 1,000 to 86,400,000, and at most group.consumer.max.session.timeout.ms.",
    ),
    key(
        "group.coordinator.state.max.bytes",
        "268435456",
        "About how many bytes the state of the consumer groups may take that this broker coordinates, all together. Beyond seven eighths of it no group, member or larger subscription is let in (LIMIT_REACHED), beyond it no new offset; what is there goes on. A broker may have to coordinate all groups of the cluster, so all should have the same. 16 MiB to 1 TiB.",
    ),
    key(
        "listen.client",
        "0.0.0.0:9650",
        "HOST:PORT for gRPC clients; port 0: any free one.",
    ),
    key(
        "listen.http",
        "0.0.0.0:9652",
        "HOST:PORT for /livez, /readyz and /metrics; port 0: any free one.",
    ),
    key(
        "listen.internal",
        "0.0.0.0:9651",
        "HOST:PORT for other brokers; port 0: any free one, which is not for brokers of a cluster of many: they are to be found again.",
    ),
    key(
        "log.cleaner.backoff.ms",
        "15000",
        "How often it is looked whether a log of a topic with cleanup.policy=compact is to be compacted, once there is none. 100 to 600,000.",
    ),
    key(
        "log.cleaner.dedupe.buffer.size",
        "67108864",
        "Bytes of memory for the keys of the log that is being compacted, one at a time: 24 a key and a third more, so 64 MiB hold two million. Of a log that has more in what was not compacted yet, the rest is left to the next round. 1 MiB to 64 GiB.",
    ),
    key(
        "log.cleaner.io.max.bytes.per.second",
        "67108864",
        "Bytes that compaction reads and writes in a second, all logs together, so that it leaves the disk to others. 1 MiB to 1 TiB.",
    ),
    key(
        "log.format",
        "text",
        "How the broker's own log is written on standard error: text or json.",
    ),
    key(
        "log.level",
        "info,openraft=warn,openraft::raft::raft_inner=off,openraft::core::heartbeat=error,openraft::core::raft_core=error,openraft::replication=error,openraft::engine::handler::replication_handler=error",
        "What is logged: error, warn, info, debug, trace, or directives as of the tracing crates' EnvFilter. By default without what the metadata quorum tells of each attempt to reach a member that is down, several times a second.",
    ),
    key(
        "max.connections",
        "2000",
        "Client connections at once; further ones wait to be accepted. Each may make the broker hold 1 MiB besides memory.in.flight.bytes. 1 to 1,000,000.",
    ),
    key(
        "memory.in.flight.bytes",
        "67108864",
        "Bytes of requests and answers that the broker holds at once, over all connections; beyond it clients are made to wait. Half is for requests, half for answers. 34 MiB to 1 TiB.",
    ),
    key(
        "memory.in.flight.bytes.per.connection",
        "8388608",
        "The same for one connection's requests; its answers may take twice as much. A larger one gets through alone on its connection. 1 MiB to 1 TiB.",
    ),
    key(
        "node.id",
        "0",
        "The broker's number; in Kubernetes the pod's ordinal. 0 to 2,147,483,647.",
    ),
    key(
        "num.partitions",
        "1",
        "Partitions of a topic that names none. 1 to 10,000.",
    ),
    key(
        "offsets.retention.minutes",
        "10080",
        "For how long a consumer group's offset is kept that has no use: of a group without members, or of a topic that no member subscribes to. 1 to 2,147,483,647.",
    ),
    key(
        "offsets.topic.num.partitions",
        "16",
        "Partitions of __consumer_offsets, the topic that holds consumer groups, when it is made; each leader coordinates the groups of its own. It can't be changed afterwards. Kafka has 50; here a coordinator holds ten thousand groups. 1 to 1,000.",
    ),
    key(
        "offsets.topic.replication.factor",
        "3",
        "Replicas of __consumer_offsets when it is made, at a group's first call; `millrace topic alter` changes it afterwards. Where this is set, calls about groups are refused (COORDINATOR_NOT_AVAILABLE) until there are as many brokers, as in Kafka. Where it is not, a broker that began a cluster without seeds or begin.node and is alone makes it with one replica at once, and a cluster of fewer brokers with one on each, once no further broker has joined for 30 seconds. All brokers should have the same. 1 to 32,767.",
    ),
    key(
        "quorum.auto.voters",
        "3",
        "Up to so many brokers are made voters of the metadata quorum by themselves as they join, always an odd number; nobody is removed by itself. 0: only by hand. 0 to 9.",
    ),
    key("rack", "", "The broker's failure domain, such as a zone."),
    key(
        "seeds",
        "",
        "HOST:PORT of other brokers' internal listeners, separated by commas; a name may stand for many. An empty data directory joins their cluster; without seeds it begins a new one (but see begin.node). Later they are asked only by the metadata quorum's only voter as it starts, and by a broker that finds no leader. Up to 64.",
    ),
    key(
        "shutdown.timeout.ms",
        "25000",
        "How long a stopping broker waits until others have taken over what it leads, and then for requests in flight before it closes their connections. Where no other broker is in service it waits some seconds at most. 0 to 600,000.",
    ),
];

/// The reference of all settings as text: for `--help-config`.
#[must_use]
pub fn documentation() -> String {
    let mut text = String::from(
        "# Settings of millrace-broker. A file has lines KEY=VALUE, the environment MILLRACE_KEY\n\
         # with '_' for each '.', in capitals; flags are --set KEY=VALUE. Flags win over the\n\
         # environment, the environment over the file.\n",
    );
    for key in BROKER_KEYS {
        text.push_str(&format!("\n# {}\n{}={}\n", key.documentation, key.name, key.default));
    }
    text.push_str(
        "\n# Defaults of all topics. All brokers must judge alike, so those that are set here and that the\n\
         # cluster lacks are stored in its metadata when a broker starts, for all brokers. One that is stored\n\
         # already stays as it is: a broker whose setting differs logs a warning and goes by the stored one.\n\
         # Only the sole broker of a cluster changes what is stored. One that is left out stays, too.\n",
    );
    for key in TOPIC_KEYS {
        text.push_str(&format!(
            "\n# {}\n{TOPIC_DEFAULT_PREFIX}{}={}\n",
            key.documentation, key.name, key.default
        ));
    }
    text
}
