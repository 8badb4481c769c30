"""A small server that answers as a model hub does, from a directory; every request is recorded."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


class Hub:
    """Serves ``repository`` from ``folder``; ``cut`` names a file of which only half is sent."""

    def __init__(self, repository: str, folder: Path, revisions: tuple[str, ...] = ("main", "v1")) -> None:
        self.repository = repository
        self.folder = folder
        self.revisions = (*revisions, COMMIT)
        self.cut: str | None = None
        self.requests: list[str] = []
        self.url = ""

    def answer(self, handler: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = unquote(urlsplit(handler.path).path)
        self.requests.append(f"{handler.command} {path}")
        parts = path.strip("/").split("/")
        if path.startswith("/api/models/"):
            self._api(handler, "/".join(parts[2:4]), parts[4:])
        elif len(parts) >= 5 and parts[2] == "resolve":
            self._file(handler, "/".join(parts[:2]), parts[3], "/".join(parts[4:]), body=body)
        else:
            self._error(handler, "RepoNotFound")

    def _api(self, handler: BaseHTTPRequestHandler, repository: str, rest: list[str]) -> None:
        revision = rest[1] if len(rest) > 1 else "main"
        if repository != self.repository:
            return self._error(handler, "RepoNotFound")
        if revision not in self.revisions:
            return self._error(handler, "RevisionNotFound")
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        names = [path.relative_to(self.folder).as_posix() for path in files]
        answer: object = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
        if rest and rest[0] == "tree":
            answer = [
                {"type": "file", "path": name, "size": path.stat().st_size, "oid": _etag(path)}
                for name, path in zip(names, files, strict=True)
            ]
        data = json.dumps(answer).encode()
        self._head(handler, 200, {"Content-Type": "application/json", "Content-Length": str(len(data))})
        handler.wfile.write(data)

    def _file(self, handler: BaseHTTPRequestHandler, repository: str, revision: str, name: str, *, body: bool) -> None:
        if repository != self.repository:
            return self._error(handler, "RepoNotFound")
        if revision not in self.revisions:
            return self._error(handler, "RevisionNotFound")
        path = self.folder / name
        if not path.is_file():
            return self._error(handler, "EntryNotFound")
        data = path.read_bytes()
        headers = {
            "ETag": f'"{_etag(path)}"',
            "X-Repo-Commit": COMMIT,
            "Content-Length": str(len(data)),
            "Accept-Ranges": "bytes",
        }
        start = 0
        asked = handler.headers.get("Range", "")
        if asked.startswith("bytes="):
            start = int(asked.removeprefix("bytes=").split("-")[0] or 0)
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            headers["Content-Length"] = str(len(data) - start)
        self._head(handler, 206 if asked else 200, headers)
        if body:
            end = len(data) // 2 if name == self.cut else len(data)
            handler.wfile.write(data[start : max(start, end)])
            if name == self.cut:
                # The line drops: fewer bytes than announced.
                handler.close_connection = True

    def _error(self, handler: BaseHTTPRequestHandler, code: str) -> None:
        status = 401 if code == "RepoNotFound" else 404
        self._head(handler, status, {"X-Error-Code": code, "X-Error-Message": code, "Content-Length": "0"})

    def _head(self, handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.answer(self, body=True)

        def do_HEAD(self) -> None:
            hub.answer(self, body=False)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
