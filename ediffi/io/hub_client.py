"""The Hub's client, in which no server is trusted: where a file is written, who gets the token, how much, how long.

huggingface_hub writes a file under the ETag that the server names, so an ETag with slashes would be a path anywhere. It
follows the link to a next page with the token, whatever host the link names. And it waits, and reads, without an end.
`guard` checks each request before it is sent and each response before its body is read.
"""

import importlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TIMEOUT = "EDIFFI_HUB_TIMEOUT"
"""The environment variable with the seconds in which a download must bring `LEAST` bytes; 60 by default."""
LEAST = 60_000
ANSWER, CONFIG = 64 << 20, 10 << 20
"""At most so many bytes of an answer of the API, and of a config.json."""
RETRY_AFTER = 60
"""The client waits at most so many seconds where a server asks for more."""
ETAG = re.compile(r'(W/)?"?[0-9A-Za-z][0-9A-Za-z_-]{0,127}"?')
COMMIT = re.compile(r"[0-9a-f]{40}")
FILE = re.compile(r"(?:[A-Za-z0-9_][\w.+-]*/)*[A-Za-z0-9_][\w.+-]*", re.ASCII)
"""The name of a file of a repository: no absolute path, nothing that leads out of it, no hidden file."""


class HostileHubError(OSError):
    """A server's answer that the Hub would not give."""


def timeout() -> float:
    """Seconds of `TIMEOUT`; ValueError if it is no positive number."""
    text = os.environ.get(TIMEOUT, "60")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{TIMEOUT} must be a number of seconds above 0, got {text!r}")
    return seconds


@cache
def guard() -> None:
    """Let huggingface_hub use a guarded client from now on, in this process."""
    from huggingface_hub import get_session, set_client_factory

    plain = get_session()
    own = plain.event_hooks["request"]

    def client() -> Any:
        hooks: dict[str, Any] = {"request": [*own, _check_request], "response": [_check_response]}
        return type(plain)(event_hooks=hooks, follow_redirects=True, timeout=None)

    set_client_factory(client)


def download(repository: str, revision: str | None, names: Sequence[str]) -> Path:
    """Download those of `names` (files, or patterns such as `*.json`) that a repository has; their folder in the cache.

    With HF_HUB_OFFLINE=1, and where the Hub cannot be reached, the cache answers. OSError if it has no such revision.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download

    def cached() -> Path:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(names), local_files_only=True))

    if constants.HF_HUB_OFFLINE:
        return cached()
    guard()
    try:
        info = HfApi().model_info(repository, revision=revision)
    except HostileHubError:
        raise
    except Exception as error:
        try:
            return cached()
        except OSError as missing:
            raise missing from error
    commit = check_commit(info.sha)
    there = [file.rfilename for file in info.siblings or []]
    wanted = [name for name in there if any(fnmatchcase(name, pattern) for pattern in names)]
    if wrong := [name for name in wanted if not FILE.fullmatch(name)]:
        raise HostileHubError(f"{repository} has a file {wrong[0][:50]!r}, whose name is refused")
    with ThreadPoolExecutor(4, thread_name_prefix="hub") as pool:
        list(pool.map(lambda name: hf_hub_download(repository, name, revision=commit), wanted))
    return cached()


def check_commit(sha: object) -> str:
    """The commit that a server names, which the client makes a path of; HostileHubError if it is none."""
    if not isinstance(sha, str) or not COMMIT.fullmatch(sha):
        raise HostileHubError(f"the Hub names the commit {str(sha)[:50]!r}, which is none")
    return sha


def _check_request(request: Any) -> None:
    """Send the user's token to the Hub's own host only, and by no weaker protocol."""
    from huggingface_hub import constants, get_token

    token, home, there = get_token(), urlsplit(constants.ENDPOINT), request.url
    ours = (there.scheme, there.host) == (home.scheme, home.hostname)
    ours = ours and (there.port or _port(there.scheme)) == (home.port or _port(home.scheme))
    if token and not ours and token in request.headers.get("authorization", ""):
        del request.headers["authorization"]


def _port(scheme: str) -> int:
    return 443 if scheme == "https" else 80


def _check_response(response: Any) -> None:
    """Refuse an ETag or commit that would be a path, shorten waits, and bound what is read."""
    headers, request = response.headers, response.request
    host = request.url.host
    if request.method == "HEAD":
        for name in ("etag", "x-linked-etag"):
            if name in headers and not ETAG.fullmatch(headers[name]):
                raise HostileHubError(f"{host} sends the ETag {headers[name][:50]!r}, which is none of the Hub's")
        commit = headers.get("x-repo-commit")
        if commit is not None:
            check_commit(commit)
    if "retry-after" in headers and not re.fullmatch(r"\d{1,2}", headers["retry-after"]):
        headers["retry-after"] = str(RETRY_AFTER)
    headers.pop("ratelimit", None)  # the client would wait as long as it says
    api, config = request.url.path.startswith("/api/"), request.url.path.endswith("/config.json")
    limit = ANSWER if api else CONFIG if config else None
    for size in (headers.get("content-length"), headers.get("x-linked-size")):
        if limit is not None and size is not None and not (size.isdigit() and int(size) <= limit):
            raise HostileHubError(f"{request.url.path} of {host} has {size[:20]} bytes; at most {limit} are read")
    if request.method != "HEAD":
        response.stream = _bounded(response.stream, limit, f"{request.url.path} of {host}")


def _bounded(stream: Any, limit: int | None, what: str) -> Any:
    """The stream of a response, which ends with an error at `limit` bytes, or where almost nothing comes any more."""
    library = importlib.import_module(type(stream).__module__.partition(".")[0])  # httpx, or httpx2

    class Bounded(library.SyncByteStream):  # type: ignore[name-defined]  # the client accepts no other
        def __iter__(self) -> Iterator[bytes]:
            total, seconds = 0, timeout()
            since, at_least = time.monotonic(), LEAST
            for part in stream:
                total += len(part)
                if limit is not None and total > limit:
                    raise HostileHubError(f"{what} does not end within {limit} bytes")
                if total >= at_least:
                    since, at_least = time.monotonic(), total + LEAST
                elif time.monotonic() - since > seconds:
                    rule = f"less than {LEAST} bytes in {seconds:g} s ({TIMEOUT} changes that)"
                    raise HostileHubError(f"{what} comes too slowly: {rule}")
                yield part

        def close(self) -> None:
            stream.close()

    return Bounded()
