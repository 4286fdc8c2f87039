"""A real Kubernetes of several nodes on one Linux machine, for tests: see ../README.md."""

from kube_machine.errors import Failed, NotHere
from kube_machine.machine import Machine
from kube_machine.tools import Helm, Kubectl

__all__ = ["Failed", "Helm", "Kubectl", "Machine", "NotHere"]
