"""The load tells what scenarios judge by."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from product import Cluster, Load

Loaded = Callable[..., tuple[Cluster, Load]]


@pytest.mark.long
def test_partitions_that_cannot_be_written_are_told(loaded: Loaded) -> None:
    cluster, load = loaded()
    load.check()
    load.mark()
    # With as many as there are, each broker that goes is an outage.
    cluster.millrace("topic", "alter", "ledger", "--config=min.insync.replicas=3")
    number = next(n for n in cluster.pods() if n != 0)
    cluster.kubectl("delete", "pod", f"orders-broker-{number}")
    cluster.kubectl.until("it is told", lambda: load.status()["under_min_in_sync"] == 3)
    with pytest.raises(AssertionError, match="under_min_in_sync.*ledger-"):
        load.check()
    cluster.wait_ready()
    load.goes_on()
    told = load.verdict(outage=True)
    assert told["under_min_in_sync_ms"] > 0
