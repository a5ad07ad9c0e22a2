"""A server on this machine that speaks as much of the Hub's API as `huggingface_hub` and `transformers` use here.

Users with tokens and rights, repositories with branches and commits, small files in the commit itself, weights through
the LFS protocol with its checksums. Answers carry the Hub's status codes and headers.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml


@dataclass
class User:
    """Who a token belongs to: their name, and the organisations where they may write."""

    name: str
    writes_to: tuple[str, ...] = ()


@dataclass
class Repository:
    """Branches and commits; a commit is a message and all files, each as its content."""

    private: bool
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, tuple[str, dict[str, bytes]]] = field(default_factory=dict)

    def commit(self, branch: str, message: str, changes: dict[str, bytes]) -> str:
        """A commit on top of a branch; returns its id."""
        files = {**self.files(branch), **changes} if branch in self.branches else changes
        sha = hashlib.sha1(f"{len(self.commits)} {message}".encode()).hexdigest()
        self.commits[sha] = (message, files)
        self.branches[branch] = sha
        return sha

    def sha(self, revision: str) -> str:
        """The commit of a branch, or the commit itself; KeyError where there is none."""
        return revision if revision in self.commits else self.branches[revision]

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Name to content."""
        return self.commits[self.sha(revision)][1]

    def messages(self) -> list[str]:
        """Messages of all commits, the oldest first."""
        return [message for message, _ in self.commits.values()]


class RefusalError(Exception):
    """An answer that is an error: status, message and the Hub's code."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


class LocalHub(ThreadingHTTPServer):
    """The server; a context manager that runs it in a thread.

    Attributes:
        users: token to user.
        repositories: name to repository.
        objects: sha256 to content, of what came through LFS.
        requests: method and path of every request.
        broken: beginning of a method and path to the status that such requests are answered with.
    """

    daemon_threads = True

    def __init__(self, users: dict[str, User]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.users = users
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.broken: dict[str, int] = {}

    @property
    def url(self) -> str:
        """What `HF_ENDPOINT` is set to."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> LocalHub:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()


def is_large(name: str) -> bool:
    """As the `.gitattributes` of new repositories of the Hub say."""
    return name.endswith(".safetensors")


def oid(name: str, content: bytes) -> str:
    """What the Hub knows a file by: sha256 of large files, git's hash of others."""
    if is_large(name):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


ROUTES: list[tuple[str, re.Pattern[str], str]] = []


def route(method: str, pattern: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Methods of `Handler` by what they answer; `{repo}` stands for ORG/NAME."""
    expression = re.compile(pattern.replace("{repo}", r"(?P<repo>[^/]+/[^/]+?)"))

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        ROUTES.append((method, expression, function.__name__))
        return function

    return register


class Handler(BaseHTTPRequestHandler):
    """Answers of a `LocalHub`."""

    server: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

    def do(self) -> None:
        """Read the request, find its answer, send it."""
        self.body = self.read_body()
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        method = "GET" if self.command == "HEAD" else self.command
        try:
            for beginning, status in self.server.broken.items():
                if f"{method} {path}".startswith(beginning):
                    raise RefusalError(status, "Out of order.")
            for known, pattern, name in ROUTES:
                if known == method and (match := pattern.fullmatch(path)):
                    return self.answer(200, getattr(self, name)(**match.groupdict()))
            raise RefusalError(501, f"{self.command} {path} is beyond this server")
        except RefusalError as error:
            headers = {"X-Error-Message": str(error), **({"X-Error-Code": error.code} if error.code else {})}
            self.answer(error.status, {"error": str(error)}, headers)

    def read_body(self) -> bytes:
        """The request's content, in one piece or in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    do_GET = do_HEAD = do_POST = do_PUT = do  # noqa: N815

    def answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        """Send JSON, or bytes with headers of their own."""
        if isinstance(content, tuple):
            status, content, headers = content
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    # Who asks, and what for

    def user(self) -> User:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in self.server.users:
            raise RefusalError(401, "Invalid username or password.")
        return self.server.users[token]

    def readable(self, repo: str) -> Repository:
        """A repository that the one who asks may read."""
        found = self.server.repositories.get(repo)
        known = "Authorization" in self.headers
        owners = (self.user().name, *self.user().writes_to) if known else ()
        if found is None or (found.private and repo.split("/")[0] not in owners):
            # Who may not read a private repository does not learn whether it exists.
            raise RefusalError(404 if known else 401, "Repository not found", "RepoNotFound")
        return found

    def writable(self, repo: str) -> Repository:
        """A repository that the one who asks may write to."""
        user, found = self.user(), self.readable(repo)
        if repo.split("/")[0] not in user.writes_to:
            raise RefusalError(403, "Forbidden: you don't have the rights to write here.")
        return found

    def revision(self, found: Repository, revision: str) -> str:
        try:
            return found.sha(revision)
        except KeyError:
            raise RefusalError(404, f"Invalid rev id: {revision}", "RevisionNotFound") from None

    # Writing

    @route("POST", "/api/repos/create")
    def create(self) -> Any:
        asked = json.loads(self.body)
        user = self.user()
        owner = asked["organization"] or user.name
        if owner not in user.writes_to:
            raise RefusalError(403, f'You don\'t have the rights to create a model under the namespace "{owner}".')
        repo = f"{owner}/{asked['name']}"
        url = {"url": f"{self.server.url}/{repo}"}
        if repo in self.server.repositories:
            return 409, {**url, "error": "You already created this model repo"}, None
        found = Repository(private=asked.get("visibility") == "private" or asked.get("private") is True)
        found.commit("main", "initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})
        self.server.repositories[repo] = found
        return url

    @route("POST", "/api/models/{repo}/branch/(?P<branch>.+)")
    def branch(self, repo: str, branch: str) -> Any:
        found = self.writable(repo)
        if branch in found.branches:
            raise RefusalError(409, "Reference already exists")
        found.branches[branch] = found.branches["main"]
        return {}

    @route("POST", "/api/validate-yaml")
    def validate(self) -> Any:
        match = re.match(r"---\n(.*?)\n---", json.loads(self.body)["content"], re.DOTALL)
        metadata = yaml.safe_load(match[1]) if match else {}
        errors = [
            {"message": f'"model-index[{index}].results" needs task.type, dataset.type, dataset.name and metrics'}
            for index, model in enumerate(metadata.get("model-index", []))
            for result in model["results"]
            if not (
                result.get("task", {}).get("type")
                and {"type", "name"} <= set(result.get("dataset", {}))
                and all({"type", "value"} <= set(metric) for metric in result.get("metrics") or [{}])
            )
        ]
        return (400, {"errors": errors, "warnings": []}, None) if errors else {"errors": [], "warnings": []}

    @route("POST", "/api/models/{repo}/preupload/(?P<revision>.+)")
    def preupload(self, repo: str, revision: str) -> Any:
        found = self.writable(repo)
        files = found.files(self.revision(found, revision))
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if is_large(file["path"]) else "regular",
                    "shouldIgnore": False,
                    "oid": oid(file["path"], files[file["path"]]) if file["path"] in files else None,
                }
                for file in json.loads(self.body)["files"]
            ]
        }

    @route("POST", r"/{repo}\.git/info/lfs/objects/batch")
    def batch(self, repo: str) -> Any:
        self.writable(repo)
        asked = json.loads(self.body)
        assert (asked["operation"], asked["hash_algo"]) == ("upload", "sha256")
        actions = {
            file["oid"]: {
                "upload": {"href": f"{self.server.url}/lfs/{file['oid']}"},
                "verify": {"href": f"{self.server.url}/lfs/verify"},
            }
            for file in asked["objects"]
            if file["oid"] not in self.server.objects
        }
        return {
            "transfer": "basic",
            "objects": [
                {**file, **({"actions": actions[file["oid"]]} if file["oid"] in actions else {})}
                for file in asked["objects"]
            ],
        }

    @route("PUT", "/lfs/(?P<sha256>[0-9a-f]{64})")
    def upload(self, sha256: str) -> Any:
        if hashlib.sha256(self.body).hexdigest() != sha256:
            raise RefusalError(422, "The content does not have this checksum")
        self.server.objects[sha256] = self.body
        return {}

    @route("POST", "/lfs/verify")
    def verify(self) -> Any:
        self.user()
        asked = json.loads(self.body)
        if len(self.server.objects.get(asked["oid"], b"")) != asked["size"]:
            raise RefusalError(422, "The object is not there")
        return {}

    @route("POST", "/api/models/{repo}/commit/(?P<revision>.+)")
    def commit(self, repo: str, revision: str) -> Any:
        found = self.writable(repo)
        self.revision(found, revision)
        message, changes = "", {}
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "lfsFile" and value["oid"] in self.server.objects:
                changes[value["path"]] = self.server.objects[value["oid"]]
            elif entry["key"] == "file" and value["encoding"] == "base64":
                changes[value["path"]] = base64.b64decode(value["content"])
            else:
                raise RefusalError(400, f"cannot commit {entry['key']} {value.get('path')}")
        sha = found.commit(revision, message, changes)
        return {"success": True, "commitOid": sha, "commitUrl": f"{self.server.url}/{repo}/commit/{sha}"}

    # Reading

    @route("GET", "/api/models/{repo}(/revision/(?P<revision>.+))?")
    def info(self, repo: str, revision: str | None) -> Any:
        found = self.readable(repo)
        sha = self.revision(found, revision or "main")
        siblings = [{"rfilename": name} for name in found.files(sha)]
        return {"id": repo, "sha": sha, "private": found.private, "siblings": siblings, "tags": []}

    @route("GET", "/api/models/{repo}/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?")
    def tree(self, repo: str, revision: str, folder: str | None) -> Any:
        found = self.readable(repo)
        files = found.files(self.revision(found, revision))
        if folder and not any(name.startswith(f"{folder}/") for name in files):
            raise RefusalError(404, f"{folder} does not exist", "EntryNotFound")
        return [
            {"type": "file", "path": name, "size": len(content), "oid": oid(name, content)}
            for name, content in files.items()
        ]

    @route("GET", "/{repo}/resolve/(?P<revision>[^/]+)/(?P<name>.+)")
    def resolve(self, repo: str, revision: str, name: str) -> Any:
        found = self.readable(repo)
        sha = self.revision(found, revision)
        content = found.files(sha).get(name)
        if content is None:
            raise RefusalError(404, "Entry not found", "EntryNotFound")
        headers = {"X-Repo-Commit": sha, "ETag": f'"{oid(name, content)}"'}
        if is_large(name):
            # The Hub sends to another host, too; the client sees by that where the file's own headers end.
            elsewhere = self.server.url.replace("127.0.0.1", "localhost")
            place = {"Location": f"{elsewhere}/objects/{oid(name, content)}"}
            return 302, b"", {**headers, **place, "X-Linked-ETag": headers["ETag"], "X-Linked-Size": str(len(content))}
        return 200, content, headers

    @route("GET", "/objects/(?P<sha256>[0-9a-f]{64})")
    def download(self, sha256: str) -> Any:
        return 200, self.server.objects[sha256], {"ETag": f'"{sha256}"'}
