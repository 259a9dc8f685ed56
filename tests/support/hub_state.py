"""What a hub holds: repositories with their commits, branches and tags, large files, and faults to be tried out."""

from __future__ import annotations

import hashlib
import json
import secrets
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

USER = "tester"


class Refusal(Exception):
    """A request that is answered with an error.

    Args:
        status: of the answer.
        code: its X-Error-Code, or "".
        message: its X-Error-Message.
        headers: further headers.
    """

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})}


@dataclass(frozen=True)
class File:
    content: bytes
    lfs: bool = False

    @cached_property
    def etag(self) -> str:
        if self.lfs:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: Commit | None
    title: str
    message: str
    date: str
    files: dict[str, File]

    def last_change(self, path: str) -> Commit:
        """The newest commit in which the file, or a file of the folder, became what it is here."""
        commit = self
        while commit.parent is not None and commit.parent.under(path) == commit.under(path):
            commit = commit.parent
        return commit

    def under(self, path: str) -> dict[str, str]:
        return {name: f.etag for name, f in self.files.items() if name == path or name.startswith(f"{path}/")}

    def folders(self) -> set[str]:
        return {str(parent) for path in self.files for parent in PurePosixPath(path).parents} - {"."}

    def describe(self, path: str) -> dict[str, Any]:
        """A file or a folder as the hub lists it."""
        last = self.last_change(path)
        entry: dict[str, Any] = {"path": path, "lastCommit": {"id": last.oid, "title": last.title, "date": last.date}}
        if path not in self.files:
            return {**entry, "type": "directory", "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}
        file = self.files[path]
        lfs = {"oid": file.etag, "sha256": file.etag, "size": len(file.content), "pointerSize": 134}
        entry |= {"type": "file", "size": len(file.content), "oid": file.etag[:40]}
        return {**entry, "lfs": lfs} if file.lfs else entry


@dataclass
class Repo:
    kind: str  # "models" or "datasets"
    name: str  # namespace/name
    private: bool
    refs: dict[str, str] = field(default_factory=dict)  # "refs/heads/main", "refs/tags/v1", "refs/pr/1" -> oid
    commits: dict[str, Commit] = field(default_factory=dict)

    def find(self, revision: str) -> Commit:
        for ref in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if ref in self.refs:
                return self.commits[self.refs[ref]]
        if revision in self.commits:
            return self.commits[revision]
        raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def add(self, ref: str, title: str, message: str, files: dict[str, File]) -> Commit:
        parent = self.commits.get(self.refs.get(ref, ""))
        content = [parent and parent.oid, title, message, ref, sorted((path, f.etag) for path, f in files.items())]
        oid = hashlib.sha1(json.dumps(content).encode()).hexdigest()
        date = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self.commits[oid] = Commit(oid, parent, title, message, date, files)
        self.refs[ref] = oid
        return self.commits[oid]


@dataclass
class Fault:
    """What happens to calls number `first` to `last` of a route instead of an answer.

    Args:
        route: name of a function of `ROUTES`, such as `upload` (one large file) or `commit`.
        kind: a status to answer; "drop": the connection breaks in the middle of the request; "hang": the request is
            half read until the hub closes, and `Hub.hanging` is set.
    """

    route: str
    kind: int | str
    first: int = 1
    last: int = sys.maxsize


@dataclass
class Hub:
    """The state of the server. The client retries 5xx and broken connections of most calls, but never of `commit`."""

    url: str = ""
    token: str = field(default_factory=lambda: f"hf_{secrets.token_hex(17)}")
    users: dict[str, str] = field(default_factory=dict)  # token -> user
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)  # SHA-256 -> content of a large file
    announced: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)  # number of requests by route
    requests: list[str] = field(default_factory=list)  # "METHOD /path", as they came
    hanging: threading.Event = field(default_factory=threading.Event)
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.users[self.token] = USER

    def files(self, name: str, revision: str = "main", kind: str = "models") -> dict[str, bytes]:
        """The files of a repository as they are at a revision."""
        return {path: f.content for path, f in self.repos[kind, name].find(revision).files.items()}

    def history(self, name: str, revision: str = "main", kind: str = "models") -> list[Commit]:
        """The commits up to a revision, the newest first."""
        commit: Commit | None = self.repos[kind, name].find(revision)
        found = []
        while commit is not None:
            found.append(commit)
            commit = commit.parent
        return found

    def page(self, repo: Repo) -> str:
        return f"{self.url}/{'' if repo.kind == 'models' else repo.kind + '/'}{repo.name}"

    def count(self, route: str) -> int | str | None:
        """Count a call; return the kind of the fault that it meets."""
        with self.lock:
            self.calls[route] += 1
            number = self.calls[route]
        return next((f.kind for f in self.faults if f.route == route and f.first <= number <= f.last), None)
