"""What can be wrong in an answer of the Hub, and in a request to the studio."""

import asyncio
import random
from pathlib import Path
from typing import Any

import httpx

from ediffi.io import hub_client
from ediffi.studio.gallery import Gallery
from ediffi.studio.guard import Guard
from tests.faults.harness import Attempt, family


def _answer(headers: dict[str, str], method: str = "HEAD", path: str = "/a/b/resolve/main/config.json") -> Any:
    return httpx.Response(200, headers=headers, request=httpx.Request(method, f"http://hub{path}"), stream=None)


@family
def hub_headers(rng: random.Random, scratch: Path) -> Attempt:
    target = scratch.parent / "written"
    ups = ["../" * rng.randrange(1, 9) + "x", str(target), "a/b", "..", ".", "a\\b", "x" * 999, "", " ", "%2e%2e%2fx"]
    name = rng.choice(["etag", "x-linked-etag", "x-repo-commit", "content-length", "x-linked-size"])
    lies = ["-1", "1e9", str(10**15), str(hub_client.CONFIG + 1)] if name.endswith(("length", "size")) else ups
    answer = _answer({name: rng.choice(lies)})

    def attempt() -> str:
        hub_client._check_response(answer)
        return "it was taken"

    return attempt


@family
def studio_requests(rng: random.Random, scratch: Path) -> Attempt:
    (scratch / "secret.png").write_bytes(b"secret")
    guard = Guard(_application, Gallery(scratch / "images"), "127.0.0.1", 7860)
    good = {"host": "127.0.0.1:7860", "cookie": f"{guard.cookie}={guard.token}", "origin": "http://127.0.0.1:7860"}
    wrong = [{"host": f"evil{rng.randrange(99)}.com"}, {"origin": f"http://127.0.0.1:{rng.randrange(1, 7000)}"}]
    wrong += [{"origin": "null"}, {"cookie": ""}, {"cookie": f"{guard.cookie}=x"}, {"sec-fetch-site": "cross-site"}]
    files = [
        "/gallery/../secret.png",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/proxy=http://a",
        "/gallery/%2e%2e/a",
    ]
    if rng.random() < 0.5:
        headers, path = {**good, **rng.choice(wrong)}, rng.choice(["/config", "/gradio_api/queue/join", *files])
    else:
        headers, path = good, rng.choice(files)

    def attempt() -> Any:
        status: list[int] = []

        async def send(message: Any) -> None:
            status.extend([message["status"]] if "status" in message else [])

        async def receive() -> Any:
            await asyncio.sleep(60)

        fields = [(name.encode(), value.encode()) for name, value in headers.items()]
        asyncio.run(guard({"type": "http", "method": "POST", "path": path, "headers": fields}, receive, send))
        if status[0] in (403, 404):
            raise ValueError(f"refused with {status[0]}")
        return f"{path} was answered with {status[0]}"

    return attempt


async def _application(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
