"""The product on a Kubernetes, as tests use it: its images, the operator's release, Clusters, and the load on them."""

from __future__ import annotations

from product.cluster import Cluster
from product.images import Images, Missing
from product.load import Load
from product.operator import Operator
from product.pods import PodWatch
from product.topic import Topic

__all__ = ["Cluster", "Images", "Load", "Missing", "Operator", "PodWatch", "Topic"]
