"""The product's image and the load checker's, made of executables that are built already."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from kube_machine import Machine
from kube_machine.host import run

_REPO = Path(__file__).resolve().parents[3]
_EXECUTABLES = ("millrace-broker", "millrace-operator", "millrace", "millrace-load")


class Missing(Exception):
    """What an image is made of is not there."""


@dataclass(frozen=True)
class Images:
    """What pods of tests run, and when nodes pull it."""

    product: str
    # The same program under another name, for rolls by image.
    product_again: str
    load: str
    pull_policy: str


def _folder() -> Path:
    folder = os.environ.get("MILLRACE_BIN_DIR")
    if folder is None:
        # Cargo takes a relative folder from where it runs, which is the clone's root.
        folder = str(_REPO / os.environ.get("CARGO_TARGET_DIR", "target") / "debug")
    missing = [name for name in _EXECUTABLES if not (Path(folder) / name).exists()]
    if missing:
        raise Missing(f"{', '.join(missing)} in {folder} (build with `cargo build --bins`, or set MILLRACE_BIN_DIR)")
    return Path(folder)


def given() -> Images:
    """Images that a Kubernetes which is not ours can pull."""
    product, load = os.environ.get("MILLRACE_E2E_IMAGE", ""), os.environ.get("MILLRACE_E2E_LOAD_IMAGE", "")
    if not product or not load:
        raise Missing("images for the cluster of MILLRACE_E2E_KUBECONFIG: MILLRACE_E2E_IMAGE, MILLRACE_E2E_LOAD_IMAGE")
    return Images(product, os.environ.get("MILLRACE_E2E_IMAGE_AGAIN", ""), load, "IfNotPresent")


def load(machine: Machine, into: Path) -> Images:
    """Makes the images and brings them onto all nodes."""
    environment = {**os.environ, "MILLRACE_BIN_DIR": str(_folder())}
    images = Images("localhost/millrace:dev", "localhost/millrace:dev2", "localhost/millrace-load:dev", "Never")
    archives = []
    for script, tag in (
        ("image/build", images.product),
        ("image/build", images.product_again),
        ("e2e/load/image", images.load),
    ):
        archive = into / f"{tag.replace('/', '_').replace(':', '_')}.tar"
        run([str(_REPO / script), "--tag", tag, "--output", str(archive)], timeout=300, env=environment)
        archives.append(archive)
    machine.load(*archives)
    for archive in archives:
        archive.unlink()
    return images
