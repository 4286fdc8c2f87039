"""The machine's own authority, and who may call the API server as whom."""

from __future__ import annotations

import base64
import json
import secrets
from pathlib import Path

from kube_machine.host import run

_CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
# A test cluster does not live as long.
_DAYS = "365"


class Authority:
    """Signs certificates into one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make(self) -> None:
        """Makes the authority and the key that signs service accounts' tokens."""
        self._folder.mkdir(mode=0o700)
        run(
            ["openssl", "req", "-x509", *_CURVE, "-keyout", self._folder / "ca.key", "-out", self._folder / "ca.crt"]
            + ["-subj", "/CN=kubernetes", "-days", _DAYS]
        )
        run(
            # Not genpkey: of that form of a key the API server can't take the public half.
            ["openssl", "ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", self._folder / "sa.key"]
        )

    def certificate(self, name: str, subject: str, alternative: str) -> None:
        """Makes NAME.key and NAME.crt for a server and client."""
        request, extensions = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        run(["openssl", "req", *_CURVE, "-keyout", self._folder / f"{name}.key", "-out", request, "-subj", subject])
        extensions.write_text(f"subjectAltName={alternative}\nextendedKeyUsage=serverAuth,clientAuth\n")
        run(
            ["openssl", "x509", "-req", "-in", request, "-CA", self._folder / "ca.crt"]
            # Serial numbers are random: certificates are made several at a time.
            + ["-CAkey", self._folder / "ca.key", "-set_serial", f"0x{secrets.randbits(127):x}"]
            + ["-days", _DAYS, "-extfile", extensions, "-out", self._folder / f"{name}.crt"]
        )
        request.unlink()
        extensions.unlink()

    def client(self, name: str, subject: str, server: str) -> Path:
        """Makes a client's certificate and its kubeconfig NAME.conf, which holds all it needs."""
        self.certificate(name, subject, f"DNS:{name}")

        def data(file: str) -> str:
            return base64.b64encode((self._folder / file).read_bytes()).decode()

        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "kube", "cluster": {"server": server, "certificate-authority-data": data("ca.crt")}}],
            "users": [
                {
                    "name": name,
                    "user": {
                        "client-certificate-data": data(f"{name}.crt"),
                        "client-key-data": data(f"{name}.key"),
                    },
                }
            ],
            "contexts": [{"name": "kube", "context": {"cluster": "kube", "user": name}}],
            "current-context": "kube",
        }
        path = self._folder / f"{name}.conf"
        path.write_text(json.dumps(config, indent=1))
        path.chmod(0o600)
        return path
