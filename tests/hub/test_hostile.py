"""A Hub that lies, drips, floods or is broken, on loopback: nothing is written elsewhere, the token stays, all ends."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from ediffi.cli import main
from ediffi.hub.finding import find
from ediffi.hub.publish import Content
from ediffi.io import hub_client
from ediffi.pipeline.cascade import Cascade
from ediffi.registry.encoders.folder import from_hub
from tests.hub.conftest import REPO, point
from tests.hub.loopback import Handler, Hub

PROMPT = "a red circle"


@pytest.fixture
def lies(published: Hub, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[dict[str, str], str], None]], None]:
    """Lets a function change the headers of each answer, which also gets the path of the request."""

    def install(change: Callable[[dict[str, str], str], None]) -> None:
        send = Handler.send

        def lying(self, status, content, headers, cut=None):
            change(headers, self.path)
            send(self, status, content, headers, cut)

        monkeypatch.setattr(Handler, "send", lying)

    return install


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


PATHS = ["/{}/written", "../../../written", "a/b", "..", "a\\b", "x" * 300, "", "a b", "é"]


@pytest.mark.parametrize("etag", PATHS)
@pytest.mark.parametrize("header", ["ETag", "X-Linked-Etag"])
def test_an_etag_that_is_a_path_is_refused_before_anything_is_fetched(
    header: str, etag: str, published: Hub, tmp_path: Path, lies, capsys: pytest.CaptureFixture[str]
) -> None:
    value = etag.format(str(tmp_path).strip("/"))

    def change(headers: dict[str, str], path: str) -> None:
        if header in headers:
            headers[header] = f'"{value}"'.encode().decode("latin-1")

    lies(change)
    assert main(["sample", PROMPT, "--model", REPO, "-o", str(tmp_path / "a.png")]) == 1
    error = capsys.readouterr().err
    assert "ETag" in error.splitlines()[-1]
    fetched = published.fetched()
    assert not fetched if header == "ETag" else not [name for name in fetched if name.endswith(".safetensors")]
    assert not [name for name in files_of(tmp_path) if "written" in name or name.endswith(".png")]


@pytest.mark.parametrize("commit", ["../../x", "/tmp/x", "main", "0" * 41, "A" * 40])
def test_a_commit_that_is_none_is_refused(commit: str, published: Hub, tmp_path: Path, lies) -> None:
    lies(lambda headers, path: headers.update({"X-Repo-Commit": commit} if "X-Repo-Commit" in headers else {}))
    with pytest.raises(OSError, match="names the commit"):
        find(REPO)
    assert published.fetched() == []


def test_the_token_goes_to_its_own_host_only(published: Hub, lies, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    hub_client.guard()
    elsewhere = f"http://localhost:{published.port}/api/models/{REPO}/tree/main"

    def change(headers: dict[str, str], path: str) -> None:
        if "/tree/" in path and "page" not in path:
            headers["Link"] = f'<{elsewhere}?page=2>; rel="next"'

    lies(change)
    assert list(HfApi().list_repo_tree(REPO))
    tokens = [request.token for request in published.requests if "/tree/" in request.path]
    assert tokens == ["hf_ours", None]
    published.requests.clear()
    Cascade.from_pretrained(REPO)
    assert all(request.token is None for request in published.requests if request.path.startswith("/cdn/"))
    assert not any("/tree/" in request.path for request in published.requests), "no list of pages is asked for"


@pytest.mark.parametrize("name", ["../../out.json", "/out.json", ".hidden.json", "a/../b.json"])
def test_a_file_whose_name_leads_out_is_not_fetched(name: str, hub: Hub, tmp_path: Path) -> None:
    hub.put("lab/t5", {"config.json": b"{}", name: b"{}"})
    with pytest.raises(OSError, match="whose name is refused"):
        from_hub("lab/t5", None, ["*.json"])
    assert hub.fetched() == []


@pytest.mark.parametrize("kind", ["cache", "way", "config"])
def test_a_damaged_file_is_fetched_once_more(
    kind: str, published: Hub, content: Content, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    weights = next(name for name in content if name.endswith(".safetensors") and "/" not in name)
    name = "config.json" if kind == "config" else weights
    wanted = Cascade.from_pretrained(REPO)(PROMPT, seed=1).images[0].tobytes()
    blob = (find(REPO).folder / name).resolve()
    damaged = bytearray(blob.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    if kind == "way":  # the first answer was damaged, and is in the cache under the right name
        damaged = damaged[:100]
    blob.write_bytes(damaged)
    published.requests.clear()
    assert Cascade.from_pretrained(REPO)(PROMPT, seed=1).images[0].tobytes() == wanted
    assert published.fetched() == [name]
    assert "is downloaded again" in caplog.text
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    blob.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"sha256|damaged"):
        Cascade.from_pretrained(REPO)


def test_a_file_that_is_damaged_on_the_hub_is_refused_after_one_more_try(published: Hub, content: Content) -> None:
    weights = next(name for name in content if name.endswith(".safetensors") and "/" not in name)
    published.put(REPO, {**content, weights: content[weights][:-1] + b"\xff"})
    with pytest.raises(ValueError, match="truncated or changed"):
        Cascade.from_pretrained(REPO)
    assert published.fetched().count(weights) == 2


@contextmanager
def raw(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """The address of a server that answers everything in its own way."""
    methods = dict.fromkeys(("do_GET", "do_HEAD", "do_POST"), lambda self: answer(self))
    quiet = {"log_message": lambda *args: None, "protocol_version": "HTTP/1.1"}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Raw", (BaseHTTPRequestHandler,), methods | quiet))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def answering(parts: Iterator[bytes] | None = None, status: int = 200, **headers: str):
    """An answer to HEAD with good headers; to GET, chunk after chunk of `parts`."""
    good = {"ETag": '"' + "a" * 40 + '"', "X-Repo-Commit": "b" * 40}

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        body = handler.command == "GET" and parts is not None
        for name, value in {**good, **({"Transfer-Encoding": "chunked"} if body else {"Content-Length": "20"})}.items():
            handler.send_header(name, headers.get(name.replace("-", "_"), value))
        for name, value in headers.items():
            if name.replace("_", "-") not in good and name != "Content_Length":
                handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        try:
            for part in parts if body and parts is not None else ():
                handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                handler.wfile.flush()
        except OSError:
            handler.close_connection = True

    return answer


def drip() -> Iterator[bytes]:
    while True:
        time.sleep(0.02)
        yield b"x"


def flood() -> Iterator[bytes]:
    while True:
        yield b"x" * (1 << 20)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (answering(Content_Length="3000000000"), "3000000000 bytes; at most"),
        (answering(flood()), "does not end within"),
        (answering(drip()), "comes too slowly"),
    ],
    ids=["announced", "flood", "drip"],
)
def test_no_answer_is_without_an_end(answer, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(hub_client.TIMEOUT, "0.3")
    with raw(answer) as url:
        point(monkeypatch, url, tmp_path / "cache")
        before = time.monotonic()
        with pytest.raises(OSError, match=reason):
            find(REPO)
        assert time.monotonic() - before < 10
    large = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size > hub_client.CONFIG]
    assert not large


def test_a_server_cannot_ask_for_a_day_of_waiting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slept: list[float] = []
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", slept.append)
    many = answering(status=429, Retry_After="100000", ratelimit='"api";r=0;t=100000')
    with raw(many) as url:
        point(monkeypatch, url, tmp_path / "cache")
        with pytest.raises(OSError, match="429"):
            find(REPO)
    assert max(slept, default=0) <= hub_client.RETRY_AFTER + 1


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon"])
def test_the_limit_of_time_is_a_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(hub_client.TIMEOUT, text)
    with pytest.raises(ValueError, match=hub_client.TIMEOUT):
        hub_client.timeout()


def test_a_list_of_files_has_an_end(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_client, "ANSWER", 10_000)
    hub.put("lab/many", {f"{number}.json": b"{}" for number in range(1000)})
    with pytest.raises(OSError, match="at most 10000 are read"):
        from_hub("lab/many", None, ["*.json"])
    assert hub.fetched() == []


def test_the_weights_are_the_same_through_the_guard(published: Hub, model_folder: Path) -> None:
    one, two = Cascade.from_pretrained(REPO), Cascade.from_pretrained(model_folder)
    assert torch.equal(one(PROMPT, seed=2).stages["base"], two(PROMPT, seed=2).stages["base"])
