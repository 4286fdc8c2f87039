#!/usr/bin/env python3
"""Writes a container image as a tar archive, made of one folder, without any daemon or registry.

The archive is what `docker save` writes (manifest.json, a config, one layer), so that `docker load`, `podman load`,
`ctr images import`, `kind load image-archive` and skopeo (`docker-archive:`) read it. It is reproducible: the same
folder and options give the same bytes, whoever runs this and when. So entries are sorted, belong to root and have one
fixed time, and only the file's mode and kind are taken from the disk.

    image/archive.py --tag some:dev --root DIR --entrypoint /bin/some --entrypoint=--flag --user 65532:65532 \
        --output FILE
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import platform
import stat
import sys
import tarfile
from pathlib import Path
from typing import BinaryIO

# What Debian's and Go's names for this machine's processor are in an image's config.
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class _Hashed:
    """A file being written, and the SHA-256 of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Writes and counts in."""
        self._hash.update(data)
        return self._file.write(data)

    def hexdigest(self) -> str:
        """The hash of all that was written."""
        return self._hash.hexdigest()


def _entry(name: str, mtime: int) -> tarfile.TarInfo:
    """An entry that tells nothing of who made it and when."""
    info = tarfile.TarInfo(name)
    info.mtime = mtime
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def _below(root: Path, folder: str = "") -> list[str]:
    """Paths of all that lies in `root`, a folder before what is in it, in an order that no file system decides."""
    found = []
    for name in sorted(os.listdir(root / folder)):
        path = f"{folder}/{name}" if folder else name
        found.append(path)
        if (root / path).is_dir() and not (root / path).is_symlink():
            found += _below(root, path)
    return found


def write_layer(root: Path, file: BinaryIO, mtime: int = 0) -> str:
    """Writes all that is in `root` as one uncompressed layer; gives the layer's id ("sha256:...")."""
    hashed = _Hashed(file)
    with tarfile.open(fileobj=hashed, mode="w|", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        for path in _below(root):
            status = (root / path).lstat()
            info = _entry(path, mtime)
            info.mode = stat.S_IMODE(status.st_mode)
            if stat.S_ISDIR(status.st_mode):
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            elif stat.S_ISLNK(status.st_mode):
                info.type = tarfile.SYMTYPE
                info.mode = 0o777
                info.linkname = os.readlink(root / path)
                tar.addfile(info)
            elif stat.S_ISREG(status.st_mode):
                info.size = status.st_size
                with open(root / path, "rb") as content:
                    tar.addfile(info, content)
            else:
                raise ValueError(f"{root / path} is no file, folder or symbolic link")
    return f"sha256:{hashed.hexdigest()}"


def write_image(
    output: Path,
    tag: str,
    root: Path,
    entrypoint: list[str],
    user: str = "0:0",
    env: list[str] | None = None,
    labels: dict[str, str] | None = None,
    architecture: str | None = None,
    mtime: int = 0,
) -> str:
    """Writes the archive `output`, in the place of an older one only when it is whole; gives the image's id."""
    layer = output.with_name(output.name + ".layer")
    new = output.with_name(output.name + ".new")
    try:
        with open(layer, "wb") as file:
            layer_id = write_layer(root, file, mtime)
        settings: dict[str, object] = {
            "User": user,
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", *(env or [])],
            "Entrypoint": entrypoint,
            "WorkingDir": "/",
        }
        if labels:
            settings["Labels"] = labels
        config = _json(
            {
                "architecture": architecture or _ARCHITECTURES.get(platform.machine(), platform.machine()),
                "os": "linux",
                "config": settings,
                "rootfs": {"type": "layers", "diff_ids": [layer_id]},
            }
        )
        image_id = hashlib.sha256(config).hexdigest()
        layer_name = f"{layer_id.removeprefix('sha256:')}/layer.tar"
        manifest = _json([{"Config": f"{image_id}.json", "RepoTags": [tag], "Layers": [layer_name]}])
        with tarfile.open(new, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, content in ((f"{image_id}.json", config), ("manifest.json", manifest)):
                info = _entry(name, mtime)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            info = _entry(layer_name, mtime)
            info.size = layer.stat().st_size
            with open(layer, "rb") as content:
                tar.addfile(info, content)
        os.replace(new, output)
        return f"sha256:{image_id}"
    finally:
        layer.unlink(missing_ok=True)
        new.unlink(missing_ok=True)


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--tag", required=True, help="the image's name and tag, such as millrace:dev")
    parser.add_argument("--root", required=True, type=Path, help="the folder that becomes the image's file system")
    parser.add_argument("--entrypoint", required=True, action="append", help="the program and, repeated, its arguments")
    parser.add_argument("--user", default="0:0", help="numbers of the user and group that it runs as (default: root)")
    parser.add_argument("--env", action="append", default=[], metavar="KEY=VALUE", help="a variable; may be repeated")
    parser.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="a label; may be repeated")
    parser.add_argument("--architecture", help="amd64, arm64 (default: this machine's)")
    parser.add_argument("--mtime", type=int, default=0, help="the time of all entries: seconds since 1970 (default 0)")
    parser.add_argument("--output", required=True, type=Path, help="the archive to write")
    arguments = parser.parse_args()
    for pair in [*arguments.env, *arguments.label]:
        if "=" not in pair:
            parser.error(f"{pair!r} is no KEY=VALUE")
    if not arguments.root.is_dir():
        parser.error(f"{arguments.root} is no folder")
    return arguments


def main() -> None:
    """The command line."""
    arguments = _arguments()
    print(
        write_image(
            arguments.output,
            arguments.tag,
            arguments.root,
            arguments.entrypoint,
            arguments.user,
            arguments.env,
            dict(pair.split("=", 1) for pair in arguments.label),
            arguments.architecture,
            arguments.mtime,
        ),
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
