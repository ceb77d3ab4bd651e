"""A Hub on loopback: what the installed client asks of one, answered from memory; it can fail, be cut, and wait.

Repositories, branches, commits (ndjson), LFS batch with basic uploads and verification, files by HEAD and by ranges of
GET, the large ones from another host (`localhost` for `127.0.0.1`), as from a delivery network.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKENS = {"hf_ours": "lab", "hf_theirs": "stranger"}
"""Tokens that are accepted, and where each may write."""
LARGE = (".safetensors", ".png", ".bin")
PORTION = 1 << 16


@dataclass(frozen=True)
class Blob:
    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def git(self) -> str:
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        stored = pointer.encode() if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git


Tree = dict[str, Blob]


@dataclass
class Repository:
    private: bool
    commits: dict[str, Tree] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, tree: Tree) -> str:
        told = f"{len(self.commits)}{branch}{sorted((name, blob.git) for name, blob in tree.items())}"
        oid = hashlib.sha1(told.encode()).hexdigest()
        self.commits[oid], self.branches[branch] = tree, oid
        return oid

    def at(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str | None
    token: str | None


@dataclass
class Refusal(Exception):
    status: int
    code: str = ""
    message: str = ""


class Hub:
    """The state of a Hub, its address, and what it shall do wrong.

    Attributes:
        requests: all that came, in order.
        fault: called with the number of a request, from 0, and the request, before it is answered: gives None, a status
            to answer with, or "cut" to close the connection.
        cut_after: bytes of a large file after which the connection is closed, once.
        hold: while not set, an upload stops after its first portion, and `held` is set.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.store: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.uploaded: list[str] = []
        self.fault: Callable[[int, Request], int | str | None] = lambda number, request: None
        self.cut_after: int | None = None
        self.hold, self.held = threading.Event(), threading.Event()
        self.hold.set()
        self.lock = threading.Lock()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fetched(self) -> list[str]:
        """The files whose content was sent, in order."""
        found = []
        for request in self.requests:
            if request.method == "GET" and (match := re.fullmatch(r"/[^/]+/[^/]+/resolve/[^/]+/(.+)", request.path)):
                found.append(match[1])
            elif request.method == "GET" and request.path.startswith("/cdn/"):
                found.append(self.name_of(request.path.removeprefix("/cdn/")))
        return found

    def name_of(self, oid: str) -> str:
        trees = (tree for repository in self.repositories.values() for tree in repository.commits.values())
        return next(name for tree in trees for name, blob in tree.items() if blob.lfs and blob.sha256 == oid)

    def files(self, repository: str, revision: str = "main") -> dict[str, bytes]:
        there = self.repositories[repository]
        return {name: blob.content for name, blob in there.commits[there.branches[revision]].items()}

    def put(self, repository: str, files: dict[str, bytes], private: bool = False) -> None:
        """A repository as anybody may have made it."""
        there = self.repositories.setdefault(repository, Repository(private))
        there.commit("main", {name: Blob(content, name.endswith(LARGE)) for name, content in files.items()})
        self.store |= {hashlib.sha256(content).hexdigest(): content for content in files.values()}


@contextmanager
def serve() -> Iterator[Hub]:
    """A Hub in threads of its own."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.hold.set()
        server.shutdown()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    ROUTES: tuple[tuple[str, str, str], ...] = (
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<rev>[^/]+)", "preupload"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<rev>[^/]+)", "commit"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/branch/(?P<rev>[^/]+)", "branch"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<rev>[^/]+)", "tree"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)(/revision/(?P<rev>[^/]+))?", "info"),
        ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
        ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "upload"),
        ("POST", r"/lfs/(?P<oid>[0-9a-f]{64})/verify", "verify"),
        ("HEAD", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<name>.+)", "resolve"),
        ("GET", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<name>.+)", "resolve"),
        ("GET", r"/cdn/(?P<oid>[0-9a-f]{64})", "deliver"),
    )

    def answer(self) -> None:
        path = urlsplit(self.path).path
        self.token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        routes = (
            (name, re.fullmatch(pattern, path)) for method, pattern, name in self.ROUTES if method == self.command
        )
        name, match = next(((name, match) for name, match in routes if match), ("", None))
        try:
            if match is None:  # what the client asks on its own account, once a process; not recorded
                raise Refusal(404, "EntryNotFound", f"no route {self.command} {path}")
            fault = self.recorded(unquote(path))
            if fault == "cut":
                self.close_connection = True
                return
            if isinstance(fault, int):
                self.body()
                raise Refusal(fault, message="made to fail")
            getattr(self, name)(**{k: unquote(value) for k, value in match.groupdict().items() if value is not None})
        except Refusal as refusal:
            self.refuse(refusal)

    def recorded(self, path: str) -> int | str | None:
        """Record the request, and give what is to go wrong with it."""
        request = Request(self.command, path, self.headers.get("Range"), self.token)
        with self.hub.lock:
            number = len(self.hub.requests)
            self.hub.requests.append(request)
        return self.hub.fault(number, request)

    do_GET = do_POST = do_PUT = do_HEAD = answer

    # Accounts and repositories.

    def whoami(self) -> None:
        self.json({"type": "user", "name": self.user(), "orgs": []})

    def user(self) -> str:
        if self.token not in TOKENS:
            raise Refusal(401, message="Invalid credentials in Authorization header")
        return TOKENS[self.token]

    def may_write(self, repo: str) -> None:
        if self.user() != repo.partition("/")[0]:
            raise Refusal(403, message="you don't have the rights to write there")

    def repository(self, repo: str) -> Repository:
        if self.token is not None:
            self.user()
        there = self.hub.repositories.get(repo)
        if there is None or (there.private and TOKENS.get(self.token or "") != repo.partition("/")[0]):
            raise Refusal(401 if self.token is None else 404, "RepoNotFound", "Repository not found")
        return there

    def create(self) -> None:
        asked = json.loads(self.body())
        repo = f"{asked['organization'] or self.user()}/{asked['name']}"
        if repo in self.hub.repositories:
            self.may_write(repo)
            self.json({"url": f"{self.hub.url}/{repo}", "error": "exists"}, 409)
            return
        self.may_write(repo)
        there = self.hub.repositories[repo] = Repository(asked.get("visibility") == "private")
        there.commit("main", {".gitattributes": Blob(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n", False)})
        self.json({"url": f"{self.hub.url}/{repo}", "name": repo, "id": "0"})

    def branch(self, repo: str, rev: str) -> None:
        self.body()
        self.may_write(repo)
        there = self.repository(repo)
        if rev in there.branches:
            raise Refusal(409, message="exists")
        there.branches[rev] = there.branches["main"]
        self.json({})

    def info(self, repo: str, rev: str = "main") -> None:
        oid, tree = self.tree_at(repo, rev)
        card = re.match(rb"---\n(.*?)\n---\n", tree["README.md"].content, re.DOTALL) if "README.md" in tree else None
        told: dict[str, Any] = {"id": repo, "sha": oid, "private": self.repository(repo).private, "tags": []}
        told["siblings"] = [{"rfilename": name} for name in sorted(tree)]
        if card:
            told["cardData"] = yaml.safe_load(card[1])
        self.json(told)

    def tree(self, repo: str, rev: str) -> None:
        rows = []
        for name, blob in sorted(self.tree_at(repo, rev)[1].items()):
            rows.append({"type": "file", "path": name, "size": len(blob.content), "oid": blob.git})
            if blob.lfs:
                rows[-1]["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": 134}
        self.json(rows)

    def tree_at(self, repo: str, rev: str) -> tuple[str, Tree]:
        there = self.repository(repo)
        oid = there.at(rev)
        if oid is None:
            raise Refusal(404, "RevisionNotFound", "Invalid rev id")
        return oid, there.commits[oid]

    # Uploads.

    def validate(self) -> None:
        content = json.loads(self.body())["content"]
        found = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        metadata = yaml.safe_load(found[1]) if found else {}
        errors = [] if metadata.get("license") else [{"message": "license is missing"}]
        self.json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def preupload(self, repo: str, rev: str) -> None:
        asked = json.loads(self.body())
        self.may_write(repo)
        tree, rows = self.tree_at(repo, rev)[1], []
        for file in asked["files"]:
            large = file["path"].endswith(LARGE)
            there = tree.get(file["path"])
            rows.append({"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False})
            if there is not None:
                rows[-1]["oid"] = there.etag
        self.json({"files": rows})

    def batch(self, repo: str) -> None:
        asked = json.loads(self.body())
        self.may_write(repo)
        rows = []
        for item in asked["objects"]:
            place = f"{self.hub.url}/lfs/{item['oid']}"
            actions = {"upload": {"href": place}, "verify": {"href": f"{place}/verify"}}
            rows.append(item if item["oid"] in self.hub.store else {**item, "actions": actions})
        self.json({"transfer": "basic", "objects": rows})

    def upload(self, oid: str) -> None:
        length, parts = int(self.headers["Content-Length"]), b""
        while len(parts) < length:
            portion = self.rfile.read(min(PORTION, length - len(parts)))
            if not portion:
                self.close_connection = True
                return
            parts += portion
            if not self.hub.hold.is_set():
                self.hub.held.set()
                self.hub.hold.wait(60)
        if hashlib.sha256(parts).hexdigest() != oid:
            raise Refusal(400, message="another hash")
        self.hub.store[oid] = parts
        self.hub.uploaded.append(oid)
        self.json({})

    def verify(self, oid: str) -> None:
        asked = json.loads(self.body())
        if len(self.hub.store.get(oid, b"")) != asked["size"]:
            raise Refusal(404, message="not uploaded")
        self.json({})

    def commit(self, repo: str, rev: str) -> None:
        lines = [json.loads(line) for line in self.body().splitlines()]
        self.may_write(repo)
        there = self.repository(repo)
        head, tree = self.tree_at(repo, rev)
        tree = dict(tree)
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                if value.get("parentCommit", head) != head:
                    raise Refusal(412, message="the branch has moved")
            elif line["key"] == "file":
                tree[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.store:
                    raise Refusal(400, message=f"{value['path']} was not uploaded")
                tree[value["path"]] = Blob(self.hub.store[value["oid"]], True)
            else:
                del tree[value["path"]]
        oid = there.commit(rev, tree)
        self.json({"commitUrl": f"{self.hub.url}/{repo}/commit/{oid}", "commitOid": oid})

    # Downloads.

    def resolve(self, repo: str, rev: str, name: str) -> None:
        oid, tree = self.tree_at(repo, rev)
        headers = {"X-Repo-Commit": oid}
        if name not in tree:
            raise Refusal(404, "EntryNotFound", "Entry not found")
        blob = tree[name]
        if blob.lfs:
            headers |= {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.content))}
            self.send(302, b"", {**headers, "Location": f"http://localhost:{self.hub.port}/cdn/{blob.sha256}"})
        else:
            self.portion(blob.content, {**headers, "ETag": f'"{blob.etag}"'})

    def deliver(self, oid: str) -> None:
        self.portion(self.hub.store[oid], {"ETag": f'"{oid}"'}, self.hub.cut_after)

    def portion(self, content: bytes, headers: dict[str, str], cut: int | None = None) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        status = 200
        if asked:
            first, last = int(asked[1]), int(asked[2]) if asked[2] else len(content) - 1
            headers = {**headers, "Content-Range": f"bytes {first}-{last}/{len(content)}"}
            content, status = content[first : last + 1], 206
        self.send(status, content, {**headers, "Accept-Ranges": "bytes"}, cut)

    # The wire.

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def json(self, content: Any, status: int = 200) -> None:
        self.send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def refuse(self, refusal: Refusal) -> None:
        content = json.dumps({"error": refusal.message}).encode()
        headers = {"X-Error-Message": refusal.message, "Content-Type": "application/json"}
        self.send(refusal.status, content, headers | ({"X-Error-Code": refusal.code} if refusal.code else {}))

    def send(self, status: int, content: bytes, headers: dict[str, str], cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if cut is not None and cut < len(content):
            self.hub.cut_after = None
            content, self.close_connection = content[:cut], True
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass
