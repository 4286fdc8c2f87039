"""Another operator takes over: no broker is restarted for it, and what the first has begun the second ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from kube_machine import Kubectl
from product import Cluster, Images, Load, Operator, PodWatch, Topic
from product.operator import now, pod_of

Loaded = Callable[..., tuple[Cluster, Load]]


@pytest.fixture
def changed(operator: Operator) -> Iterator[Operator]:
    """The operator, whose release a test changes."""
    yield operator
    operator.install()
    operator.wait_single()


@pytest.fixture
def cordoned(cluster_kubectl: Kubectl) -> Iterator[Callable[[str], None]]:
    """Takes no pods onto a node; at the end it takes some again."""
    nodes: list[str] = []

    def cordon(node: str) -> None:
        nodes.append(node)
        cluster_kubectl("cordon", node)

    yield cordon
    for node in nodes:
        cluster_kubectl("uncordon", node)


def _image(pod: dict) -> str:
    return pod["spec"]["containers"][0]["image"]


@pytest.mark.timeout(400)
def test_an_upgrade_of_the_operator_restarts_no_broker(
    changed: Operator,
    images: Images,
    loaded: Loaded,
    cordoned: Callable[[str], None],
    cluster_kubectl: Kubectl,
) -> None:
    if not images.product_again:
        pytest.skip("there is no second image (MILLRACE_E2E_IMAGE_AGAIN)")
    operator = changed
    cluster, load = loaded()
    home = cluster.kubectl
    topic = Topic(home, "clicks", cluster).create(partitions=2, config={"retention.ms": "86400000"}).wait_ready()
    cluster.until_seen("all partitions are counted", lambda told: told["partitions"]["total"] == 5)
    operator.wait_quiet(namespace=home.namespace)
    first = operator.wait_single()["metadata"]["name"]
    mark, uids, objects = now(), cluster.pod_uids(), cluster.objects()

    # What brokers run if their Cluster says nothing is the operator's own image, and that is another one now.
    _, _, tag = images.product_again.rpartition(":")
    operator.install(f"--set=image.tag={tag}", "--set=extraArgs={--resync-seconds=5}")
    pod = operator.wait_single()
    assert _image(pod) == images.product_again
    second = pod["metadata"]["name"]
    operator.wait_looked(mark, cluster, topic)
    operator.wait_quiet(namespace=home.namespace)
    assert operator.writes(mark, home.namespace) == []
    assert cluster.objects() == objects
    assert cluster.pod_uids() == uids
    asked = {name: [e for e in operator.requests(mark) if pod_of(e) == name] for name in (first, second)}
    assert asked[second][0]["requestReceivedTimestamp"] < asked[first][-1]["requestReceivedTimestamp"], (
        "there was a moment without an operator"
    )
    # It is at work, as it was told to be: it finds by itself what others change.
    cluster.millrace("topic", "alter", "clicks", "--config=retention.ms=1000")
    told = home.until("it is put right", lambda: topic.events("DriftCorrected"))
    assert told == ['retention.ms: found "1000", wanted "86400000".']
    load.check()

    # One more, in the midst of a roll: a broker that has nowhere to go holds it up so long.
    leader = cluster.status()["quorum"]["leader"]
    number, node = next((n, node) for n, node in cluster.nodes().items() if n != leader)
    cordoned(node)
    mark = now()
    with PodWatch(cluster) as watch:
        cluster.patch(config={"max.connections": "5000"})
        cluster.until_condition("Stalled", "Unschedulable")
        begun = set(watch.ended)
        assert number in begun and leader not in begun
        operator.install()
        third = operator.wait_single()["metadata"]["name"]
        assert begun == set(watch.ended), "the second one goes on as if the first broker was back"
        cluster_kubectl("uncordon", node)
        cluster.wait_ready(300)
    assert sorted(watch.ended) == sorted(uids), f"each once, in turn: {watch.ended}"
    assert watch.ended[-1] == leader
    assert len(watch.most_down) <= 1, f"{watch.most_down} were down at once"
    assert operator.writers(mark, home.namespace) == [second, third], "one after the other"
    evictions = operator.evictions(mark)
    assert [e["requestObject"]["deleteOptions"]["preconditions"]["uid"] for e in evictions] == [
        uids[number] for number in watch.ended
    ]
    assert {pod_of(e) for e in evictions} == {second, third}
    # All run what they ran before, and not what one of the operators brought.
    assert {_image(pod) for pod in cluster.pods().values()} == {images.product}
    load.goes_on()
    load.verdict()
    operator.wait_quiet(namespace=home.namespace)
