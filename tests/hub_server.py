"""A small hub of models on loopback: the endpoints that huggingface-hub asks, and all that can go wrong with them."""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

LFS = (".safetensors", ".bin", ".ckpt", ".pth")


def git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Hub:
    """Repositories by name, then commit (the last is `main`), then file."""

    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)  # status by repository
    token: str = ""  # that every request must bear
    cut: dict[str, int] = field(default_factory=dict)  # where the connection breaks, by file
    spoilt: set[str] = field(default_factory=set)  # files that come with a wrong byte
    lost: set[str] = field(default_factory=set)  # files that are listed but not there
    asked: list[tuple[str, str]] = field(default_factory=list)  # path and range of every request

    def publish(self, repository: str, **changes: bytes) -> str:
        """A new commit with these files; returns its name."""
        commits = self.repositories.setdefault(repository, {})
        files = {**(list(commits.values())[-1] if commits else {}), **changes}
        commit = hashlib.sha1(f"{repository} {len(commits)}".encode()).hexdigest()
        commits[commit] = files
        return commit

    @property
    def fetched(self) -> list[str]:
        """Names of the files whose contents were asked for."""
        return [path.split("/", 5)[-1] for path, _ in self.asked if "/resolve/" in path]

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *words: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        path = self.path.split("?")[0].strip("/")
        self.hub.asked.append((path, self.headers.get("Range", "")))
        if path.startswith("cdn/"):
            self._send_file(path.removeprefix("cdn/"))
            return
        words = path.removeprefix("api/models/").split("/")
        repository = "/".join(words[:2])
        if status := self._status(repository):
            self._send(status, b"", {"X-Error-Code": "GatedRepo"} if status in (401, 403) else {})
        elif path.startswith("api/models/"):
            self._send_listing(repository, words[3] if len(words) > 2 else None)
        else:
            self._send_resolved(repository, words[3], "/".join(words[4:]))

    def _status(self, repository: str) -> int | None:
        if self.hub.token and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return 401
        return self.hub.refused.get(repository, None if repository in self.hub.repositories else 404)

    def _send_listing(self, repository: str, commit: str | None) -> None:
        commits = self.hub.repositories[repository]
        commit = commit or list(commits)[-1]
        siblings = []
        for name, data in commits[commit].items():
            entry: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": git_blob(data)}
            if name.endswith(LFS):
                entry["lfs"] = {"size": len(data), "sha256": sha256(data), "pointerSize": 134}
            siblings.append(entry)
        self._send(200, json.dumps({"id": repository, "sha": commit, "siblings": siblings}).encode())

    def _send_resolved(self, repository: str, commit: str, name: str) -> None:
        data = self.hub.repositories[repository][commit].get(name)
        if data is None or name in self.hub.lost:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        elif name.endswith(LFS):  # large files lie elsewhere
            self._send(302, b"", {"Location": f"/cdn/{repository}/{commit}/{name}", "X-Linked-Etag": sha256(data)})
        else:
            self._send_file(f"{repository}/{commit}/{name}")

    def _send_file(self, path: str) -> None:
        owner, repository, commit, name = path.split("/", 3)
        data = self.hub.repositories[f"{owner}/{repository}"][commit][name]
        if name in self.hub.spoilt:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        end = self.hub.cut.get(name, len(data))
        headers = {"ETag": sha256(data), "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        self._send(206 if start else 200, data[start:end], headers, len(data) - start)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body) if length is None else length), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
