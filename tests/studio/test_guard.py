"""What the page answers: its own requests, and nobody else's."""

import asyncio
import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ediffi.cli import main
from ediffi.studio.gallery import Gallery
from ediffi.studio.guard import Guard

pytest.importorskip("gradio")

OURS = "127.0.0.1:7860"
QUEUE = "/gradio_api/queue/join"


async def application(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
    """Stands for Gradio: it answers everything."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"from gradio"})


def ask(guard: Guard, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers of the answer to one request."""
    sent: list[Any] = []
    asked: list[bool] = []
    fields = {"host": OURS} | {name.replace("_", "-"): value for name, value in headers.items()}
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in fields.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": encoded, "query_string": b"", "extensions": {}}

    async def receive() -> dict[str, Any]:
        if asked:
            await asyncio.sleep(60)  # the client waits
        asked.append(True)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], body, {name.decode(): value.decode() for name, value in sent[0]["headers"]}


@pytest.fixture
def guard(gallery: Gallery) -> Guard:
    return Guard(application, gallery, "127.0.0.1", 7860)


def cookie(guard: Guard) -> str:
    return ask(guard, "/")[2]["set-cookie"].partition(";")[0]


def test_the_page_gets_its_token_and_uses_it(guard: Guard) -> None:
    status, body, headers = ask(guard, "/")
    assert (status, body) == (200, b"from gradio")
    assert {"HttpOnly", "SameSite=Strict"} <= set(headers["set-cookie"].split("; "))
    assert headers["content-security-policy"] == "frame-ancestors 'none'"
    own = {"cookie": f"other=1; {cookie(guard)}", "origin": f"http://{OURS}", "sec_fetch_site": "same-origin"}
    for path, method in ((QUEUE, "POST"), ("/gradio_api/upload", "POST"), ("/config", "GET"), ("/assets/a.js", "GET")):
        assert ask(guard, path, method, **own)[0] == 200
        assert ask(guard, path, method)[0] == 403
        assert ask(guard, path, method, cookie=f"{guard.cookie}=guess")[0] == 403
    assert "set-cookie" not in ask(guard, "/config", **own)[2]


@pytest.mark.parametrize("host", ["evil.com", "evil.com:7860", "127.0.0.1.evil.com", "10.0.0.1", "", "a b", "[::1"])
def test_another_host_is_refused(guard: Guard, host: str) -> None:
    for path, method in (("/", "GET"), (QUEUE, "POST"), ("/config", "GET"), ("/gallery/a.png", "GET")):
        status, body, _ = ask(guard, path, method, host=host, cookie=cookie(guard))
        assert (status, body) == (403, b"the Host of the request is not this machine")


@pytest.mark.parametrize("host", ["localhost:8888", "127.0.0.1", "[::1]:7860"])
def test_this_machine_is_known_by_its_names(guard: Guard, host: str) -> None:
    assert ask(guard, "/", host=host)[0] == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.com", "null", "http://127.0.0.1:8000", "http://localhost:7860", "file://"]
)
def test_another_origin_is_refused_although_it_has_the_cookie(guard: Guard, origin: str) -> None:
    assert ask(guard, QUEUE, "POST", origin=origin, cookie=cookie(guard))[0] == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_site_may_link_to_the_page_and_read_nothing_of_it(guard: Guard, site: str) -> None:
    assert ask(guard, "/", sec_fetch_site=site, sec_fetch_mode="navigate")[0] == 200
    assert ask(guard, "/", sec_fetch_site=site, sec_fetch_mode="no-cors")[0] == 403
    assert ask(guard, "/config", sec_fetch_site=site, sec_fetch_mode="navigate", cookie=cookie(guard))[0] == 403


def test_only_what_the_gallery_made_is_served(guard: Guard, gallery: Gallery, tmp_path: Path) -> None:
    folder = gallery.folder
    (made,) = gallery.add([Image.new("RGB", (8, 8))], {"prompt": "x"})
    style = gallery.add_style(Image.new("RGB", (8, 8)))
    (folder / "secret.txt").write_text("secret")
    Image.new("RGB", (8, 8)).save(folder / "plain.png")
    (folder / ".hidden.png").write_bytes((folder / made).read_bytes())
    (tmp_path / "outside.png").write_bytes((folder / made).read_bytes())
    os.symlink(tmp_path / "outside.png", folder / "styles" / f"{'a' * 16}.png")
    own = {"cookie": cookie(guard)}
    for name in (made, f"styles/{style}.png"):
        status, body, headers = ask(guard, f"/gallery/{name}", **own)
        assert (status, body, headers["content-type"]) == (200, (folder / name).read_bytes(), "image/png")
        assert ask(guard, f"/gallery/{name}")[0] == 403
    wrong = ["secret.txt", "plain.png", ".hidden.png", "../outside.png", f"styles/../{made}", f"styles/{'a' * 16}.png"]
    for name in [*wrong, f"./{made}", f"/{folder}/{made}", "", "styles", "a\0b.png"]:
        assert ask(guard, f"/gallery/{name}", **own)[0] == 404, name
    assert ask(guard, f"/gallery/{made}", "POST", **own)[0] == 404
    for path in (
        f"/gradio_api/file={folder / made}",
        f"/gradio_api/file/{made}",
        "/gradio_api/proxy=http://a",
        "/docs",
    ):
        assert ask(guard, path, **own)[0] == 404, path


def test_a_network_address_asks_for_a_password(gallery: Gallery) -> None:
    with pytest.raises(ValueError, match="needs a password"):
        Guard(application, gallery, "0.0.0.0", 7860)
    guard = Guard(application, gallery, "0.0.0.0", 7860, "correct horse")

    def basic(password: str) -> str:
        return "Basic " + base64.b64encode(f"me:{password}".encode()).decode()

    for given in ({}, {"authorization": basic("wrong")}, {"authorization": "Basic ???"}, {"authorization": basic("")}):
        status, _, headers = ask(guard, "/", host="192.168.1.5:7860", **given)
        assert status == 401
        assert headers["www-authenticate"].startswith("Basic")
    knows = {"authorization": basic("correct horse")}
    assert ask(guard, "/", host="192.168.1.5:7860", **knows)[0] == 200
    assert ask(guard, "/", host="evil.com", **knows)[0] == 403
    assert ask(guard, QUEUE, "POST", host="192.168.1.5:7860", **knows)[0] == 403


@pytest.mark.parametrize(
    ("password", "message"), [(None, "opens the page to the network"), ("short", "at least 8 characters, got 5")]
)
def test_the_command_needs_the_password(
    password: str | None, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("EDIFFI_STUDIO_PASSWORD", raising=False)
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    if password is not None:
        monkeypatch.setenv("EDIFFI_STUDIO_PASSWORD", password)
    assert main(["studio", "--host", "0.0.0.0", "--port", "0"]) == 2
    assert message in capsys.readouterr().err


def test_an_address_of_another_machine_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDIFFI_STUDIO_PASSWORD", "long enough")
    assert main(["studio", "--host", "203.0.113.7"]) == 1
    assert "--host must be an address of this machine, got '203.0.113.7'" in capsys.readouterr().err
