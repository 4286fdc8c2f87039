"""Image archives: the same folder gives the same bytes, and the layer says what the folder holds."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

_ARCHIVE = Path(__file__).resolve().parents[3] / "image" / "archive.py"


def _write(root: Path, output: Path, *more: str) -> None:
    command = [sys.executable, _ARCHIVE, "--tag", "localhost/some:1", "--root", root, "--output", output]
    command += ["--entrypoint", "/bin/program", "--entrypoint=--flag=yes", "--user", "65532:65532", *more]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def _fill(root: Path, names: list[str]) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"this is {name}\n")
        path.chmod(0o755 if name.startswith("bin/") else 0o644)
    (root / "link").symlink_to("bin/program")


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    names = ["bin/program", "etc/a", "etc/b", "lib/deep/er/c"]
    for number, order in enumerate((names, names[::-1])):
        root = tmp_path / f"root{number}"
        _fill(root, order)
        os.utime(root / "etc/a", (number, number))
        _write(root, tmp_path / f"{number}.tar", "--env", "KEY=value")
    assert (tmp_path / "0.tar").read_bytes() == (tmp_path / "1.tar").read_bytes()


def test_the_archive_is_what_docker_writes(tmp_path: Path) -> None:
    root, output = tmp_path / "root", tmp_path / "image.tar"
    _fill(root, ["bin/program", "etc/a"])
    _write(root, output, "--env", "KEY=value", "--label", "org.opencontainers.image.title=some")
    with tarfile.open(output) as tar:
        [manifest] = json.load(tar.extractfile("manifest.json"))
        config_bytes = tar.extractfile(manifest["Config"]).read()
        layer = tar.extractfile(manifest["Layers"][0]).read()
    assert manifest["RepoTags"] == ["localhost/some:1"]
    assert manifest["Config"] == f"{hashlib.sha256(config_bytes).hexdigest()}.json"
    config = json.loads(config_bytes)
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    assert config["config"]["Entrypoint"] == ["/bin/program", "--flag=yes"]
    assert config["config"]["User"] == "65532:65532"
    assert "KEY=value" in config["config"]["Env"]
    assert config["config"]["Labels"] == {"org.opencontainers.image.title": "some"}
    (tmp_path / "layer.tar").write_bytes(layer)
    with tarfile.open(tmp_path / "layer.tar") as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == ["bin", "bin/program", "etc", "etc/a", "link"]
    assert {(m.uid, m.gid, m.uname, m.mtime) for m in members} == {(0, 0, "", 0)}
    assert [oct(m.mode) for m in members] == ["0o755", "0o755", "0o755", "0o644", "0o777"]
    assert members[-1].linkname == "bin/program"
