"""What a cluster's pods went through, as a watch saw it."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass
from typing import Any

from product.cluster import Cluster


@dataclass
class Life:
    """A pod."""

    number: int
    uid: str
    # Whether it was ever told to end.
    ended: bool = False


class PodWatch:
    """Watches a cluster's pods: `with PodWatch(cluster) as watch: ...`; then what it saw is in its fields."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        # All pods in the order in which they came.
        self.lives: list[Life] = []
        # The numbers of pods in the order in which they were told to end.
        self.ended: list[int] = []
        # The most that were not there or not ready at once, after all had been ready, and which.
        self.most_down: set[int] = set()
        self._ready: dict[int, bool] = {}
        self._wanted: set[int] = set()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._process: Any = None
        self._failure: BaseException | None = None

    def __enter__(self) -> PodWatch:
        self._wanted = set(self._cluster.pods())
        arguments = ["get", "pods", "-l", self._cluster.selector, "--watch", "--output-watch-events", "-o", "json"]
        self._process = self._cluster.kubectl.start(*arguments)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._thread.join(10)
        self._process.stdout.close()
        self._process.wait(10)
        if self._failure is not None:
            raise self._failure
        assert self.lives, "the watch saw nothing"

    def _follow(self) -> None:
        # Objects follow each other, on one line or many, as kubectl likes.
        text, decoder = "", json.JSONDecoder()
        try:
            while chunk := os.read(self._process.stdout.fileno(), 1 << 20):
                text = (text + chunk.decode()).lstrip()
                while text:
                    try:
                        event, end = decoder.raw_decode(text)
                    except ValueError:
                        break
                    text = text[end:].lstrip()
                    self._note(event)
        except BaseException as failure:  # noqa: BLE001 - raised again at the end
            self._failure = failure

    def _note(self, event: dict[str, Any]) -> None:
        pod = event["object"]
        number, uid = int(pod["metadata"]["name"].rpartition("-")[2]), pod["metadata"]["uid"]
        life = next((life for life in self.lives if life.uid == uid), None)
        if life is None:
            life = Life(number, uid)
            self.lives.append(life)
        ending = "deletionTimestamp" in pod["metadata"] or event["type"] == "DELETED"
        if ending and not life.ended:
            life.ended = True
            self.ended.append(number)
        conditions = pod.get("status", {}).get("conditions", [])
        ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
        # The end of an old pod may come after its successor is there.
        if not ending or uid == [life for life in self.lives if life.number == number][-1].uid:
            self._ready[number] = ready and not ending
        if self._wanted <= set(self._ready):
            down = {number for number in self._wanted if not self._ready[number]}
            if len(down) > len(self.most_down):
                self.most_down = down
