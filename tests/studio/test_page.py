"""The updates of the page after each event, and the server."""

import dataclasses
import logging
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ediffi.io.images import MAX_PIXELS
from ediffi.studio import actions
from ediffi.studio.backend import Backend
from ediffi.studio.canvas import CanvasLayout
from ediffi.studio.form import MODEL_SAMPLER, Form, upload_style
from ediffi.studio.gallery import Gallery
from ediffi.studio.page import Page
from ediffi.studio.request import GenerationRequest
from ediffi.studio.server import HOST, check_gradio, free_port

pytest.importorskip("gradio")

COMPONENTS = (
    "generate",
    "stop",
    "saved",
    "sheet",
    "pinned",
    "panel",
    "actions",
    "stages",
    "gallery",
    "details",
    "attention",
    "show_attention",
    "chosen",
)


@pytest.fixture
def page(backend: Backend) -> Page:
    """The page with names in the place of its components."""
    names = {field.name for field in dataclasses.fields(GenerationRequest)} - {
        "layout",
        "num_inference_steps",
        "task",
        "source",
        "mask",
    }
    form = Form({name: name for name in names}, ("steps 0", "steps 1", "steps 2"), "canvas", "random")
    return Page(backend, form, **{name: name for name in COMPONENTS})


@pytest.fixture
def values(page: Page, wanted: GenerationRequest) -> dict[str, Any]:
    """What the components send for a request."""
    return {**page.form.values(wanted, page.backend.gallery), "chosen": ""}


def merged(updates: Iterator[dict[Any, Any]]) -> dict[str, Any]:
    """What the page shows in the end."""
    shown: dict[str, Any] = {}
    for update in updates:
        shown |= update
    return shown


def test_a_request_survives_the_form(page: Page, values: dict[str, Any], wanted: GenerationRequest) -> None:
    gallery = page.backend.gallery
    assert page.form.request(values) == wanted
    assert values["sampler"] == MODEL_SAMPLER
    named = dataclasses.replace(wanted, sampler="heun", style=gallery.add_style(Image.new("RGB", (8, 8))))
    filled = page.form.values(named, gallery)
    assert f"/styles/{named.style}.png?" in filled["style"]["url"]
    assert page.form.request(filled) == named


def test_a_job_ends_with_its_image_in_the_gallery(page: Page, values: dict[str, Any]) -> None:
    updates = list(page.run(values, "a"))
    assert updates[0]["generate"].interactive is False
    assert "data:image/png" in updates[1]["panel"]
    last = merged(iter(updates))
    (image,) = page.backend.gallery.images()
    assert last["chosen"] == image.name
    assert image.name in last["panel"]
    assert image.name in last["gallery"]
    assert "seed</dt><dd>5" in last["details"]
    assert last["stages"].count("stage done") == 3
    assert (last["generate"].interactive, last["stop"].interactive) == (True, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"seed": None}, "Seed&#x27; must be a whole number"),
        ({"canvas": {"brushes": [{"phrase": "star", "colour": "#e5484d"}]}}, "star&#x27; is not in"),
        ({"style": {"name": "0" * 16}}, "0000.png"),
        ({"style": {"name": "../secret"}}, "16 hexadecimal digits"),
    ],
)
def test_a_wrong_request_is_an_alert(page: Page, values: dict[str, Any], change: dict[str, Any], message: str) -> None:
    (shown,) = page.run({**values, **change}, "a")
    assert set(shown) == {"panel"}
    assert message in shown["panel"]
    assert 'role="alert"' in shown["panel"]


def test_a_stopped_job_leaves_the_page_ready(page: Page, values: dict[str, Any]) -> None:
    updates = page.run({**values, "steps 0": 500}, "a")
    shown = next(updates) | next(updates)
    page.backend.jobs.stop("a")
    shown |= merged(updates)
    assert "stopped" in shown["panel"]
    assert shown["generate"].interactive


def test_an_image_is_shown_with_its_settings(page: Page, values: dict[str, Any], wanted: GenerationRequest) -> None:
    assert page.show_newest()["chosen"] == ""
    name = merged(page.run({**values, "prompt": "a fluffy red circle"}, "a"))["chosen"]
    shown = page.show_newest()
    assert shown["chosen"] == name
    assert "fluffy" in shown["details"]
    assert "3 steps" in shown["stages"]
    assert shown["show_attention"].interactive
    gone = page.show("gone.png")
    assert gone["chosen"] == ""
    assert not gone["show_attention"].interactive
    (other,) = page.backend.gallery.add([Image.new("RGB", (8, 8))], {"order": {"num_inference_steps": "no"}})
    assert page.show(other)["chosen"] == other


def test_a_bug_is_reported_and_logged(
    page: Page, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("lost")

    monkeypatch.setattr(page.backend.gallery, "add", broken)
    with caplog.at_level(logging.ERROR, "ediffi"):
        shown = merged(page.run(values, "a"))
    assert "this is a bug, KeyError" in shown["panel"]
    assert shown["generate"].interactive
    assert "Traceback" in caplog.text


def test_the_settings_of_an_image_are_restored(
    page: Page, values: dict[str, Any], wanted: GenerationRequest, drawn: Callable[..., CanvasLayout]
) -> None:
    layout = drawn({"red circle": (0, 0, 30, 30)})
    name = merged(page.run({**values, "canvas": layout.to_json()}, "a"))["chosen"]
    restored = actions.restore(page, name)
    drawn_on = {"prompt": wanted.prompt, **layout.to_json(), "task": "sample", "source": {}, "mask": ""}
    assert restored["canvas"] == drawn_on
    assert page.form.request({**values, **restored}) == dataclasses.replace(wanted, layout=layout)
    assert "cannot be restored" in actions.restore(page, "gone.png")["panel"]
    (other,) = page.backend.gallery.add([Image.new("RGB", (8, 8))], {"prompt": "a cat", "seed": 1, "paint": [{}]})
    assert "does not hold: the layout" in actions.restore(page, other)["panel"]


def test_an_image_of_several_is_made_again_alone(page: Page, values: dict[str, Any]) -> None:
    merged(page.run({**values, "num_images": 2, "first_index": 3}, "a"))
    second = page.backend.gallery.images()[1]
    assert second.settings["index"] == 1
    request = page.form.request({**values, **actions.again(page, second.name)})
    assert (request.first_index, request.num_images) == (3, 1)  # shown from 1: the second of those from 3 on is 4
    whole = page.form.request({**values, **actions.restore(page, second.name)})
    assert (whole.first_index, whole.num_images) == (2, 2)


def test_a_deleted_image_is_moved(page: Page, values: dict[str, Any]) -> None:
    gallery = page.backend.gallery
    names = [gallery.add([Image.new("RGB", (8, 8))], {"prompt": "a", "seed": seed})[0] for seed in range(3)]
    shown = actions.delete(page, names[1])
    assert f"{names[1]} is now in {gallery.folder / 'deleted'}" in shown["panel"]
    assert shown["chosen"] == names[0]
    assert [image.name for image in gallery.images()] == [names[2], names[0]]
    assert "not among the images" in actions.delete(page, names[1])["panel"]
    for name in (names[0], names[2]):
        last = actions.delete(page, name)
    assert last["chosen"] == ""
    assert len(list((gallery.folder / "deleted").iterdir())) == 3


def test_a_full_disk_loses_no_image(page: Page, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page.backend.gallery, "add", full)
    shown = merged(page.run(values, "a"))
    assert "could not be stored, save them from here: [Errno 28] No space left on device" in shown["panel"]
    assert 'src="data:image/png' in shown["panel"]
    assert shown["generate"].interactive


def test_each_job_has_a_seed_of_its_own_if_wanted(page: Page, values: dict[str, Any]) -> None:
    seeds = {page.form.request({**values, "random": True}).seed for _ in range(5)}
    assert len(seeds) == 5
    assert page.form.request(values).seed == values["seed"]


def test_the_attention_is_shown(page: Page, values: dict[str, Any]) -> None:
    name = merged(page.run(values, "a"))["chosen"]
    shown = merged(page.attend(name, "a"))
    assert shown["attention"].count("<figure>") > 5
    assert shown["generate"].interactive
    assert "not among the images" in merged(page.attend("gone.png", "a"))["attention"]


def test_a_style_file_that_is_no_image_is_refused_by_name(gallery: Gallery, tmp_path: Path) -> None:
    wrong, bomb = tmp_path / "notes.png", tmp_path / "bomb.png"
    wrong.write_text("not an image")
    Image.new("1", (MAX_PIXELS // 1000 + 1, 1000)).save(bomb)
    for path, message in ((wrong, r"^notes\.png "), (bomb, r"^bomb\.png is 64001x1000")):
        with pytest.raises(ValueError, match=message):
            upload_style(gallery, str(path))


def test_the_page_is_built(tmp_path: Path) -> None:
    """In another process: Gradio leaves event loops and sockets open."""
    code = (
        "import sys; from pathlib import Path; from ediffi.pipeline.cascade import Cascade\n"
        "from ediffi.studio.app import build; from ediffi.studio.backend import Backend\n"
        "from ediffi.studio.gallery import Gallery\n"
        "config = build(Backend(Cascade.from_pretrained('toybox'), Gallery(Path(sys.argv[1])))).get_config_file()\n"
        "print(*(component['props'].get('elem_id') for component in config['components']))\n"
        "print(*next(c['props']['choices'] for c in config['components'] if c['props'].get('elem_id') == 'sampler'))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ids, names = done.stdout.splitlines()
    assert {"prompt", "phrases", "canvas", "panel", "stages", "grid", "details", "maps", "generate"} <= set(ids.split())
    assert all(f"'{name}'" in names for name in ("euler", "kutta3", "paper-steps"))


# The server


def test_a_used_port_gives_way_to_the_next() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < free_port(port) <= port + 100
    assert free_port(0) > 0
    for wrong in (-1, 70_000):
        with pytest.raises(ValueError, match="--port must be from 0 to 65535"):
            free_port(wrong)


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'ediffi\[studio\]'"):
        check_gradio()


def test_an_unknown_model_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ediffi", "studio", "--model", "nope", "--output", str(tmp_path / "out")]
    done = subprocess.run([*command, "--port", "0"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("ediffi: error: no model 'nope'")
    assert done.stderr.count("\n") == 1
