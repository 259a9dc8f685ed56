"""What a hub answers: one function for each route, from a request to what is sent back."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs

import yaml
from hub_state import File, Hub, Refusal, Repo

REGULAR_LIMIT = 10 * 2**20  # bytes; a larger file goes by LFS


@dataclass
class Reply:
    """What is sent back; anything but bytes is sent as JSON."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Request:
    hub: Hub
    headers: Any
    query: dict[str, list[str]]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.users:
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        return self.hub.users.get(token)

    def readable(self, kind: str | None, name: str) -> Repo:
        user, repo = self.user, self.hub.repos.get((kind or "models", name))
        if repo is None or (repo.private and user != name.split("/")[0]):
            raise Refusal(404 if user else 401, "RepoNotFound", "Repository not found")
        return repo

    def writable(self, kind: str | None, name: str) -> Repo:
        repo = self.readable(kind, name)
        self.may_write(name)
        return repo

    def may_write(self, name: str) -> None:
        if self.user is None:
            raise Refusal(401, "", "Invalid username or password.")
        if self.user != name.split("/")[0]:
            raise Refusal(403, "", f"You don't have the rights to write to {name}")

    def named_repo(self) -> tuple[str, str]:
        """Kind and full name of the repository that the body names."""
        namespace = self.json.get("organization") or self.user
        return f"{self.json.get('type') or 'model'}s", f"{namespace}/{self.json['name']}"


def whoami(request: Request) -> Any:
    if request.user is None:
        raise Refusal(401, "", "Invalid username or password.")
    token = {"role": "write", "displayName": "test"}
    return {"type": "user", "name": request.user, "orgs": [], "auth": {"accessToken": token}}


def create_repo(request: Request) -> Any:
    kind, name = request.named_repo()
    request.may_write(name)
    repo = request.hub.repos.get((kind, name))
    status = 200 if repo is None else 409
    if repo is None:
        repo = Repo(kind, name, private=request.json.get("visibility") == "private")
        repo.add("refs/heads/main", "initial commit", "", {".gitattributes": File(b"*.safetensors filter=lfs\n")})
        request.hub.repos[kind, name] = repo
    return Reply({"url": request.hub.page(repo), "name": name, "error": "" if status == 200 else "exists"}, status)


def delete_repo(request: Request) -> Any:
    repo = request.writable(*request.named_repo())
    del request.hub.repos[repo.kind, repo.name]
    return {}


def change_settings(request: Request, kind: str, name: str) -> Any:
    repo = request.writable(kind, name)
    repo.private = request.json["visibility"] == "private"
    return {"private": repo.private}


def validate_yaml(request: Request) -> Any:
    block = re.match(r"\s*---\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", request.json["content"], re.DOTALL)
    try:
        metadata = yaml.safe_load(block[1]) if block else None
    except yaml.YAMLError as error:
        return Reply({"errors": [{"message": str(error)}], "warnings": []}, 400)
    missing = [] if metadata else [{"message": "empty or missing yaml metadata in repo card"}]
    return {"errors": [], "warnings": missing}


def repo_info(request: Request, kind: str, name: str, rev: str | None) -> Any:
    repo = request.readable(kind, name)
    commit = repo.find(rev or "main")
    entries = [commit.describe(path) for path in sorted(commit.files)]
    siblings = [{"rfilename": e["path"], "size": e["size"], "blobId": e["oid"], "lfs": e.get("lfs")} for e in entries]
    names = {"id": name, "modelId": name, "author": name.split("/")[0], "private": repo.private, "gated": False}
    return {**names, "sha": commit.oid, "lastModified": commit.date, "tags": [], "siblings": siblings}


def auth_check(request: Request, kind: str, name: str, write: str | None) -> Any:
    (request.writable if write else request.readable)(kind, name)
    return {}


def tree(request: Request, kind: str, name: str, rev: str, path: str | None) -> Any:
    commit = request.readable(kind, name).find(rev)
    if path and path not in commit.folders():
        raise Refusal(404, "EntryNotFound", f"{path} does not exist on {rev}")
    inside = [entry for entry in {*commit.files, *commit.folders()} if not path or entry.startswith(f"{path}/")]
    if request.query.get("recursive", ["false"])[0].lower() != "true":
        inside = [entry for entry in inside if str(PurePosixPath(entry).parent) == (path or ".")]
    return [commit.describe(entry) for entry in sorted(inside)]


def paths_info(request: Request, kind: str, name: str, rev: str) -> Any:
    commit = request.readable(kind, name).find(rev)
    wanted = [path.strip("/") for path in parse_qs(request.body.decode()).get("paths", [])]
    return [commit.describe(path) for path in wanted if path in {*commit.files, *commit.folders()}]


def list_refs(request: Request, kind: str, name: str) -> Any:
    repo = request.readable(kind, name)
    spaces = {"branches": "refs/heads/", "tags": "refs/tags/", "pullRequests": "refs/pr/", "converts": "refs/convert/"}
    return {
        space: [
            {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": oid}
            for ref, oid in repo.refs.items()
            if ref.startswith(prefix)
        ]
        for space, prefix in spaces.items()
    }


def list_commits(request: Request, kind: str, name: str, rev: str) -> Any:
    request.readable(kind, name)
    return [
        {
            "id": c.oid,
            "title": c.title,
            "message": c.message,
            "date": c.date,
            "authors": [{"user": name.split("/")[0]}],
        }
        for c in request.hub.history(name, rev, kind)
    ]


def create_branch(request: Request, kind: str, name: str, rev: str) -> Any:
    return create_ref(request.writable(kind, name), f"refs/heads/{rev}", request.json.get("startingPoint") or "main")


def create_tag(request: Request, kind: str, name: str, rev: str) -> Any:
    return create_ref(request.writable(kind, name), f"refs/tags/{request.json['tag']}", rev)


def create_ref(repo: Repo, ref: str, revision: str) -> Any:
    oid = repo.find(revision).oid
    if ref in repo.refs:
        raise Refusal(409, "", f"Reference already exists: {ref}")
    repo.refs[ref] = oid
    return {}


def delete_branch(request: Request, kind: str, name: str, rev: str) -> Any:
    return delete_ref(request.writable(kind, name), f"refs/heads/{rev}")


def delete_tag(request: Request, kind: str, name: str, rev: str) -> Any:
    return delete_ref(request.writable(kind, name), f"refs/tags/{rev}")


def delete_ref(repo: Repo, ref: str) -> Any:
    if repo.refs.pop(ref, None) is None:
        raise Refusal(404, "RevisionNotFound", f"{ref} does not exist")
    return {}


def preupload(request: Request, kind: str, name: str, rev: str) -> Any:
    files = request.writable(kind, name).find(rev).files
    answers = []
    for file in request.json["files"]:
        large = b"\0" in base64.b64decode(file["sample"]) or file["size"] > REGULAR_LIMIT
        known = files[file["path"]].etag if file["path"] in files else None
        mode = "lfs" if large else "regular"
        answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": known})
    return {"files": answers}


def lfs_batch(request: Request, kind: str | None, name: str) -> Any:
    request.writable(kind and kind.strip("/"), name)
    hub, objects = request.hub, []
    for item in request.json["objects"]:
        href = f"{hub.url}/lfs/{item['oid']}"
        actions = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
        hub.announced.add(item["oid"])
        objects.append({**item, **({} if item["oid"] in hub.blobs else {"actions": actions})})
    return {"transfer": "basic", "objects": objects}


def upload(request: Request, oid: str) -> Any:
    if oid not in request.hub.announced:
        raise Refusal(403, "", "This upload was not announced.")
    if hashlib.sha256(request.body).hexdigest() != oid:
        raise Refusal(400, "", "The content is not that of the announced SHA-256.")
    request.hub.blobs[oid] = request.body
    return {}


def verify(request: Request, oid: str) -> Any:
    if len(request.hub.blobs.get(oid, b"")) != request.json["size"]:
        raise Refusal(404, "", "This object was not uploaded.")
    return {}


def commit(request: Request, kind: str, name: str, rev: str) -> Any:
    repo = request.writable(kind, name)
    lines = [json.loads(line) for line in request.body.splitlines()]
    header, operations = lines[0]["value"], lines[1:]
    parent = repo.find(rev)
    ref = next((ref for ref in (rev, f"refs/heads/{rev}") if ref in repo.refs), None)
    if header.get("parentCommit", parent.oid) != parent.oid:
        raise Refusal(412, "", "The branch has moved since parentCommit.")
    number = 1 + sum(ref.startswith("refs/pr/") for ref in repo.refs)
    proposed = "create_pr" in request.query
    if proposed:
        ref = f"refs/pr/{number}"
        repo.refs[ref] = parent.oid
    if ref is None:
        raise Refusal(400, "", f"{rev} is no branch.")
    files = dict(parent.files)
    for operation in operations:
        apply(request.hub, files, operation["key"], operation["value"])
    done = repo.add(ref, header["summary"], header.get("description", ""), files)
    page = request.hub.page(repo)
    answer = {"success": True, "commitOid": done.oid, "commitUrl": f"{page}/commit/{done.oid}"}
    return {**answer, "pullRequestUrl": f"{page}/discussions/{number}"} if proposed else answer


def apply(hub: Hub, files: dict[str, File], key: str, value: dict[str, Any]) -> None:
    """Carry out one operation of a commit on the files of its parent."""
    path = value["path"].rstrip("/")
    if key == "file":
        files[path] = File(base64.b64decode(value["content"]))
    elif key == "lfsFile":
        if value["oid"] not in hub.blobs:
            raise Refusal(400, "", f"The content of {path} was not uploaded.")
        files[path] = File(hub.blobs[value["oid"]], lfs=True)
    else:
        gone = [name for name in files if name == path or key == "deletedFolder" and name.startswith(f"{path}/")]
        if not gone:
            raise Refusal(404, "EntryNotFound", f"A file with this name doesn't exist: {path}")
        for name in gone:
            del files[name]


def resolve(request: Request, kind: str | None, name: str, rev: str, path: str) -> Any:
    found = request.readable(kind and kind.strip("/"), name).find(rev)
    headers = {"X-Repo-Commit": found.oid, "Accept-Ranges": "bytes"}
    if path not in found.files:
        raise Refusal(404, "EntryNotFound", "Entry not found", headers)
    file = found.files[path]
    headers["ETag"] = f'"{file.etag}"'
    if file.lfs:
        headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(len(file.content))}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    if not asked:
        return Reply(file.content, headers=headers)
    start, end = int(asked[1]), min(int(asked[2] or len(file.content)) + 1, len(file.content))
    if start >= len(file.content):
        return Reply(b"", 416, {**headers, "Content-Range": f"bytes */{len(file.content)}"})
    return Reply(
        file.content[start:end], 206, {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(file.content)}"}
    )


NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
REPO = rf"/api/(?P<kind>models|datasets)/{NAME}"
PAGE = rf"/(?P<kind>datasets/)?{NAME}"
REV = r"(?P<rev>refs/(?:pr|convert)/[^/]+|[^/]+)"
ROUTES = [
    (method, re.compile(pattern), route)
    for method, pattern, route in (
        ("GET", "/api/whoami-v2", whoami),
        ("POST", "/api/repos/create", create_repo),
        ("DELETE", "/api/repos/delete", delete_repo),
        ("POST", "/api/validate-yaml", validate_yaml),
        ("GET", rf"{REPO}(?:/revision/{REV})?", repo_info),
        ("GET", rf"{REPO}/auth-check(?P<write>/write)?", auth_check),
        ("PUT", rf"{REPO}/settings", change_settings),
        ("GET", rf"{REPO}/tree/{REV}(?:/(?P<path>.+))?", tree),
        ("POST", rf"{REPO}/paths-info/{REV}", paths_info),
        ("GET", rf"{REPO}/refs", list_refs),
        ("GET", rf"{REPO}/commits/{REV}", list_commits),
        ("POST", rf"{REPO}/branch/{REV}", create_branch),
        ("DELETE", rf"{REPO}/branch/{REV}", delete_branch),
        ("POST", rf"{REPO}/tag/{REV}", create_tag),
        ("DELETE", rf"{REPO}/tag/{REV}", delete_tag),
        ("POST", rf"{REPO}/preupload/{REV}", preupload),
        ("POST", rf"{REPO}/commit/{REV}", commit),
        ("POST", rf"{PAGE}\.git/info/lfs/objects/batch", lfs_batch),
        ("PUT", r"/lfs/(?P<oid>\w{64})", upload),
        ("POST", r"/lfs/(?P<oid>\w{64})/verify", verify),
        ("GET", rf"{PAGE}/resolve/{REV}/(?P<path>.+)", resolve),
    )
]
