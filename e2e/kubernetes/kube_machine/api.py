"""The API server, asked without kubectl: a start of kubectl costs more than a request."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import tempfile
from pathlib import Path
from typing import Any

from kube_machine.errors import Failed


class Refused(Failed):
    """The API server answered with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"the API server answers {status}: {text[:1000]}")
        self.status = status


class Api:
    """Requests with the rights of a kubeconfig as certificates.py writes it. Each has a connection of its own."""

    def __init__(self, kubeconfig: Path, timeout: float = 10) -> None:
        config = json.loads(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._address = cluster["server"].removeprefix("https://")
        self._timeout = timeout

        def data(value: str) -> str:
            return base64.b64decode(value).decode()

        self._context = ssl.create_default_context(cadata=data(cluster["certificate-authority-data"]))
        # The ssl module reads certificates from files only.
        with tempfile.NamedTemporaryFile("w", prefix="millrace-kube-") as file:
            file.write(data(user["client-certificate-data"]) + data(user["client-key-data"]))
            file.flush()
            self._context.load_cert_chain(file.name)

    def request(self, method: str, path: str, body: object = None) -> str:
        """The answer's text; Refused if it is an error, OSError if there is none."""
        connection = http.client.HTTPSConnection(self._address, timeout=self._timeout, context=self._context)
        try:
            connection.request(
                method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        except http.client.HTTPException as error:
            raise OSError(f"no answer: {error!r}") from None
        finally:
            connection.close()
        if answer.status >= 400:
            raise Refused(answer.status, text)
        return text

    def get(self, path: str) -> Any:
        """An object or a list."""
        return json.loads(self.request("GET", path))

    def create(self, collection: str, body: dict[str, Any]) -> None:
        """Makes an object that may be there already."""
        # The version and the group stand in the path.
        parts = collection.strip("/").split("/")
        version = "/".join(parts[1:3]) if parts[0] == "apis" else parts[1]
        try:
            self.request("POST", collection, {"apiVersion": version, **body})
        except Refused as refused:
            if refused.status != 409:
                raise

    def delete(self, path: str) -> None:
        """Deletes an object that may be gone already."""
        try:
            self.request("DELETE", path)
        except Refused as refused:
            if refused.status != 404:
                raise

    def serves(self) -> bool:
        """True if the API server is ready."""
        try:
            return self.request("GET", "/readyz") == "ok"
        except (OSError, Failed):
            return False

    def ready_nodes(self) -> set[str]:
        """Names of the nodes that are Ready; none if the API server does not answer."""
        try:
            nodes = self.get("/api/v1/nodes")["items"]
        except (OSError, Failed):
            return set()
        return {
            node["metadata"]["name"]
            for node in nodes
            for condition in node.get("status", {}).get("conditions", [])
            if condition["type"] == "Ready" and condition["status"] == "True"
        }
