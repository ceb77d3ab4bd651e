"""The page's updates, and the server: what each event shows, and on which address."""

import dataclasses
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ediffi.io.images import MAX_PIXELS
from ediffi.studio.canvas import Layout
from ediffi.studio.desk import Desk
from ediffi.studio.form import OWN, Form, uploaded
from ediffi.studio.order import Order
from ediffi.studio.page import Page
from ediffi.studio.server import HOST, check_gradio, free_port
from ediffi.studio.shelf import Shelf

pytest.importorskip("gradio")

FIELDS = ("prompt", "negative_prompt", "seed", "num_images", "guidance_scale", "paint_weight", "sampler")
FIELDS += ("style", "style_scale")


@pytest.fixture
def page() -> Page:
    """The page with names in the place of its components."""
    steps = tuple(f"steps {k}" for k in range(3))
    form = Form({name: name for name in FIELDS}, steps, "upload", "dice", "paint", "stop")
    return Page(form, "canvas", "sheet", "stages", "shelf", "label", "words", "look", "chosen")


@pytest.fixture
def values(page: Page, order: Order, shelf: Shelf) -> dict[str, Any]:
    """What the components send for an order."""
    return {**page.form.filled(order, shelf), "canvas": {"prompt": order.prompt, **order.layout.value()}, "chosen": ""}


def merged(updates: Iterator[dict[Any, Any]]) -> dict[str, Any]:
    """What the page shows in the end."""
    shown: dict[str, Any] = {}
    for update in updates:
        shown |= update
    return shown


def test_the_form_goes_to_an_order_and_back(page: Page, values: dict[str, Any], order: Order, shelf: Shelf) -> None:
    assert page.form.order(values, values["canvas"]) == order
    assert values["sampler"] == OWN
    named = dataclasses.replace(order, sampler="heun", style=shelf.keep_style(Image.new("RGB", (8, 8))))
    filled = page.form.filled(named, shelf)
    assert filled["style"]["url"].endswith(f"styles/{named.style}.png")
    assert page.form.order(filled, None) == named


def test_painting_ends_with_the_picture_on_the_shelf(desk: Desk, page: Page, values: dict[str, Any]) -> None:
    updates = list(page.painted(desk, values, "a"))
    assert updates[0]["paint"].interactive is False
    assert "data:image/png" in updates[1]["sheet"]
    last = merged(iter(updates))
    (entry,) = desk.shelf.entries()
    assert last["chosen"] == entry.name
    assert entry.name in last["sheet"]
    assert entry.name in last["shelf"]
    assert "seed</dt><dd>5" in last["label"]
    assert last["stages"].count("stage done") == 3
    assert (last["paint"].interactive, last["stop"].interactive) == (True, False)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"seed": None}, "seed must be a whole number"),
        ({"canvas": {"brushes": [{"phrase": "star", "colour": "#e5484d"}]}}, "the phrase &#x27;star&#x27; is not in"),
        ({"style": {"name": "0" * 16}}, "no image"),
        ({"style": {"name": "../secret"}}, "16 hexadecimal digits"),
    ],
)
def test_a_wrong_order_is_said_on_the_sheet(
    desk: Desk, page: Page, values: dict[str, Any], change: dict[str, Any], sentence: str
) -> None:
    shown = merged(page.painted(desk, {**values, **change}, "a"))
    assert sentence in shown["sheet"]
    assert 'role="alert"' in shown["sheet"]
    assert "paint" not in shown or shown["paint"].interactive
    assert desk.shelf.entries() == []


def test_a_stopped_run_leaves_the_page_ready(desk: Desk, page: Page, values: dict[str, Any]) -> None:
    updates = page.painted(desk, {**values, "steps 0": 500}, "a")
    shown = next(updates) | next(updates)
    desk.stop("a")
    shown |= merged(updates)
    assert "stopped" in shown["sheet"]
    assert shown["paint"].interactive


def test_a_bug_is_shown_and_leaves_the_page_ready(
    desk: Desk, page: Page, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: Any, **options: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(type(desk.cascade), "sample", broken)
    shown = merged(page.painted(desk, values, "a"))
    assert "this is a bug, RuntimeError: out of memory" in shown["sheet"]
    assert shown["paint"].interactive
    assert "Traceback" in capsys.readouterr().err


def test_again_fills_the_form(
    desk: Desk, page: Page, values: dict[str, Any], order: Order, drawn: Callable[..., Layout]
) -> None:
    layout = drawn({"red circle": (0, 0, 30, 30)})
    name = merged(page.painted(desk, {**values, "canvas": layout.value()}, "a"))["chosen"]
    filled = page.filled(desk, name)
    assert filled["canvas"] == {"prompt": order.prompt, **layout.value()}
    assert page.form.order({**values, **filled}, filled["canvas"]) == dataclasses.replace(order, layout=layout)
    assert "cannot be put back" in page.filled(desk, "gone.png")["sheet"]
    (other,) = desk.shelf.add([Image.new("RGB", (8, 8))], {"prompt": "a cat", "seed": 1, "paint": [{}]})
    assert "not put back: paint" in page.filled(desk, other)["sheet"]


def test_the_words_are_shown(desk: Desk, page: Page, values: dict[str, Any]) -> None:
    name = merged(page.painted(desk, values, "a"))["chosen"]
    shown = merged(page.looked(desk, name, "a"))
    assert shown["words"].count("<figure>") > 5
    assert shown["paint"].interactive
    assert "not among the pictures" in merged(page.looked(desk, "gone.png", "a"))["words"]


def test_pictures_that_are_none_are_refused_by_name(shelf: Shelf, tmp_path: Path) -> None:
    wrong = tmp_path / "notes.png"
    wrong.write_text("not a picture")
    with pytest.raises(ValueError, match=r"^notes\.png is not an image"):
        uploaded(shelf, str(wrong))
    bomb = tmp_path / "bomb.png"
    Image.new("1", (MAX_PIXELS // 1000 + 1, 1000)).save(bomb)
    with pytest.raises(ValueError, match=r"^bomb\.png is 64001x1000; at most 64 million pixels"):
        uploaded(shelf, str(bomb))


def test_the_page_is_built(tmp_path: Path) -> None:
    """In a process of its own: Gradio leaves event loops and sockets open."""
    code = (
        "import sys; from pathlib import Path; from ediffi.pipeline.painter import Painter\n"
        "from ediffi.studio.app import build; from ediffi.studio.desk import Desk\n"
        "from ediffi.studio.shelf import Shelf\n"
        "config = build(Desk(Painter('toybox'), Shelf(Path(sys.argv[1])))).get_config_file()\n"
        "print(*(component['props'].get('elem_id') for component in config['components']))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    named = {"prompt", "phrases", "canvas", "sheet", "stages", "shelf", "label", "words", "paint", "stop"}
    assert named <= set(done.stdout.split())


# The server


def test_a_taken_port_gives_way_to_the_next() -> None:
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
    with pytest.raises(ValueError, match=r"^the studio needs Gradio: pip install 'ediffi\[studio\]'$"):
        check_gradio()


def test_a_wrong_model_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ediffi", "studio", "--model", "nope", "--output", str(tmp_path / "out")]
    done = subprocess.run([*command, "--port", "0"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("ediffi: error: no model 'nope'")
    assert done.stderr.count("\n") == 1
