"""What the load generators print, as they printed it."""

from __future__ import annotations

import parse
import pytest

KAFKA_PRODUCED = """\
83090 records sent, 5340.0 records/sec (0.51 MB/sec), 3037.0 ms avg latency, 13725.0 ms max latency.
74609 records sent, 4059.0 records/sec (0.39 MB/sec), 15218.9 ms avg latency, 32042.0 ms max latency.
200000 records sent, 4000.0 records/sec (0.16 MB/sec), 13728.53 ms avg latency, 38040.00 ms max latency, 13759 ms 50th.
"""
KAFKA_CONSUMED = (
    "2026-11-24 11:00:00:000, 2026-11-24 11:00:03:000, "
    "1953.125, 651.04, 2000000, 666666.7, 1000, 2000, 976.5, 1000000.0"
)


def test_kafka_produced_takes_the_last_line():
    assert parse.kafka_produced(KAFKA_PRODUCED, 200_000) == 50.0


def test_kafka_that_lost_records_did_not_produce():
    with pytest.raises(ValueError, match="stored 200000 of 200001"):
        parse.kafka_produced(KAFKA_PRODUCED, 200_001)


@pytest.mark.parametrize("out", ["", "Exception in thread main"])
def test_no_result_is_an_error(out: str):
    for read in (parse.kafka_produced, parse.kafka_consumed, parse.millrace_produced, parse.millrace_consumed):
        with pytest.raises(ValueError, match="no result"):
            read(out, 1)
    with pytest.raises(ValueError, match="no result"):
        parse.nats_rate(out)
    with pytest.raises(ValueError, match="no result"):
        parse.end_to_end(out, 1)


def test_kafka_consumed_leaves_out_the_joining_of_the_group():
    assert parse.kafka_consumed(f"some warning\n{KAFKA_CONSUMED}\n", 2_000_000) == 976.5
    with pytest.raises(ValueError, match="read 2000000 of 2000001"):
        parse.kafka_consumed(KAFKA_CONSUMED, 2_000_001)


def test_millrace():
    assert parse.millrace_produced('{"records": 10, "seconds": 2.5}', 10) == 2.5
    assert parse.millrace_consumed('{"records": 11, "mib_per_second": 9.5}', 10) == 9.5
    with pytest.raises(ValueError, match="stored 10 of 11"):
        parse.millrace_produced('{"records": 10, "seconds": 2.5}', 11)


def test_nats_rate():
    out = "11:00:00 Starting\nNATS JetStream asynchronous publisher stats: 149,504 msgs/sec ~ 146 MiB/sec ~ 6.69us\n"
    assert parse.nats_rate(out) == 149_504


def test_end_to_end_says_whether_the_rate_was_held():
    out = '[warn] x\n{"records": 900, "seconds": 1.0, "latency_ms": {"p50": 0.5, "p99.9": 7}}'
    assert parse.end_to_end(out, 1000) == {"p50_ms": 0.5, "p99.9_ms": 7.0, "rate_held": 0.9}


KAFKA_STEADY = """\
5008 records sent, 1001.2 records/sec (0.98 MB/sec), 59.1 ms avg latency, 451.0 ms max latency.
32000 records sent, 997.755051 records/sec (0.97 MB/sec), 2564.40 ms avg latency, 9606.00 ms max latency, \
1381 ms 50th, 7856 ms 95th, 8528 ms 99th, 8586 ms 99.9th.
30000 steady state records sent, 995.321987 records/sec (0.97 MB/sec), 2657.95 ms avg latency, 8606.00 ms max latency, \
1945 ms 50th, 7891 ms 95th, 8534 ms 99th, 8587 ms 99.9th.
"""


def test_the_longest_wait_leaves_the_warm_up_out():
    assert parse.kafka_longest_wait(KAFKA_STEADY, 32_000, 30_000) == 8.606
    with pytest.raises(ValueError, match="stored 32000 of 32001"):
        parse.kafka_longest_wait(KAFKA_STEADY, 32_001, 30_000)
    with pytest.raises(ValueError, match="stored 30000 of 30001"):
        parse.kafka_longest_wait(KAFKA_STEADY, 32_000, 30_001)
    with pytest.raises(ValueError, match="no result"):
        parse.kafka_longest_wait(KAFKA_PRODUCED, 200_000, 1)
    out = '{"records": 30000, "latency_ms": {"p50": 5.0, "max": 572.5}}'
    assert parse.millrace_longest_wait(out, 30_000) == 0.5725
    with pytest.raises(ValueError, match="stored 30000 of 30001"):
        parse.millrace_longest_wait(out, 30_001)


def test_kafkas_leaders():
    described = "Topic: t\tTopicId: x\tPartitionCount: 1\n\tTopic: t\tPartition: 0\tLeader: 2\tReplicas: 2,1,3\n"
    assert parse.kafka_leader(described) == 2
    assert parse.kafka_quorum_leader("ClusterId:   x\nLeaderId:              3\nLeaderEpoch: 4\n") == 3
    for nobody in ("", "\tTopic: t\tPartition: 0\tLeader: none\n"):
        with pytest.raises(ValueError, match="no leader"):
            parse.kafka_leader(nobody)
        with pytest.raises(ValueError, match="no leader"):
            parse.kafka_quorum_leader(nobody)


def test_perf_symbols():
    out = """\
# Overhead  Symbol                  Shared Object
# ........  ......................  .................

     5.25%  [k] copy_user            [kernel.kallsyms]
    41.00%  [.] core::slice::<T>::f  millrace-broker
     0.10%  [.] main                 millrace-broker    -      -
"""
    found = [
        (0.41, "[.] core::slice::<T>::f  millrace-broker"),
        (0.0525, "[k] copy_user  [kernel.kallsyms]"),
        (0.001, "[.] main  millrace-broker"),
    ]
    assert parse.perf_symbols(out) == found
    assert parse.perf_symbols(out, 2) == found[:2]
